"""A picture of what a piece of work costs as there is more of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot_cost(rows: Sequence[float], cost: Sequence[float], unit: str, mib: Sequence[float], path: Path) -> None:
    """Draw cost and memory over the number of rows.

    Args:
        rows: how many rows there were at each point.
        cost: of a row, at each point.
        unit: of `cost`, as the axis says it.
        mib: memory at each point.
        path: file for the picture (svg, png).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    left.plot(rows, cost, "o-", color="tab:blue")
    right.plot(rows, mib, "s--", color="tab:orange")
    left.set(xscale="log", xlabel="rows", ylim=(0, None))
    left.set_ylabel(unit, color="tab:blue")
    right.set_ylabel("peak memory, MiB", color="tab:orange")
    right.set_ylim(0, None)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
