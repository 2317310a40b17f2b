"""Our API in front of another server, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from live import MODEL, LiveServer

from mllm.serve.api import create_app
from mllm.serve.generation import Engine, GenerationRequest
from mllm.serve.upstream import UpstreamEngine


@contextmanager
def front_of(
    url: str, key: str = "", model: str = MODEL, engine: dict[str, Any] | None = None, **settings: Any
) -> Iterator[LiveServer]:
    """A server that forwards to the API at `url`; `engine`: of `UpstreamEngine`. It serves `live.MODEL`."""

    def without_vectors(engine: Any, settings: Any, embedder: Any, *more: Any) -> Any:
        return create_app(engine, settings, None, *more)

    with patch("live.create_app", without_vectors):
        live = LiveServer(engine=UpstreamEngine(url, model, key=key, **(engine or {})), **settings)
    try:
        yield live
    finally:
        live.close()


def generated(engine: Engine, **request: Any) -> tuple[str, str | None]:
    """A whole answer of an engine, and how it ended."""

    async def collect() -> tuple[str, str | None]:
        reply = engine.submit(GenerationRequest(**request))
        return "".join([piece.text async for piece in reply]), reply.finish

    return asyncio.run(collect())
