"""A tower that learns: an encoder of transformers with a LoRA of its own, run in every step."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from click_rows import losses
from safetensors.torch import load_file

from mllm import load
from mllm.train.config import TrainConfig
from mllm.train.sft import train


def save_tiny_hubert(folder: Path) -> str:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    position = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    transformers.HubertModel(transformers.HubertConfig(conv_dim=(16,) * 7, **sizes, **position)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return str(folder)


def test_a_tower_learns_with_a_lora_of_its_own_at_its_own_rate(settings, tmp_path):
    model = settings["model"] | {"audio_tower": save_tiny_hubert(tmp_path / "hubert")}
    rates = {"tower": 1e-2, "projector": 1e-4}
    run = tmp_path / "run"
    train(TrainConfig(**settings | {"model": model}, learning_rates=rates), run)
    assert len(losses(run)) == 4
    weights = load_file(run / "adapter_model.safetensors")
    learned = {name: w for name, w in weights.items() if "audio_tower" in name and "lora_B" in name}
    assert len(learned) == 2 * 4, "query, key, value and output of both layers"
    assert all(w.abs().max() > 1e-4 for w in learned.values()), "lora_B begins at nought"
    assert not any("audio_tower" in name and "lora" not in name for name in weights)
    clip = Path(settings["data"]["path"]).parent / "0.wav"
    assert load(str(run)).ask(clip, "How fast?", max_new_tokens=2).audio_tokens > 0
