"""Linear layers whose product with one row of hidden states rounds otherwise than with several.

oneDNN multiplies one row of bfloat16 by another kernel than two or more, which sums more than 1,024 inputs in other
steps (measured: LOG, 2026-11-26). Two rows and three thousand give the same bits. So what a token becomes would depend
on whether it stands alone.
"""

from __future__ import annotations

from typing import Any

import torch

from mllm.linear_layers import StandIn
from mllm.packed_weights import PackedLinear

_PROBES = 256  # random rows, of which a tenth or more round otherwise where any do


class NeverAlone(StandIn):
    """Stands for such a layer; a row alone goes through twice, and gets the bits that it has among others.

    Where layers are one product (`mllm.packed_weights`), a row alone costs one for each of them.
    """

    def __init__(self, layer: Any):
        super().__init__(layer)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[-2] > 1:
            return self.linear(hidden)
        return self.linear(torch.cat([hidden, hidden], -2))[..., :1, :]


@torch.inference_mode()
def even_out(model: Any) -> None:
    """Let a `NeverAlone` stand for each layer of a model with packed weights that needs one, in place."""
    parents = [parent for parent in [model, *model.get_decoder().modules()] if not isinstance(parent, StandIn)]
    places = [(p, n, x) for p in parents for n, x in p.named_children() if isinstance(x, PackedLinear)]
    uneven: dict[tuple[int, int], bool] = {}
    for parent, name, layer in places:
        shape = layer.in_features, layer.out_features
        if shape not in uneven:
            uneven[shape] = _rounds_otherwise(layer)
        if uneven[shape]:
            setattr(parent, name, NeverAlone(layer))


def _rounds_otherwise(layer: PackedLinear) -> bool:
    """Whether a layer gives rows other bits alone than together."""
    maker = torch.Generator().manual_seed(0)
    rows = torch.randn(1, _PROBES, layer.in_features, generator=maker).to(layer.weight.dtype)
    alone: list[torch.Tensor] = [layer(row) for row in rows.split(1, 1)]
    return not torch.equal(torch.cat(alone, 1), layer(rows))
