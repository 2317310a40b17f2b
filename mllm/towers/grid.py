"""Bring a feature sequence onto a grid with another number of frames."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def _area_weights(source: int, target: int) -> Tensor:
    """Share of each source frame in each target cell; both sequences span the same time. float32 [target, source]."""
    edges_in = torch.arange(source + 1, dtype=torch.float64) / source
    edges_out = torch.arange(target + 1, dtype=torch.float64) / target
    overlap = torch.minimum(edges_out[1:, None], edges_in[None, 1:]) - torch.maximum(
        edges_out[:-1, None], edges_in[None, :-1]
    )
    overlap = overlap.clamp_min(0.0)
    return (overlap / overlap.sum(1, keepdim=True)).float()


@lru_cache(maxsize=64)
def _linear_weights(source: int, target: int) -> Tensor:
    """Linear interpolation between the centres of the source frames, held at both ends. float32 [target, source]."""
    centre = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    lower = centre.floor().long().clamp_max(max(source - 2, 0))
    upper = (lower + 1).clamp_max(source - 1)
    share = centre - lower
    weights = torch.zeros(target, source, dtype=torch.float64)
    rows = torch.arange(target)
    weights[rows, lower] += 1.0 - share
    weights[rows, upper] += share
    return weights.float()


def resize_mean(features: Tensor, frames: int) -> Tensor:
    """[n, source frames, channels] -> [n, frames, channels]: area average when it shrinks, linear when it grows."""
    source = features.shape[1]
    if source == frames:
        return features
    weights = (_area_weights if frames < source else _linear_weights)(source, frames)
    return weights.to(device=features.device, dtype=features.dtype) @ features


def resize_max(features: Tensor, frames: int) -> Tensor:
    """[n, source frames, channels] -> [n, frames, channels]: the greatest value of all source frames a cell touches.

    It keeps short events (onsets) at full height where an average would flatten them.
    """
    source = features.shape[1]
    if source == frames:
        return features
    index = torch.arange(frames, device=features.device)
    first = index * source // frames
    last = ((index + 1) * source + frames - 1) // frames - 1
    steps = torch.arange(-(-source // frames) + 1, device=features.device)
    return features[:, torch.minimum(first[:, None] + steps, last[:, None])].amax(2)
