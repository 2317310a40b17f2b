"""Everything that can be measured of a model without the network, in one command that can be stopped and run again.

    python -m mllm.eval.full_report --model mini --data runs/data/mini --output runs/report

asks all tasks of ours under every control and beside the language model without ears, with the classical tools and the
tower's methods, and then with labelled clips in the prompt. `OUTPUT/tasks` is what `mllm eval` writes,
`OUTPUT/in_context` what `mllm.eval.in_context` writes, `OUTPUT/report.md` and `report.html` both with the curves
(`in_context.svg`) and the time of each part.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mllm.errors import MllmError
from mllm.eval import in_context
from mllm.eval.answers import read_records
from mllm.eval.baselines import with_baselines
from mllm.eval.commands import command, named, unless
from mllm.eval.html_report import inline, write_report
from mllm.eval.run import evaluate
from mllm.eval.task import EvalError
from mllm.eval.tasks import OURS, TASKS
from mllm.eval.tower_tools import TowerFeatures
from mllm.whole_files import write_whole

LIMIT = 40
"""Items a task."""
QUERIES = 24
SHOTS = (0, 1, 2, 4, 8)
FIT_CLIPS = 400
PROBED = ("instrument", "key", "tempo", "metre")
"""Tasks that the tower's features are probed for."""
UNTUNED = "text:smollm2"
FIGURE = "in_context.svg"
SHOWN = "What examples in the prompt are worth"
console = Console(stderr=True)


def measure(
    model: str = "mini",
    data: str | Path = "runs/data/mini",
    output: str | Path = "runs/report",
    limit: int = LIMIT,
    *,
    queries: int = QUERIES,
    shots: Sequence[int] = SHOTS,
    tasks: Sequence[str] | None = None,
    split: str = "test",
    beside: Sequence[str] = (UNTUNED,),
    tower: str = "stack",
    fit_clips: int = FIT_CLIPS,
) -> dict[str, Any]:
    """Ask everything that has not been asked yet and write the report.

    Args:
        model: as in `mllm.eval.run.evaluate`; so are data, split, beside and fit_clips.
        output: folder; what it holds of the same evaluation is gone on with.
        limit: items a task.
        queries, shots: as `limit` and `shots` of `mllm.eval.in_context.measure`.
        tasks: names of tasks; None: all of ours that the data has questions for.
        tower: what `mllm.towers.load_tower` takes, whose features are probed on `PROBED`.

    Returns:
        {"tasks": summary of the tasks, "in_context": summary of those, "seconds": {part: of this and former runs}}.

    Raises:
        EvalError: no data, unknown task, or `output` holds another evaluation. WeightsError: no such model.
    """
    data, output = Path(data), Path(output)
    wanted = list(tasks or OURS)
    features = TowerFeatures(tower, output / "tower_features")
    probed = [name for name in wanted if name in PROBED]
    registry = {**TASKS, **with_baselines(TASKS, probed, data, split, features)}
    of_ours = {name: registry[name] for name in wanted if name in registry} if tasks is None else registry
    found: dict[str, Any] = {}
    words = command("python -m mllm.eval.full_report", {
        **named(model), "--data": data, "--output": output, "--limit": unless(limit, LIMIT),
        "--queries": unless(queries, QUERIES), "--shots": unless(",".join(map(str, shots)), ",".join(map(str, SHOTS))),
        "--tasks": ",".join(tasks) if tasks else None, "--split": unless(split, "test"),
        "--beside": unless(",".join(beside), UNTUNED), "--fit-clips": unless(fit_clips, FIT_CLIPS),
        "--tower": unless(tower, "stack"),
    })  # fmt: skip
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "tasks": lambda: evaluate(
            model, tasks, data, output / "tasks", limit, split=split, beside=beside, fit_clips=fit_clips,
            registry=of_ours, command=words,
        ),
        "in_context": lambda: in_context.measure(
            model, data, output / "in_context", shots, queries, split=split
        ),
    }  # fmt: skip
    for name, part in parts.items():
        console.print(f"{name}: {output / name}")
        begun = time.perf_counter()
        try:
            found[name] = part()
        finally:  # a part that was stopped has cost what it has cost
            _add_seconds(output, name, time.perf_counter() - begun)
    found["seconds"] = _seconds(output)
    _write(found, output, data)
    return found


