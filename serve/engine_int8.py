"""Eight bits a weight while answers are written: a step reads all weights for a few tokens, and waits for memory.

Prompts, which are bound by arithmetic, go through the weights as they are; so both are kept, and memory grows by half.
The kernel sums a row the same way however many rows there are (tried for 1 to 16), so a batch changes no answer.
"""

from __future__ import annotations

import torch
from torch import nn

from mllm.errors import WeightsError
from mllm.linear_layers import StandIn, linears, put
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.packed_weights import PackedLinear

ROWS = 8  # tokens at a time up to which int8 is used; with more of them its kernel is no faster than bfloat16's


class Int8Linear(StandIn):
    """A linear layer without bias whose weights are rounded to int8, with one scale an output, for up to `rows` rows.

    Args:
        linear: bfloat16, on the CPU; it stays in use for more rows.
        rows: see above.
    """

    def __init__(self, linear: nn.Linear, rows: int = ROWS):
        super().__init__(linear)
        self.rows = rows
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
        self.register_buffer("scale", scale.to(linear.weight.dtype), persistent=False)
        steps = (weight / self.scale.float()[:, None]).round().clamp(-127, 127)
        self.register_buffer("steps", steps.to(torch.int8).contiguous(), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.numel() // self.in_features
        if rows > self.rows:
            return self.linear(hidden)
        # the kernel that torchao and inductor call; torch has no public name for it
        out = torch._weight_int8pack_mm(hidden.reshape(rows, self.in_features), self.steps, self.scale)
        return out.view(*hidden.shape[:-1], self.out_features)


def use_int8(model: MusicLMForConditionalGeneration, rows: int = ROWS) -> None:
    """Let a model's language model and head write with int8 weights, in place; a second time changes nothing.

    Raises:
        WeightsError: the model is not in bfloat16 on the CPU.
    """
    if model.lm_head.weight.dtype != torch.bfloat16 or model.device.type != "cpu":
        raise WeightsError(
            f"int8 goes with bfloat16 weights on the CPU, not with {model.lm_head.weight.dtype} on {model.device}"
        )
    places = [place for place in linears(model, through=PackedLinear) if place[2].bias is None]
    put(places, lambda linear: Int8Linear(linear, rows))
