"""Chords under a melody, and the figures and drum patterns that show the metre."""

from __future__ import annotations

import numpy as np

from mllm.data_recipes.instruments import Program
from mllm.data_recipes.tune import SCALES, Bar
from mllm.data_recipes.voices import Sounding, fold

Chord = tuple[int, tuple[int, int, int]]
"""Root and the three tones, as pitch classes."""

# Chords that a bar may have: scale degree of the root -> prior. The rest comes from the melody.
_CHORDS = {
    "major": {0: 1.0, 3: 0.6, 4: 0.7, 5: 0.1, 1: 0.15},
    "minor": {0: 1.0, 3: 0.5, 4: 0.7, 5: 0.1, 6: 0.0},
    "dorian": {0: 1.0, 3: 0.5, 6: 0.5, 4: 0.1},
    "mixolydian": {0: 1.0, 3: 0.5, 6: 0.5, 4: 0.1},
}
# (onset, duration, kind) of one bar in quarters; b = root, f = fifth below, c = chord. Each metre has its own figure:
# two bars of 2/4 must not sound like one of 4/4, so the bass enters on every downbeat and nowhere else in x/4.
FIGURES = {
    (2, 4): (
        ((0, 1, "b"), (1, 0.6, "c")),
        ((0, 1, "b"), (1, 0.4, "c"), (1.5, 0.4, "c")),
        ((0, 0.9, "b"), (0.5, 0.4, "c"), (1.5, 0.4, "c")),
    ),
    (3, 4): (
        ((0, 1, "b"), (1, 0.6, "c"), (2, 0.6, "c")),
        ((0, 2.8, "b"), (1, 1.8, "c")),
        ((0, 1, "b"), (1, 0.9, "c"), (2, 0.4, "c"), (2.5, 0.4, "c")),
    ),
    (4, 4): (
        ((0, 1, "b"), (1, 0.6, "c"), (2, 0.6, "c"), (3, 0.6, "c")),
        ((0, 3.8, "b"), (1, 0.8, "c"), (3, 0.8, "c")),
        ((0, 1.9, "b"), (0, 1.9, "c"), (2, 0.9, "c"), (3, 0.9, "c")),
    ),
    (6, 8): (
        ((0, 0.5, "b"), (0.5, 0.4, "c"), (1, 0.4, "c"), (1.5, 0.5, "f"), (2, 0.4, "c"), (2.5, 0.4, "c")),
        ((0, 1, "b"), (1, 0.4, "c"), (1.5, 1, "f"), (2.5, 0.4, "c")),
    ),
}
_KICK, _SNARE, _HAT, _RIDE = 36, 38, 42, 51
# Each metre's first pattern is the plain one; the others are for bands.
DRUM_BARS = {
    (2, 4): (
        ((0, _KICK), (1, _SNARE), (0.5, _HAT), (1.5, _HAT)),
        ((0, _KICK), (0.75, _KICK), (1, _SNARE), *((i / 4, _HAT) for i in range(8))),
    ),
    (3, 4): (
        ((0, _KICK), (1, _HAT), (2, _HAT), (1, _SNARE), (2, _SNARE)),
        ((0, _KICK), (0, _RIDE), (1, _RIDE), (1.5, _RIDE), (2, _RIDE), (2, _SNARE)),
    ),
    (4, 4): (
        ((0, _KICK), (1, _SNARE), (2, _KICK), (3, _SNARE), *((i / 2, _HAT) for i in range(8))),
        ((0, _KICK), (1, _SNARE), (2, _KICK), (2.5, _KICK), (3, _SNARE), *((i, _RIDE) for i in range(4))),
        ((0, _KICK), (1, _SNARE), (1.5, _KICK), (3, _SNARE), *((i / 2, _HAT) for i in range(8))),
    ),
    (6, 8): (
        ((0, _KICK), (1.5, _SNARE), *((i / 2, _HAT) for i in range(6))),
        ((0, _KICK), (1, _KICK), (1.5, _SNARE), (0, _RIDE), (1, _RIDE), (1.5, _RIDE), (2.5, _RIDE)),
    ),
}


def harmony(bars: list[Bar], tonic: int, mode: str) -> list[Chord]:
    """One chord a bar as (root pitch class, three pitch classes), by dynamic programming over fit, prior and motion."""
    degrees = _CHORDS[mode]
    options = []
    for degree in degrees:
        scale = list(SCALES[mode])
        if mode == "minor" and degree == 4:
            scale[6] = 11  # leading tone over the dominant
        root, third, fifth = ((tonic + scale[(degree + i) % 7]) % 12 for i in (0, 2, 4))
        options.append((degree, (root, third, fifth)))
    scores, back = [], []
    for b, bar in enumerate(bars):
        total = sum(n[1] for n in bar) or 1.0
        row, link = [], []
        for degree, tones in options:
            fit = sum(n[1] * (1.5 if n[0] == 0 else 1.0) * (n[2] % 12 in tones) for n in bar) / total
            here = 2.5 * fit + 0.5 * degrees[degree] + (0.4 if b in (0, len(bars) - 1) and degree == 0 else 0)
            if scores:
                step = [
                    s + (0.2 if (d, degree) in ((4, 0), (3, 4), (1, 4), (6, 0)) else 0) - 0.4 * ((d, degree) == (4, 3))
                    for s, (d, _) in zip(scores[-1], options, strict=True)
                ]
                link.append(int(np.argmax(step)))
                here += max(step)
            row.append(here)
        scores.append(row)
        back.append(link)
    path = [int(np.argmax(scores[-1]))]
    for link in reversed(back[1:]):
        path.append(link[path[-1]])
    return [(options[i][1][0], options[i][1]) for i in reversed(path)]


def figured(
    chords: list[Chord], metre: tuple[int, int], length: float, bass: Program, keys: Program, top: int, figure: int
) -> tuple[list[Sounding], list[Sounding]]:
    """Bass notes and chord notes of `figure` (its number in FIGURES) over one chord a bar, in the players' ranges.

    Args:
        length: of a bar, in quarters.
        bass, keys: who plays the bass and who the chords.
        top: a pitch of the melody's middle, under which both stay if they can.
    """
    low = min(max(bass.low, 36), max(bass.low, top - 19))
    middle = max(keys.low + 5, min(60, top - 9))
    deep_notes: list[Sounding] = []
    chord_notes: list[Sounding] = []
    for b, (root, tones) in enumerate(chords):
        deep = fold(root + 12, low, low + 11)
        fifth = fold(tones[2] + 12, low, low + 11)
        for onset, duration, kind in FIGURES[metre][figure]:
            at = b * length + onset
            if kind == "c":
                chord_notes += [(at, duration, fold(t + 12, middle - 5, middle + 6)) for t in tones]
            else:
                deep_notes.append((at, duration, deep if kind == "b" else fifth))
    return deep_notes, chord_notes


def beaten(metre: tuple[int, int], bars: int, length: float, pattern: int = 0) -> list[Sounding]:
    """Hits of `pattern` (its number in DRUM_BARS) in every bar; the pitch is the number of the General MIDI drum."""
    return [(b * length + o, 0.2, p) for b in range(bars) for o, p in sorted(DRUM_BARS[metre][pattern])]
