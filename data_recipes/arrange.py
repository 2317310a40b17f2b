"""From a tune to an arrangement: an excerpt, its key, and who plays it (`ensembles.py`)."""

from __future__ import annotations

import numpy as np

from mllm.data_recipes.accompaniment import harmony
from mllm.data_recipes.ensembles import ENSEMBLES, Setting
from mllm.data_recipes.instruments import ACCOMPANISTS
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.tune import Bar, Tune
from mllm.data_recipes.voices import Arrangement, Voice

__all__ = ["Arrangement", "Voice", "arrange", "choose_second_family", "excerpt", "harmony", "starts"]


def excerpt(tune: Tune, start: int, bars: int) -> list[Bar]:
    """`bars` bars from `start`, counted over all runs; a run that is too short is repeated, as in playing."""
    for run in tune.runs:
        if start < len(run):
            return [run[(start + i) % len(run)] for i in range(bars)]
        start -= len(run)
    raise IndexError(f"{tune.id} has no bar {start}")


def starts(tune: Tune, bars: int) -> list[int]:
    """Bars where an excerpt may begin: every fourth of a run (phrases), where enough follows if possible."""
    out, late, offset = [], [], 0
    for run in tune.runs:
        for b in range(0, max(1, len(run) - 3), 4):
            if run[b]:
                (out if b + bars <= len(run) else late).append(offset + b)
        offset += len(run)
    return out or late or [0]


def arrange(
    tune: Tune,
    start: int,
    bars: int,
    tonic: int,
    family: str,
    rng: np.random.Generator,
    accompanied: bool,
    second_family: str | None,
    drums: bool,
    ensemble: str = "plain",
) -> Arrangement:
    """Arrange `bars` bars of `tune` from bar `start` so that its tonic is the pitch class `tonic`.

    `family` plays the melody and, in a plain arrangement without `second_family`, everything else too. `ensemble` is a
    name in ENSEMBLES; `accompanied` counts for `plain` only, and a band always has drums.

    Raises:
        ValueError: the excerpt has no melody note, or this ensemble cannot play it.
        DataError: no such ensemble.
    """
    if ensemble not in ENSEMBLES:
        raise DataError(f"there is no ensemble {ensemble!r}; known: {', '.join(ENSEMBLES)}")
    content = excerpt(tune, start, bars)
    setting = Setting(tune, content, tonic, family, second_family, accompanied, drums, rng)
    voices, shift = ENSEMBLES[ensemble].play(setting)
    return Arrangement(voices, tonic, tune.mode, tune.metre, bars, shift)


def choose_second_family(family: str, rng: np.random.Generator) -> str:
    """An accompanying family other than `family`."""
    others = [f for f in ACCOMPANISTS if f != family]
    return others[int(rng.integers(len(others)))]
