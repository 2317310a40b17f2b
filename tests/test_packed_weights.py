"""Weights sorted for oneDNN: the same numbers to the bit, also of layers that are one product, also in two threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from mllm.packed_weights import PackedLinear, pack_weights


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU multiplies no bfloat16")
def test_sorted_weights_give_the_same_numbers():
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 160, bias=False).bfloat16()
    packed = PackedLinear(linear)
    for shape in ((1, 96), (3, 1, 96), (1, 33, 96)):
        hidden = torch.randn(shape).bfloat16()
        with torch.inference_mode():
            assert torch.equal(packed(hidden), linear(hidden))
    assert packed.weight is linear.weight


def _two_threads_read_their_own(model) -> None:
    """Layers that are one product keep its outputs for a moment: nobody else gets them."""
    prompts = [torch.arange(5, 17)[None], torch.arange(40, 52)[None]]

    def read(ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model(input_ids=ids).logits

    alone = [read(ids) for ids in prompts]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(read, prompts * 40))
    assert all(torch.equal(one, alone[i % 2]) for i, one in enumerate(together))


def test_only_a_model_in_bfloat16_is_sorted(tmp_path):
    model, _ = tiny_model(tmp_path)
    assert not pack_weights(model.float())
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        ids = torch.arange(5, 17)[None]
        with torch.inference_mode():
            before = model.bfloat16()(input_ids=ids).logits
            assert pack_weights(model) and pack_weights(model)  # a second time changes nothing
            assert torch.equal(model(input_ids=ids).logits, before)
            _two_threads_read_their_own(model)
        assert isinstance(model.lm_head, PackedLinear)


def wide(inner: int) -> LlamaForCausalLM:
    """A model whose `down_proj` has `inner` inputs, with packed weights; else the test is skipped."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=inner, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    if not pack_weights(model):
        pytest.skip("this CPU does not multiply bfloat16")
    return model


@torch.inference_mode()
def test_a_row_gets_the_same_bits_in_any_company():
    even = wide(1536).model.layers[0].mlp.down_proj
    rows = torch.randn(1, 200, 1536, generator=torch.Generator().manual_seed(1)).bfloat16()
    together, alone = even(rows), torch.cat([even(row) for row in rows.split(1, 1)], 1)
    assert together.shape == (1, 200, 64) and torch.equal(together, alone)
    assert torch.equal(together, torch.cat([even(some) for some in rows.split(7, 1)], 1))
    assert torch.equal(even(rows[0, :1]), together[0, :1])


def test_only_products_that_round_otherwise_are_evened_out(same_bits):
    if not same_bits:
        pytest.skip("measured on CPUs with avx512_bf16, without AMX")
    many, few = wide(1536), wide(512)
    mlp = many.model.layers[0].mlp
    assert mlp.down_proj.product.never_alone
    others = [mlp.gate_proj, many.lm_head, *(module for module in few.modules() if isinstance(module, PackedLinear))]
    assert len(others) > 2 and not any(layer.product.never_alone for layer in others)
