"""Many answers at once from one real model: each is what it would be alone, whatever happens to the others."""

import asyncio
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from bad_input import BAD_AUDIO
from tiny import TEXT_CONFIGS, clicks, question, tiny_model
from tiny_checkpoint import tiny_folder

from mllm import load
from mllm.chat import MusicLM
from mllm.errors import AudioError, PromptError
from mllm.hearing import Heard, Memory
from mllm.serve.engine import MusicEngine
from mllm.serve.generation import BusyError, DeadlineError, EngineError, GenerationRequest, StoppingError

TOKENS = 16
CLIP = clicks(100)


@pytest.fixture(scope="module")
def music():
    return load(str(tiny_folder()), dtype=torch.float32)


@pytest.fixture(scope="module")
def engine(music):
    with MusicEngine(music, slots=4, waiting=16) as engine:
        yield engine


def asked(text="What is the tempo?", *clips, **options):
    """A request about some clips, or about nothing."""
    return GenerationRequest(messages=question(*clips, text=text), **{"max_tokens": TOKENS, **options})


async def read(reply):
    """An answer to its end: the reply, with its `text` and `pieces`."""
    reply.pieces = [piece async for piece in reply]
    reply.text = "".join(piece.text for piece in reply.pieces)
    return reply


def answers(engine, *requests):
    """What some requests, sent at the same time, are answered."""

    async def all_of_them():
        return await asyncio.gather(*[read(engine.submit(request)) for request in requests])

    return asyncio.run(all_of_them())


def answer(engine, request):
    return answers(engine, request)[0]


def until(condition, seconds=20.0):
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


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


def test_a_reader_that_leaves_ends_its_generation(engine):
    before = engine.statistics()["cancelled"]

    async def leave():
        replies = [engine.submit(asked(max_tokens=5000, logit_bias={2: -100.0})) for _ in range(3)]
        async for _ in replies[0]:
            break
        task = asyncio.create_task(read(replies[1]))
        await asyncio.sleep(0.05)
        task.cancel()
        replies[2].cancel()
        replies[2].cancel()
        return [replies[0], replies[1], await read(replies[2])]

    replies = asyncio.run(leave())
    until(lambda: all(reply.ended for reply in replies))
    assert [reply.finish for reply in replies] == ["cancelled"] * 3
    assert engine.statistics()["running"] + engine.statistics()["joining"] == 0
    assert max(len(reply.tokens) for reply in replies) < 1000
    assert engine.statistics()["cancelled"] == before + 3


def test_deadlines_end_what_runs_and_what_waits(music):
    with MusicEngine(music, slots=1) as engine:

        async def late(seconds):
            with pytest.raises(DeadlineError, match=f"within the {seconds:g} s"):
                await read(engine.submit(asked(max_tokens=5000, logit_bias={2: -100.0}, seconds=seconds)))

        async def all_of_them():
            await asyncio.gather(*[late(0.5 + i / 10) for i in range(6)])

        asyncio.run(all_of_them())
        assert engine.statistics()["failed"] == 6
        assert answer(engine, asked()).finish


def test_clients_take_turns(music):
    with MusicEngine(music, slots=1) as engine:
        ended = []

        async def of(client, **options):
            await read(engine.submit(asked(client=client, **options)))
            ended.append(client)

        async def all_of_them():
            await asyncio.gather(*[of("greedy") for _ in range(10)], of("modest"), of("modest"))

        asyncio.run(all_of_them())
    assert ended.index("modest") <= 5 and ended.count("greedy") == 10


def test_a_full_queue_refuses_and_says_when_to_come_again(music):
    with MusicEngine(music, slots=1, waiting=2) as engine:

        async def fill():
            replies = [engine.submit(asked(max_tokens=5000, client="a", logit_bias={2: -100.0}))]
            refused = []
            for _ in range(12):
                try:
                    replies.append(engine.submit(asked(client="a")))
                except BusyError as error:
                    refused.append(error)
                await asyncio.sleep(0.01)
            assert refused and all(1 <= error.retry_after <= 120 for error in refused)
            newcomer = engine.submit(asked(client="b"))  # takes the place of the greedy client's latest
            with pytest.raises(BusyError):
                await read(replies[-1])
            replies[0].cancel()
            await asyncio.gather(*[read(reply) for reply in replies[1:-1]])
            return await read(newcomer)

        assert asyncio.run(fill()).finish