def _seconds(output: Path) -> dict[str, float]:
    file = output / "seconds.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _add_seconds(output: Path, part: str, seconds: float) -> None:
    known = _seconds(output)
    known[part] = round(known.get(part, 0.0) + seconds, 1)
    write_whole(output / "seconds.json", json.dumps(known) + "\n")


def _write(found: dict[str, Any], output: Path, data: Path) -> None:
    """report.md and report.html, with the curves beside the one and in the other."""
    curves = (output / "in_context" / FIGURE).read_bytes()
    write_whole(output / FIGURE, curves)
    write_whole(output / "report.md", _markdown(found, output))
    examples = html.escape((output / "in_context" / "table.md").read_text(encoding="utf-8"))
    extra = (
        f"<h2>Examples in the prompt</h2>\n<p>Minutes, all runs together: {_minutes(found)}.</p>\n"
        f"<figure>{inline(curves.decode(), SHOWN)}</figure>\n<pre>{examples}</pre>"
    )
    write_report(output / "report.html", found["tasks"], read_records(output / "tasks"), data, extra)


def _minutes(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in found["seconds"].items())


def _markdown(found: dict[str, Any], output: Path) -> str:
    tables = [(output / name / "table.md").read_text(encoding="utf-8") for name in ("tasks", "in_context")]
    return "\n".join(
        [f"# {found['tasks']['run']['model']}", "", f"Minutes, all runs together: {_minutes(found)}.", "",
         "## Tasks", "", tables[0], "## Examples in the prompt", "", f"![{SHOWN}]({FIGURE})", "", tables[1]]
    )  # fmt: skip


def main(
    model: Annotated[str, typer.Option("--model", "-m", help="As in `mllm eval`.")] = "mini",
    data: Annotated[Path, typer.Option(help="Folder that `mllm data build` made.")] = Path("runs/data/mini"),
    output: Annotated[Path, typer.Option(help="Folder of the report; goes on where it was stopped.")] = Path(
        "runs/report"
    ),
    limit: Annotated[int, typer.Option(min=1, help="At most so many items a task.")] = LIMIT,
    queries: Annotated[int, typer.Option(min=1, help="Queries with examples in the prompt.")] = QUERIES,
    shots: Annotated[str, typer.Option(help="Numbers of examples, with commas.")] = ",".join(map(str, SHOTS)),
    tasks: Annotated[str | None, typer.Option(help="Comma-separated; default all of ours.")] = None,
    split: Annotated[str, typer.Option(help="test, or validation while something is still being chosen.")] = "test",
    beside: Annotated[str, typer.Option(help="Models that are asked too, with commas; '' for none.")] = UNTUNED,
    fit_clips: Annotated[int, typer.Option(min=1, help="TRAIN clips that fitted methods learn from.")] = FIT_CLIPS,
    tower: Annotated[str, typer.Option(help="Whose features are probed: stack, musicnn, a folder, hf:…")] = "stack",
) -> None:
    """Measure a model on everything that needs no network, and write one report."""
    try:
        if not all(number.strip().isdigit() for number in shots.split(",")):
            raise EvalError(f"--shots {shots}: give numbers with commas, such as 0,1,2,4,8")
        names = [name.strip() for name in tasks.split(",") if name.strip()] if tasks else None
        numbers = [int(number) for number in shots.split(",")]
        others = [name.strip() for name in beside.split(",") if name.strip()]
        measure(
            model, data, output, limit, queries=queries, shots=numbers, tasks=names, split=split, beside=others,
            tower=tower, fit_clips=fit_clips,
        )  # fmt: skip
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo((output / "report.md").read_text(encoding="utf-8"), nl=False)


if __name__ == "__main__":
    typer.run(main)
