"""Weights in the order in which oneDNN's kernels read them: sorted once, not in every product.

A product of bfloat16 on a CPU sorts the weights into blocks first, and where few tokens go through them that takes
longer than the product. The kernel is the one that inductor calls for a frozen model, and the numbers are the same to
the bit, also where layers that read the same hidden states are one product.

But one row of hidden states goes through another kernel than two or more, which sums more than 1,024 inputs in other
steps (measured: LOG, 2026-11-26). Two rows and three thousand give the same bits. So that a token does not depend on
whether it stands alone, no row goes alone where that is so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from mllm.linear_layers import Place, StandIn, linears, put

ROWS = 16  # tokens that the order is chosen for; it serves any number
MOST_BYTES = 2 << 30  # of weights that are kept twice
PROBES = 96  # random rows, of which a tenth or more round otherwise alone where any do
TOGETHER = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Layers of one parent that are called one after the other with the same hidden states."""


class Product:
    """Hidden states times the weights of some linear layers at once; each layer fetches its own part.

    Attributes:
        never_alone: a row alone goes through twice, where it would round otherwise than among others.
    """

    never_alone = False

    def __init__(self, layers: Sequence[nn.Linear]):
        weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        whole = torch.cat(weights) if len(weights) > 1 else weights[0]
        self._packed = torch.ops.mkldnn._reorder_linear_weight(whole, ROWS)
        self._outputs = len(whole)
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # hidden states and outputs: of one thread's call

    def fetch(self, hidden: torch.Tensor, start: int, size: int) -> torch.Tensor:
        """Outputs [..., start : start + size]. They are kept from the first part to the last, for the same `hidden`."""
        known = self._last
        if known is None or known[0] is not hidden:
            known = hidden, self._times(hidden)
        self._last = known if start + size < self._outputs else None
        return known[1] if size == self._outputs else known[1][..., start : start + size]

    def _times(self, hidden: torch.Tensor) -> torch.Tensor:
        alone = self.never_alone and hidden.numel() == hidden.shape[-1]
        rows = torch.cat([hidden, hidden]) if alone else hidden
        out = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return out[:1] if alone else out


class PackedLinear(StandIn):
    """A linear layer in bfloat16 on the CPU, with its weights in blocks besides.

    Args:
        linear: the layer.
        product: what it is part of, and where its outputs begin in there; alone without.
    """

    def __init__(self, linear: nn.Linear, product: Product | None = None, start: int = 0):
        super().__init__(linear)
        self.product, self._start = product or Product([linear]), start

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.product.fetch(hidden, self._start, self.out_features)


def pack_weights(model: PreTrainedModel) -> bool:
    """Sort the weights of a model's decoder and head, in place; whether that is possible here.

    `model`: ours, or a causal language model of transformers. From then on it is for inference alone.

    Not where they are not in bfloat16 on a CPU that multiplies it, nor where twice the weights would be too much.
    A second time changes nothing.
    """
    if getattr(model, "lm_head", None) is None:
        return False
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
        shared = _shared(places)
        put(places, lambda linear: PackedLinear(linear, *shared.get(linear, ())))
    _even_out(model)
    return True


@torch.inference_mode()
def _even_out(model: PreTrainedModel) -> None:
    """Let no row go alone through those products that need it; one is probed of each shape."""
    uneven: dict[tuple[int, int], bool] = {}
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            shape = layer.in_features, layer.out_features
            if shape not in uneven:
                uneven[shape] = _rounds_otherwise(layer)
            layer.product.never_alone |= uneven[shape]


def _rounds_otherwise(layer: PackedLinear) -> bool:
    """Whether a layer gives rows other bits alone than in pairs."""
    maker = torch.Generator().manual_seed(0)
    rows = torch.randn(PROBES, layer.in_features, generator=maker).to(layer.weight.dtype)
    alone, paired = (torch.cat([layer(some) for some in rows.split(size)]) for size in (1, 2))
    return not torch.equal(alone, paired)


def _shared(places: Sequence[Place]) -> dict[nn.Linear, tuple[Product, int]]:
    """Layers that are one product with others -> that product, and where their outputs begin in it."""
    known = {(parent, name): layer for parent, name, layer in places}
    out: dict[nn.Linear, tuple[Product, int]] = {}
    for parent in {parent: None for parent, _, _ in places}:
        for names in TOGETHER:
            layers = [known[parent, name] for name in names if (parent, name) in known]
            if len(layers) < len(names) or len({(layer.in_features, layer.bias is None) for layer in layers}) > 1:
                continue
            product, start = Product(layers), 0
            for layer in layers:
                out[layer] = product, start
                start += layer.out_features
    return out
