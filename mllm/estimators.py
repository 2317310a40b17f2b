"""Key, tempo and chords of a recording, estimated by classical means: librosa's features, profiles and templates.

All take float32 mono waveforms [samples] at `RATE`. librosa comes with the extra `eval`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mllm.score_types import Key

RATE = 22_050
HOP = 512  # samples between frames of chroma
BEAT_HOP = 256  # samples between frames of onset strength
# Krumhansl & Kessler 1982, probe-tone ratings, from the tonic upwards.
KRUMHANSL = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
TRIADS = {"": (0, 4, 7), "m": (0, 3, 7)}  # what chords are told apart by, semitones above the root
STAY = 0.9  # probability that a chord goes on from frame to frame, as in librosa's example of Viterbi decoding


def chroma(waveform: np.ndarray) -> np.ndarray:
    """Mean constant-Q chroma [12], from C."""
    import librosa

    return np.asarray(librosa.feature.chroma_cqt(y=waveform, sr=RATE).mean(1))


def tempo(waveform: np.ndarray) -> np.ndarray:
    """librosa's tempo estimate [1], beats per minute, with its own prior around 120."""
    from librosa.feature.rhythm import tempo as estimate

    return np.atleast_1d(estimate(y=waveform, sr=RATE)).astype(float)[:1]


def key_scores(weights: np.ndarray, profiles: dict[str, np.ndarray]) -> dict[tuple[int, str], float]:
    """Correlation of twelve weights, from C, with each mode's profile turned to each tonic: {(0, "major"): 0.83, …}.

    Krumhansl & Schmuckler's method. All zero where the weights do not differ.
    """
    flat = bool(np.std(weights) < 1e-9)
    return {
        (tonic, mode): 0.0 if flat else float(np.corrcoef(weights, np.roll(profile, tonic))[0, 1])
        for mode, profile in profiles.items()
        for tonic in range(12)
    }


@dataclass(frozen=True)
class KeyEstimate:
    """How well each major and minor key fits a recording: correlations by (pitch class of the tonic, mode)."""

    scores: dict[tuple[int, str], float]

    @property
    def best(self) -> Key:
        """The key that fits best, in its usual spelling."""
        return Key.of(*max(self.scores, key=self.scores.__getitem__))

    def lead(self, key: Key) -> float:
        """How far `key` fits better than every other key; below zero, how far the best one fits better than it."""
        own = (key.pitch_class, key.mode)
        return self.scores[own] - max(score for other, score in self.scores.items() if other != own)


def estimate_key(mean_chroma: np.ndarray, durations: np.ndarray) -> KeyEstimate:
    """How well the keys fit a recording, by two views of it.

    Each key's score is the mean of two correlations: of the mean chroma with the profiles of Bellman and Budge, and of
    how long each pitch class sounds in a transcription with those of Temperley, Kostka and Payne (both from music21).

    Args:
        mean_chroma: as `chroma` gives it [12].
        durations: seconds that the notes of each pitch class last [12], from C.
    """
    views = (
        key_scores(mean_chroma, _profiles("BellmanBudge")),
        key_scores(durations, _profiles("TemperleyKostkaPayne")),
    )
    return KeyEstimate({key: sum(view[key] for view in views) / len(views) for key in views[0]})


@lru_cache(maxsize=4)
def _profiles(name: str) -> dict[str, np.ndarray]:
    """Key profiles of music21, from the tonic upwards, by mode."""
    from music21.analysis import discrete

    analysis = getattr(discrete, name)()
    return {mode: np.array(analysis.getWeights(mode), float) for mode in ("major", "minor")}


@dataclass(frozen=True)
class TempoEstimate:
    """The pulse of a recording."""

    bpm: float  # of the tracked beats; 0 where none were found
    prior: float  # by librosa's tempogram, apart from the beats
    steadiness: float  # share of beats that come within 10 % of a beat of where an even pulse has them
    beats: int


def estimate_tempo(waveform: np.ndarray) -> TempoEstimate:
    """Tempo by librosa's beat tracker (Ellis 2007): the even pulse that fits the tracked beats best."""
    import librosa

    onsets = librosa.onset.onset_strength(y=waveform, sr=RATE, hop_length=BEAT_HOP)
    beats = librosa.beat.beat_track(onset_envelope=onsets, sr=RATE, hop_length=BEAT_HOP, units="time")[1]
    prior = float(tempo(waveform)[0])
    if len(beats) < 4:
        return TempoEstimate(0.0, prior, 0.0, len(beats))
    # Frames are 12 ms apart, which is 2 % of a beat at 120: a line through all beats is finer than any interval.
    steps = np.diff(beats)
    number = np.concatenate([[0.0], np.cumsum(np.maximum(np.round(steps / np.median(steps)), 1))])
    period, start = np.polyfit(number, beats, 1)
    off = np.abs(beats - (start + number * period)) / period
    return TempoEstimate(60 / float(period), prior, float(np.mean(off < 0.1)), len(beats))


@dataclass(frozen=True)
class ChordSpan:
    """A major or minor triad and when it sounds, seconds."""

    start: float
    end: float
    root: int  # pitch class, 0 = C
    kind: str  # a key of `TRIADS`


def estimate_chords(waveform: np.ndarray) -> list[ChordSpan]:
    """Major and minor triads over time: chroma against binary templates, decoded by librosa's Viterbi.

    As in the example of `librosa.sequence.viterbi_discriminative`; frames where no triad stands out are left out.
    """
    import librosa

    frames = librosa.feature.chroma_cqt(y=waveform, sr=RATE, hop_length=HOP)
    names, templates = _templates()
    likelihood = np.exp(templates @ frames)
    likelihood /= likelihood.sum(axis=0, keepdims=True)
    path = librosa.sequence.viterbi_discriminative(likelihood, librosa.sequence.transition_loop(len(names), STAY))
    cuts = np.flatnonzero(np.diff(path)) + 1
    seconds = HOP / RATE
    spans = zip([0, *cuts], [*cuts, len(path)], strict=True)
    return [ChordSpan(a * seconds, b * seconds, *names[path[a]]) for a, b in spans if names[path[a]][1] in TRIADS]


@lru_cache(maxsize=1)
def _templates() -> tuple[list[tuple[int, str]], np.ndarray]:
    """Names of 24 triads and of "no chord", and their chroma [25, 12]."""
    names = [(root, kind) for kind in TRIADS for root in range(12)]
    rows = [np.isin(np.arange(12), [(root + step) % 12 for step in TRIADS[kind]]) for root, kind in names]
    return [*names, (0, "none")], np.array([*rows, np.full(12, 0.25)], float)
