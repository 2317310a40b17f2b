"""Recordings and scores of a chat as parts of a request. The same file is the same bytes in every request: by those
the server knows what it has heard before.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from typing import Any

from mllm.audio import load_audio
from mllm.score import MIDI, SUFFIXES, read_score, to_abc
from mllm.sound_files import sound_file

# Bytes of a recording, packed or not; a larger one is sent as the server will hear it, where that is smaller.
MOST_PACKED, MOST_UNPACKED = 32_000_000, 4_000_000
UNPACKED = (".wav", ".aif", ".aiff")
SOUNDS = {".wav": "wav", ".flac": "flac", ".ogg": "ogg", ".opus": "opus", ".mp3": "mp3", ".aif": "aiff",
          ".aiff": "aiff"}  # fmt: skip
"""What the API calls a format, by suffix; the content decides, so any other is called wav."""


def part_of(file: Path, sampling_rate: int) -> dict[str, Any]:
    """A recording or a score as a content part; a score is also played to the model.

    Args:
        file: by its suffix a score, or else a recording.
        sampling_rate: Hz at which the model listens; a large recording is sent at it, as mono flac.

    Raises:
        AudioError, ScoreError: it cannot be read; of a small recording the server says so. OSError: it is gone.
    """
    if file.suffix.lower() in SUFFIXES:
        return {"type": "score", "score": {**_score(file), "hear": True}}
    data, form = _recording(file, sampling_rate)
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": form}}


@lru_cache(maxsize=64)
def _score(file: Path) -> dict[str, Any]:
    score = read_score(file)
    if file.suffix.lower() in MIDI:
        # not as ABC, which has to say a key and a tempo where a MIDI file has none
        return {"data": base64.b64encode(file.read_bytes()).decode(), "format": "midi"}
    # What the model is shown is ABC in any case. music21 takes seconds for the others: here they are read once, there
    # they would be with every question.
    return {"data": to_abc(score), "format": "abc"}


def _recording(file: Path, sampling_rate: int) -> tuple[bytes, str]:
    suffix, size = file.suffix.lower(), file.stat().st_size
    if size > (MOST_UNPACKED if suffix in UNPACKED else MOST_PACKED):
        small = _as_heard(file, sampling_rate)
        if len(small) < size:
            return small, "flac"
    return file.read_bytes(), SOUNDS.get(suffix, "wav")


@lru_cache(maxsize=4)  # half an hour is some 40 MB
def _as_heard(file: Path, sampling_rate: int) -> bytes:
    return sound_file(load_audio(file, sampling_rate), sampling_rate, ".flac")
