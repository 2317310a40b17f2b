"""`tonal`: a small generator of tonal tunes, for unlimited material with exactly known key and metre.

A tune is two or four phrases of four bars. Each phrase walks through functional harmony (tonic, predominant,
dominant) to a half cadence or a full one; the melody takes chord tones on the beats and moves by step between them.
"""

from __future__ import annotations

import numpy as np

from mllm.data_recipes.tune import METRES, SCALES, Bar, Tune

# Chords of a four-bar phrase as scale degrees (0 = I); the last one is the cadence.
_OPEN = ((0, 3, 0, 4), (0, 5, 1, 4), (0, 0, 3, 4), (0, 4, 0, 4), (0, 5, 3, 4), (0, 1, 4, 4), (0, 3, 1, 4))
_CLOSED = ((0, 3, 4, 0), (0, 1, 4, 0), (3, 0, 4, 0), (5, 1, 4, 0), (0, 4, 4, 0), (4, 0, 4, 0), (5, 3, 4, 0))
# Rhythms of a bar in quarters: those of each metre show its beats.
_RHYTHMS = {
    (2, 4): (
        "1 1",
        "1 .5 .5",
        ".5 .5 1",
        ".5 .5 .5 .5",
        "1.5 .5",
        ".75 .25 1",
        ".5 .25 .25 1",
        ".25 .25 .25 .25 1",
        ".5 .25 .25 .5 .5",
        ".75 .25 .5 .5",
    ),
    (3, 4): (
        "1 1 1",
        "2 1",
        "1 .5 .5 1",
        "1 1 .5 .5",
        "1.5 .5 1",
        ".5 .5 1 1",
        ".5 .5 .5 .5 1",
        "2 .5 .5",
        "1 .5 .5 .5 .5",
        ".5 .5 .5 .5 .5 .5",
    ),
    (4, 4): (
        "1 1 1 1",
        "2 1 1",
        "1 1 2",
        "1.5 .5 1 1",
        "1 .5 .5 1 1",
        "1 1 .5 .5 1",
        ".5 .5 .5 .5 1 1",
        "1.5 .5 1.5 .5",
        "1 .5 .5 1 .5 .5",
        ".5 .5 .5 .5 .5 .5 .5 .5",
        "1 1 1 .5 .5",
    ),
    (6, 8): (
        "1.5 1.5",
        "1 .5 1 .5",
        ".5 .5 .5 1.5",
        ".5 .5 .5 .5 .5 .5",
        "1 .5 .5 .5 .5",
        ".5 .5 .5 1 .5",
        "1.5 1 .5",
        ".75 .25 .5 1 .5",
        "1.5 .5 .5 .5",
    ),
}
_LAST = {(2, 4): ("2", "1 1"), (3, 4): ("3", "2 1"), (4, 4): ("4", "2 2", "3 1"), (6, 8): ("3", "1.5 1.5")}


def tonal_tune(number: int, source: str = "tonal") -> Tune:
    """Tune `number` of the endless list; the same number always gives the same tune.

    Metre and mode cycle with the number, so that every stretch of the list is balanced.
    """
    rng = np.random.default_rng([0x70A1, number])
    metre = METRES[number % 4]
    minor = number // 4 % 2
    mode = (("mixolydian", "dorian") if rng.random() < 0.05 else ("major", "minor"))[minor]
    phrases = [_Phrase(rng, metre, mode) for _ in range(3)]
    shape = (("a", "a'"), ("a", "b'"), ("a", "a'", "b", "a'"), ("a", "b", "c", "a'"))[rng.integers(4)]
    bars: list[Bar] = []
    place = int(rng.integers(0, 5))
    for mark in shape:
        phrase = phrases["abc".index(mark[0])]
        more, place = phrase.sing(closed=mark.endswith("'"), start=place)
        bars += more
    return Tune(f"{source}/{number:06d}", f"Tonal tune {number}", source, 0, mode, metre, [bars])


class _Phrase:
    """One phrase with its own rhythm and harmony, so that a repetition is heard as one."""

    def __init__(self, rng: np.random.Generator, metre: tuple[int, int], mode: str) -> None:
        self.metre, self.mode = metre, mode
        self.seed = int(rng.integers(2**31))
        self.open: tuple[int, ...] = _OPEN[rng.integers(len(_OPEN))]
        self.closed: tuple[int, ...] = _CLOSED[rng.integers(len(_CLOSED))]
        # A modal phrase closes over the chord on VII (dorian, mixolydian), which is what makes it modal.
        if mode in ("dorian", "mixolydian"):
            self.open = tuple(6 if c == 4 else 3 if c in (1, 5) else c for c in self.open)
            self.closed = tuple(6 if c == 4 else 3 if c in (1, 5) else c for c in self.closed)
        names = _RHYTHMS[metre]
        busy = float(rng.uniform(-0.6, 0.8))
        weight = np.exp([busy * (len(n.split()) - 3) for n in names])
        picks = rng.choice(len(names), size=2, p=weight / weight.sum())
        self.rhythms = [[float(x) for x in names[picks[i]].split()] for i in (0, 1, 0)]
        lasts = _LAST[metre]
        self.last = [float(x) for x in lasts[rng.integers(len(lasts))].split()]

    def sing(self, closed: bool, start: int) -> tuple[list[Bar], int]:
        """Four bars and the scale step where the melody ends; steps count diatonically from the tonic."""
        rng = np.random.default_rng(self.seed)
        chords = self.closed if closed else self.open
        step, bars = start, []
        for b, chord in enumerate(chords):
            rhythm = self.rhythms[b] if b < 3 else self.last
            onset, bar = 0.0, []
            for i, duration in enumerate(rhythm):
                beat = abs(onset / (1.5 if self.metre == (6, 8) else 1.0) % 1) < 1e-6
                if b == 3 and i == len(rhythm) - 1:
                    step = _nearest(step, (0,) if closed else (chord,) if rng.random() < 0.5 else _triad(chord))
                elif beat:
                    pull = int(rng.integers(-3, 4)) - round((step - 3) / 4)
                    step = _nearest(step + pull, _triad(chord))
                else:
                    step += int(rng.choice([-1, 1, 1, -1, -2, 2], p=[0.3, 0.3, 0.14, 0.14, 0.06, 0.06]))
                step = min(max(step, -4), 11)
                bar.append((onset, duration, 60 + self._pitch(step, chord), 0))
                onset += duration
            bars.append(bar)
        return bars, step

    def _pitch(self, step: int, chord: int) -> int:
        octave, degree = divmod(step, 7)
        pitch = SCALES[self.mode][degree] + 12 * octave
        # Harmonic minor: the seventh degree is raised over the dominant.
        if self.mode == "minor" and degree == 6 and chord in (4, 6):
            pitch += 1
        return pitch


def _triad(chord: int) -> tuple[int, ...]:
    return (chord, (chord + 2) % 7, (chord + 4) % 7)


def _nearest(step: int, degrees: tuple[int, ...]) -> int:
    """The step closest to `step` whose degree is one of `degrees`."""
    return min((s for s in range(step - 7, step + 8) if s % 7 in degrees), key=lambda s: (abs(s - step), s))
