"""The questions about scores, theory, and between scores and recordings, of a build: a shorter name for `mllm eval`.

    python -m mllm.eval.score_tasks --data runs/data/mini --model mini --limit 40 --output runs/score_tasks

asks what `mllm eval --tasks match,…,score_form --beside text:smollm2` asks, under three conditions alone: the question
as it stands, without its recording or score, and to the language model before any tuning.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mllm.errors import MllmError
from mllm.eval.commands import command, named, unless
from mllm.eval.run import evaluate
from mllm.eval.task import EvalError, Task
from mllm.eval.tasks import score_and_sound, scores, theory, transcribe
from mllm.rows import RowsError

TASKS: dict[str, Task] = score_and_sound.TASKS | {"transcribe": transcribe.TASK} | scores.TASKS | theory.TASKS
CONDITIONS = ("model", "text", "no_score")
UNTUNED = "text:smollm2"


def score_tasks(data: Path, model: str, output: Path, split: str = "test", limit: int = 40) -> dict[str, Any]:
    """The summary of `evaluate`. Raises EvalError where the data has no such questions."""
    words = command("python -m mllm.eval.score_tasks", {
        "--data": data, **named(model), "--limit": limit, "--output": output, "--split": unless(split, "test"),
    })  # fmt: skip
    try:
        return evaluate(
            model, None, data, output, limit, split=split, beside=[UNTUNED], conditions=CONDITIONS, registry=TASKS,
            command=words,
        )  # fmt: skip
    except (EvalError, RowsError) as error:
        if "no questions" in str(error):
            words = f"{data} has no questions about scores in the split {split!r}: see `notation` in a mixture"
            raise EvalError(words) from error
        raise


def main(
    data: Annotated[Path, typer.Option(help="A folder made by `mllm data build`, with notation rows.")],
    output: Annotated[Path, typer.Option(help="Folder for the answers and the table; a second run goes on.")],
    model: Annotated[str, typer.Option("--model", "-m", help="`mini`, or the folder of a checkpoint.")] = "mini",
    split: Annotated[str, typer.Option(help="Of the rows.")] = "test",
    limit: Annotated[int, typer.Option(min=1, help="Rows of each task.")] = 40,
) -> None:
    """Ask a model about scores, and print what it gets right beside chance, majority and the untuned model."""
    begun = time.perf_counter()
    try:
        score_tasks(data, model, output, split, limit)
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo((output / "table.md").read_text("utf-8"))
    typer.echo(f"{time.perf_counter() - begun:.0f} s")


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    app()
