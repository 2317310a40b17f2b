"""Recordings of minutes in which one short passage has another instrument, made of a build's clips."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np

from mllm.eval.data import EvalClip, data_hash, read_clips
from mllm.eval.made_recordings import joined, kept
from mllm.eval.task import EvalError, Facts

FEWEST = 3
"""Clips of a family that it must have to take part."""


def families(data: Path, split: str, family_of: Callable[[Facts], str | None]) -> dict[str, list[EvalClip]]:
    """Clips of one instrument by its family; nothing where the data has no clips."""
    try:
        clips = read_clips(data, split)
    except EvalError:
        return {}
    of: dict[str, list[EvalClip]] = {}
    for clip in clips:
        if clip.facts.get("instruments") and (family := family_of(clip.facts)):
            of.setdefault(family, []).append(clip)
    return {family: some for family, some in of.items() if len(some) >= FEWEST}


def recording(
    data: Path, most: list[EvalClip], other: list[EvalClip], minutes: int, start: int, seconds: int,
    rng: np.random.Generator,
) -> Path:  # fmt: skip
    """Clips of `most` for so many minutes, of `other` in their place from second `start` on."""
    throughout, short = ([some[int(i)] for i in rng.permutation(len(some))] for some in (most, other))

    def make() -> np.ndarray:
        around = joined((clip.path for clip in chain.from_iterable(repeat(throughout))), 60 * minutes - seconds)
        passage = joined((clip.path for clip in chain.from_iterable(repeat(short))), seconds)
        at = round(start * len(passage) / seconds)
        return np.concatenate([around[:at], passage, around[at:]])

    names = [[clip.name for clip in islice(some, 200)] for some in (throughout, short)]
    return kept(["needle 1", data_hash(data), names, minutes, start, seconds], make)
