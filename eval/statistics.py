"""Intervals and tests over items that come in groups: clips of a work, questions about a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SEED = 0
_PERMUTATIONS = 9999
Scores = Sequence[float] | np.ndarray


def _resampled(columns: np.ndarray, groups: Sequence[str] | None) -> np.ndarray:
    """Means of `columns` [items, columns] over bootstrap resamples of whole groups: [resamples, columns]."""
    codes = np.arange(len(columns)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(codes.max()) + 1
    sums = np.zeros((count, columns.shape[1] + 1))
    np.add.at(sums, codes, np.column_stack([columns, np.ones(len(columns))]))
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES) @ sums
    return drawn[:, :-1] / drawn[:, -1:]


def interval(scores: Scores, groups: Sequence[str] | None = None) -> tuple[float, float]:
    """95 % percentile interval of the mean of `scores` [items], by bootstrap over groups (seed fixed)."""
    if not len(scores):
        return (float("nan"), float("nan"))
    return intervals(np.asarray(scores, float)[:, None], groups)[0]


def intervals(columns: np.ndarray, groups: Sequence[str] | None = None) -> list[tuple[float, float]]:
    """The same of each column of [items, columns], out of the same resamples."""
    lows, highs = np.percentile(_resampled(columns, groups), [2.5, 97.5], axis=0)
    return [(float(low), float(high)) for low, high in zip(lows, highs, strict=True)]


@dataclass(frozen=True)
class Gain:
    """How far a model lies above the best that needs no ears: points, 95 % interval, and which control that is."""

    points: float
    low: float
    high: float
    against: str


def gain(model: Scores, controls: Mapping[str, Scores], groups: Sequence[str] | None = None) -> Gain:
    """Mean of `model` less the greatest mean of `controls`, all over the same items.

    The best control is found anew in each resample, so that picking it costs what it should: the interval leans low.
    """
    names = list(controls)
    columns = np.column_stack([np.asarray(scores, float) for scores in (model, *controls.values())])
    means = columns.mean(0)
    best = int(np.argmax(means[1:]))
    drawn = _resampled(columns, groups)
    low, high = np.percentile(drawn[:, 0] - drawn[:, 1:].max(1), [2.5, 97.5])
    return Gain(float(means[0] - means[1 + best]), float(low), float(high), names[best])


@dataclass(frozen=True)
class Paired:
    """Second run less first on the same items.

    `p`: two-sided; McNemar's exact test where scores are 0 or 1 and no group has two items, else a permutation test
    that changes the signs of the groups' differences.
    """

    items: int
    difference: float
    low: float
    high: float
    p: float
    test: str
    better: int
    worse: int


def paired(first: Scores, second: Scores, groups: Sequence[str]) -> Paired:
    """Compare two runs on the same items [items], in the same order."""
    from scipy.stats import binomtest, permutation_test

    one, two = np.asarray(first, float), np.asarray(second, float)
    difference = two - one
    low, high = interval(difference, groups)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(set(groups)) == len(groups) and set(np.concatenate([one, two])) <= {0.0, 1.0}:
        p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
        test = "McNemar, exact"
    elif codes.max() == 0:
        p, test = 1.0, "permutation of groups"  # one group: either sign is as likely
    else:
        sums = np.bincount(codes, weights=difference)
        result = permutation_test(
            (sums, np.zeros_like(sums)), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples",
            vectorized=True, n_resamples=_PERMUTATIONS, rng=np.random.default_rng(SEED),
        )  # fmt: skip
        p, test = float(result.pvalue), "permutation of groups"
    return Paired(len(one), float(difference.mean()), low, high, p, test, better, worse)
