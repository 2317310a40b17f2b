"""What is heard, noted or worded, as sets of hashes: copies share most of theirs, other works hardly any.

Audio: landmark pairs after A. Wang, "An industrial-strength audio search algorithm", ISMIR 2003. Two peaks of the
spectrogram and the time between them survive codecs, gain, equalisation, noise and trimming, and differ where key,
tempo or performance differ. Landmarks find a copy among many; the shape of the sound decides. Notes: n-grams of
intervals and rhythm, the same in every key and at every tempo. Text: n-grams of words (A. Broder, "On the resemblance
and containment of documents", 1997). All hashes are the same on every machine.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import soxr
from scipy.fft import rfft
from scipy.ndimage import maximum_filter

from mllm.audio import SILENCE

RATE = 8000
"""Hz at which audio is fingerprinted: what lies above 4 kHz is what codecs take away first."""
_WINDOW, _HOP = 1024, 256
_LOW, _HIGH = 12, 448
"""First and last bin (94 Hz to 3.5 kHz)."""
_NEAR = (15, 9)
"""A peak is the loudest within so many bins and frames, itself in the middle."""
_PEAKS_A_SECOND = 14
_FAN = 4
_REACH = (2, 40)
"""Least and greatest frames between the two peaks of a landmark."""
_FLOOR_DB = -55.0
"""Peaks so far below the loudest one are noise, for codecs do what they like there."""
SHAPE_FRAME = 2
"""Frames of landmarks (32 ms) in a frame of the shape."""
_SHAPE_WINDOW, _BANDS = 2048, 32

NOTE_GRAM = 6
"""Notes in a shingle of notes: five intervals and four ratios of time."""
WORD_GRAM = 8
"""Words in a shingle of text; a shared run of so many words is seldom chance."""
FEWEST_NOTES = 8
"""Fewer notes than that are a formula that many tunes have."""


def mix(values: np.ndarray) -> np.ndarray:
    """Spread 64-bit integers evenly (finaliser of SplitMix64, Steele et al. 2014); same shape, uint64."""
    x = values.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def narrow(samples: np.ndarray, rate: int) -> np.ndarray:
    """The recording at RATE, without NaN: what both functions below start from; (n,) float32 -> (m,) float32."""
    x = np.nan_to_num(np.asarray(samples, np.float32))
    return soxr.resample(x, rate, RATE) if rate != RATE and len(x) else x


def audio_fingerprint(samples: np.ndarray, rate: int) -> np.ndarray:
    """Landmarks of a recording.

    Args:
        samples: (n,) float32 mono.
        rate: Hz.

    Returns:
        (m, 2) uint32, sorted: hash of the landmark, frame (of 32 ms) of its first peak. About 50 a second; (0, 2) for
        silence and for less than a window (128 ms).
    """
    empty = np.zeros((0, 2), np.uint32)
    x = narrow(samples, rate)
    if len(x) < _WINDOW or float(np.abs(x).max()) < SILENCE:
        return empty
    times, bins = _peaks(x)
    if len(times) < 2:
        return empty
    # Peaks are in order of time; each is paired with the next ones within reach.
    marks = []
    for i in range(len(times)):
        far = times[i + 1 :] - times[i]
        after = np.flatnonzero((far >= _REACH[0]) & (far <= _REACH[1]))[:_FAN] + i + 1
        for j in after:
            marks.append((bins[i] << 17 | bins[j] << 8 | (times[j] - times[i]), times[i]))
    if not marks:
        return empty
    return np.unique(np.array(marks, np.uint32), axis=0)


def _peaks(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames and bins of the strongest local maxima, in order of time."""
    frames = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[::_HOP]
    spectrum = np.abs(rfft(frames * np.hanning(_WINDOW).astype(np.float32), axis=1))[:, _LOW:_HIGH]
    level = 20 * np.log10(spectrum + 1e-9)
    top = (level == maximum_filter(level, size=(_NEAR[1], _NEAR[0]))) & (level > level.max() + _FLOOR_DB)
    times, bins = np.nonzero(top)
    loud = level[times, bins]
    # The strongest of every second, so that a loud passage does not take them all.
    keep = []
    second = times * _HOP // RATE
    for s in np.unique(second):
        inside = np.flatnonzero(second == s)
        keep.append(inside[np.argsort(-loud[inside], kind="stable")[:_PEAKS_A_SECOND]])
    chosen = np.sort(np.concatenate(keep)) if keep else np.zeros(0, int)
    return times[chosen].astype(np.int64), bins[chosen].astype(np.int64)


