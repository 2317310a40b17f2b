"""Recordings that tasks make for themselves: rendered or put together once, and kept on disk."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mllm.audio import load_audio
from mllm.weights import cache_dir
from mllm.whole_files import write_whole

RATE = 22_050
LOUDEST = 0.7
"""Peak of what is kept, full scale 1."""
_FADE = 0.02
"""Seconds in which a piece begins and ends, so that no joint clicks."""


def kept(plan: Any, make: Callable[[], np.ndarray]) -> Path:
    """A FLAC file of the recording that `plan` (JSON) determines; `make` is called where it is not there yet.

    Args:
        plan: everything that the samples depend on, a version of the code that makes them included.
        make: the float32 mono waveform [samples] at `RATE` Hz.
    """
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    path = cache_dir() / "eval_recordings" / f"{digest[:24]}.flac"
    if not path.exists():
        wave = make()
        wave = wave * (LOUDEST / max(float(np.abs(wave).max(initial=0.0)), 1e-6))
        file = io.BytesIO()
        soundfile.write(file, wave, RATE, format="FLAC", subtype="PCM_16")
        write_whole(path, file.getvalue())
    return path


def joined(paths: Iterable[Path], seconds: float) -> np.ndarray:
    """Recordings one behind the other, cut at `seconds`: float32 mono [samples] at `RATE` Hz."""
    left, pieces = round(seconds * RATE), []
    for path in paths:
        if left <= 0:
            break
        piece = load_audio(path, RATE)[:left]
        ramp = np.linspace(0, 1, min(round(_FADE * RATE), len(piece) // 2), dtype=np.float32)
        piece[: len(ramp)] *= ramp
        piece[len(piece) - len(ramp) :] *= ramp[::-1]
        pieces.append(piece)
        left -= len(piece)
    return np.concatenate(pieces)
