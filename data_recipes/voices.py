"""Voices of an arrangement: who plays which notes, and how notes are brought where an instrument plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm.data_recipes.instruments import DRUMS, FAMILIES, PROGRAM_FAMILY, Program

Sounding = tuple[float, float, int]
"""Onset and duration in quarters from the start of the excerpt, MIDI pitch."""


@dataclass
class Voice:
    """One part: notes are (onset, duration, pitch) in quarters from the start of the excerpt."""

    role: str
    """melody | inner | bass | chords | drums"""
    program: int
    notes: list[Sounding]

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


def fold(pitch: int, low: int, high: int) -> int:
    """`pitch` moved by octaves into low..high (at least an octave wide)."""
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return pitch


def octaves_into(notes: list[int], low: int, high: int, rng: np.random.Generator) -> int:
    """A shift by octaves that puts most notes inside low..high; where several do, one of them by chance."""
    shifts = [12 * k for k in range(-5, 6)]
    outside = [sum(not low <= n + s <= high for n in notes) for s in shifts]
    best = [s for s, o in zip(shifts, outside, strict=True) if o == min(outside)]
    middle = (low + high) / 2
    # Far registers are rare in real music, so the octave nearest the middle is likelier.
    weight = np.array([np.exp(-abs(float(np.median(notes)) + s - middle) / 6) for s in best])
    return int(rng.choice(best, p=weight / weight.sum()))


def chordal(notes: Sequence[Sounding]) -> bool:
    """Whether a part is chords or several lines: a quarter of its onsets or more sound while another note does."""
    sounding, several, onsets = 0.0, set(), set()
    for onset, duration, _ in sorted(notes):
        at = round(onset, 4)
        if at in onsets or at < sounding - 0.01:
            several.add(at)
        onsets.add(at)
        sounding = max(sounding, at + duration)
    return bool(onsets) and len(several) >= len(onsets) / 4


def best_member(families: Sequence[str], notes: Sequence[Sounding]) -> tuple[Program, int]:
    """The program of `families` that needs least change to play `notes`, and the octaves (in semitones) to shift them.

    Fewest notes outside its range, then the smallest shift, then the middle of its range nearest to the notes'.
    """
    pitches = np.array([p for _, _, p in notes])
    ranked = []
    for program in (p for f in families for p in FAMILIES[f]):
        for shift in (0, 12, -12, 24, -24, 36, -36):
            moved = pitches + shift
            outside = int(((moved < program.low) | (moved > program.high)).sum())
            off = abs(float(np.median(moved)) - (program.low + program.high) / 2)
            ranked.append((outside, abs(shift), off, program.number, shift, program))
    *_, shift, program = min(ranked, key=lambda r: r[:4])
    return program, shift


def into_range(notes: Sequence[Sounding], program: Program, shift: int) -> list[Sounding]:
    """`notes` moved by `shift` semitones; those that still lie outside the program's range, by single octaves more."""
    return [(o, d, fold(p + shift, program.low, program.high)) for o, d, p in notes]
