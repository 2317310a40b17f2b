"""An arrangement played: tempo, accents that show the metre, small timing errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mllm.data_recipes.arrange import Arrangement
from mllm.data_recipes.tune import Tune

# Loudness added on the beats of a bar (in beats) and between beats: strong, so that the metre can be heard.
_ACCENTS = {(2, 4): (26, 0), (3, 4): (26, -2, -2), (4, 4): (28, -2, 8, -2), (6, 8): (26, 6)}
_OFF_BEAT = -16
_ROLE_LEVEL = {"melody": 84, "inner": 66, "bass": 74, "chords": 56, "drums": 66}
# Beats per minute that suit a metre: (slowest, fastest) felt beats.
_SUITS = {(2, 4): (50, 144), (3, 4): (60, 200), (4, 4): (56, 200), (6, 8): (50, 140)}
_NOTES_PER_SECOND = (0.8, 8.5)


@dataclass
class Event:
    """A sounding note: onset and end in seconds from the start of the clip, MIDI pitch, velocity, voice index."""

    onset: float
    end: float
    pitch: int
    velocity: int
    voice: int


def draw_tempo(tune: Tune, low: float, high: float, rng: np.random.Generator) -> float:
    """Felt beats per minute, log-uniform where the metre and the tune's own density allow; one decimal."""
    notes = tune.melody()
    beats = sum(len(run) for run in tune.runs) * tune.bar_quarters / tune.beat_quarters
    per_beat = max(len(notes) / beats, 0.25)
    slowest, fastest = _SUITS[tune.metre]
    a = max(slowest, low, 60 * _NOTES_PER_SECOND[0] / per_beat)
    b = min(fastest, high, 60 * _NOTES_PER_SECOND[1] / per_beat)
    if a > b:
        a = b = min(max(a, low), high)
    return round(float(np.exp(rng.uniform(np.log(a), np.log(b)))), 1)


def beat_quarters(metre: tuple[int, int]) -> float:
    """Length of the felt beat in quarters."""
    return 1.5 if metre == (6, 8) else 1.0


def perform(piece: Arrangement, tempo: float, lead_in: float, rng: np.random.Generator) -> list[Event]:
    """Events of all voices, sorted. `tempo` is in felt beats per minute, `lead_in` in seconds of silence."""
    beat = beat_quarters(piece.metre)
    seconds = 60 / tempo / beat
    bar = piece.metre[0] * 4 / piece.metre[1]
    accents = _ACCENTS[piece.metre]
    touch = float(rng.uniform(0.78, 0.98))
    loud = float(rng.uniform(-8, 6))
    swell = rng.uniform(-4, 4, size=piece.bars + 1)
    events = []
    for v, voice in enumerate(piece.voices):
        for onset, duration, pitch in voice.notes:
            place = onset % bar / beat
            near = round(place)
            accent = accents[near % len(accents)] if abs(place - near) < 1e-3 else _OFF_BEAT
            level = _ROLE_LEVEL[voice.role] + loud + accent + swell[int(onset // bar)] + rng.normal(0, 2.5)
            jitter = float(np.clip(rng.normal(0, 0.005), -0.01, 0.01))
            start = max(0.0, lead_in + onset * seconds + jitter)
            length = max(0.06, duration * seconds * touch)
            events.append(Event(start, start + length, pitch, int(np.clip(level, 18, 127)), v))
    return sorted(events, key=lambda e: (e.onset, e.voice, e.pitch))
