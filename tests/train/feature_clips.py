"""Recordings for the feature cache, a cache of known size, and an eye on the tower."""

from __future__ import annotations

import os
import time
from pathlib import Path

import soundfile
from tiny import clicks

from mllm.feature_extraction import MusicLMFeatureExtractor
from mllm.towers import TempogramTower, load_tower
from mllm.train.feature_cache import FeatureCache
from mllm.train.feature_files import GIB

WINDOW_BYTES = 200 * 192 * 2
FILE_BYTES = WINDOW_BYTES + 128


def write_clips(folder: Path, count: int, seconds: float = 1.0) -> list[Path]:
    """Recordings that differ: click tracks, each faster than the one before."""
    folder.mkdir(exist_ok=True)
    clips = [folder / f"{i:02}.wav" for i in range(count)]
    for i, clip in enumerate(clips):
        soundfile.write(clip, clicks(60 + 10 * i, seconds), 22050)
    return clips


def new_cache(folder: Path, files: float = 1000, **tower) -> FeatureCache:
    """A cache with room for so many files of one window."""
    limit = files * FILE_BYTES / GIB
    return FeatureCache(load_tower("tempogram", **tower), MusicLMFeatureExtractor(), folder, limit_gib=limit)


def count_encoded(monkeypatch) -> list[int]:
    """Windows of each call of the tower from now on."""
    calls, forward = [], TempogramTower.forward

    def counted(self, input_features, **kwargs):
        calls.append(len(input_features))
        return forward(self, input_features, **kwargs)

    monkeypatch.setattr(TempogramTower, "forward", counted)
    return calls


def age(file: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(file, (then, then))
