"""What a model is given to hear: sound without a name, so that nothing can be read off a file's."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

NOISE_LEVEL = 0.05
"""Root mean square of the noise control, full scale 1: about as loud as quiet music."""
NUDGE_SECONDS, NUDGE_GAIN = 0.03, 0.97
UNKNOWN_SECONDS = 10.0
"""Length of silence and noise in the place of a recording that is not there."""


class Sound:
    """A recording, or what stands in its place. Equal `key`, equal samples."""

    def __init__(self, key: str, load: Callable[[int], np.ndarray], seconds: Callable[[], float], rate: int = 22_050):
        """`load`: rate in Hz -> float32 mono [samples]; `seconds`: its length; `rate`: Hz at which it is best sent."""
        self.key, self._load, self._seconds, self._rate = key, load, seconds, rate

    def load(self, rate: int) -> np.ndarray:
        """Float32 mono waveform [samples] at `rate` Hz. Raises AudioError."""
        return self._load(rate)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self._seconds()

    def wav(self) -> bytes:
        """A 16-bit mono WAV file, as an API is sent it."""
        import soundfile

        out = io.BytesIO()
        soundfile.write(out, self.load(self._rate), self._rate, format="WAV", subtype="PCM_16")
        return out.getvalue()

    def nudged(self) -> Sound:
        """The same music, 30 ms later and a little softer: nobody hears it, but no hash of the file is the same."""

        def load(rate: int) -> np.ndarray:
            return (NUDGE_GAIN * self.load(rate)[round(NUDGE_SECONDS * rate) :]).astype(np.float32)

        return Sound(f"nudged:{self.key}", load, lambda: self.seconds - NUDGE_SECONDS, self._rate)


def recording(path: str | Path) -> Sound:
    """The sound of a file."""
    path = Path(path)
    digest, seconds, rate = _known(path, path.stat().st_mtime_ns)
    from mllm.audio import load_audio

    return Sound(digest, lambda rate: load_audio(path, rate), lambda: seconds, rate)


@functools.lru_cache(65_536)
def _known(path: Path, changed: int) -> tuple[str, float, int]:
    """sha256 of a file, its length in seconds and its rate; what soundfile cannot open is decoded for its length."""
    import soundfile

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        info = soundfile.info(str(path))
        return digest, info.frames / info.samplerate, info.samplerate
    except soundfile.LibsndfileError:
        from mllm.audio import load_audio

        return digest, len(load_audio(path, 22_050)) / 22_050, 22_050


def silence(seconds: float) -> Sound:
    """Zeros."""
    return Sound(f"silence:{seconds:.4f}", lambda rate: np.zeros(round(seconds * rate), np.float32), lambda: seconds)


def noise(seconds: float) -> Sound:
    """White noise, the same for the same length."""

    def load(rate: int) -> np.ndarray:
        drawn = np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32)
        return np.clip(NOISE_LEVEL * drawn, -1, 1)

    return Sound(f"noise:{seconds:.4f}", load, lambda: seconds)
