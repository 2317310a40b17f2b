"""An engine that generates nothing itself: it forwards to another server of OpenAI's protocol, such as vLLM.

So the whole of our API (scores, verification, facts, transcription, refusals) stands before a server for many machines.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

import openai

from mllm.errors import MllmError, PromptError
from mllm.serve.addresses import FAILURES, api_address, is_local
from mllm.serve.engine_queue import FairQueue
from mllm.serve.engine_reply import Reply
from mllm.serve.generation import (
    BusyError,
    DeadlineError,
    EngineError,
    FinishReason,
    GenerationRequest,
    StoppingError,
    UpstreamError,
    Usage,
)
from mllm.serve.request_limits import check_request
from mllm.serve.upstream_wire import ChunkReader, body_of, explained

CONNECT_SECONDS = 10.0
log = logging.getLogger(__name__)


def served_model(url: str, key: str = "") -> str:
    """The first model that a server lists; PromptError where it cannot be asked or lists none."""
    options, here = _options(url, key), is_local(url)
    with openai.OpenAI(**options, http_client=openai.DefaultHttpxClient(trust_env=not here)) as client:
        try:
            listed = client.with_options(timeout=CONNECT_SECONDS).models.list().data
        except FAILURES as error:
            raise PromptError(f"{url} does not say what it serves ({explained(error)}); or name the model") from error
    if not listed:
        raise PromptError(f"{url} lists no model")
    return listed[0].id


def _options(url: str, key: str) -> dict[str, Any]:
    return {
        "base_url": api_address(url), "api_key": key or "none",
        "max_retries": 0,  # who asks is told at once, and comes again when it wants
        "timeout": openai.Timeout(None, connect=CONNECT_SECONDS),  # requests have deadlines of their own
        # A connection for each: one that was kept may be closed by the server at the very moment it is used again.
        "default_headers": {"Connection": "close"},
    }  # fmt: skip


class _Work:
    """One request on its way."""

    def __init__(self, request: GenerationRequest):
        self.request = request
        self.reply = Reply(self.cancel)
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.begun: float | None = None  # when it was forwarded

    def cancel(self) -> None:
        """From any thread."""
        if self.task is not None:
            with suppress(RuntimeError):  # the loop is closed, and the task with it
                self.task.get_loop().call_soon_threadsafe(self.task.cancel)


class UpstreamEngine:
    """An `Engine` before another server. It is used from one event loop.

    Args:
        url: of the other server's API, such as http://127.0.0.1:8001/v1.
        model: its name there.
        key: opens it; sent to `url` only, redirects are not followed.
        slots: answers that are asked for at one time; the other server has limits of its own.
        waiting: requests that may wait for a slot; more are refused with `BusyError`.
        context: tokens that the model holds, where that is known.
        sampling_rate: Hz of waveforms among messages; None refuses waveforms.

    Raises PromptError for what is no address.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        slots: int = 64,
        waiting: int = 256,
        context: int | None = None,
        sampling_rate: int | None = None,
    ):
        self.model_name, self.context = model, context
        self._slots, self._sampling_rate = slots, sampling_rate
        http = openai.DefaultAsyncHttpxClient(trust_env=not is_local(url), follow_redirects=False)
        self._client = openai.AsyncOpenAI(**_options(url, key), http_client=http)
        self._queue: FairQueue[_Work] = FairQueue(waiting)
        self._here: set[_Work] = set()
        self._running = 0
        self._stopping = False
        self._seconds = 1.0  # that an answer took of late
        self._counts: dict[str, float] = dict.fromkeys(
            ("requests", "finished", "failed", "refused", "cancelled", "upstream_busy", "upstream_failed",
             "prompt_tokens", "completion_tokens", "cached_tokens", "audio_tokens"), 0.0
        )  # fmt: skip

    def submit(self, request: GenerationRequest) -> Reply:
        """Forward a request in its turn; returns at once.

        Raises:
            PromptError: an option is out of its range.
            BusyError: too many wait already. A request that waits may also be failed with it later, to make room for a
                client that asks less.
            StoppingError: the engine goes down.
        """
        if self._stopping:
            raise StoppingError("the server is going down and takes nothing new")
        check_request(request)
        work = _Work(request)
        refused = self._queue.put(request.client, work)
        if refused:
            self._counts["refused"] += 1
            seconds = min(max(1.0, len(self._queue) / 2 / self._slots * self._seconds), 120.0)
            error = BusyError(f"{self._queue.limit} requests wait already: try again in {seconds:.0f} s", seconds)
            if refused is work:
                raise error
            if not refused.turn.done():
                refused.turn.set_exception(error)
        self._counts["requests"] += 1
        self._here.add(work)
        work.task = asyncio.get_running_loop().create_task(self._answer(work))
        self._admit()
        return work.reply

    def statistics(self) -> dict[str, float]:
        """Gauges (running, waiting) and counters since the start, for /metrics."""
        return {**self._counts, "running": float(self._running), "waiting": float(len(self._queue))}

    async def drain(self, seconds: float) -> bool:
        """Take nothing new and wait, at most so long, for what is here; whether all of it was answered."""
        self._stopping = True
        until = time.monotonic() + seconds
        while self._here and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return not self._here

    def close(self) -> None:
        """End what runs; from any thread, any number of times."""
        self._stopping = True
        for work in list(self._here):
            work.cancel()

    def _admit(self) -> None:
        while self._running < self._slots and (work := self._queue.take()):
            if not work.turn.done():  # else it is just leaving
                self._running += 1
                work.begun = time.monotonic()
                work.turn.set_result(None)

    async def _answer(self, work: _Work) -> None:
        reply = work.reply
        try:
            async with asyncio.timeout(work.request.seconds):
                await work.turn
                finish, usage = await self._forward(work)
            self._count(usage)
            reply.end(finish, usage)
        except asyncio.CancelledError:
            self._counts["cancelled"] += 1
            reply.end("cancelled", None)
        except TimeoutError:
            self._counts["failed"] += 1
            reply.fail(DeadlineError(f"no answer within the {work.request.seconds:g} s that were allowed"))
        except Exception as error:
            self._counts["failed"] += 1
            reply.fail(self._explained(error, refused=work.begun is None))
        finally:
            self._leave(work)

    def _count(self, usage: Usage) -> None:
        self._counts["finished"] += 1
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "audio_tokens"):
            self._counts[name] += getattr(usage, name) or 0

    def _explained(self, error: Exception, refused: bool) -> MllmError:
        """What a reader is told; the log has what kind of error it was, and never what was asked."""
        told = explained(error)
        if isinstance(told, BusyError) and not refused:
            self._counts["upstream_busy"] += 1
        elif isinstance(told, EngineError):
            self._counts["upstream_failed"] += 1
            log.warning("upstream: %s (%s)", told, type(error).__name__)
        return told

    def _leave(self, work: _Work) -> None:
        self._here.discard(work)
        if work.begun is None:
            work.turn.cancel()
            self._queue.remove(lambda one: one is work)
        else:
            self._running -= 1
            self._seconds += 0.1 * (time.monotonic() - work.begun - self._seconds)
        self._admit()

    async def _forward(self, work: _Work) -> tuple[FinishReason, Usage]:
        request = work.request
        body = await asyncio.to_thread(body_of, request, self.model_name, self._sampling_rate)
        completions = self._client.chat.completions if request.prompt is None else self._client.completions
        reader = ChunkReader()
        # Left early, the stream closes its connection, by which the other server knows to write no further.
        async with await completions.create(**body) as stream:
            async for chunk in stream:
                work.reply.give(reader.read(chunk))
        if reader.finish is None:
            raise UpstreamError("the server behind this one broke the answer off: ask again")
        return reader.finish, reader.usage
