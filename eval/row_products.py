"""Linear layers whose product with one row of hidden states rounds otherwise than with several.

oneDNN multiplies one row of bfloat16 by another kernel than two or more, which sums more than 1,024 inputs in other
steps (measured: LOG, 2026-11-26). Two rows and three thousand give the same bits. So what a token becomes would depend
on whether it stands alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mllm.linear_layers import StandIn
from mllm.packed_weights import PackedLinear

MOST_APART = 0.5
"""Share of a model's weights up to which rows may go through them one by one, as each does in `generate`."""
_PROBES = 256  # random rows, of which a tenth or more round otherwise where any do


class RowProduct(StandIn):
    """Stands for such a layer, so that rows get the same bits in any company.

    Args:
        layer: it.
        apart: whether single tokens of several rows go through one by one, which gives the bits of `generate`;
            otherwise a row alone goes through twice, and gets the bits that it has among others.

    Attributes:
        steps: whether what comes is one token of each row; the whole of a prompt never goes apart.
    """

    def __init__(self, layer: Any, apart: bool):
        super().__init__(layer)
        self.apart, self.steps = apart, False

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.shape[-2]
        if self.apart and self.steps and rows > 1:
            return torch.cat([self.linear(row) for row in hidden.split(1, -2)], -2)
        if not self.apart and rows == 1:
            return self.linear(hidden.expand(*hidden.shape[:-2], 2, -1))[..., :1, :]
        return self.linear(hidden)


@torch.inference_mode()
def even_out(model: Any) -> None:
    """Let a `RowProduct` stand for each layer of a model with packed weights that needs one, in place."""
    parents = [parent for parent in [model, *model.get_decoder().modules()] if not isinstance(parent, StandIn)]
    places = [(p, n, x) for p in parents for n, x in p.named_children() if isinstance(x, PackedLinear)]
    uneven: dict[tuple[int, int], bool] = {}
    for _, _, layer in places:
        if (shape := (layer.in_features, layer.out_features)) not in uneven:
            uneven[shape] = _rounds_otherwise(layer)
    some = [place for place in places if uneven[place[2].in_features, place[2].out_features]]
    share = sum(x.weight.numel() for _, _, x in some) / max(1, sum(x.weight.numel() for _, _, x in places))
    for parent, name, layer in some:
        setattr(parent, name, RowProduct(layer, share <= MOST_APART))
    if isinstance(model.lm_head, RowProduct):
        model.lm_head.steps = True  # it is given the last token of each prompt alone


def _rounds_otherwise(layer: nn.Module) -> bool:
    """Whether a layer gives rows other bits alone than together."""
    size, dtype = int(layer.in_features), layer.weight.dtype  # type: ignore[arg-type, union-attr]
    rows = torch.randn(1, _PROBES, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    alone = torch.cat([layer(row) for row in rows.split(1, 1)], 1)
    return not torch.equal(alone, layer(rows))
