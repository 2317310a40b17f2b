"""Are composed tunes whole? `python -m mllm.eval.composing_bench --samples 200 --output runs/composing`.

Samples tunes of every task with drawn controls, with and without the grammar, and counts what two other programs
(music21, abc2midi) and our validator find. Writes answers.jsonl (goes on where it was stopped), summary.json, table.md.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import LogitsProcessor, LogitsProcessorList

from mllm.abc_in_text import find_abc
from mllm.abc_repair import repair_abc
from mllm.abc_validation import validate_abc
from mllm.chat import MusicLM, load
from mllm.composing import finish, made_by, obeyed
from mllm.composing_tasks import TASKS, Plan, Request, plan
from mllm.errors import MllmError, ScoreError
from mllm.grammar_decoding import masks
from mllm.processing import read_conversation
from mllm.score import read_abc, to_abc
from mllm.score_types import MODES, Key, Note, Score
from mllm.whole_files import write_whole

METRES = ((2, 4), (3, 4), (4, 4), (6, 8), (9, 8))
STYLES = ("", "jig", "reel", "waltz", "march", "hymn")
# collections of music21's corpus in the public domain; with more than enough tunes in each file
BOOKS = ("ryansMammoth", "airdsAirs", "oneills1850")
GIVEN = {"continuation": ((4, 8), (8, 16)), "variation": ((8, 8), (16, 16)), "harmonization": ((8, 8), (16, 16))}
CONDITIONS = ("grammar", "header", "prompt")
BATCH = {"grammar": 25, "header": 50, "prompt": 50}  # tunes at once
FREE_TOKENS = 300  # the longest answer without a grammar, which would say when the tune is over
SEED = 20_26


@dataclass(frozen=True)
class Case:
    """One tune to write."""

    name: str
    made: Plan


def cases(samples: int) -> list[Case]:
    """The same requests each time: the tasks by turns, with controls drawn for each."""
    draw = random.Random(SEED)
    sources = _sources(draw)
    found = []
    for i in range(samples):
        task = list(TASKS)[i % len(TASKS)]
        if task == "free":
            request = _free(draw, number=i // len(TASKS))
        else:
            given, bars = draw.choice(GIVEN[task])
            by_metre = sources[given]
            metre = METRES[i // len(TASKS) % len(METRES)]
            pool = by_metre[metre] or max(by_metre.values(), key=len)  # of some metres there are few tunes
            source = pool.pop()
            request = Request(task, source, bars=bars, style=draw.choice(STYLES))
        found.append(Case(f"{i:04d}", plan(request)))
    return found


def _free(draw: random.Random, number: int) -> Request:
    lowest, voices = draw.randint(57, 67), 1 + (draw.random() < 0.3)
    return Request(
        key=Key.of(draw.randrange(12), list(MODES)[number % len(MODES)]),
        metre=METRES[number % len(METRES)],
        bars=8 if voices > 1 else draw.choice((8, 16)),
        lowest=lowest,
        highest=lowest + draw.randint(12, 19),
        tempo=float(draw.randrange(60, 181, 5)),
        voices=voices,
        pickup=draw.choice((0.0, 0.0, 0.5)),
        style=draw.choice(STYLES),
    )


def _sources(draw: random.Random) -> dict[int, dict[tuple[int, int], list[Score]]]:
    """The first 4, 8 or 16 bars of tunes in which those are whole, by metre; one tune a file, used once."""
    import music21

    corpus = Path(music21.__file__).parent / "corpus"
    files = sorted(file for book in BOOKS for file in (corpus / book).glob("*.abc"))
    draw.shuffle(files)
    found: dict[int, dict[tuple[int, int], list[Score]]] = {}
    for i, bars in enumerate((4, 8, 16)):
        found[bars] = {metre: [] for metre in METRES}
        for file in files[i::3]:
            try:
                start = first_bars(read_abc(file.read_text(encoding="latin-1")), bars)
                whole = not validate_abc(to_abc(start), bars=bars)
            except ScoreError:
                continue
            if whole and start.metre in METRES and start.key and {n.voice for n in start.notes} == {0}:
                found[bars][start.metre].append(start)
    return found


def first_bars(score: Score, bars: int) -> Score:
    """The pickup and the first bars; ScoreError where the metre is not stated or changes."""
    if score.bar_length is None or score.changes:
        raise ScoreError("no metre, or changes")
    end = score.pickup + bars * score.bar_length
    notes = [Note(n.onset, min(n.duration, end - n.onset), n.pitch, n.voice) for n in score.notes if n.onset < end]
    return replace(score, notes=notes, bars=(), repeats=(), jumps=(), chords=(), lyrics=(), graces=(), abc=None)


# ---- sampling -------------------------------------------------------------------------------------------------------


class _Timed(LogitsProcessor):
    """Masks, with the seconds that they take."""

    def __init__(self, inner: LogitsProcessor) -> None:
        self.inner, self.seconds, self.calls = inner, 0.0, 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        begun = time.perf_counter()
        scores = self.inner(input_ids, scores)
        self.seconds += time.perf_counter() - begun
        self.calls += 1
        return scores


def sample(
    music: MusicLM, batch: Sequence[Case], condition: str, temperature: float, top_p: float
) -> list[dict[str, Any]]:
    """What the model writes for some cases, at once: the way of `MusicLM.chat`, in a batch."""
    processor, tokenizer = music.processor, music.processor.tokenizer
    texts = []
    for case in batch:
        conversation = read_conversation(case.made.messages, processor.reserved)
        text = processor.render(conversation.messages, add_generation_prompt=True)
        texts.append(text + (case.made.begin if condition != "prompt" else ""))
    inputs = tokenizer(texts, add_special_tokens=False, return_tensors="pt", padding=True, padding_side="left")
    longest = max(case.made.max_new_tokens for case in batch)
    begun = time.perf_counter()
    compiled = [music.grammars.compile(case.made.grammar) for case in batch] if condition == "grammar" else []
    compiling = time.perf_counter() - begun
    timed = [_Timed(masks(compiled))] if compiled else []
    with torch.no_grad():
        ids = music.model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            max_new_tokens=longest if compiled else min(longest, FREE_TOKENS),
            do_sample=True, temperature=temperature, top_p=top_p, logits_processor=LogitsProcessorList(timed),
        )  # fmt: skip
    seconds = time.perf_counter() - begun
    records = []
    given = inputs["input_ids"].shape[1]
    for case, row in zip(batch, ids[:, given:], strict=True):
        stops = (row == tokenizer.eos_token_id).nonzero()
        tokens = int(stops[0]) if len(stops) else len(row)
        records.append({
            "name": case.name, "condition": condition, "task": case.made.request.task,
            "answer": tokenizer.decode(row[:tokens], skip_special_tokens=True), "tokens": tokens,
            "complete": bool(len(stops)), "batch_seconds": seconds, "batch_steps": ids.shape[1] - given,
            "mask_seconds": timed[0].seconds if timed else 0.0, "compile_seconds": compiling,
        })  # fmt: skip
    return records


# ---- judging --------------------------------------------------------------------------------------------------------


def judge(case: Case, record: dict[str, Any], author: str) -> dict[str, Any]:
    """What is true of one answer. For the grammar, of the file as it would be written."""
    made, answer = case.made, record["answer"]
    request = made.request
    asked: dict[str, Any] = {"metre": request.metre, "bars": request.bars}
    if record["condition"] == "prompt":
        text = next(iter(find_abc(answer)), answer)
    else:
        text = made.begin + answer.rstrip() + "\n"
    if record["condition"] == "grammar":
        try:
            composition = finish(made, answer, author)
            text = composition.abc
        except MllmError as error:
            return {"failed": str(error)} | look(text) | {"valid": False, "obeyed": {}}
    found = look(text) | {
        "valid": not validate_abc(text, **asked),
        "repaired": record["condition"] == "grammar" and composition.repaired,
    }
    try:
        found["obeyed"] = obeyed(made, text, read_abc(text))
    except (MllmError, StopIteration):
        found["obeyed"] = {}
    if record["condition"] != "grammar":
        try:
            key = f"{request.key.tonic} {request.key.mode}" if request.key else "C"
            mended = repair_abc(text, **asked, key=key)
            found["after_repair"] = {"valid": True} | look(mended) | {"obeyed": obeyed(made, mended, read_abc(mended))}
        except MllmError as error:
            found["after_repair"] = {"valid": False, "failed": str(error)}
    return found


def look(text: str) -> dict[str, Any]:
    """What music21 and abc2midi find in a text: whether they read notes, and whether they count full bars."""
    bars, heard = in_music21(text)
    midi, complaints = in_abc2midi(text)
    return {
        "music21": bars is not None, "music21_full": bool(bars), "heard_key": heard,
        "abc2midi": midi, "abc2midi_full": midi and not complaints, "complaints": complaints,
    }  # fmt: skip


def in_music21(text: str) -> tuple[bool | None, str]:
    """Whether each bar is full (None: not read, or no notes), and the key that its analysis hears."""
    from music21 import converter

    try:
        score = converter.parse(text, format="abc")
        if not score.recurse().notes:
            return None, ""
        full = True
        for part in score.parts:
            measures = list(part.getElementsByClass("Measure"))
            if not measures:  # music21 makes none of two bars or fewer
                return False, ""
            lengths = [float(m.duration.quarterLength) for m in measures]
            whole = float(measures[0].barDuration.quarterLength)
            pickup = lengths[0] if lengths[0] < whole else 0.0
            inner = lengths[1:-1] if pickup else lengths[:-1]
            full &= all(abs(n - whole) < 1e-3 for n in inner)
            full &= min(abs(lengths[-1] - whole), abs(lengths[-1] - (whole - pickup))) < 1e-3
        heard = score.analyze("key")
        return full, f"{heard.tonic.name.replace('-', 'b')} {heard.mode}"
    except Exception:  # of whatever kind: it did not parse
        return None, ""


def in_abc2midi(text: str) -> tuple[bool, list[str]]:
    """Whether abc2midi makes a MIDI file with notes of it without an error, and what it complains of."""
    from symusic import Score as Midi

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "tune.abc", Path(folder) / "tune.mid"
        source.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run(
                ["abc2midi", str(source), "-o", str(target)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=20,
            )
            midi: Any = Midi.from_midi(target.read_bytes()) if target.is_file() else None
        except (subprocess.TimeoutExpired, RuntimeError, OSError):
            return False, ["no answer"]
        said = [line for line in (done.stdout + done.stderr).splitlines() if re.match(r"Error|Warning", line)]
    errors = [line for line in said if line.startswith("Error")]
    return done.returncode == 0 and midi is not None and midi.note_num() > 0 and not errors, said


# ---- report ---------------------------------------------------------------------------------------------------------

COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "parses in music21": lambda r: r.get("music21"),
    "parses in abc2midi": lambda r: r.get("abc2midi"),
    "in both, with full bars (music21, abc2midi)": lambda r: r.get("music21_full") and r.get("abc2midi_full"),
    "and valid: bars, metre as asked": lambda r: r.get("valid") and r.get("music21_full") and r.get("abc2midi_full"),
}
ROWS = {
    "grammar": "with the grammar",
    "header": "without, header and given bars in the prompt",
    "prompt": "without, prompt alone",
}


def table(records: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = ["| | n | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]

    def line(name: str, rows: list[dict[str, Any]]) -> None:
        counts = [sum(bool(count(r)) for r in rows) for count in COLUMNS.values()]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(map(str, counts)) + " |")

    for condition, name in ROWS.items():
        rows = [r for r in records if r["condition"] == condition]
        if rows:
            line(name, [r["found"] for r in rows])
            if condition != "grammar":
                line(f"{name}, after one repair pass", [r["found"].get("after_repair", {}) for r in rows])
    for task in TASKS:
        rows = [r for r in records if r["condition"] == "grammar" and r["task"] == task]
        line(f"with the grammar: {task}", [r["found"] for r in rows])
    names = ("key", "metre", "bars", "range", "tempo", "voices", "style", "source")
    lines += ["", "| controls obeyed (facts) | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for condition, name in ROWS.items():
        rows = [r for r in records if r["condition"] == condition]
        cells = []
        for control in names:
            # the grammar's records say which controls were asked for; an answer that cannot be read obeys none
            asked = {r["name"] for r in records if r["condition"] == "grammar" and control in r["found"]["obeyed"]}
            kept = sum(r["found"]["obeyed"].get(control, False) for r in rows if r["name"] in asked)
            cells.append(f"{kept}/{sum(r['name'] in asked for r in rows)}")
        if rows:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def speed(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds a step of a batch, and what of it the grammar takes."""
    found = {}
    for condition in CONDITIONS:
        batches = {(r["batch_seconds"], r["batch_steps"], r["mask_seconds"], r["compile_seconds"])
                   for r in records if r["condition"] == condition}  # fmt: skip
        steps, answers = sum(b[1] for b in batches), sum(r["condition"] == condition for r in records)
        if steps:
            found[condition] = {
                "ms_a_step": 1000 * sum(b[0] for b in batches) / steps,
                "mask_ms_a_step": 1000 * sum(b[2] for b in batches) / steps,
                "compile_ms_a_grammar": 1000 * sum(b[3] for b in batches) / answers,
            }  # fmt: skip
    return found


