"""Clients of one engine do not keep each other waiting for long."""

import asyncio

from live import tiny_music
from tiny import question

from mllm.serve.engine import MusicEngine
from mllm.serve.engine_queue import FairQueue
from mllm.serve.generation import GenerationRequest


def test_a_client_that_holds_every_slot_does_not_keep_another_out():
    music = tiny_music()
    endless = dict.fromkeys(music.stops, -1000.0)
    ended: list[str] = []

    async def ask(engine, client, tokens):
        messages = question(text="Tell me everything.")
        async for _ in engine.submit(
            GenerationRequest(messages=messages, max_tokens=tokens, client=client, logit_bias=endless)
        ):
            pass
        ended.append(client)

    async def all_of_them(engine):
        greedy = [asyncio.create_task(ask(engine, "greedy", 150)) for _ in range(6)]
        while engine.statistics()["running"] < 2:
            await asyncio.sleep(0.01)
        await asyncio.gather(ask(engine, "modest", 3), *greedy)

    with MusicEngine(music, slots=2, prefix_bytes=0) as engine:
        asyncio.run(all_of_them(engine))
    assert ended == ["modest", *["greedy"] * 6]


def test_the_queue_can_leave_clients_out():
    queue = FairQueue[int](9)
    for client, item in (("a", 1), ("a", 2), ("b", 3), ("c", 4)):
        queue.put(client, item)
    assert queue.take(but={"a", "b"}) == 4
    assert queue.take(but={"a", "c"}) == 3 and queue.take(but={"a"}) is None
    assert [queue.take(), queue.take(), queue.take()] == [1, 2, None]
