"""Estimated work against what torch counts, and the machine's own peak."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import TEXT_CONFIGS, tiny_model
from tiny_hubert import save_tiny_hubert
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from mllm.train.flops import estimate_flops, gemm_peak


@pytest.mark.parametrize("trained", ["all", "lora"])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_flops_agree_with_what_torch_counts(kind, trained) -> None:
    rows, length = 3, 32
    model = AutoModelForCausalLM.from_config(TEXT_CONFIGS[kind], attn_implementation="eager")
    if trained == "lora":
        model = get_peft_model(model, LoraConfig(r=8, target_modules=r".*_proj"))
    ids = torch.randint(0, 512, (rows, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    # torch counts the masked half of attention too: a causal sequence of 2n - 1 has n pairs a position
    estimated = estimate_flops(model).total(rows * length, rows * length, 0, 2 * length - 1)
    assert estimated == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("projector", ["resampler", "mlp"])
def test_flops_of_a_window_of_audio(tmp_path, projector) -> None:
    model, _ = tiny_model(tmp_path, projector_type=projector)
    model.requires_grad_(False).model.projector.requires_grad_(True)
    random = torch.get_rng_state()
    flops = estimate_flops(model)
    assert torch.equal(random, torch.get_rng_state())
    frames = torch.zeros(3, model.config.window_frames, model.config.audio_config.hidden_size)
    # torch counts attention where it is plain products, which its kernel for the CPU is not
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.model.projector.train()(frames).sum().backward()
    assert 3 * (flops.window_forward + flops.window_backward) == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert flops.token_backward == flops.token_forward  # through the frozen language model, to the projector
    model.requires_grad_(False)
    flops = estimate_flops(model)
    assert (flops.token_backward, flops.supervised_backward, flops.window_backward) == (0, 0, 0)


@pytest.mark.parametrize("learns", [False, True])
def test_flops_of_a_tower_that_runs_in_every_step(tmp_path, learns) -> None:
    model, processor = tiny_model(tmp_path / "text", tower=save_tiny_hubert(tmp_path / "hubert"))
    tuned: torch.nn.Module = model
    if learns:
        targets = r".*audio_tower.*(q_proj|k_proj|v_proj|out_proj)"
        tuned = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    extractor = processor.feature_extractor
    silence = np.zeros(extractor.window_samples, np.float32)
    window = torch.as_tensor(extractor([silence], sampling_rate=extractor.sampling_rate)["input_features"])
    random = torch.get_rng_state()
    alone, with_tower = estimate_flops(tuned), estimate_flops(tuned, window)
    assert torch.equal(random, torch.get_rng_state())
    # its layers by hand: projections and the two feed-forward layers, scores and values; before them its convolutions
    frames, size, inner = extractor.window_samples // 320 - 1, 32, 48
    layer = 2 * frames * (4 * size * size + 2 * size * inner) + 4 * frames * frames * size
    assert (alone.tower_forward, alone.tower_backward) == (0, 0)
    assert with_tower.tower_forward > 2 * layer
    assert with_tower.tower_backward > layer if learns else with_tower.tower_backward == 0
    assert with_tower.total(0, 0, 3, 1) - alone.total(0, 0, 3, 1) == pytest.approx(
        3 * (with_tower.tower_forward + with_tower.tower_backward)
    )
    assert all(parameter.grad is None for parameter in tuned.parameters())


def test_sliding_layers_see_their_window_alone() -> None:
    flops = estimate_flops(AutoModelForCausalLM.from_config(TEXT_CONFIGS["gemma3"]))
    assert flops.sliding_layers + flops.full_layers == 2 and flops.sliding_window == 512
    assert flops.attention(100)[0] == pytest.approx(2 * flops.pair_forward * 50.5)
    visible = sum(min(i + 1, 512) for i in range(2000)) / 2000
    both = flops.pair_forward * (flops.sliding_layers * visible + flops.full_layers * 1000.5)
    assert flops.attention(2000)[0] == pytest.approx(both)


def test_gemm_peak_is_measured_and_leaves_the_random_numbers() -> None:
    random = torch.get_rng_state()
    began = time.perf_counter()
    assert 1e8 < gemm_peak(torch.float32, torch.device("cpu"), 0.05, [(64, 64, 64), (256, 256, 256)]) < 1e15
    assert time.perf_counter() - began < 5
    assert torch.equal(random, torch.get_rng_state())
