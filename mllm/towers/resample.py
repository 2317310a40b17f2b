"""Change a waveform's sampling rate inside the model, on any device: windowed sinc as one matrix product."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

ZEROS = 96  # zero crossings of the sinc on each side
ROLLOFF = 0.957  # of the lower Nyquist frequency; flat to 0.91, as soxr's "high quality"
BETA = 12.0  # Kaiser window: stop band below -110 dB


@lru_cache(maxsize=8)
def _kernel(source: int, target: int) -> tuple[Tensor, int]:
    """Polyphase matrix [target, source + 2 * reach] for rates without common factor, and its reach in samples."""
    cutoff = ROLLOFF * min(1.0, target / source)
    reach = math.ceil(ZEROS / cutoff)
    inputs = torch.arange(-reach, source + reach, dtype=torch.float64)
    outputs = torch.arange(target, dtype=torch.float64) * source / target
    distance = inputs[None, :] - outputs[:, None]
    window = torch.special.i0(BETA * (1 - (distance / reach).square()).clamp_min(0).sqrt())
    window = window / torch.special.i0(torch.tensor(BETA, dtype=torch.float64))
    return (torch.sinc(distance * cutoff) * cutoff * window * (distance.abs() <= reach)).float(), reach


def resample(waveform: Tensor, source: int, target: int) -> Tensor:
    """float32 [n, samples] at `source` Hz -> [n, round(samples * target / source)] at `target` Hz; silence outside."""
    if source == target:
        return waveform
    common = math.gcd(source, target)
    source, target = source // common, target // common
    kernel, reach = _kernel(source, target)
    samples = waveform.shape[-1]
    length = round(samples * target / source)
    blocks = -(-length // target)
    padded = F.pad(waveform.float(), (reach, blocks * source + reach - samples))
    frames = padded.unfold(-1, source + 2 * reach, source)
    return F.linear(frames, kernel.to(waveform.device)).flatten(1)[:, :length]
