"""Attention of one new token a row, each row by itself and over its own length alone.

A mask over the longest row gives nearly the same, but in bfloat16 the sums are then taken in other steps, and an answer
would depend on what else is in the batch. So would its cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mllm_rows"


def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    row_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`sdpa`, or with `row_lengths` the same for every row of one query token, without a mask.

    Args:
        query: [rows, heads, 1, size].
        key, value: [rows, key heads, places, size].
        row_lengths: places of each row that count.
        sliding_window: so many of these at most, the last ones.
        scaling: of the scores; 1/√size without it.

    Returns:
        [rows, 1, heads, size], None.
    """
    if row_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows, heads, _, size = query.shape
    # heads that share keys ask as if they were several tokens: a third of the calls' cost; one sum in some 150 is
    # rounded otherwise than where each head asks by itself
    asked = query.view(rows, key.shape[1], -1, size)
    out = []
    for row, length in enumerate(row_lengths):
        first = max(0, length - sliding_window) if sliding_window else 0
        own = key[row : row + 1, :, first:length], value[row : row + 1, :, first:length]
        out.append(F.scaled_dot_product_attention(asked[row : row + 1], *own, scale=scaling))
    return torch.cat(out).view(rows, 1, heads, size), None


AttentionInterface.register(NAME, row_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
