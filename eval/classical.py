"""Classical tools on the same clips: librosa's features, and the simplest model that turns them into an answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mllm.audio import load_audio
from mllm.estimators import KRUMHANSL, RATE, chroma, key_scores, tempo
from mllm.eval.item import Item
from mllm.score_types import Key

__all__ = [
    "KRUMHANSL", "NOTES", "RATE", "Classical", "Estimator", "accents", "chroma", "fitted_profiles", "krumhansl",
    "logistic", "pitch_class", "read_off", "tempo", "timbre",
]  # fmt: skip

NOTES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_BEAT_FRACTIONS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1, 4 / 3, 3 / 2, 2, 3, 4, 6)

POOL_FROM = 64  # clips; below, starting processes costs more than it saves

Estimator = Callable[[np.ndarray], Any]
"""Features of one clip [features] -> an answer in the form of the task's truth."""


@dataclass(frozen=True)
class Classical:
    """A classical method: `measure` runs on each waveform, `fit` makes the estimator (from TRAIN clips if `fitted`)."""

    name: str
    measure: Callable[[np.ndarray], np.ndarray]
    fit: Callable[[np.ndarray, Sequence[Any]], Estimator]
    fitted: bool = True

    def answers(self, train: Sequence[Item], items: Sequence[Item], advance: Callable[[], None]) -> Iterator[str]:
        """See `mllm.eval.task.Tool`."""
        learn = train if self.fitted else ()
        measured = _measure([item.audio[0] for item in (*learn, *items)], self.measure, advance)
        estimate = self.fit(measured[: len(learn)], [item.truth for item in learn])
        yield from (str(estimate(features)) for features in measured[len(learn) :])


def _measure(
    paths: Sequence[Path], measure: Callable[[np.ndarray], np.ndarray], advance: Callable[[], None]
) -> np.ndarray:
    """Features of recordings [recordings, features], on all cores where there are many."""
    jobs = [(measure, path) for path in paths]
    rows = []
    # The first one always here: librosa's compiled functions go into a cache on disk, and two processes that write it
    # at the same time leave one that crashes whoever loads it (numba 0.68).
    here = len(jobs) if len(jobs) < POOL_FROM else 1
    for job in jobs[:here]:
        rows.append(_measure_one(job))
        advance()
    if jobs[here:]:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            for row in pool.map(_measure_one, jobs[here:], chunksize=8):
                rows.append(row)
                advance()
    return np.stack(rows)


def _measure_one(job: tuple[Callable[[np.ndarray], np.ndarray], Path]) -> np.ndarray:
    measure, path = job
    return measure(load_audio(path, RATE))


def timbre(waveform: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of 20 MFCCs [40], of a float32 mono waveform at `RATE`."""
    import librosa

    mfcc = librosa.feature.mfcc(y=waveform, sr=RATE, n_mfcc=20)
    return np.concatenate([mfcc.mean(1), mfcc.std(1)])


def accents(waveform: np.ndarray) -> np.ndarray:
    """Autocorrelation of onset strength at fractions and multiples of the tracked beat, and the log tempo [13]."""
    import librosa

    hop = 256
    onsets = librosa.onset.onset_strength(y=waveform, sr=RATE, hop_length=hop)
    bpm = float(np.atleast_1d(librosa.beat.beat_track(onset_envelope=onsets, sr=RATE, hop_length=hop)[0])[0]) or 120.0
    centred = onsets - onsets.mean()
    correlation = np.correlate(centred, centred, "full")[len(centred) - 1 :]
    correlation = correlation / max(correlation[0], 1e-9)
    period = 60 / bpm * RATE / hop
    out = []
    for fraction in _BEAT_FRACTIONS:
        low, high = int(fraction * period * 0.95), int(np.ceil(fraction * period * 1.05)) + 1
        out.append(correlation[low:high].max(initial=-1.0))
    return np.array([*out, np.log2(bpm / 120)])


def read_off(features: np.ndarray, truths: Sequence[Any]) -> Estimator:
    """No fitting: the one feature is the answer."""
    return lambda x: float(x[0])


def logistic(features: np.ndarray, truths: Sequence[Any]) -> Estimator:
    """Multinomial logistic regression on standardised features [clips, features], L2-penalised, by LBFGS."""
    import torch

    classes = sorted(set(truths))
    mean, std = features.mean(0), features.std(0) + 1e-6
    x = torch.tensor((features - mean) / std, dtype=torch.float32)
    y = torch.tensor([classes.index(t) for t in truths])
    weight = torch.zeros(x.shape[1], len(classes), requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight + bias, y) + 2e-3 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    w, b = weight.detach().numpy(), bias.detach().numpy()
    return lambda features: classes[int(np.argmax((features - mean) / std @ w + b))]


def _best_key(profiles: dict[str, np.ndarray]) -> Estimator:
    """The key whose profile, rotated to its tonic, correlates best with a chroma vector [12]."""

    def estimate(x: np.ndarray) -> str:
        if np.std(x) < 1e-9:
            return "C major"
        scores = key_scores(x, profiles)
        pc, mode = max(scores, key=scores.__getitem__)
        return f"{NOTES[pc]} {mode}"

    return estimate


def krumhansl(features: np.ndarray, truths: Sequence[Any]) -> Estimator:
    """Krumhansl-Schmuckler: major and minor only."""
    return _best_key({mode: np.array(p) for mode, p in KRUMHANSL.items()})


def fitted_profiles(features: np.ndarray, truths: Sequence[str]) -> Estimator:
    """Krumhansl-Schmuckler with the mean chroma of each mode's TRAIN clips, turned to the tonic, as its profiles."""
    sums: dict[str, list[np.ndarray]] = {}
    for x, truth in zip(features, truths, strict=True):
        tonic, mode = truth.split()
        sums.setdefault(mode, []).append(np.roll(x, -pitch_class(tonic)))
    return _best_key({mode: np.mean(rows, 0) for mode, rows in sums.items()})


def pitch_class(tonic: str) -> int:
    """0 for C … 11 for B, of a letter and accidental: "F#", "Bb"."""
    return Key(tonic).pitch_class
