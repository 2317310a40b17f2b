"""Light changes after rendering: equalizer, room, noise, codec, gain. numpy and scipy only, float32 mono in and out."""

from __future__ import annotations

import io

import numpy as np
import soundfile as sf
from scipy.signal import butter, fftconvolve, sosfilt

Audio = np.ndarray
PEAK_TARGET = (0.25, 0.9)
_FADE = 0.02  # seconds


def normalise(x: Audio, peak: float) -> Audio:
    """`x` scaled so that its largest absolute sample is `peak`; silence stays silence."""
    top = float(np.abs(x).max(initial=0.0))
    return (x * (peak / top)).astype(np.float32) if top > 1e-9 else x.astype(np.float32)


def finish(x: Audio, rate: int, rng: np.random.Generator, clean: float, codec: float) -> tuple[Audio, list[str]]:
    """A render as it goes into a data set, and the names of what was done to it.

    Args:
        x: what was rendered, not silent.
        rate: its sampling rate, Hz.
        rng: what draws the changes and the loudness.
        clean: the chance that nothing but the loudness is changed.
        codec: the chance of a codec round trip, 0 for the test: it asks how well an unheard instrument is understood.
    """
    x, done = normalise(x, 0.7), list[str]()
    if rng.random() >= clean:
        x, done = augment(x, rate, rng, codec)
    fade = int(_FADE * rate)
    x[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return normalise(x, float(rng.uniform(*PEAK_TARGET))), done


def augment(x: Audio, rate: int, rng: np.random.Generator, codec: float = 0.1) -> tuple[Audio, list[str]]:
    """A changed copy of `x` and the names of what was done. `codec` is the chance of a codec round trip."""
    done = []
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 3))):
            x = _peaking(x, rate, rng)
        done.append("eq")
    if rng.random() < 0.5:
        x = _room(x, rate, rng)
        done.append("room")
    if rng.random() < codec:
        kind = ("mulaw", "lowpass", "ogg")[int(rng.integers(3))]
        x = _codec(normalise(x, 0.7), rate, kind, rng)
        done.append(kind)
    if rng.random() < 0.5:
        x = _noise(x, rng)
        done.append("noise")
    return x, done


def _peaking(x: Audio, rate: int, rng: np.random.Generator) -> Audio:
    """One peaking biquad (R. Bristow-Johnson, Audio EQ Cookbook)."""
    f0 = float(np.exp(rng.uniform(np.log(120), np.log(min(6000, rate * 0.4)))))
    gain = float(rng.uniform(-6, 6))
    a = 10 ** (gain / 40)
    w = 2 * np.pi * f0 / rate
    alpha = np.sin(w) / (2 * float(rng.uniform(0.6, 2.0)))
    b0, b1, b2 = 1 + alpha * a, -2 * np.cos(w), 1 - alpha * a
    a0, a2 = 1 + alpha / a, 1 - alpha / a
    sos = np.array([[b0, b1, b2, a0, b1, a2]]) / a0
    return sosfilt(sos, x).astype(np.float32)


def _room(x: Audio, rate: int, rng: np.random.Generator) -> Audio:
    """Exponentially decaying noise as impulse response; the direct sound stays in front."""
    decay = float(rng.uniform(0.15, 0.7))
    n = int(decay * rate)
    tail = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
    tail[: int(0.004 * rate)] = 0
    tail *= float(rng.uniform(0.15, 0.5)) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    return fftconvolve(x, tail.astype(np.float32))[: len(x)].astype(np.float32)


def _noise(x: Audio, rng: np.random.Generator) -> Audio:
    """White or low-passed noise at 25-50 dB below the signal."""
    noise = rng.standard_normal(len(x)).astype(np.float32)
    if rng.random() < 0.5:
        noise = sosfilt(np.array([[0.08, 0, 0, 1, -0.92, 0]]), noise).astype(np.float32)
    power = float(np.mean(x**2)) / max(float(np.mean(noise**2)), 1e-12)
    return x + noise * np.float32(np.sqrt(power) * 10 ** (-float(rng.uniform(25, 50)) / 20))


def _codec(x: Audio, rate: int, kind: str, rng: np.random.Generator) -> Audio:
    if kind == "mulaw":
        y = np.sign(x) * np.log1p(255 * np.abs(x)) / np.log1p(255)
        y = np.round(y * 127) / 127
        return (np.sign(y) * np.expm1(np.abs(y) * np.log1p(255)) / 255).astype(np.float32)
    if kind == "lowpass":
        return sosfilt(butter(4, float(rng.uniform(3000, 6000)), fs=rate, output="sos"), x).astype(np.float32)
    buffer = io.BytesIO()
    sf.write(buffer, x, rate, format="OGG", subtype="VORBIS", compression_level=float(rng.uniform(0.6, 0.95)))
    buffer.seek(0)
    y, _ = sf.read(buffer, dtype="float32")
    # The codec may return a few samples more or less.
    return np.pad(y, (0, max(0, len(x) - len(y))))[: len(x)]
