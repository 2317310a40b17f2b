"""Classical answers out of notes that Basic Pitch hears: the key by music21's profiles, and what the melody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mllm.audio import load_audio
from mllm.audio_checks import Recording
from mllm.errors import AudioError
from mllm.eval.classical import RATE, Classical, Estimator
from mllm.eval.item import Item
from mllm.eval.task import Verdict
from mllm.note_events import hear_notes
from mllm.score_types import Key

FIRST_NOTES = 3
"""How many the builds' questions about first notes ask for."""


def sounding(waveform: np.ndarray) -> np.ndarray:
    """Seconds that notes of each pitch class sound [12], from C, by Basic Pitch, of a float32 mono waveform at RATE."""
    seconds = np.zeros(12)
    for note in hear_notes(waveform):
        seconds[note.pitch % 12] += note.end - note.start
    return seconds


def music21_key(features: np.ndarray, truths: Sequence[Any]) -> Estimator:
    """music21's analysis with the profiles of Temperley, Kostka and Payne of notes as long as each class sounds."""
    from music21 import note, stream
    from music21.analysis.discrete import TemperleyKostkaPayne

    def estimate(seconds: np.ndarray) -> str:
        heard = stream.Stream([note.Note(60 + i, quarterLength=float(s)) for i, s in enumerate(seconds) if s > 0])
        if not len(heard):
            return "C major"
        found = TemperleyKostkaPayne(heard).getSolution(heard)
        return Key.of(found.tonic.pitchClass, found.mode).name

    return estimate


KEY = Classical("Basic Pitch notes + music21 (Temperley-Kostka-Payne)", sounding, music21_key, fitted=False)


def named(pitch: int) -> str:
    """ "F#4" for MIDI number 66."""
    from pretty_midi import note_number_to_name

    return str(note_number_to_name(pitch))


class Melody:
    """Lowest, highest and first notes and the range of the clear notes, for the task "melody"."""

    name = "Basic Pitch notes"

    def answers(
        self, train: Sequence[Item], items: Sequence[Item], advance: Callable[[], None]
    ) -> Iterator[str | Verdict]:
        """In words; what it has no method for stays unanswered."""
        for item in items:
            advance()
            yield self._answer(item)

    def _answer(self, item: Item) -> str | Verdict:
        try:
            melody = Recording(load_audio(item.audio[0], RATE)).melody
        except AudioError:
            melody = []
        if not melody:
            return Verdict(None, 0.0)
        pitches = [note.pitch for note in melody]
        words: dict[str, Callable[[], str]] = {
            "melody_lowest": lambda: named(min(pitches)),
            "melody_highest": lambda: named(max(pitches)),
            "melody_range": lambda: f"{named(min(pitches))} to {named(max(pitches))}",
            "melody_first_notes": lambda: " ".join(named(pitch) for pitch in pitches[:FIRST_NOTES]),
        }
        of = item.strata.get("of", "")
        return words[of]() if of in words else Verdict(None, 0.0)


MELODY = Melody()
