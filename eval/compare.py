"""Two runs on the same items: `mllm eval --compare RUN_A RUN_B`, or `python -m mllm.eval.compare RUN_A RUN_B`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mllm.errors import MllmError
from mllm.eval.statistics import paired
from mllm.eval.task import EvalError


def _model_rows(run: Path) -> dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]]:
    """(task, version) -> (item, condition is always the model's) -> record."""
    file = run / "results.jsonl"
    if not file.is_file():
        raise EvalError(f"{run} holds no evaluation: there is no results.jsonl in it")
    out: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["condition"] == "model":
                out.setdefault((row["task"], row["version"]), {})[row["item"], json.dumps(row["truth"])] = row
        except (ValueError, KeyError, TypeError) as error:
            raise EvalError(f"{file}, line {number}: not a record of an evaluation; run it again") from error
    return out


def compare(first: Path, second: Path) -> dict[str, dict[str, Any]]:
    """Task -> second run less first over the items that both asked, with interval and p (see `statistics.Paired`).

    Raises EvalError where a folder holds no evaluation, or they share no item of the same version.
    """
    one, two = _model_rows(first), _model_rows(second)
    out = {}
    for key in one:
        items = [item for item in one[key] if item in two.get(key, {})]
        if items:
            rows = [(one[key][item], two[key][item]) for item in items]
            groups = [a["group"] or a["item"] for a, _ in rows]
            result = paired([a["score"] for a, _ in rows], [b["score"] for _, b in rows], groups)
            means = {"first": sum(a["score"] for a, _ in rows), "second": sum(b["score"] for _, b in rows)}
            out[key[0]] = {name: total / len(rows) for name, total in means.items()} | asdict(result)
    if not out:
        raise EvalError(f"{first} and {second} share no item of the same task and version")
    return out


def markdown(result: dict[str, dict[str, Any]]) -> str:
    """The comparison for people, in percent."""
    lines = ["| task | items | first | second | difference | p | better, worse |", "|---" * 7 + "|"]
    for task, r in result.items():
        gap = f"{100 * r['difference']:+.1f} [{100 * r['low']:.1f}–{100 * r['high']:.1f}]"
        cells = [task, r["items"], f"{100 * r['first']:.1f}", f"{100 * r['second']:.1f}", gap]
        cells += [f"{r['p']:.3g} ({r['test']})", f"{r['better']}, {r['worse']}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", "Second less first on the same items; 95 % bootstrap intervals over works.", ""])


def main(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another one on the same data.")],
) -> None:
    """Compare two evaluations item by item: difference, 95 % interval, p."""
    try:
        typer.echo(markdown(compare(first, second)), nl=False)
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
