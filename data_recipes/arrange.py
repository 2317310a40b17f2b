"""From a tune to an arrangement: an excerpt, its key, who plays what, and an accompaniment that shows the metre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mllm.data_recipes.instruments import ACCOMPANISTS, DRUMS, FAMILIES, PROGRAM_FAMILY, Program, bass_program
from mllm.data_recipes.tune import SCALES, Bar, Tune


@dataclass
class Voice:
    """One part: notes are (onset, duration, pitch) in quarters from the start of the excerpt."""

    role: str
    """melody | inner | bass | chords | drums"""
    program: int
    notes: list[tuple[float, float, int]]

    @property
    def family(self) -> str:
        """Its instrument family."""
        return DRUMS if self.role == "drums" else PROGRAM_FAMILY[self.program]


@dataclass
class Arrangement:
    """Voices (the melody first) of a transposed excerpt of whole bars."""

    voices: list[Voice]
    tonic: int
    mode: str
    metre: tuple[int, int]
    bars: int
    transposition: int
    """Semitones from the source to what is played."""


# Chords that a bar may have: scale degree of the root -> prior. The rest comes from the melody.
_CHORDS = {
    "major": {0: 1.0, 3: 0.6, 4: 0.7, 5: 0.1, 1: 0.15},
    "minor": {0: 1.0, 3: 0.5, 4: 0.7, 5: 0.1, 6: 0.0},
    "dorian": {0: 1.0, 3: 0.5, 6: 0.5, 4: 0.1},
    "mixolydian": {0: 1.0, 3: 0.5, 6: 0.5, 4: 0.1},
}
# (onset, duration, kind) of one bar in quarters; b = root, f = fifth below, c = chord. Each metre has its own figure:
# two bars of 2/4 must not sound like one of 4/4, so the bass enters on every downbeat and nowhere else in x/4.
_FIGURES = {
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
_KICK, _SNARE, _HAT = 36, 38, 42
_DRUM_BARS = {
    (2, 4): ((0, _KICK), (1, _SNARE), (0.5, _HAT), (1.5, _HAT)),
    (3, 4): ((0, _KICK), (1, _HAT), (2, _HAT), (1, _SNARE), (2, _SNARE)),
    (4, 4): ((0, _KICK), (1, _SNARE), (2, _KICK), (3, _SNARE), *((i / 2, _HAT) for i in range(8))),
    (6, 8): ((0, _KICK), (1.5, _SNARE), *((i / 2, _HAT) for i in range(6))),
}


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


def harmony(bars: list[Bar], tonic: int, mode: str) -> list[tuple[int, tuple[int, int, int]]]:
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


def _fold(pitch: int, low: int, high: int) -> int:
    """`pitch` moved by octaves into low..high (at least an octave wide)."""
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return pitch


def _octaves_into(notes: list[int], low: int, high: int, rng: np.random.Generator) -> int:
    """A shift by octaves that puts most notes inside low..high; where several do, one of them by chance."""
    shifts = [12 * k for k in range(-5, 6)]
    outside = [sum(not low <= n + s <= high for n in notes) for s in shifts]
    best = [s for s, o in zip(shifts, outside, strict=True) if o == min(outside)]
    middle = (low + high) / 2
    # Far registers are rare in real music, so the octave nearest the middle is likelier.
    weight = np.array([np.exp(-abs(float(np.median(notes)) + s - middle) / 6) for s in best])
    return int(rng.choice(best, p=weight / weight.sum()))


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
) -> Arrangement:
    """Arrange `bars` bars of `tune` from bar `start` so that its tonic is the pitch class `tonic`.

    `family` plays the melody and, unless `second_family` is given, everything else too.
    """
    content = excerpt(tune, start, bars)
    programs = FAMILIES[family]
    program = programs[int(rng.integers(len(programs)))]
    base = (tonic - tune.tonic) % 12
    melody = [n for bar in content for n in bar if n[3] == 0]
    if not melody:
        raise ValueError("the excerpt has no melody note")
    shift = base + _octaves_into([n[2] + base for n in melody], program.low, program.high, rng)
    length = tune.bar_quarters
    lower = sorted({n[3] for bar in content for n in bar} - {0})
    voices = [
        Voice(
            "melody",
            program.number,
            [(b * length + o, d, p + shift) for b, bar in enumerate(content) for o, d, p, v in bar if v == 0],
        )
    ]
    other = second_family or family
    if lower:
        voices += _lower_voices(content, lower, length, shift, other, program if other == family else None)
    elif accompanied or second_family:
        chords = harmony([[(o, d, p + shift, v) for o, d, p, v in bar] for bar in content], tonic, tune.mode)
        top = int(np.median([p for _, _, p in voices[0].notes]))
        voices += _accompaniment(chords, tune.metre, length, other, top, rng)
    elif rng.random() < 0.35:
        voices.append(_second(voices[0], tonic, tune.mode, tune.beat_quarters, family))
    if drums:
        hits = sorted(_DRUM_BARS[tune.metre])
        voices.append(Voice("drums", 0, [(b * length + o, 0.2, p) for b in range(bars) for o, p in hits]))
    return Arrangement(voices, tonic, tune.mode, tune.metre, bars, shift)


def _lower_voices(
    content: list[Bar], lower: list[int], length: float, shift: int, family: str, same: Program | None
) -> list[Voice]:
    """The written lower voices, each by the family member that reaches it; the bass by the lowest."""
    out = []
    for v in lower:
        notes = [(b * length + o, d, p + shift) for b, bar in enumerate(content) for o, d, p, w in bar if w == v]
        if not notes:
            continue
        player = bass_program(family) if v == lower[-1] or not same else same
        notes = [(o, d, _fold(p, player.low, max(player.high, player.low + 12))) for o, d, p in notes]
        out.append(Voice("bass" if v == lower[-1] else "inner", player.number, notes))
    return out


def _accompaniment(
    chords: list[tuple[int, tuple[int, int, int]]],
    metre: tuple[int, int],
    length: float,
    family: str,
    top: int,
    rng: np.random.Generator,
) -> list[Voice]:
    figures = _FIGURES[metre]
    figure = figures[int(rng.integers(len(figures)))]
    player = bass_program(family)
    low = min(max(player.low, 36), max(player.low, top - 19))
    middle = max(player.low + 5, min(60, top - 9))
    bass, chord_notes = [], []
    for b, (root, tones) in enumerate(chords):
        deep = _fold(root + 12, low, low + 11)
        fifth = _fold(tones[2] + 12, low, low + 11)
        for onset, duration, kind in figure:
            at = b * length + onset
            if kind == "c":
                chord_notes += [(at, duration, _fold(t + 12, middle - 5, middle + 6)) for t in tones]
            else:
                bass.append((at, duration, deep if kind == "b" else fifth))
    return [Voice("bass", player.number, bass), Voice("chords", player.number, chord_notes)]


def _second(melody: Voice, tonic: int, mode: str, beat: float, family: str) -> Voice:
    """A second voice a third or a sixth below, from the scale, moving on the beats."""
    scale = [(tonic + s) % 12 for s in SCALES[mode]]
    player = bass_program(family)
    notes = []
    for onset, duration, pitch in melody.notes:
        if abs(onset / beat % 1) > 1e-6 and duration < 1:
            continue
        below = [p for p in range(pitch - 9, pitch - 2) if p % 12 in scale]
        below = [p for p in below if pitch - p in (3, 4, 8, 9)] or below
        if below:
            notes.append((onset, max(duration, min(beat, 1.0)), _fold(below[-1], player.low, 127)))
    return Voice("inner", player.number, notes)


def choose_second_family(family: str, rng: np.random.Generator) -> str:
    """An accompanying family other than `family`."""
    others = [f for f in ACCOMPANISTS if f != family]
    return others[int(rng.integers(len(others)))]
