"""Memory that a language model's keys and values take."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig


def token_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one token in all layers; `config`: the language model's own."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * dtype.itemsize)
