"""Many answers at once from one real model: each is what it would be alone, whatever happens to the others."""

import asyncio
import json
from dataclasses import replace

import pytest
import torch
from engine_asking import CLIP, TOKENS, answer, answers, asked, read
from tiny import SIZES, TEXT_CONFIGS, clicks, question, tiny_model
from transformers import LlamaConfig

from mllm.chat import MusicLM
from mllm.hearing import Memory
from mllm.serve.engine import MusicEngine
from mllm.serve.generation import GenerationRequest

MIXED = [
    question(CLIP),
    question(clicks(60, 3.0)),
    question(clicks(140, 25.0), text="And which instruments play?"),
    question(clicks(70), clicks(90)),
    question(text="Hello."),
    question(clicks(120, 70.0), text="How long is it? " * 30),
]


@pytest.mark.parametrize(("name", "attention"), [*[(name, "sdpa") for name in TEXT_CONFIGS], ("gemma3", "eager")])
def test_an_answer_in_a_batch_is_the_answer_alone(name, attention, tmp_path):
    music = MusicLM(*tiny_model(tmp_path, name))
    music.model.get_decoder().config._attn_implementation = attention
    mixed = [*MIXED, question(text="word " * 600)]  # longer than gemma's window of 512, and than a chunk
    alone = [music.chat(messages, max_new_tokens=TOKENS) for messages in mixed]
    assert len(set(alone)) > 4
    music.memory = Memory()
    with MusicEngine(music, slots=4) as engine:
        requests = [
            GenerationRequest(messages=messages, max_tokens=TOKENS, client=str(i % 3))
            for i, messages in enumerate(mixed)
        ]
        together = answers(engine, *requests)
    assert [reply.text.strip() for reply in together] == list(alone)
    assert [len(reply.tokens) for reply in together] == [text.answer_tokens for text in alone]
    for reply, text in zip(together, alone, strict=True):
        assert (reply.usage.prompt_tokens, reply.usage.audio_tokens) == (text.prompt_tokens, text.audio_tokens)
        assert reply.usage.completion_tokens == text.answer_tokens
        assert reply.finish == ("stop" if text.complete else "length")


def test_company_changes_no_bit_of_what_is_written(tmp_path, monkeypatch, same_bits):
    """In bfloat16, with more inputs to a product than one row is summed like several of."""
    if not same_bits:
        pytest.skip("measured on CPUs with avx512_bf16, without AMX")
    monkeypatch.setitem(TEXT_CONFIGS, "llama", LlamaConfig(**SIZES | {"intermediate_size": 8192}))
    model, processor = tiny_model(tmp_path)
    requests = [asked(f"{i}: say something.", top_logprobs=0, max_tokens=40) for i in range(6)]
    with MusicEngine(MusicLM(model.bfloat16(), processor), prefix_bytes=0) as engine:
        alone = [answer(engine, request) for request in requests]
        together = answers(engine, *requests)
    for one, other in zip(alone, together, strict=True):
        told, again = ([token.logprob for piece in reply.pieces for token in piece.logprobs] for reply in (one, other))
        assert one.tokens == other.tokens and told == again and len(told) > 30
    assert len({reply.text for reply in alone}) > 4


def test_a_follow_up_needs_neither_tower_nor_the_prompt_again(music, engine):
    first = question(clicks(77, 20.0))
    said = answer(engine, GenerationRequest(messages=first, max_tokens=TOKENS))
    assert said.usage.cached_tokens == 0
    turns = [*first, {"role": "assistant", "content": said.text}, *question(text="And the key?")]
    music.memory = Memory()  # the tower's output is forgotten: keys and values are what is left
    follow_up = answer(engine, GenerationRequest(messages=turns, max_tokens=TOKENS))
    assert music.memory.seconds == 0
    assert said.usage.prompt_tokens <= follow_up.usage.cached_tokens < follow_up.usage.prompt_tokens
    assert follow_up.text.strip() == music.chat(turns, max_new_tokens=TOKENS)
    changed = question(clicks(78, 20.0))  # another sound in the same words
    assert answer(engine, GenerationRequest(messages=changed, max_tokens=TOKENS)).usage.cached_tokens == 0


@pytest.mark.parametrize("shared", [False, True])
def test_what_one_client_asked_is_no_other_clients_beginning_unless_allowed(music, shared):
    with MusicEngine(music, slots=2, share_prefixes=shared) as engine:
        request = asked("Which key is it in?", CLIP)
        counts = [answer(engine, replace(request, client=client)).usage.cached_tokens for client in ("a", "a", "b")]
    assert counts[0] == 0 and counts[1] > 58 and (counts[2] > 58) == shared


def test_beginnings_take_no_more_memory_than_allowed(music):
    with MusicEngine(music, prefix_bytes=200_000) as engine:
        for seed in range(8):
            answer(engine, asked(f"{seed}: " + "so long " * 20, max_tokens=2))
            assert engine.statistics()["prefix_bytes"] <= 200_000
        assert answer(engine, asked("7: " + "so long " * 20, max_tokens=2)).usage.cached_tokens > 40
        assert answer(engine, asked("0: " + "so long " * 20, max_tokens=2)).usage.cached_tokens == 0


def test_equal_seeds_draw_equal_tokens_whatever_else_runs(engine):
    request = asked("Say something.", temperature=1.0, seed=7)
    alone = answer(engine, request).tokens
    others = [asked("Say something.", temperature=0.8, seed=seed) for seed in range(5)]
    together = [reply.tokens for reply in answers(engine, *others[:3], request, *others[3:])]
    assert together[3] == alone and len({tuple(tokens) for tokens in together}) == 6
    assert answer(engine, replace(request, seed=None)).tokens != answer(engine, replace(request, seed=None)).tokens


