"""Score the published answers of 11 audio language models by our metrics, beside constants, and deaf guesses.

    python -m mllm.eval.published --data DIR --output docs/published_answers.md

`--data` holds cmi/ (system_outputs and data of CMI-Bench), mmau_mini/ and rul_muchomusic/; without it, what
`mllm.eval.benchmarks` finds. Figures of a task, and of captions those of each system, are kept in `--work` and not made
anew while its files are the same: METEOR of all captions takes some ten minutes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mllm.errors import MllmError
from mllm.eval.benchmarks import BENCHMARKS
from mllm.eval.benchmarks.benchmark import benchmarks_dir
from mllm.eval.item import Item
from mllm.eval.published_cmi import FIXED_SENTENCE, KEEPING, TASKS, Figures, Keep, Scored
from mllm.eval.published_notes import CLOSING, NOTES, OPENING
from mllm.eval.task import EvalError
from mllm.whole_files import write_whole

VERSION = "1"  # of the scorers: figures of another one are made anew
DEAF = ("mmau_mini_music", "rul_muchomusic")


def deaf_scores(items: Sequence[Item]) -> dict[str, float]:
    """What can be got without ears, in percent: {"chance", "longest", "shortest", "best place"}.

    longest, shortest: the option of most or fewest characters (ties shared); best place: always the same place in the
    official order. `items`: with options in that order.
    """
    right: dict[str, list[float]] = {"chance": [], "longest": [], "shortest": []}
    for item in items:
        true = [option == item.truth for option in item.options]
        lengths = [len(option) for option in item.options]
        right["chance"].append(sum(true) / len(true))
        for name, end in (("longest", max(lengths)), ("shortest", min(lengths))):
            chosen = [one for one, length in zip(true, lengths, strict=True) if length == end]
            right[name].append(sum(chosen) / len(chosen))
    places = range(max(len(item.options) for item in items))
    best = max(np.mean([item.options[place : place + 1] == (item.truth,) for item in items]) for place in places)
    return {name: 100 * float(np.mean(values)) for name, values in right.items()} | {"best place": 100 * float(best)}


def markdown(table: Scored, note: str) -> str:
    """A table for people: systems by the first column, constants below."""
    first = table.columns[0]
    shown = sorted(table.rows, key=lambda who: (who in table.constants, -table.rows[who].get(first, 0)))
    lines = [
        f"### {table.title}",
        "",
        "| | " + " | ".join(table.columns) + " |",
        "|---" * (len(table.columns) + 1) + "|",
    ]
    for who in shown:
        cells = []
        for column in table.columns:
            value = table.rows[who].get(column, float("nan"))
            cell = "–" if np.isnan(value) else f"{value:.1f}"
            if column == first and who in table.intervals:
                low, high = table.intervals[who]
                cell = f"**{cell}** [{low:.1f}–{high:.1f}]"
            cells.append(cell)
        name = f"*{who}*" if who in table.constants else who
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", note, ""])


def scored(data: Path, name: str, make: Callable[[Path], Scored], work: Path) -> Scored:
    """The figures of one task, from `work` where they are known. Raises EvalError, JavaError, WeightsError."""
    digest = hashlib.sha256(VERSION.encode())
    annotations = data / "data" / "EMO" / "static_annotations.csv"
    for file in (data / "system_outputs" / f"{name}.json.gz", *([annotations] if name.startswith("EMO") else [])):
        if not file.is_file():
            raise EvalError(f"{file} does not exist: give the folder that holds cmi/ of CMI-Bench; see {__name__}")
        digest.update(file.read_bytes())
    kept = work / f"{name}-{digest.hexdigest()[:16]}.json"
    try:
        known = json.loads(kept.read_text("utf-8"))
        return Scored(**known | {"constants": set(known["constants"])})
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not whole
        table = KEEPING[name](data, _keeper(kept.with_suffix(".systems.json"))) if name in KEEPING else make(data)
    write_whole(kept, json.dumps(asdict(table) | {"constants": sorted(table.constants)}, indent=1))
    return table


def _keeper(file: Path) -> Keep:
    """What remembers the figures of each system in a file of its own."""
    try:
        known: dict[str, Figures] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):  # not there, or not whole
        known = {}

    def keep(who: str, make: Callable[[], Figures]) -> Figures:
        if who not in known:
            typer.echo(f"  {who} …", err=True)
            known[who] = make()
            write_whole(file, json.dumps(known, indent=1))
        return known[who]

    return keep


def page(data: Path, work: Path, tasks: Sequence[str]) -> str:
    """The whole document."""
    parts = [OPENING]
    for name in tasks:
        typer.echo(f"{name} …", err=True)
        parts.append(
            markdown(scored(data / "cmi", name, TASKS[name], work), NOTES[name].format(sentence=FIXED_SENTENCE))
        )
    if left := [name for name in TASKS if name not in tasks]:
        parts.append(f"Not in this run: {', '.join(left)}.\n")
    lines = [
        "## Without ears",
        "",
        "| | questions | chance | longest option | shortest option | best place |",
        "|---" * 6 + "|",
    ]
    for name in DEAF:
        benchmark = BENCHMARKS[name]
        if benchmark.missing(data):
            continue
        items = benchmark.items(data, official_order=True)
        deaf = deaf_scores(items)
        cells = [f"{deaf[key]:.1f}" for key in ("chance", "longest", "shortest", "best place")]
        if name == "rul_muchomusic":
            cells[-1] = "–"  # its answers come first in the file: there is no official order
        count = len({item.group for item in items})
        lines.append(f"| {benchmark.title} | {count} | " + " | ".join(cells) + " |")
    return "\n".join([*parts, *lines, "", CLOSING])


def main(
    output: Annotated[Path, typer.Option(help="Markdown file to write.")],
    data: Annotated[Path | None, typer.Option(help="Folder with cmi/, mmau_mini/ and rul_muchomusic/.")] = None,
    work: Annotated[Path, typer.Option(help="Where figures are kept between runs.")] = Path("runs/published"),
    tasks: Annotated[str, typer.Option(help="Of CMI-Bench, separated by commas; empty: all nine.")] = "",
) -> None:
    """Score published answers again, and write a page of tables."""
    try:
        chosen = tasks.split(",") if tasks else list(TASKS)
        if unknown := [name for name in chosen if name not in TASKS]:
            raise EvalError(f"unknown task {unknown[0]}: give some of {', '.join(TASKS)}")
        folder = data or benchmarks_dir()
        if folder is None:
            raise EvalError("give --data, or set MLLM_BENCHMARKS to the folder that holds cmi/")
        write_whole(output, page(folder, work, chosen))
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        typer.echo(f"error: cannot write {output}: {error}", err=True)
        raise typer.Exit(1) from error


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    app()