def audio_shape(samples: np.ndarray, rate: int) -> np.ndarray:
    """How the energies of neighbouring bands change against each other: what two recordings are compared by.

    The differences whose signs J. Haitsma and T. Kalker, "A highly robust audio fingerprinting system", ISMIR 2002,
    keep; here with their size, so that sustained tones, whose differences are noise, weigh nothing.

    Args:
        samples: (n,) float32 mono.
        rate: Hz.

    Returns:
        (frames, 32) int8, decibels within +-20, a frame every SHAPE_FRAME landmark frames (64 ms).
    """
    x = narrow(samples, rate)
    if len(x) < _SHAPE_WINDOW + SHAPE_FRAME * _HOP:
        return np.zeros((0, _BANDS), np.int8)
    frames = np.lib.stride_tricks.sliding_window_view(x, _SHAPE_WINDOW)[:: SHAPE_FRAME * _HOP]
    power = np.abs(rfft(frames * np.hanning(_SHAPE_WINDOW).astype(np.float32), axis=1)) ** 2
    energy = power @ _bands().T
    if float(energy.max()) <= 0:
        return np.zeros((0, _BANDS), np.int8)
    level = 10 * np.log10(energy + energy.max() * 1e-5)
    return np.clip(np.rint(np.diff(np.diff(level, axis=1), axis=0)), -20, 20).astype(np.int8)


@lru_cache(maxsize=1)
def _bands() -> np.ndarray:
    """(33, bins): which bins belong to each band, 120 Hz to 3.4 kHz in equal steps of pitch."""
    edges = np.geomspace(120, 3400, _BANDS + 2)
    hertz = np.fft.rfftfreq(_SHAPE_WINDOW, 1 / RATE)
    return ((hertz >= edges[:-1, None]) & (hertz < edges[1:, None])).astype(np.float32)


def note_fingerprints(notes: Sequence[Sequence[float]] | str, gram: int = NOTE_GRAM) -> np.ndarray:
    """Shingles of a melody: the same in every key, at every tempo and under every accompaniment below it.

    Args:
        notes: [onset, end, MIDI number] each, in seconds or quarters, in any order; or a tune in ABC.
        gram: notes in a shingle.

    Returns:
        (m,) uint64, sorted, distinct; empty for fewer than FEWEST_NOTES notes of melody.

    Raises:
        ScoreError: the ABC cannot be read.
    """
    if isinstance(notes, str):
        from mllm.score import read_abc

        score = read_abc(notes)
        notes = [(n.onset, n.onset + n.duration, n.pitch) for n in score.notes]
    line = _top_line(np.array([n[:3] for n in notes], float).reshape(-1, 3))
    if len(line) < FEWEST_NOTES:
        return np.zeros(0, np.uint64)
    intervals = np.diff(line[:, 1]).astype(np.int64)
    gaps = np.diff(line[:, 0])
    # In steps of half an octave of time: a dotted note is one step longer, twice as long is two; jitter rounds away.
    ratios = np.rint(2 * np.log2(gaps[1:] / gaps[:-1])).astype(np.int64)
    steps = (intervals[:-1] + 128) << 8 | (np.clip(ratios, -64, 64) + 64)
    return np.unique(_grams(steps.astype(np.uint64), gram - 2))


def _top_line(notes: np.ndarray) -> np.ndarray:
    """(onset, pitch) of the highest note of every onset; onsets within 30 ms (or a 30th of a quarter) are one."""
    if not len(notes):
        return np.zeros((0, 2))
    notes = notes[np.lexsort((-notes[:, 2], notes[:, 0]))]
    line: list[tuple[float, float]] = []
    for onset, _, pitch in notes:
        if line and onset - line[-1][0] < 0.03:
            line[-1] = (line[-1][0], max(line[-1][1], pitch))
        else:
            line.append((float(onset), float(pitch)))
    return np.array(line)


def _grams(symbols: np.ndarray, size: int) -> np.ndarray:
    """Hash of every run of `size` symbols: (n,) uint64 -> (max(n - size + 1, 0),) uint64."""
    if len(symbols) < size:
        return np.zeros(0, np.uint64)
    out = np.zeros(len(symbols) - size + 1, np.uint64)
    for i in range(size):
        out = mix(out + np.uint64(0x9E3779B97F4A7C15)) ^ symbols[i : i + len(out)]
    return mix(out)


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?(?:/\d+)?|[♯#♭]")


@lru_cache(maxsize=1 << 18)
def _word(word: str) -> int:
    return zlib.crc32(word.encode())


def words(text: str) -> list[str]:
    """Words as they are compared: lower case, without punctuation; a metre such as 6/8 is a word."""
    return _WORD.findall(text.lower())


def text_fingerprint(text: str, gram: int = WORD_GRAM) -> np.ndarray:
    """Shingles of a text: (m,) uint64, sorted, distinct; empty for fewer than `gram` words."""
    return np.unique(_grams(np.array([_word(w) for w in words(text)], np.uint64), gram))
