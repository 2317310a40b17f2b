"""A tower that learns: an encoder of transformers with a LoRA of its own, run in every step."""

from __future__ import annotations

from pathlib import Path

from click_rows import losses
from safetensors.torch import load_file
from tiny_hubert import save_tiny_hubert

from mllm import load
from mllm.provenance import read_provenance
from mllm.train.config import TrainConfig
from mllm.train.sft import train


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
    frozen = tmp_path / "frozen"
    train(TrainConfig(**settings | {"model": model}, learning_rates=rates | {"tower": 0.0}), frozen)
    work, without = (read_provenance(folder)["cost"]["flops_estimated"] for folder in (run, frozen))
    assert work > 2 * without, "it runs in every step, and is far larger than the rest here"
    clip = Path(settings["data"]["path"]).parent / "0.wav"
    assert load(str(run)).ask(clip, "How fast?", max_new_tokens=2).audio_tokens > 0
