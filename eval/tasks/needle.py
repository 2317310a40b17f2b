"""One short passage in a recording of minutes: what plays at that moment, and when is it? Multiple choice.

The recordings are made of a build's clips: one instrument throughout, another for 20 to 30 seconds somewhere. The
instrument that plays nearly all the time is always among the options, so hearing only the whole is not enough.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mllm.eval.item import Item
from mllm.eval.needle_recordings import families, recording
from mllm.eval.task import Task, chosen
from mllm.eval.tasks import instrument

MINUTES = (2, 10, 30)
RECORDINGS = 8
SECONDS = (20, 30)
OPTIONS = 4
MARGIN = 5
"""Seconds from the beginning of a quarter of the recording to the earliest passage in it."""
WHAT = "Which instrument is playing at {time}?"
WHEN = "One instrument plays nearly all the time. When does another one take over for {seconds} seconds?"


def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
    """Two questions a recording, lengths by turns; the true option stands at each place equally often."""
    clips = families(data, split, instrument.truth) if split != "train" else {}
    found: list[Item] = []
    for number in range(RECORDINGS if len(clips) >= OPTIONS else 0):
        if limit is not None and len(found) >= limit:
            break
        rng, minutes, place = np.random.default_rng([seed, number]), MINUTES[number % len(MINUTES)], number % OPTIONS
        names = [str(name) for name in rng.permutation(sorted(clips))[:OPTIONS]]
        seconds = int(rng.integers(SECONDS[0], SECONDS[1] + 1))
        # one moment in each quarter of the recording, so that options in the order of time are balanced too
        quarter = 60 * minutes / OPTIONS
        room = MARGIN, quarter - min(seconds, quarter / 2)
        starts = [int(rng.uniform(k * quarter + room[0], k * quarter + room[1])) for k in range(OPTIONS)]
        path = recording(data, clips[names[0]], clips[names[1]], minutes, starts[place], seconds, rng)
        what, when = [names[0], *names[2:]], [_clock(at) for at in starts]
        what.insert((place + 1) % OPTIONS, names[1])
        asked = {"what": (WHAT.format(time=_clock(starts[place] + seconds / 2)), names[1], what),
                 "when": (WHEN.format(seconds=seconds), when[place], when)}  # fmt: skip
        for of, (question, truth, options) in asked.items():
            strata, name = {"of": of, "minutes": str(minutes)}, f"{number:02d}-{minutes}min"
            found.append(Item(f"{name}-{of}", question, truth, (path,), "", tuple(options), group=name, strata=strata))
    return found[:limit]


def _clock(second: float) -> str:
    return f"{int(second) // 60}:{int(second) % 60:02d}"


TASK = Task(
    "needle", "a short passage in 2, 10 or 30 minutes", items, chosen, max_new_tokens=16, guess=lambda item: None
)
