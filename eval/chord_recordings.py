"""Short recordings of known chords: progressions drawn by the usual functions, played by bass, chords and a melody."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllm.eval.made_recordings import RATE, kept
from mllm.eval.metrics.chords import harte_label
from mllm.score import Note, Score, to_midi
from mllm.score_types import Key
from mllm.synthesis import default_soundfont, render

BARS = 4
VERSION = "1"
# Degree (semitones above the tonic) and kind of chord -> what may follow it.
_AFTER: dict[str, dict[tuple[int, str], tuple[tuple[int, str], ...]]] = {
    "major": {
        (0, ""): ((5, ""), (7, ""), (9, "m"), (2, "m"), (4, "m")), (2, "m"): ((7, ""), (7, "7"), (5, "")),
        (4, "m"): ((9, "m"), (5, "")), (5, ""): ((7, ""), (0, ""), (2, "m"), (7, "7")), (7, ""): ((0, ""), (9, "m")),
        (7, "7"): ((0, ""), (9, "m")), (9, "m"): ((5, ""), (2, "m"), (7, "")),
    },
    "minor": {
        (0, "m"): ((5, "m"), (7, ""), (8, ""), (10, ""), (3, "")), (3, ""): ((8, ""), (5, "m"), (10, "")),
        (5, "m"): ((7, ""), (7, "7"), (0, "m")), (7, ""): ((0, "m"), (8, "")), (7, "7"): ((0, "m"), (8, "")),
        (8, ""): ((10, ""), (5, "m"), (3, "")), (10, ""): ((3, ""), (0, "m"), (8, "")),
    },
}  # fmt: skip
_TONES = {"": (0, 4, 7), "m": (0, 3, 7), "7": (0, 4, 7, 10)}
_CHORD_PROGRAMS, _BASSES = (0, 4, 11, 16, 19, 24, 25, 48), (32, 33, 43, 0)
_MELODIES = (73, 40, 68, 71, 56, 65, 0, 11)


@dataclass(frozen=True)
class Progression:
    """Four bars with a chord each. `symbols` as they are written above a melody; `seed` gives the performance."""

    key: str
    symbols: tuple[str, ...]
    pitches: tuple[tuple[int, str], ...]
    """Pitch class of the root and kind, a key of the tables here."""
    beats: int
    tempo: float
    seed: tuple[int, ...]

    @property
    def bar_seconds(self) -> float:
        """Length of a bar."""
        return self.beats * 60 / self.tempo

    @property
    def truth(self) -> list[tuple[float, float, str]]:
        """Start, end (seconds) and label of each chord in Harte's syntax."""
        labels = [str(harte_label(symbol)) for symbol in self.symbols]
        return [(i * self.bar_seconds, (i + 1) * self.bar_seconds, label) for i, label in enumerate(labels)]


def progression(seed: tuple[int, ...]) -> Progression:
    """The progression of a seed: any key, begins on the tonic, a chord is not followed by itself."""
    rng = np.random.default_rng(seed)
    mode, tonic = ("major", "minor")[int(rng.integers(2))], int(rng.integers(12))
    chords = [next(iter(_AFTER[mode]))]
    while len(chords) < BARS:
        options = _AFTER[mode][chords[-1]]
        chords.append(options[int(rng.integers(len(options)))])
    key = Key.of(tonic, mode)
    pitches = tuple(((tonic + degree) % 12, kind) for degree, kind in chords)
    symbols = tuple(key.spell(60 + root).rstrip("-0123456789") + kind for root, kind in pitches)
    beats = (4, 4, 3)[int(rng.integers(3))]
    return Progression(key.name, symbols, pitches, beats, round(float(rng.uniform(100, 150)), 1), seed)


def recording(chords: Progression) -> Path:
    """A FLAC file of it, kept in the cache."""
    font = default_soundfont()
    return kept(["chords", VERSION, list(chords.seed), font.name], lambda: _played(chords, font))


def _played(chords: Progression, font: Path) -> np.ndarray:
    """Root in the bass; the chord on the beats, at once or broken; a melody of chord tones with scale steps between."""
    rng = np.random.default_rng([*chords.seed, 1])
    broken, notes = bool(rng.integers(2)), []
    for bar, (root, kind) in enumerate(chords.pitches):
        start, tones = float(bar * chords.beats), [48 + (root + step) % 12 for step in _TONES[kind]]
        notes.append(Note(start, chords.beats, 36 + (root + 4) % 12 - 4, 2))
        for beat in range(chords.beats):
            chosen = [sorted(tones)[beat % len(tones)]] if broken else tones
            notes += [Note(start + beat, 1.0 + broken * 0.5, pitch + 12, 1) for pitch in chosen]
            notes.append(Note(start + beat, 0.9, 72 + (tones[int(rng.integers(len(tones)))] % 12), 0))
    programs = [int(rng.choice(some)) for some in (_MELODIES, _CHORD_PROGRAMS, _BASSES)]
    key = Key(*chords.key.split())
    score = Score(notes=sorted(notes), key=key, metre=(chords.beats, 4), tempo=chords.tempo)
    wave = render(to_midi(score, programs=programs), font, RATE).mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(wave[: round(BARS * chords.bar_seconds * RATE)])
