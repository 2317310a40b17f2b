"""The parts of the engine by themselves: dice, text, turns, beginnings, keys and values."""

import asyncio
import gc
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_model, tokenizer_folder
from transformers import AutoTokenizer

from mllm.errors import WeightsError
from mllm.packed_weights import PackedLinear, pack_weights
from mllm.serve.engine_int8 import Int8Linear, use_int8
from mllm.serve.engine_queue import FairQueue
from mllm.serve.engine_reply import Reply
from mllm.serve.engine_text import Spelling, Writer
from mllm.serve.generation import GenerationRequest, Piece
from mllm.serve.key_values import KeyValues
from mllm.serve.prefix_cache import SHORTEST, PrefixCache
from mllm.serve.row_attention import row_attention
from mllm.serve.sampling import Choice, Sampler


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tokenizer_folder())


def test_draws_follow_the_probabilities():
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    expected = (logits / 0.7).softmax(-1)
    sampler = Sampler(GenerationRequest(temperature=0.7, seed=1))
    counts = np.bincount([sampler.choose(logits).token for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, expected, atol=0.03)
    assert counts[3] == 0


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, {0}), (0.7, {0, 1}), (0.95, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_top_p_draws_from_the_smallest_set_that_holds_so_much(top_p, kept):
    logits = torch.tensor([0.6, 0.25, 0.12, 0.03]).log()
    sampler = Sampler(GenerationRequest(temperature=1.0, top_p=top_p, seed=2))
    assert {sampler.choose(logits).token for _ in range(600)} == kept


def test_choosing_leaves_the_logits_alone():
    logits = torch.tensor([0.0, 1.0, 2.0])
    choice = Sampler(GenerationRequest(logit_bias={0: 9.0}, top_logprobs=2)).choose(logits)
    assert choice.token == 0 and logits.tolist() == [0, 1, 2]
    assert choice.logprob == pytest.approx(float(logits.log_softmax(-1)[0])) and [t for t, _ in choice.top] == [2, 1]


def written(tokenizer, ids, *stops, ends=(2,)):
    """All pieces of some tokens, and how it ended."""
    writer = Writer(tokenizer, list(ends), stops, Spelling(tokenizer))
    pieces, finish = [], None
    for token in ids:
        piece, finish = writer.write(Choice(token))
        pieces.append(piece)
        if finish:
            break
    else:
        pieces.append(writer.flush())
    return [piece for piece in pieces if piece], finish


@pytest.mark.parametrize("text", ["C minor, 4/4", "naïve ♫ 𝄞 変ホ長調", "line\n\n  two", " é", "<b>&amp;</b>"])
def test_text_comes_whole_and_with_its_tokens(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    pieces, _ = written(tokenizer, ids)
    assert "".join(piece.text for piece in pieces) == text
    tokens = [token for piece in pieces for token in piece.logprobs]
    assert len(tokens) == len(ids) and b"".join(token.bytes for token in tokens).decode() == text


def test_half_a_character_at_the_end_is_left_out_but_its_token_is_told(tokenizer):
    ids = tokenizer("ab𝄞")["input_ids"]
    pieces, _ = written(tokenizer, ids[:-1])
    assert "".join(piece.text for piece in pieces) == "ab"
    assert sum(len(piece.logprobs) for piece in pieces) == len(ids) - 1


@pytest.mark.parametrize(
    ("stops", "expected", "finish"),
    [
        (("minor",), "in C ", "stop"),
        (("C m",), "in ", "stop"),
        (("or, 4", "nor"), "in C mi", "stop"),
        (("/4!",), "in C minor, 4/4", None),
        (("4/4/4", "r, 5"), "in C minor, 4/4", None),
        (("in",), "", "stop"),
    ],
)
def test_stop_strings_over_tokens(tokenizer, stops, expected, finish):
    for ids in (tokenizer("in C minor, 4/4")["input_ids"], [tokenizer(c)["input_ids"][0] for c in "in C minor, 4/4"]):
        pieces, ended = written(tokenizer, ids, *stops)
        assert "".join(piece.text for piece in pieces) == expected and ended == finish


def test_what_may_become_a_stop_string_is_held_back(tokenizer):
    writer = Writer(tokenizer, [2], ("\n\nUser:",), None)
    given = [writer.write(Choice(tokenizer(text)["input_ids"][0]))[0] for text in ("Yes", "\n", "\n", "No")]
    assert [piece.text if piece else None for piece in given] == ["Yes", None, None, "\n\nNo"]


def test_clients_take_turns_and_the_greedy_one_pays():
    queue = FairQueue(4)
    assert [queue.put("a", f"a{i}") for i in range(4)] == [None] * 4
    assert queue.put("a", "a4") == "a4"
    assert [queue.put("b", f"b{i}") for i in range(3)] == ["a3", "a2", "b2"] and len(queue) == 4
    assert [queue.take() for _ in range(5)] == ["a0", "b0", "a1", "b1", None]
    queue.put("c", "c0")
    queue.put("d", "d0")
    assert queue.remove(lambda item: item == "c0") == ["c0"] and [queue.take(), queue.take()] == ["d0", None]


def test_a_reply_reaches_a_reader_in_another_thread():
    reply = Reply(lambda: None)

    def write():
        for number in range(500):
            reply.give(Piece(str(number)))
        reply.end("stop", None)

    async def read():
        threading.Thread(target=write).start()
        return [piece.text async for piece in reply]

    assert asyncio.run(asyncio.wait_for(read(), 20)) == [str(number) for number in range(500)]
    assert reply.finish == "stop" and not reply.cancelled


def test_a_reader_whose_loop_is_gone_ends_the_generation():
    woken = []
    reply = Reply(lambda: woken.append(1))

    async def begin():
        pieces = aiter(reply)
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        return pieces, waiting

    loop = asyncio.new_event_loop()
    kept = loop.run_until_complete(begin())
    loop.close()
    reply.give(Piece("nobody reads this"))
    assert reply.cancelled and kept


def room_of(length, fill, layers=2):
    """Keys and values of one conversation, all of one number."""
    room = KeyValues(layers, 1, length)
    room.lengths = [0]
    for layer in range(layers):
        room.update(torch.full((1, 2, length, 4), fill), torch.full((1, 2, length, 4), -fill), layer)
    room.lengths = [length]
    return room


def test_rows_keep_their_keys_and_values_when_others_come_and_go():
    room = KeyValues(2, 1, 0)
    lengths = [5, 300, 7, 2]
    for fill, length in enumerate(lengths, 1):
        room.add(room_of(length, float(fill)), length)
    assert room.lengths == lengths
    room.remove(1)  # the last takes its place
    assert room.lengths == [5, 2, 7]
    for row, fill in enumerate((1.0, 4.0, 3.0)):
        for layer in room.copy(row).layers:
            assert layer.keys.shape == (1, 2, room.lengths[row], 4)
            assert bool((layer.keys == fill).all()) and bool((layer.values == -fill).all())
    assert room.copy(0).bytes == 2 * 2 * 2 * 5 * 4 * 4


@pytest.mark.parametrize("window", [None, 4])
def test_a_rows_attention_is_the_same_to_the_bit_whatever_stands_beside_it(window):
    torch.manual_seed(0)
    layer = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    lengths = [5, 300, 1]
    query = torch.randn(3, 6, 1, 16, dtype=torch.bfloat16)
    key, value = torch.randn(2, 3, 2, 300, 16, dtype=torch.bfloat16)
    together, _ = row_attention(layer, query, key, value, None, row_lengths=lengths, sliding_window=window)
    for row, length in enumerate(lengths):
        seen = slice(max(0, length - window) if window else 0, length)
        own = [tensor[row : row + 1, :, seen] for tensor in (key, value)]
        alone, _ = row_attention(layer, query[row : row + 1], *own, None)
        assert torch.equal(together[row : row + 1], alone)


def test_beginnings_are_found_replaced_and_forgotten():
    one = room_of(40, 1.0)
    cache = PrefixCache(3 * one.bytes, audio_token=9)
    keys = [cache.keys(torch.arange(100, 140)[None] + 1000 * i, (), "me") for i in range(5)]
    cache.keep(keys[0], one)
    assert cache.use(np.append(keys[0], 7))[0] == 40
    assert cache.use(keys[0])[0] == 39  # the last token is read again: what follows comes from it
    assert cache.use(np.append(keys[0][: SHORTEST + 1], [1, 2]))[0] == SHORTEST
    assert cache.use(np.append(keys[0][:SHORTEST], [1, 2])) == (0, None)
    assert cache.use(cache.keys(torch.arange(100, 140)[None], (), "another")) == (0, None)
    longer = np.append(keys[0], [7, 8])
    cache.keep(longer, room_of(42, 2.0))
    assert cache.bytes == room_of(42, 2.0).bytes  # the shorter one is inside of it
    cache.keep(keys[0], one)
    assert cache.bytes == room_of(42, 2.0).bytes
    for other in keys[1:4]:
        cache.keep(other, room_of(40, 3.0))
    assert cache.bytes <= cache.limit and cache.use(np.append(longer, 1)) == (0, None)
    assert cache.use(np.append(keys[3], 1))[0] == 40 and (cache.hits, cache.misses) == (4, 3)
    cache.clear()
    assert cache.bytes == 0 and cache.use(np.append(keys[3], 1)) == (0, None)


def test_int8_is_near_and_the_same_for_any_number_of_rows():
    torch.manual_seed(0)
    linear = torch.nn.Linear(128, 64, bias=False, dtype=torch.bfloat16)
    small = Int8Linear(linear, rows=8)
    hidden = torch.randn(12, 1, 128, dtype=torch.bfloat16)
    with torch.inference_mode():
        exact = linear(hidden)
        assert torch.equal(small(hidden), exact)  # too many rows for it
        rounded = small(hidden[:8])
        assert torch.equal(rounded, torch.cat([small(row[None]) for row in hidden[:8]]))
    assert not torch.equal(rounded, exact[:8])
    assert float((rounded - exact[:8]).float().norm() / exact[:8].float().norm()) < 0.02


def test_int8_is_refused_where_it_does_not_go(tmp_path):
    model, _ = tiny_model(tmp_path)
    with pytest.raises(WeightsError, match="bfloat16"):
        use_int8(model)
    model.to(torch.bfloat16)
    use_int8(model)
    layers = [module for module in model.modules() if isinstance(module, Int8Linear)]
    use_int8(model)
    assert len(layers) == 15 == len([module for module in model.modules() if isinstance(module, Int8Linear)])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_room_is_freed_with_its_last_name():
    room = KeyValues(2)
    gone = weakref.ref(room)
    gc.disable()
    try:
        del room
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU multiplies no bfloat16")
def test_int8_goes_instead_of_sorted_weights(tmp_path):
    model, _ = tiny_model(tmp_path)
    assert pack_weights(model.bfloat16())
    use_int8(model)
    assert isinstance(model.lm_head, Int8Linear) and type(model.lm_head.linear) is torch.nn.Linear
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
