"""Products with one row of hidden states that round otherwise than those with several.

oneDNN multiplies one row of bfloat16 by another kernel than two or more, which sums more than 1,024 inputs in other
steps (measured: LOG, 2026-11-26). Two rows and three thousand give the same bits. So what a token becomes would depend
on whether it stands alone.
"""

from __future__ import annotations

from typing import Any

import torch

from mllm.packed_weights import PackedLinear

_PROBES = 256  # random rows, of which a tenth or more round otherwise where any do


@torch.inference_mode()
def even_out(model: Any) -> None:
    """Let no row go alone through those products of a model with packed weights that need it."""
    uneven: dict[tuple[int, int], bool] = {}
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            shape = layer.in_features, layer.out_features
            if shape not in uneven:
                uneven[shape] = _rounds_otherwise(layer)
            layer.product.never_alone |= uneven[shape]


def _rounds_otherwise(layer: PackedLinear) -> bool:
    """Whether a layer gives rows other bits alone than together."""
    maker = torch.Generator().manual_seed(0)
    rows = torch.randn(1, _PROBES, layer.in_features, generator=maker).to(layer.weight.dtype)
    alone: list[torch.Tensor] = [layer(row) for row in rows.split(1, 1)]
    return not torch.equal(torch.cat(alone, 1), layer(rows))
