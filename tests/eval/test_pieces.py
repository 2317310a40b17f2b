"""Shared beginnings are the same to the bit, and models that do not hand the pieces down are asked otherwise."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, BioGptConfig, LlamaConfig, StableLmConfig

from mllm.eval.batched_generation import NAME, answers_in_pieces, beginnings, generate, same_to


def test_beginnings_are_of_earlier_prompts_and_leave_two_tokens():
    tokens = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    other = torch.randn(400, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    prompts = [tokens[:50], torch.cat([tokens[:40], other[:60]]), tokens[:100], tokens[:100], other[:30], tokens[:400]]
    # the first one's second block of 32 is not whole, so keys and values of its 33rd token are its own
    assert beginnings(prompts) == [(0, 0), (0, 32), (1, 40), (2, 98), (0, 0), (2, 96)]
    assert beginnings([tokens[:1], tokens[:2]]) == [(0, 0), (0, 0)]


def test_attention_of_shared_beginnings_is_the_same_to_the_bit(same_bits):
    if not same_bits:
        pytest.skip("measured on CPUs with avx512_bf16, without AMX")
    random.seed(0)
    maker = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 1200, 64, generator=maker).bfloat16() for heads in (6, 2, 2))

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, length: int) -> torch.Tensor:
        cut = query[:, :, :length], key[:, :, :length], value[:, :, :length]
        return F.scaled_dot_product_attention(*cut, is_causal=True, enable_gqa=True)

    for most in [191] * 12 + [700] * 12 + [1200] * 12:
        one, two = random.randint(40, most), random.randint(max(40, most - 300), most)
        shared = same_to(one, two)
        assert 0 < shared <= min(one, two)
        others = [x.clone() for x in (q, k, v)]
        for x in others:
            x[:, :, shared:] = torch.randn(x[:, :, shared:].shape, generator=maker).bfloat16()
        first = attend(q, k, v, one)
        assert torch.equal(first[:, :, :shared], attend(*others, two)[:, :, :shared])
        silent = q.clone()
        silent[:, :, :shared] = 0
        assert torch.equal(attend(silent, k, v, one)[:, :, shared:], first[:, :, shared:])


HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


@pytest.mark.parametrize(("config", "whether"), [(StableLmConfig, False), (BioGptConfig, True), (LlamaConfig, True)])
@torch.inference_mode()
def test_only_models_that_hand_the_pieces_down_are_asked_so(config, whether):
    """StableLM's layers drop what they do not know; BioGPT's head has a name of its own."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**SMALL, **HEADS)).eval()
    before = model.get_decoder().config._attn_implementation
    assert answers_in_pieces(model) == whether
    assert model.get_decoder().config._attn_implementation == (NAME if whether else before)
    prompts = [model.get_input_embeddings()(torch.arange(3, 3 + length)) for length in (1, 7, 40, 40)]
    alone = [
        model.generate(
            inputs_embeds=prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            max_new_tokens=6, eos_token_id=63,
        )[0].tolist()
        for prompt in prompts
    ]  # fmt: skip
    if whether:
        ours = generate(model, prompts, 6, frozenset([63]))
        assert [one[: one.index(63)] if 63 in one else one for one in alone] == ours
