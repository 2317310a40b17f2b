"""The cheap things that a music model has to beat, in one command.

`python -m mllm.eval.baselines --data runs/data/mini --tasks instrument,key,tempo,metre --output runs/baselines`

Chance and majority; the nearest TRAIN clip by a tower's features and a linear probe on them (what the features hold);
classical tools (librosa, Basic Pitch, music21); an untuned language model that is told what those tools heard
(`cascade:smollm2`, which is also a name for `mllm eval --model` and `--beside`). Written like any evaluation, so
`--model mini` puts a model beside them all; baselines.md is the table of the methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mllm.errors import MllmError
from mllm.eval.commands import command, named, unless
from mllm.eval.report import cell
from mllm.eval.respondents import Respondent, respondent
from mllm.eval.run import FIT_CLIPS, evaluate
from mllm.eval.task import EvalError, Task, Tool
from mllm.eval.tasks import TASKS
from mllm.eval.tower_tools import TowerFeatures, tower_tools
from mllm.settings import nearest
from mllm.whole_files import write_whole

CASCADE = "cascade:smollm2"
LOOKED_AT = 50
"""Questions of a task by which it is told whether each is about one recording."""


def with_baselines(
    registry: Mapping[str, Task], names: Sequence[str], data: Path, split: str, features: TowerFeatures, seed: int = 0
) -> dict[str, Task]:
    """Tasks with the tower's methods added to their tools where each question is about one recording.

    Raises EvalError for an unknown name.
    """
    if unknown := [name for name in names if name not in registry]:
        raise EvalError(f"unknown task {', '.join(unknown)}{nearest(unknown[0], registry)}")
    out = {}
    for name in names:
        task = registry[name]
        items = task.items(data, split, LOOKED_AT, seed)
        of_tower: tuple[Tool, ...] = ()
        if items and all(len(item.audio) == 1 and not item.options for item in items):
            of_tower = tower_tools(task, task.items(data, "train", None, seed), features)
        out[name] = replace(task, tools=(*task.tools, *of_tower))
    return out


def measure(
    data: str | Path = "runs/data/mini",
    tasks: Sequence[str] = ("instrument", "key", "tempo", "metre"),
    output: str | Path = "runs/baselines",
    limit: int | None = None,
    *,
    model: str | Respondent = CASCADE,
    tower: str = "stack",
    split: str = "test",
    fit_clips: int = FIT_CLIPS,
) -> dict[str, Any]:
    """All baselines on `tasks`; returns and writes what `mllm.eval.run.evaluate` does, and baselines.md.

    Args:
        model: what is asked; where it is another model than the cascade, the cascade is asked beside it.
        tower: what `mllm.towers.load_tower` takes; its features are kept in `output`/tower_features.
        fit_clips: TRAIN clips that fitted methods learn from.
        data, output, limit, split: as in `evaluate`.

    Raises:
        EvalError: unknown task, no data. WeightsError: no such model or tower.
    """
    data, output = Path(data), Path(output)
    registry = with_baselines(TASKS, tasks, data, split, TowerFeatures(tower, output / "tower_features"))
    asked = respondent(model) if isinstance(model, str) else model
    beside = [] if asked.name.startswith("cascade:") else [CASCADE]
    words = command("python -m mllm.eval.baselines", {
        "--data": data, "--tasks": ",".join(tasks), "--output": output, **({} if model == CASCADE else named(model)),
        "--tower": unless(tower, "stack"), "--limit": limit, "--split": unless(split, "test"),
        "--fit-clips": unless(fit_clips, FIT_CLIPS),
    })  # fmt: skip
    summary = evaluate(
        asked, tasks, data, output, limit, split=split, beside=beside, fit_clips=fit_clips,
        conditions=("model", "silence"), registry=registry, command=words,
    )  # fmt: skip
    write_whole(output / "baselines.md", markdown(summary))
    return summary


def markdown(summary: dict[str, Any]) -> str:
    """A row a method and task: name, items, score with interval."""
    run, lines = summary["run"], ["| task | items | method | score |", "|---|---|---|---|"]
    for name, conditions in summary["tasks"].items():
        for condition, found in sorted(conditions.items(), key=lambda pair: pair[1]["accuracy"]):
            method = {"model": run["model"], "silence": f"{run['model']}, clips silent"}.get(condition, condition)
            method = method.removeprefix("tool: ").removeprefix("beside ")
            lines.append(f"| {summary['about'][name]['title']} | {found['n']} | {method} | {cell(found)} |")
    terms = (
        "In %, with 95 % bootstrap intervals over works. "
        f"Fitted methods learned from up to {run['fit_clips']} TRAIN clips.",
        f"\nCommand: `{run['command']}`  ",
        f"Data sha256: `{run['data_sha256']}`",
    )
    return "\n".join([*lines, "", *terms, ""])


def main(
    data: Annotated[Path, typer.Option(help="Folder that `mllm data build` made.")] = Path("runs/data/mini"),
    tasks: Annotated[str, typer.Option(help="Names as in `mllm eval`, with commas.")] = "instrument,key,tempo,metre",
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/baselines"),
    model: Annotated[str, typer.Option(help="What is asked: the cascade, or a model to set beside all.")] = CASCADE,
    tower: Annotated[str, typer.Option(help="Whose features are probed: stack, musicnn, a folder, hf:…")] = "stack",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items a task.")] = None,
    split: Annotated[str, typer.Option(help="Whose questions are asked.")] = "test",
    fit_clips: Annotated[int, typer.Option(min=1, help="TRAIN clips that fitted methods learn from.")] = FIT_CLIPS,
) -> None:
    """Measure everything cheap: chance, majority, tower features, classical tools, a cascade."""
    try:
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        measure(data, names, output, limit, model=model, tower=tower, split=split, fit_clips=fit_clips)
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo((output / "baselines.md").read_text(encoding="utf-8"), nl=False)


if __name__ == "__main__":
    typer.run(main)
