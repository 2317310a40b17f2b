"""How well scores are matched to recordings by likelihood (`mllm.matching`), beside the notes that Basic Pitch finds.

    python -m mllm.eval.matching_bench --data runs/data/mini --model mini --limit 200 --output runs/matching

Rows of the tasks `match` and `which_of_three`. A score belongs where its fit reaches a threshold, which is chosen on
validation rows; of three the one that fits best is taken. The classical tool compares the pitches of the score
in their order with the strongest notes that Basic Pitch hears (difflib's ratio), with a threshold chosen alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from mllm.audio import load_audio
from mllm.errors import MllmError
from mllm.eval.data import rows_of_task, work_of
from mllm.eval.statistics import interval
from mllm.eval.task import EvalError
from mllm.note_events import RATE, NoteEvent, hear_notes
from mllm.rows import Row, row_audios
from mllm.score import read_abc
from mllm.whole_files import write_whole

TOGETHER = 0.05
"""Seconds within which notes begin together: then the strongest is the melody's; the others are often its overtones."""
Weigh = Callable[[str, Sequence[str]], list[float]]
"""Recording and ABC texts -> a number a text that is greater, the better it fits."""


@dataclass(frozen=True)
class Weighed:
    """A row and the weights of its scores."""

    row: Row
    weights: list[float]


def by_likelihood(model: str) -> Weigh:
    """Fit of each score (`mllm.matching.match`)."""
    from mllm import load
    from mllm.matching import match

    music = load(model)
    return lambda recording, texts: [one.fit for one in match(music, recording, texts)]


def by_basic_pitch(recording: str, texts: Sequence[str]) -> list[float]:
    """How alike the pitches of each score and the strongest notes of the recording are, in their order: 0 to 1."""
    melody: list[NoteEvent] = []
    for note in hear_notes(load_audio(recording, RATE)):
        if melody and note.start - melody[-1].start < TOGETHER:
            melody[-1] = max(melody[-1], note, key=lambda one: one.strength)
        else:
            melody.append(note)
    heard = [note.pitch for note in melody]
    scores = [[note.pitch for note in read_abc(text).notes] for text in texts]
    return [SequenceMatcher(None, heard, score, autojunk=False).ratio() for score in scores]


def scores_of(row: Row) -> list[str]:
    """The ABC texts that a row shows, in order."""
    parts = [part for part in row["messages"][0]["content"] if part["type"] == "text"]
    return [part["text"] for part in parts if part["text"].startswith("X:")]


def threshold(rows: Sequence[Weighed]) -> float:
    """The weight from which on "yes" is right most often; in the middle of the best stretch."""
    truth = np.array([one.row["facts"]["answer"] == "yes" for one in rows])
    weights = np.array([one.weights[0] for one in rows])
    edges = np.sort(weights)
    middles = np.concatenate([[edges[0] - 1], (edges[1:] + edges[:-1]) / 2, [edges[-1] + 1]])
    right = np.array([np.mean((weights >= middle) == truth) for middle in middles])
    return float(np.median(middles[right == right.max()]))


def verdicts(rows: Sequence[Weighed], limit: float) -> list[bool]:
    """Whether each row is answered rightly: by the threshold, or by the greatest weight of three."""
    out = []
    for one in rows:
        answer = one.row["facts"]["answer"]
        said = f"Score {'ABC'[int(np.argmax(one.weights))]}" if len(one.weights) > 1 else (
            "yes" if one.weights[0] >= limit else "no"
        )  # fmt: skip
        out.append(said == answer)
    return out


def evaluate_matching(data: Path, weigh: dict[str, Weigh], limit: int) -> dict[str, Any]:
    """Task -> kind of wrong score -> tool -> [accuracy, low, high], the rows counted; and the thresholds.

    Raises EvalError where the data has no such rows.
    """
    from rich.progress import track

    rows = {
        (split, task): rows_of_task(data, split, task.__eq__)[:limit]
        for split, task in (("validation", "match"), ("test", "match"), ("test", "which_of_three"))
    }
    for (split, task), found in rows.items():
        if not found:
            raise EvalError(
                f"{data} has no rows of {task!r} in the split {split!r}: see `score_and_sound` in a mixture"
            )
    result: dict[str, Any] = {"thresholds": {}, "match": {}, "which_of_three": {}}
    for tool, of in weigh.items():
        done = {
            key: [
                Weighed(row, of(row_audios(row)[0], scores_of(row))) for row in track(some, f"{tool}, {' '.join(key)}")
            ]
            for key, some in rows.items()
        }
        cut = result["thresholds"][tool] = threshold(done["validation", "match"])
        for task in ("match", "which_of_three"):
            of_task = done["test", task]
            right = np.array(verdicts(of_task, cut), float)
            kinds = np.array([one.row["facts"]["wrong"] for one in of_task])
            groups = np.array([work_of(one.row) or str(one.row["id"]) for one in of_task])
            for kind in ("all", *sorted(set(kinds))):
                here = np.ones(len(kinds), bool) if kind == "all" else kinds == kind
                line = result[task].setdefault(kind, {"rows": int(here.sum())})
                line[tool] = [float(right[here].mean()), *interval(right[here], list(groups[here]))]
    return result


def markdown(result: dict[str, Any]) -> str:
    """The table for people, in percent with 95 % intervals."""
    tools = list(result["thresholds"])
    out = ["| task | wrong scores | rows | " + " | ".join(tools) + " | chance |", "|---" * (4 + len(tools)) + "|"]
    for task, chance in (("match", 50), ("which_of_three", 33)):
        for kind, line in result[task].items():
            cells = [f"{100 * a:.1f} [{100 * low:.0f}–{100 * high:.0f}]" for a, low, high in map(line.get, tools)]
            out.append(f"| {task} | {kind} | {line['rows']} | " + " | ".join(cells) + f" | {chance} |")
    return "\n".join(out) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="A folder made by `mllm data build`, with rows of score_and_sound.")],
    output: Annotated[Path, typer.Option(help="Folder for the table.")],
    model: Annotated[str, typer.Option("--model", "-m", help="`mini`, or the folder of a checkpoint.")] = "mini",
    limit: Annotated[int, typer.Option(min=2, help="Rows of each task and split.")] = 200,
) -> None:
    """Match scores to recordings by likelihood, and print how often that is right beside Basic Pitch and chance."""
    begun = time.perf_counter()
    try:
        tools = {"likelihood": by_likelihood(model), "Basic Pitch": by_basic_pitch}
        result = evaluate_matching(data, tools, limit)
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    write_whole(output / "matching.json", json.dumps({"data": str(data), "model": model, **result}, indent=1))
    write_whole(output / "matching.md", text := markdown(result))
    typer.echo(text)
    typer.echo(f"{time.perf_counter() - begun:.0f} s")


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    app()