def test_top_p_keeps_to_the_likeliest(engine):
    likeliest = answer(engine, asked("Say something.")).tokens
    assert answer(engine, asked("Say something.", temperature=1.0, top_p=1e-6)).tokens == likeliest
    assert answer(engine, asked("Say something.", temperature=1.0, top_p=0.999, seed=1)).tokens != likeliest


def test_running_answers_go_on_while_a_long_prompt_is_read(music, engine):
    long = GenerationRequest(messages=question(text="word " * 3000), max_tokens=4)

    async def both():
        running = engine.submit(asked("Go on.", max_tokens=400, logit_bias={2: -100.0}))
        pieces = aiter(running)
        await anext(pieces)
        begun = len(running.tokens)
        reply = engine.submit(long)
        await anext(aiter(reply))
        between = len(running.tokens) - begun
        running.cancel()
        return between, await read(reply)

    between, _ = asyncio.run(both())
    assert between >= 8  # 3,000 tokens are a dozen chunks
    assert answer(engine, long).text.strip() == music.chat(long.messages, max_new_tokens=4)


def test_an_answer_ends_before_a_stop_string(music, engine):
    whole = answer(engine, asked("Say something.", CLIP)).text
    for start, length in ((6, 1), (9, 7), (1, 20)):  # inside of a token, and over several
        stop = whole[start : start + length]
        reply = answer(engine, asked("Say something.", CLIP, stop=("nowhere in it", stop)))
        assert reply.text == whole[: whole.index(stop)] and reply.finish == "stop"
    assert answer(engine, asked("Say something.", CLIP, stop=(whole[-4:] + "!",))).text == whole


def test_pieces_are_whole_characters(engine):
    tune = "♫ naïve 🎶 Fuge in f-Moll, 変ホ長調 𝄞"
    reply = answer(engine, asked(grammar=f'root ::= "{tune}"', max_tokens=100, top_logprobs=0))
    assert reply.text == tune and reply.finish == "stop" and len(reply.pieces) > 5
    tokens = [token for piece in reply.pieces for token in piece.logprobs]
    assert b"".join(token.bytes for token in tokens).decode() == tune
    assert any("\ufffd" in token.token for token in tokens)  # tokens are smaller than characters here
    for piece in reply.pieces:
        assert "\ufffd" not in piece.text
        assert b"".join(token.bytes for token in piece.logprobs).decode() == piece.text
    cut = answer(engine, asked(grammar=f'root ::= "{tune}"', max_tokens=2))
    assert tune.startswith(cut.text) and cut.finish == "length"


def test_log_probabilities_are_the_models_own(music, engine):
    request = asked("Say something.", CLIP, top_logprobs=3, temperature=0.9, seed=3, logit_bias={5: 4.0})
    reply = answer(engine, request)
    named = [token for piece in reply.pieces for token in piece.logprobs]
    written = [token for token in reply.tokens if token not in music.stops]
    assert len(named) == len(written) == TOKENS
    inputs = music.processor.encode(list(request.messages))
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([written])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        logits = music.model(**inputs).logits[0, -len(written) - 1 : -1].float()
    logits[:, music.processor.audio_token_id] = -torch.inf
    natural = logits.log_softmax(-1)
    for row, token, told in zip(natural, written, named, strict=True):
        assert told.logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert [value for *_, value in told.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        assert told.bytes.decode(errors="replace") == told.token == music.processor.tokenizer.decode([token])


def test_a_bias_moves_the_choice(engine):
    assert answer(engine, asked(logit_bias={77: 100.0})).tokens == [77] * TOKENS
    plain = answer(engine, asked())
    assert plain.tokens[0] not in answer(engine, asked(logit_bias={plain.tokens[0]: -100.0})).tokens


def test_each_answer_keeps_to_its_own_grammar(music, engine):
    schema = {
        "type": "object",
        "properties": {"key": {"enum": ["C", "F#"]}, "loud": {"type": "boolean"}},
        "required": ["key", "loud"],
    }
    abc = 'root ::= [A-G] "|" [a-g]'
    replies = answers(
        engine,
        asked(grammar=schema, max_tokens=60),
        asked(grammar=abc, temperature=1.0, seed=2),
        asked(),
        asked(grammar='root ::= "4/4" | "6/8"', temperature=2.0, seed=1),
    )
    told = json.loads(replies[0].text)
    assert told["key"] in ("C", "F#") and isinstance(told["loud"], bool) and "\n" not in replies[0].text
    assert replies[1].text[1] == "|" and len(replies[1].text) == 3
    assert replies[3].text in ("4/4", "6/8") and {reply.finish for reply in (*replies[:2], replies[3])} == {"stop"}
    assert replies[2].text == answer(engine, asked()).text
    greedy = answer(engine, asked(grammar=abc)).text
    assert greedy == music.chat(question(), max_new_tokens=9, grammar=abc)


def test_an_answer_goes_on_from_words_that_were_given(music, engine):
    reply = answer(engine, asked("Which key?", CLIP, begin="The key is"))
    assert reply.text.rstrip() == music.chat(
        question(CLIP, text="Which key?"), max_new_tokens=TOKENS, begin="The key is"
    )


def test_a_bare_prompt_is_gone_on_from(music, engine):
    reply = answer(engine, GenerationRequest(prompt="X:1\nT:", max_tokens=4))
    ids = music.processor.tokenizer("X:1\nT:", return_tensors="pt")
    alone = music.model.generate(**ids, max_new_tokens=4)[0, ids["input_ids"].shape[1] :]
    assert reply.tokens == alone.tolist() and reply.usage.prompt_tokens == ids["input_ids"].shape[1]
