"""The front-end of musicnn as a few matrix products: the same numbers as its convolutions, many times faster.

Three things make it fast. A convolution with one input channel is a product of unfolded input and kernels; where
several neighbouring outputs share one product the unfolded input shrinks by as much. Each convolution is followed by
ReLU, BatchNorm and the maximum over frequency, all monotonic, so the maximum is taken first (kernels whose BatchNorm
scale is negative are negated, because there the minimum survives) and the rest runs on one value a channel and frame.
And there are few operations, because each one costs a wait for the other cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from mllm.towers.musicnn import MusicnnTower

GROUP = 5  # mel positions side by side in the product (timbral); more of them multiply more zeros
SPAN = 5  # frames side by side in the product (temporal)
BANDS = 24  # mel bands whose maximum is taken at once; all 96 would miss the cache


class FusedFrontEnd:
    """Precomputed matrices of a tower's front-end; call it with one window's normalized log-mel [frames, 96].

    Returns [frames, 561], float32. Runs in the dtype of the tower's weights.
    """

    def __init__(self, tower: MusicnnTower):
        self._made_from = _fingerprint(tower)
        self.dtype = tower.dtype
        self.signs: list[Tensor] = []
        self.timbral = [self._timbral_matrix(*self._signed(block)) for block in tower.timbral]
        self.temporal = [self._temporal_matrix(*self._signed(block)) for block in tower.temporal]
        blocks = [*tower.timbral, *tower.temporal]
        scales = [b.norm.weight * torch.rsqrt(b.norm.running_var + b.norm.eps) for b in blocks]
        self.sign = torch.cat(self.signs)
        self.bias = torch.cat([b.conv.bias.float() for b in blocks])
        self.scale = torch.cat(scales)
        self.shift = torch.cat([b.norm.bias - b.norm.running_mean * s for b, s in zip(blocks, scales, strict=True)])

    def is_current(self, tower: MusicnnTower) -> bool:
        """Whether the tower's weights are still those this was made from."""
        return self._made_from == _fingerprint(tower)

    def __call__(self, mel: Tensor) -> Tensor:
        x = mel.to(self.dtype)
        best = [self._timbral(x, *matrix) for matrix in self.timbral]
        best += [self._temporal(x, *matrix) for matrix in self.temporal]
        y = F.relu(torch.cat(best, 1).float() * self.sign + self.bias)
        return y * self.scale + self.shift

    def _signed(self, block) -> tuple[Tensor]:
        """The kernels with every maximum wanted, and (remembered) the signs that undo it."""
        sign = torch.where(block.norm.weight < 0, -1.0, 1.0)
        self.signs.append(sign)
        return (block.conv.weight.float()[:, 0] * sign[:, None, None],)

    def _timbral_matrix(self, kernel: Tensor) -> tuple[Tensor, int]:
        """[out, 7, height] -> [(height + GROUP - 1) * 7, GROUP * out]: column block g looks g mel bands higher."""
        out, taps, height = kernel.shape
        column = kernel.permute(2, 1, 0).reshape(height * taps, out)
        shifted = [F.pad(column, (0, 0, g * taps, (GROUP - 1 - g) * taps)) for g in range(GROUP)]
        return torch.cat(shifted, 1).to(self.dtype), height

    def _timbral(self, x: Tensor, matrix: Tensor, height: int) -> Tensor:
        """[frames, 96] -> the maximum over mel positions [frames, out]."""
        frames, bands = x.shape
        taps = len(matrix) // (height + GROUP - 1)
        unfolded = F.pad(x, (0, 0, taps // 2, taps // 2)).unfold(0, taps, 1).reshape(frames, bands * taps)
        last = bands - height + 1 - GROUP
        starts = [*range(0, last, GROUP), last]  # the last group may overlap: a maximum does not mind
        rows = torch.stack([unfolded[:, s * taps : s * taps + len(matrix)] for s in starts])
        # one product, not a loop over the groups: on a busy machine every parallel operation waits for a core
        y = (rows.view(-1, len(matrix)) @ matrix).view(len(starts), -1).amax(0)
        return y.view(frames, GROUP, -1).amax(1)

    def _temporal_matrix(self, kernel: Tensor) -> tuple[Tensor, int]:
        """[out, taps, 1] -> [taps + SPAN - 1, SPAN * out]: column block s looks s frames later."""
        column = kernel[:, :, 0].T
        shifted = [F.pad(column, (0, 0, s, SPAN - 1 - s)) for s in range(SPAN)]
        return torch.cat(shifted, 1).to(self.dtype), len(column)

    def _temporal(self, x: Tensor, matrix: Tensor, taps: int) -> Tensor:
        """[frames, 96] -> the maximum over mel bands [frames, out]."""
        frames = len(x)
        spans = -(-frames // SPAN)
        left = (taps - 1) // 2  # TensorFlow's "same" padding of an even kernel
        padded = F.pad(x.T, (left, spans * SPAN + taps - 1 - left - frames))
        unfolded = padded.unfold(1, len(matrix), SPAN).reshape(-1, len(matrix))
        y = (unfolded @ matrix).view(x.shape[1] // BANDS, BANDS, -1).amax(1).amax(0)
        return y.view(spans * SPAN, -1)[:frames]


def _fingerprint(tower: MusicnnTower) -> list[tuple[int, int, torch.dtype]]:
    weights = [t for part in (tower.timbral, tower.temporal) for t in [*part.parameters(), *part.buffers()]]
    return [(t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype) for t in weights]
