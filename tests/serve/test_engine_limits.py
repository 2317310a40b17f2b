"""Readers that leave, deadlines, queues, bad requests, faults, the end: nothing of it touches the others' answers."""

import asyncio

import numpy as np
import pytest
import torch
from bad_input import BAD_AUDIO
from engine_asking import CLIP, TOKENS, answer, answers, asked, read, until
from tiny import question

from mllm.errors import AudioError, PromptError
from mllm.hearing import Heard, Memory
from mllm.serve.engine import MusicEngine
from mllm.serve.generation import BusyError, DeadlineError, EngineError, GenerationRequest, StoppingError


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
