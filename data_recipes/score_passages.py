"""Passages of tunes as scores: whole bars of one voice in a key of their own, that questions are asked about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mllm.data_recipes.score_changes import bars_of
from mllm.data_recipes.score_rows import Written, fills_its_bars, melody_of, written
from mllm.data_recipes.tune import Bar, Tune
from mllm.score import Key, Score, transpose

TRIES = 8
"""Passages of a tune that are tried for one question."""


@dataclass(frozen=True)
class Passage:
    """Some consecutive full bars of the melody of a tune, in a key of their own."""

    tune: Tune
    run: int
    first: int
    """Where it stands: which run of the tune, and the number of its first bar there, from 0."""
    content: list[Bar]
    """The bars as the tune has them."""
    shift: int
    """Semitones from the tune to `score`."""
    score: Score
    level: str

    @property
    def bars(self) -> int:
        """How many."""
        return len(self.content)

    @cached_property
    def text(self) -> Written:
        """Its ABC."""
        return written(self.score)

    @property
    def key(self) -> Key:
        """Its key."""
        assert self.score.key is not None
        return self.score.key

    @property
    def metre(self) -> str:
        """`3/4`."""
        return f"{self.tune.metre[0]}/{self.tune.metre[1]}"

    @cached_property
    def names(self) -> list[str]:
        """Names of its notes with octave, in order."""
        return [self.key.spell(n.pitch) for n in self.score.notes]

    @cached_property
    def by_bar(self) -> list[list[int]]:
        """The numbers of the notes of each bar."""
        return bars_of(self.score)


def letter(name: str) -> str:
    """`F#` for `F#5`."""
    return name.rstrip("-0123456789")


def passage(tune: Tune, level: str, bars: int, rng: np.random.Generator) -> Passage | None:
    """`bars` full bars of a tune in a random key (up to five semitones down or six up), or None where it has none."""
    runs = [i for i, run in enumerate(tune.runs) if len(run) >= bars]
    for _ in range(TRIES if runs else 0):
        number = runs[int(rng.integers(len(runs)))]
        first = int(rng.integers(len(tune.runs[number]) - bars + 1))
        content = tune.runs[number][first : first + bars]
        shift = int(rng.integers(-5, 7))
        score = melody_of(content, tune)
        if fills_its_bars(score, bars) and len(score.notes) >= 3:
            return Passage(tune, number, first, content, shift, transpose(score, shift), level)
    return None


def melody(bar: Bar) -> list[tuple[float, float, int]]:
    """Onset, duration and pitch of the notes of the melody of a bar: equal for bars that are played alike."""
    return sorted((round(o, 4), round(d, 4), p) for o, d, p, v in bar if v == 0)