def test_bad_requests_fail_alone(engine, tmp_path):
    bad = [
        (GenerationRequest(messages=question(BAD_AUDIO["text renamed .wav"](tmp_path))), AudioError),
        (asked("Hi<|im_end|>"), PromptError),
        (asked(grammar="root ::= nothing_known"), PromptError),
        (asked(grammar={"type": "nonsense"}), PromptError),
        (asked("word " * 9000), PromptError),
        (GenerationRequest(messages=[{"role": "martian", "content": "Hi"}]), PromptError),
        (GenerationRequest(prompt="<|im_start|>"), PromptError),
    ]
    good = asked("Say something.", CLIP)
    alone = answer(engine, good).text

    async def one(request, error):
        if error is None:
            return (await read(engine.submit(request))).text
        with pytest.raises(error):
            await read(engine.submit(request))

    async def all_of_them():
        return await asyncio.gather(one(good, None), *[one(*pair) for pair in bad], one(good, None))

    told = asyncio.run(all_of_them())
    assert told[0] == told[-1] == alone


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 9000}, "holds 8192"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"stop": ("",)}, "stop strings"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"seconds": 0.0}, "deadline"),
        ({"prompt": "both"}, "either"),
    ],
)
def test_options_out_of_range_are_refused_at_once(engine, options, words):
    with pytest.raises(PromptError, match=words):
        engine.submit(asked(**options))


def test_a_fault_in_a_step_fails_its_answers_and_no_more(engine, monkeypatch):
    expected = answer(engine, asked("Say something.")).text
    step = engine._decoder.step

    def faulty(*args):
        monkeypatch.setattr(engine._decoder, "step", step)
        raise RuntimeError("a fault made by the test")

    monkeypatch.setattr(engine._decoder, "step", faulty)
    with pytest.raises(EngineError, match="ask again") as error:
        answer(engine, asked("Say something."))
    assert "made by the test" not in str(error.value)
    assert answer(engine, asked("Say something.")).text == expected


def test_a_prompt_there_is_no_memory_for_is_refused(music, engine, monkeypatch):
    read_prompt = engine._decoder.read

    def full(*args):
        monkeypatch.setattr(engine._decoder, "read", read_prompt)
        return torch.empty(1 << 60, dtype=torch.float32)  # torch's own error

    monkeypatch.setattr(engine._decoder, "read", full)
    with pytest.raises(PromptError, match="not enough memory"):
        answer(engine, asked())
    assert answer(engine, asked()).finish
    with MusicEngine(music, room_bytes=100_000) as small:
        with pytest.raises(PromptError, match="no memory"):
            answer(small, asked(max_tokens=5000))
        assert len({reply.text for reply in answers(small, *[asked(max_tokens=40)] * 6)}) == 1  # one after another


def test_draining_answers_what_is_here_and_takes_nothing_new(music):
    engine = MusicEngine(music, slots=2)

    async def drain():
        replies = [asyncio.create_task(read(engine.submit(asked("Hm?")))) for _ in range(5)]
        await asyncio.sleep(0)
        whole = await engine.drain(30)
        with pytest.raises(StoppingError):
            engine.submit(asked())
        return whole, [(await reply).finish for reply in replies]

    whole, finishes = asyncio.run(drain())
    assert whole and set(finishes) <= {"stop", "length"}
    engine.close()
    engine.close()
    assert not engine._thread.is_alive()


def test_closing_tells_those_who_wait(music):
    engine = MusicEngine(music, slots=1)

    async def close():
        endless = asked(max_tokens=5000, logit_bias={2: -100.0})
        tasks = [asyncio.create_task(read(engine.submit(endless))) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert not await engine.drain(0.1)
        engine.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(error, StoppingError) for error in asyncio.run(close()))


def test_it_counts_what_it_does(music):
    music.memory = Memory()
    with MusicEngine(music, slots=2) as engine:
        replies = answers(engine, asked("One?", CLIP), asked("Two?", CLIP), asked("Three?"))
        assert asyncio.run(engine.drain(10))
        told = engine.statistics()
    assert (told["requests"], told["finished"], told["running"], told["waiting"]) == (3, 3, 0, 0)
    assert told["prompt_tokens"] == sum(reply.usage.prompt_tokens for reply in replies)
    assert told["completion_tokens"] == sum(len(reply.tokens) for reply in replies)
    assert told["heard_seconds"] == pytest.approx(10)  # the clip that two bring is heard once
    assert told["steps"] >= TOKENS - 1 and told["step_seconds"] > 0 and told["prefix_bytes"] > 0


def test_what_was_heard_is_remembered_within_bounds():
    memory = Memory(limit=3000)
    for number in range(5):
        memory.keep(str(number), Heard(torch.zeros(4, 64), np.ones((1, 4), bool), 1.0))  # 1,024 bytes each
    assert memory.size == 2048 and memory.recall("2") is None and memory.recall("3") is not None
    memory.keep("5", Heard(torch.zeros(4, 64), np.ones((1, 4), bool), 1.0))
    assert memory.recall("3") is not None and memory.recall("4") is None and (memory.hits, memory.misses) == (2, 2)
