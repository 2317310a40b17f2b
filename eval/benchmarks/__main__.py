"""List the benchmarks: `python -m mllm.eval.benchmarks [--folder DIR]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm.errors import MllmError
from mllm.eval.benchmarks import BENCHMARKS


def main(
    folder: Annotated[
        Path | None, typer.Option(help="With one folder a benchmark; else what the environment names.")
    ] = None,
) -> None:
    """Say which benchmarks are here, with how many questions, and where the others are to be had."""
    for benchmark in BENCHMARKS.values():
        if line := benchmark.missing(folder):
            typer.echo(line)
            continue
        try:
            items = benchmark.items(folder)
        except MllmError as error:
            typer.echo(f"{benchmark.name}: {error}")
            continue
        heard = sum(bool(item.audio) and all(path.is_file() for path in item.audio) for item in items)
        sound = f", {heard} with sound" if benchmark.sound else ""
        typer.echo(f"{benchmark.name}: {len(items)} questions{sound}; {benchmark.licence}; {benchmark.citation}")


if __name__ == "__main__":
    typer.run(main)
