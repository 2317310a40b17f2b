"""Do two runs learn alike? Their losses, smoothed, over the share of the rows that each has seen by then."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

_WINDOWS = 8
"""A point of a smoothed curve is the mean over so small a part of the run."""


def smoothed(losses: Sequence[float], points: int = 100) -> np.ndarray:
    """[points] means over an eighth of the run around each of so many moments, evenly spread over it."""
    values = np.asarray(losses, float)
    half = max(1, len(values) // _WINDOWS) / 2
    centres = np.linspace(half, len(values) - half, points)
    # the integral of the staircase, so that a window may begin within a step
    edges, total = np.arange(len(values) + 1), np.concatenate([[0.0], np.cumsum(values)])
    return (np.interp(centres + half, edges, total) - np.interp(centres - half, edges, total)) / (2 * half)


def largest_gap(one: Sequence[float], other: Sequence[float]) -> float:
    """Most that the smoothed curves of two runs over the same rows are apart; they may differ in steps."""
    return float(np.abs(smoothed(one) - smoothed(other)).max())


def compare(plain: Sequence[float], ours: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """Largest gap between `plain` and the mean of `ours`, runs with several seeds; and the largest among these, the
    noise (None where there is one)."""
    mean = np.mean([smoothed(losses) for losses in ours], axis=0)
    among = [largest_gap(one, other) for one, other in combinations(ours, 2)]
    return float(np.abs(smoothed(plain) - mean).max()), max(among, default=None)
