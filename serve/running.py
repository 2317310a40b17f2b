"""Answers on their way: several generations read as one stream, and ended when nobody reads any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request

from mllm.serve.generation import (
    Engine,
    FinishReason,
    Generation,
    GenerationRequest,
    Piece,
    StoppingError,
    TokenLogprob,
    Usage,
)

T = TypeVar("T")


class ReaderLeft(Exception):
    """Nobody waits for this answer any more."""


@dataclass(frozen=True)
class Ended:
    """The end of one generation."""

    finish: FinishReason
    usage: Usage


@dataclass
class Collected:
    """A whole answer."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason = "stop"
    usage: Usage = field(default_factory=lambda: Usage(0, 0))


class Running:
    """Generations that have been submitted. `close` ends them all; so does an error of one.

    Raises BusyError, StoppingError, PromptError from the engine; then none of them is left running.
    """

    def __init__(self, engine: Engine, requests: Sequence[GenerationRequest]):
        self._generations: list[Generation] = []
        self._events: asyncio.Queue[tuple[int, Piece | Ended | BaseException]] = asyncio.Queue()
        try:
            for request in requests:
                self._generations.append(engine.submit(request))
        except BaseException:
            self.close()
            raise
        self._readers = [asyncio.create_task(self._read(i, one)) for i, one in enumerate(self._generations)]

    def close(self) -> None:
        """Ends what still runs."""
        for generation in self._generations:
            generation.cancel()
        for reader in getattr(self, "_readers", ()):
            reader.cancel()

    async def _read(self, number: int, generation: Generation) -> None:
        try:
            async for piece in generation:
                self._events.put_nowait((number, piece))
            if generation.finish == "cancelled" or generation.finish is None or generation.usage is None:
                raise StoppingError("the answer was broken off: the server is going down, ask again in a while")
            self._events.put_nowait((number, Ended(generation.finish, generation.usage)))
        except Exception as error:  # carried over to who reads the events
            self._events.put_nowait((number, error))

    async def events(self) -> AsyncIterator[tuple[int, Piece | Ended]]:
        """Pieces and ends as they come, each with the number of its request."""
        left = len(self._generations)
        try:
            while left:
                number, event = await self._events.get()
                if isinstance(event, BaseException):
                    raise event
                left -= isinstance(event, Ended)
                yield number, event
        finally:
            self.close()

    async def collect(self) -> list[Collected]:
        """All of them, whole."""
        whole = [Collected() for _ in self._generations]
        async for number, event in self.events():
            if isinstance(event, Ended):
                whole[number].finish, whole[number].usage = event.finish, event.usage
            else:
                whole[number].text += event.text
                whole[number].logprobs += event.logprobs
        return whole


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, cancelled when the client leaves: then ReaderLeft. The body must have been read."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ReaderLeft
    finally:
        for one in (task, leaving):
            one.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
