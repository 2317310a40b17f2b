"""Weights in the order in which oneDNN's kernels read them: sorted once, not in every product.

A product of bfloat16 on a CPU sorts the weights into blocks first, and where few tokens go through them that takes
longer than the product. The kernel is the one that inductor calls for a frozen model, and the numbers are the same to
the bit.
"""

from __future__ import annotations

import torch
from torch import nn

from mllm.modeling import MusicLMForConditionalGeneration
from mllm.serve.engine_linear import StandIn, linears, put

ROWS = 16  # tokens that the order is chosen for; it serves any number
MOST_BYTES = 2 << 30  # of weights that are kept twice


class PackedLinear(StandIn):
    """A linear layer in bfloat16 on the CPU, with its weights in blocks besides."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self._packed, self.linear.bias, "none", [], "")


def pack_weights(model: MusicLMForConditionalGeneration) -> bool:
    """Sort the weights of a model's language model and head, in place; whether that is possible here.

    Not where they are not in bfloat16 on a CPU that multiplies it, nor where twice the weights would be too much.
    """
    places = linears(model)
    weights = [layer.weight for _, _, layer in places] + [model.lm_head.weight]
    if not (
        torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and all(weight.dtype == torch.bfloat16 and weight.device.type == "cpu" for weight in weights)
        and sum(weight.nbytes for weight in weights) <= MOST_BYTES
    ):
        return False
    with torch.no_grad():
        put(places, PackedLinear)
    return True
