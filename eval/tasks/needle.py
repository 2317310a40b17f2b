"""One short passage in a recording of minutes: what plays at that moment, and when is it? Multiple choice.

The recordings are made of a build's clips: one instrument throughout, another for 20 to 30 seconds somewhere. The
instrument that plays nearly all the time is always among the options, so hearing only the whole is not enough.
"""

from __future__ import annotations

from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np

from mllm.eval.data import EvalClip, data_hash, read_clips
from mllm.eval.item import Item
from mllm.eval.made_recordings import joined, kept
from mllm.eval.task import EvalError, Task, chosen
from mllm.eval.tasks import instrument

MINUTES = (2, 10, 30)
RECORDINGS = 8
SECONDS = (20, 30)
OPTIONS = 4
MARGIN = 5
"""Seconds from the beginning of a quarter of the recording to the earliest passage in it."""
FEWEST = 3
"""Clips of a family that it must have to take part."""
WHAT = "Which instrument is playing at {time}?"
WHEN = "One instrument plays nearly all the time. When does another one take over for {seconds} seconds?"


def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
    """Two questions a recording, lengths by turns; the true option stands at each place equally often."""
    if split == "train":
        return []
    families = _families(data, split)
    found: list[Item] = []
    for number in range(RECORDINGS if len(families) >= OPTIONS else 0):
        if limit is not None and len(found) >= limit:
            break
        rng, minutes, place = np.random.default_rng([seed, number]), MINUTES[number % len(MINUTES)], number % OPTIONS
        names = [str(name) for name in rng.permutation(sorted(families))[:OPTIONS]]
        seconds = int(rng.integers(SECONDS[0], SECONDS[1] + 1))
        # one moment in each quarter of the recording, so that options in the order of time are balanced too
        quarter = 60 * minutes / OPTIONS
        starts = [
            int(rng.uniform(k * quarter + MARGIN, (k + 1) * quarter - min(seconds, quarter / 2)))
            for k in range(OPTIONS)
        ]
        path = _recording(data, families[names[0]], families[names[1]], minutes, starts[place], seconds, rng)
        what, when = [names[0], *names[2:]], [_clock(at) for at in starts]
        what.insert((place + 1) % OPTIONS, names[1])
        asked = {"what": (WHAT.format(time=_clock(starts[place] + seconds / 2)), names[1], what),
                 "when": (WHEN.format(seconds=seconds), when[place], when)}  # fmt: skip
        for of, (question, truth, options) in asked.items():
            strata = {"of": of, "minutes": str(minutes)}
            name = f"{number:02d}-{minutes}min"
            found.append(Item(f"{name}-{of}", question, truth, (path,), "", tuple(options), group=name, strata=strata))
    return found[:limit]


def _families(data: Path, split: str) -> dict[str, list[EvalClip]]:
    """Clips of one instrument by its family; nothing where the data has no clips."""
    try:
        clips = read_clips(data, split)
    except EvalError:
        return {}
    of: dict[str, list[EvalClip]] = {}
    for clip in clips:
        if clip.facts.get("instruments") and (family := instrument.truth(clip.facts)):
            of.setdefault(family, []).append(clip)
    return {family: some for family, some in of.items() if len(some) >= FEWEST}


def _recording(
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


def _clock(second: float) -> str:
    return f"{int(second) // 60}:{int(second) % 60:02d}"


TASK = Task(
    "needle", "a short passage in 2, 10 or 30 minutes", items, chosen, max_new_tokens=16, guess=lambda item: None
)
