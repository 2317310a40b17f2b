"""Scores changed by rule: inversion and retrograde, bars of the wrong length, bars with other notes.

Inversion and retrograde as A. Schoenberg, Structural Functions of Harmony, and every book on counterpoint define them;
each is its own inverse.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from mllm.data_recipes.tune import SCALES, Bar, Tune
from mllm.errors import ScoreError
from mllm.score import Score

_WORD = re.compile(r"[_^=]*[A-Ga-gz][,']*\d*/?\d*")
"""One note or rest of `to_abc` without a tie: what may be left out of a bar, or said twice."""
STEPS = (-3, -2, -1, 1, 2, 3)
"""Steps of the scale that a wrong note lies beside the right one."""


def bars_of(score: Score) -> list[list[int]]:
    """The numbers of the notes that begin in each bar; the score begins with a full bar."""
    length = score.bar_length
    if not length or score.pickup:
        raise ScoreError("bars are counted in scores that have a metre and begin with a full bar")
    out: list[list[int]] = [[] for _ in range(int(np.ceil(score.length / length - 1e-6)))]
    for number, note in enumerate(score.notes):
        out[int(note.onset / length + 1e-6)].append(number)
    return out


def inverted(score: Score) -> Score:
    """Chromatic inversion about the first note: what lies n semitones above it comes to lie n below it.

    Raises ScoreError when a note would leave the MIDI range 0 to 127.
    """
    axis = 2 * score.notes[0].pitch
    notes = [replace(n, pitch=axis - n.pitch) for n in score.notes]
    if any(not 0 <= n.pitch <= 127 for n in notes):
        raise ScoreError("the inversion leaves the MIDI range; transpose the score first")
    return replace(score, notes=sorted(notes), abc=None)


def retrograde(score: Score) -> Score:
    """The same notes from the last to the first, each as long as before; the end of the last note becomes moment 0."""
    end = score.length
    notes = [replace(n, onset=end - n.onset - n.duration) for n in score.notes]
    return replace(score, notes=sorted(notes), abc=None)


def spoiled(bar: str, longer: bool, rng: np.random.Generator) -> str | None:
    """The text of a bar with one of its notes or rests said twice, or left out, so that it no longer fills the metre.

    None where the bar has no such note (all are tied or in tuplets), or would have none left.
    """
    words = bar.split()
    fit = [i for i, word in enumerate(words) if _WORD.fullmatch(word)]
    if not fit or len(words) < 2:
        return None
    at = fit[int(rng.integers(len(fit)))]
    return " ".join([*words[: at + longer], *words[at + (not longer) :]])


def moved(pitch: int, steps: int, tonic: int, mode: str) -> int:
    """The note `steps` steps of the scale above (negative: below) a MIDI pitch; a foreign note first goes to the scale.

    `tonic` is a pitch class, `mode` a name in SCALES.
    """
    scale = _scale(tonic, mode)
    above = bisect_left(scale, pitch)
    nearest = above if scale[above] - pitch < pitch - scale[above - 1] else above - 1
    return scale[nearest + steps]


@lru_cache
def _scale(tonic: int, mode: str) -> list[int]:
    return [p for p in range(-24, 152) if (p - tonic) % 12 in SCALES[mode]]


def varied(bars: Sequence[Bar], which: Sequence[int], tune: Tune, rng: np.random.Generator) -> list[Bar]:
    """`bars` of `tune` with other notes in the melody of bars `which` (from 0): rhythm and scale stay.

    In each such bar one to half of the notes move by one to three steps of the scale, inside the compass of the whole
    passage and a step around it; at least one of them is another note afterwards.
    """
    pitches = [p for bar in bars for _, _, p, v in bar if v == 0]
    low, high = min(pitches) - 2, max(pitches) + 2
    out = [list(bar) for bar in bars]
    for b in which:
        melody = [i for i, note in enumerate(out[b]) if note[3] == 0]
        count = int(rng.integers(1, max(1, len(melody) // 2) + 1))
        for i in rng.permutation(melody)[:count]:
            onset, duration, pitch, voice = out[b][int(i)]
            new = [moved(pitch, step, tune.tonic, tune.mode) for step in STEPS]
            new = [p for p in new if p != pitch and low <= p <= high]
            out[b][int(i)] = (onset, duration, new[int(rng.integers(len(new)))], voice)
    return out


def first_difference(a: Score, b: Score) -> int | None:
    """The first bar (from 1) in which two scores of one metre do not have the same notes, or None where they agree."""
    length = a.bar_length or 4.0
    mine, theirs = ({(round(n.onset, 4), round(n.duration, 4), n.pitch) for n in s.notes} for s in (a, b))
    differ = [onset for onset, _, _ in mine ^ theirs]
    return int(min(differ) / length + 1e-6) + 1 if differ else None
