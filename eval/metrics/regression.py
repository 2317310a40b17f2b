"""Numbers such as arousal and valence: explained variance and correlation."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_NOT_THE_RATING = re.compile(
    r"(?:out\s+of|/)\s?\d+|\b\d+\s?(?:to|-|–)\s?\d+\s?(?:scale)?|\bscale\s+(?:of|from)\s+\d+(?:\s?(?:to|-|–)\s?\d+)?|\bexample\s+\d+",
    re.IGNORECASE,
)
_RATING = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)")


def read_rating(text: str, low: float, high: float) -> float | None:
    """The one number between `low` and `high` that a text says; None for none, for two that differ, for numbers beyond.

    "6 out of 9", "6/9" and "on a scale of 1 to 9" say nothing but the 6.
    """
    numbers = {float(number) for number in _RATING.findall(_NOT_THE_RATING.sub(" ", text))}
    return numbers.pop() if len(numbers) == 1 and low <= min(numbers) <= high else None


def regression_scores(truth: Sequence[float], said: Sequence[float | None]) -> dict[str, float]:
    """{"r2", "pearson", "r2_rescaled", "read"} of what was said against what is true.

    r2: coefficient of determination of the numbers as they are (scikit-learn; 0 for the mean, below 0 for worse).
    pearson: their correlation (SciPy), 0 where all are the same. r2_rescaled: r2 after both were brought to mean 0 and
    variance 1, which is 2·pearson − 1: what CMI-Bench prints. An answer that was not read (None) stands at the mean of
    those that were. read: the share of answers that were.
    """
    from scipy.stats import pearsonr
    from sklearn.metrics import r2_score

    true = np.asarray(truth, float)
    known = [value for value in said if value is not None]
    if len(true) != len(said) or len(true) < 2:
        raise ValueError(f"{len(true)} true numbers and {len(said)} answers: give as many of each, at least two")
    mean = float(np.mean(known)) if known else float(true.mean())
    found = np.array([mean if value is None else value for value in said], float)
    varies = np.ptp(found) > 1e-12 and np.ptp(true) > 1e-12
    pearson = float(pearsonr(true, found).statistic) if varies else 0.0
    return {
        "r2": float(r2_score(true, found)),
        "pearson": pearson,
        "r2_rescaled": 2 * pearson - 1 if varies else float("nan"),
        "read": len(known) / len(said),
    }
