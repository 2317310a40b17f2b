"""A tower of transformers that is small enough to learn: a random HuBERT."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers


def save_tiny_hubert(folder: Path) -> str:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    position = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    transformers.HubertModel(transformers.HubertConfig(conv_dim=(16,) * 7, **sizes, **position)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return str(folder)
