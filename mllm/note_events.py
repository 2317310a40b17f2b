"""Which notes sound in a recording, from when to when: Basic Pitch's probabilities turned into note events.

The rule is that of Bittner et al., "A Lightweight Instrument-Agnostic Model for Polyphonic Note Transcription and
Multipitch Estimation", ICASSP 2022 (arXiv 2203.09893), section 2.3, with the thresholds and the onsets inferred from
jumps of the note probability that the authors' program has by default (`basic-pitch` 0.4.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.signal import argrelmax

RATE = 22_050  # Hz that the net listens at
LOWEST = 21  # MIDI pitch of the first of 88 keys, A0
ONSET, FRAME = 0.5, 0.3  # probabilities from which on a note begins, and sounds
SHORTEST = 11  # frames of 11.6 ms, about 128 ms; what is no longer is dropped
GAP = 11  # frames below FRAME after which a note has ended
JUMP = 2  # frames that an inferred onset is measured over


@dataclass(frozen=True, order=True)
class NoteEvent:
    """A note that was heard."""

    start: float  # seconds
    end: float  # seconds
    pitch: int  # MIDI number, 60 = middle C
    strength: float  # mean probability of the note while it sounds, 0 to 1


def hear_notes(waveform: np.ndarray) -> list[NoteEvent]:
    """The notes of a float32 mono waveform [samples] at `RATE`, in order of their start.

    Raises WeightsError where the weights of Basic Pitch can be neither found nor fetched.
    """
    import torch

    tower = _tower()
    posteriors = tower(torch.from_numpy(np.ascontiguousarray(waveform, np.float32))[None]).last_hidden_state[0].numpy()
    keys = posteriors.shape[1] // 2
    return decode_notes(posteriors[:, :keys], posteriors[:, keys:], len(waveform) / RATE / max(len(posteriors), 1))


@lru_cache(maxsize=1)
def _tower() -> Any:
    from mllm.towers import load_tower
    from mllm.towers.basic_pitch import HOP

    return load_tower("basic_pitch", frames_per_second=RATE / HOP)


def decode_notes(note: np.ndarray, onset: np.ndarray, frame_seconds: float) -> list[NoteEvent]:
    """Note events out of probabilities.

    Args:
        note, onset: probability that a key sounds, and that it begins, [frames, 88] each.
        frame_seconds: length of a frame.
    """
    frames = len(note)
    left = note.astype(np.float64)  # what no event has taken yet
    found: list[tuple[int, int, int]] = []  # first frame, frame after the last one, key

    def take(first: int, end: int, key: int) -> None:
        left[first:end, max(key - 1, 0) : key + 2] = 0  # a neighbour's is the same note out of tune

    def last(start: int, step: int, key: int) -> int:
        """The frame up to which the note goes on from `start` in the direction of `step`."""
        i, silent = start + step, 0
        while 0 < i < frames - 1 and silent < GAP:
            silent = silent + 1 if left[i, key] < FRAME else 0
            i += step
        return i - step * silent

    begins = _with_jumps(note, onset)
    peaks = [
        (i, k) for i, k in zip(*argrelmax(begins, axis=0), strict=True) if begins[i, k] >= ONSET and i < frames - 1
    ]
    for start, key in reversed(peaks):
        if (end := last(start, 1, key)) - start > SHORTEST:
            found.append((start, end, key))
            take(start, end, key)
    sounding = np.argwhere(left > FRAME)
    for middle, key in sounding[np.argsort(-left[tuple(sounding.T)], kind="stable")]:
        if left[middle, key] > FRAME:
            start, end = last(middle, -1, key) + 1, last(middle, 1, key)
            take(start, max(end, middle + 1), key)
            if end - start > SHORTEST:
                found.append((start, end, key))
    return sorted(
        NoteEvent(first * frame_seconds, end * frame_seconds, int(key) + LOWEST, float(note[first:end, key].mean()))
        for first, end, key in found
    )


def _with_jumps(note: np.ndarray, onset: np.ndarray) -> np.ndarray:
    """Onset probabilities [frames, 88], raised where the note's own probability jumps up."""
    padded = np.concatenate([np.zeros((JUMP, note.shape[1])), note])
    rises = [note - padded[JUMP - n : len(padded) - n] for n in range(1, JUMP + 1)]
    rise = np.clip(np.min(rises, axis=0), 0, None)
    rise[:JUMP] = 0
    return np.asarray(np.maximum(onset, rise * (onset.max(initial=0) / max(rise.max(initial=0), 1e-9))))
