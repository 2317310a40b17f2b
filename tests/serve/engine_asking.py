"""Requests to an engine in this process, and their answers."""

import asyncio
import time

from tiny import clicks, question

from mllm.serve.generation import GenerationRequest

TOKENS = 16
CLIP = clicks(100)


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
