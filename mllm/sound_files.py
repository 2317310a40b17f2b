"""Samples to the bytes of a sound file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from mllm.errors import AudioError

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
"""libsndfile's name of a format by the suffix of its files."""

_BLOCK = 65_536  # samples written at once: of some ten million, libsndfile 1.2's Vorbis encoder runs out of stack


def sound_file(samples: np.ndarray, sampling_rate: int, suffix: str = ".wav") -> bytes:
    """A whole sound file.

    Args:
        samples: float [samples] or [samples, channels], full scale 1.0; what is louder is clipped.
        sampling_rate: Hz; mp3 knows 8000 to 48,000.
        suffix: one of FORMATS.

    Raises:
        AudioError: another suffix, or a rate that the format does not know.
    """
    import soundfile

    kind = FORMATS.get(suffix.lower())
    if kind is None:
        raise AudioError(f"{suffix or 'a file without suffix'}: sound is written as {', '.join(FORMATS)}")
    out: Any = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    try:
        with soundfile.SoundFile(out, "w", sampling_rate, channels, format=kind) as file:
            for start in range(0, len(samples), _BLOCK):
                file.write(np.clip(samples[start : start + _BLOCK], -1, 1))
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").strip().rstrip(".")
        raise AudioError(f"{suffix} at {sampling_rate} Hz: {reason}; choose 44100 Hz") from error
    return bytes(out.getvalue())