def heard_keys(records: list[dict[str, Any]], by_name: dict[str, Case]) -> dict[str, str]:
    """How often music21's analysis hears the key that was asked for, in major and minor, of what could be read."""
    counts: Counter[str] = Counter()
    for r in records:
        key = by_name[r["name"]].made.request.key
        if key and key.mode in ("major", "minor") and r["found"].get("heard_key"):
            counts[r["condition"]] += r["found"]["heard_key"].lower() == key.name.lower()
            counts[f"{r['condition']} of"] += 1
    return {c: f"{counts[c]}/{counts[f'{c} of']}" for c in CONDITIONS if counts[f"{c} of"]}


def main(
    output: Annotated[Path, typer.Option(help="Folder of the results; goes on where it was stopped.")],
    samples: Annotated[int, typer.Option(min=4, help="Tunes a condition.")] = 200,
    model: Annotated[str, typer.Option(help="`mini`, or the folder of a checkpoint.")] = "mini",
    temperature: Annotated[float, typer.Option(min=0.01)] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 0.95,
) -> None:
    """Sample, judge, and print the table."""
    music = load(model)
    author = made_by(music, Request())
    all_cases = cases(samples)
    by_name = {case.name: case for case in all_cases}
    answers = output / "answers.jsonl"
    output.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in answers.read_text().splitlines()] if answers.is_file() else []
    done = {(r["condition"], r["name"]) for r in known}
    number = 0
    for condition in CONDITIONS:
        for task in TASKS:
            todo = [c for c in all_cases if c.made.request.task == task and (condition, c.name) not in done]
            todo.sort(key=lambda case: case.made.max_new_tokens)
            for first in range(0, len(todo), BATCH[condition]):
                batch, number = todo[first : first + BATCH[condition]], number + 1
                torch.manual_seed(SEED + number)
                records = sample(music, batch, condition, temperature, top_p)
                known += records
                with answers.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
                typer.echo(f"{condition} {task}: {len(batch)} in {records[0]['batch_seconds']:.0f} s", err=True)
    judged = [r | {"found": judge(by_name[r["name"]], r, author)} for r in known if r["name"] in by_name]
    shown = table(judged)
    summary = {
        "model": model, "samples": samples, "temperature": temperature, "top_p": top_p, "speed": speed(judged),
        "key_heard_by_music21": heard_keys(judged, by_name), "records": judged,
    }  # fmt: skip
    write_whole(output / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False))
    write_whole(output / "table.md", shown)
    typer.echo(shown)


if __name__ == "__main__":
    typer.run(main)
