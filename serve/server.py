"""The process around the API: uvicorn with deadlines for slow clients, and an end that lets running answers finish."""

from __future__ import annotations

import asyncio
import logging
import signal
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus
from uvicorn.protocols.http.h11_impl import H11Protocol

from mllm.chat import MusicLM
from mllm.serve.api import create_app
from mllm.serve.model_card import describe
from mllm.serve.process_memory import share_arenas
from mllm.serve.serving import Serving
from mllm.serve.settings import ServeSettings

log = logging.getLogger(__name__)
KEEP_ALIVE = 15  # seconds that a connection may wait for its next request
FLUSH = 5  # seconds for the last bytes of answers when all of them are written
MOST_HEAD = 64 << 10  # bytes of a request's head


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose next request's head does not come in time (slow-loris)."""

    head_seconds = 10.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._between():
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _between(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self._between() and not self.transport.is_closing():
            self.transport.abort()


class ApiServer(uvicorn.Server):
    """uvicorn whose first SIGTERM or Ctrl-C lets running answers finish, and whose second does not."""

    def __init__(self, config: uvicorn.Config, serving: Serving):
        super().__init__(config)
        self._serving = serving
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        log.info("ready: %s", self._serving.model)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not recorded as uvicorn does, which would raise the signal again and end with its number in place of 0.
        if self._loop is None or self._serving.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self._serving.draining = True
        self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._leaving = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        seconds = self._serving.settings.drain_seconds
        log.info("going down: nothing new is taken, running answers have %g s", seconds)
        try:
            if not await self._serving.engine.drain(seconds):
                log.warning("answers are broken off after %g s", seconds)
                self._serving.engine.close()
        finally:
            self.should_exit = True


def make_server(app: FastAPI, host: str, port: int) -> ApiServer:
    """A server for an app of `create_app`; `run` it, or `await serve()`."""
    serving: Serving = app.state.serving
    settings = serving.settings
    # Streams end when their answers do; sse-starlette would cut them off as soon as the server is told to go.
    AppStatus.disable_automatic_graceful_drain()
    protocol = type("Protocol", (PatientProtocol,), {"head_seconds": settings.head_seconds})
    config = uvicorn.Config(
        app, host=host, port=port, http=protocol, ws="none", loop="asyncio", lifespan="on",
        access_log=False, log_config=None, server_header=False, proxy_headers=False,
        limit_concurrency=settings.max_connections, backlog=min(settings.max_connections, 2048),
        timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=FLUSH, h11_max_incomplete_event_size=MOST_HEAD,
    )  # fmt: skip
    return ApiServer(config, serving)


def serve(music: MusicLM, settings: ServeSettings, host: str, port: int, **engine_options: Any) -> None:
    """Serve a loaded model until SIGTERM or Ctrl-C. `engine_options` go to `MusicEngine`."""
    from mllm.serve.embedding import Embedder
    from mllm.serve.engine import MusicEngine

    share_arenas()
    engine = MusicEngine(music, **engine_options)
    try:
        make_server(create_app(engine, settings, Embedder(music), about=describe(music)), host, port).run()
    finally:
        engine.close()


def serve_upstream(url: str, model: str, settings: ServeSettings, host: str, port: int, **engine_options: Any) -> None:
    """Serve what the API at `url` answers, until SIGTERM or Ctrl-C. `engine_options` go to `UpstreamEngine`."""
    from mllm.serve.upstream import UpstreamEngine

    engine = UpstreamEngine(url, model, **engine_options)
    try:
        make_server(create_app(engine, settings), host, port).run()
    finally:
        engine.close()
