"""Questions about scores, and between scores and recordings, of a build's test split: one table.

    python -m mllm.eval.score_tasks --data runs/data/mini --model mini --limit 40 --output runs/score_tasks

Each row is asked as it stands, decoded greedily. Beside the model: the same model without the recording (what the words
alone give away), the language model before any tuning, the commonest answer (majority), and what a guesser gets that
draws answers as often as they occur (chance; one over the number of options where they are given). Transcriptions also
get the F-measure of their notes (mir_eval: onset within 50 ms, same pitch), beside Basic Pitch's own notes.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from mllm.errors import MllmError
from mllm.eval.data import EvalError
from mllm.eval.report import interval
from mllm.eval.score_answers import given_answer, is_right, options_of
from mllm.rows import Row, iter_rows
from mllm.whole_files import write_whole

SOUND = ("match", "which_of_three", "first_difference", "transcribe", "bar_at")
LONGEST, LONGEST_ABC = 32, 96
"""Tokens of an answer: a sentence; four bars of ABC."""
Ask = Callable[[Row], str]


def rows_of(data: Path, split: str, limit: int) -> dict[str, list[Row]]:
    """Task -> its first `limit` rows that ask about a score. Raises EvalError where there is none."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in iter_rows(data, split):
        task, facts = row.get("task", ""), row.get("facts") or {}
        if (task in SOUND or task.startswith("score_")) and "answer" in facts and len(found[task]) < limit:
            found[task].append(row)
    if not any(found.values()):
        raise EvalError(f"{data} has no questions about scores in the split {split!r}: see `notation` in a mixture")
    return {task: rows for task, rows in sorted(found.items(), key=lambda item: (item[0] in SOUND, item[0])) if rows}


def without_sound(row: Row) -> list[dict[str, Any]]:
    """The messages that a row asks with, less its recordings."""
    return [
        message | {"content": [part for part in message["content"] if part["type"] != "audio"]}
        if isinstance(message["content"], list)
        else message
        for message in row["messages"][:-1]
    ]


def _longest(row: Row) -> int:
    return LONGEST_ABC if row["facts"].get("head") else LONGEST


def conditions(model: str) -> dict[str, Ask]:
    """Who is asked: name -> what answers a row."""
    from mllm import load

    music, plain = load(model), _untuned()
    return {
        "model": lambda row: str(music.chat(row["messages"][:-1], max_new_tokens=_longest(row))),
        "no recording": lambda row: str(music.chat(without_sound(row), max_new_tokens=_longest(row))),
        "untuned": plain,
    }


def _untuned() -> Ask:
    """The language model as it is before any tuning; it is given the words alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mllm.weights import language_model

    folder = language_model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    @torch.inference_mode()
    def answer(row: Row) -> str:
        messages = [
            m
            | {"content": m["content"] if isinstance(m["content"], str) else "\n".join(p["text"] for p in m["content"])}
            for m in without_sound(row)
        ]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=_longest(row), do_sample=False, pad_token_id=tokenizer.eos_token_id)
        return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))

    return answer


def ask_all(tasks: dict[str, list[Row]], answer: dict[str, Ask], file: Path) -> dict[tuple[str, str], str]:
    """(condition, row id) -> what was said; what `file` holds already is not asked again."""
    from rich.progress import Progress

    said: dict[tuple[str, str], str] = {}
    if file.is_file():
        for line in file.read_text("utf-8").splitlines():
            try:
                known = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            said[known["condition"], known["id"]] = known["text"]
    jobs = [
        (name, row)
        for rows in tasks.values()
        for row in rows
        for name in answer
        if (name, row["id"]) not in said and (name != "no recording" or row["task"] in SOUND)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out, Progress() as progress:
        bar = progress.add_task("asking", total=len(jobs))
        for name, row in jobs:
            said[name, row["id"]] = answer[name](row)
            print(json.dumps({"condition": name, "id": row["id"], "text": said[name, row["id"]]}), file=out, flush=True)
            progress.advance(bar)
    return said


def table_of(tasks: dict[str, list[Row]], said: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
    """A line for each task: rows, and the share of right answers of each condition, of majority and of chance."""
    lines = []
    for task, rows in tasks.items():
        truths = [str(row["facts"]["answer"]) for row in rows]
        counts = Counter(truths)
        line: dict[str, Any] = {"task": task, "rows": len(rows)}
        for name in ("model", "no recording", "untuned"):
            right = [
                is_right(given_answer(said[name, row["id"]], row, counts), row)
                for row in rows
                if (name, row["id"]) in said
            ]
            if right:
                line[name] = [float(np.mean(right)), *interval(np.array(right, float))]
        common = counts.most_common(1)[0][0]
        line["majority"] = float(np.mean([truth == common for truth in truths]))
        line["chance"] = float(np.mean([_chance(row, counts, len(rows)) for row in rows]))
        lines.append(line)
    return lines


def _chance(row: Row, counts: Counter[str], rows: int) -> float:
    options = options_of(row)
    return 1 / len(options) if options else sum((n / rows) ** 2 for n in counts.values())


def markdown(lines: list[dict[str, Any]]) -> str:
    """The table for people, in percent, with 95 % intervals of the model's."""
    names = ("model", "no recording", "untuned", "majority", "chance")
    out = ["| task | rows | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for line in lines:
        cells = []
        for name in names:
            value = line.get(name)
            if isinstance(value, list):
                cells.append(f"{100 * value[0]:.0f} [{100 * value[1]:.0f}–{100 * value[2]:.0f}]")
            else:
                cells.append("–" if value is None else f"{100 * value:.0f}")
        out.append(f"| {line['task']} | {line['rows']} | " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="A folder made by `mllm data build`, with notation rows.")],
    output: Annotated[Path, typer.Option(help="Folder for the answers and the table; a second run goes on.")],
    model: Annotated[str, typer.Option("--model", "-m", help="`mini`, or the folder of a checkpoint.")] = "mini",
    split: Annotated[str, typer.Option(help="Of the rows.")] = "test",
    limit: Annotated[int, typer.Option(min=1, help="Rows of each task.")] = 40,
) -> None:
    """Ask a model about scores, and print what it gets right beside chance, majority and the untuned model."""
    from mllm.eval.transcription import note_scores

    begun = time.perf_counter()
    try:
        tasks = rows_of(data, split, limit)
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    said = ask_all(tasks, conditions(model), output / "answers.jsonl")
    lines = table_of(tasks, said)
    notes = note_scores(tasks.get("transcribe", []), lambda row: said["model", row["id"]])
    text = markdown(lines)
    if notes:
        text += "\ntranscription, F-measure of notes (50 ms, pitch): " + ", ".join(
            f"{k} {v:.2f}" for k, v in notes.items()
        )
    result = {"data": str(data), "model": model, "split": split, "tasks": lines, "transcription": notes}
    write_whole(output / "score_tasks.json", json.dumps(result, indent=1))
    write_whole(output / "score_tasks.md", text)
    typer.echo(text)
    typer.echo(f"{time.perf_counter() - begun:.0f} s")


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    app()
