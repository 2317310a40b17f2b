"""The API for one chat page: an engine and a server in a thread, open to who holds a key that nobody else knows."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mllm.chat import MusicLM
from mllm.errors import PromptError
from mllm.serve.api import create_app
from mllm.serve.chat_client import ChatClient
from mllm.serve.engine import MusicEngine
from mllm.serve.model_card import describe
from mllm.serve.server import make_server
from mllm.serve.settings import ServeSettings

HOST = "127.0.0.1"
# A page takes half an hour of sound; several recordings and many questions about each.
LIMITS: dict[str, Any] = {
    "max_body_bytes": 1 << 30, "max_held_bytes": 2 << 30, "body_seconds": 600.0, "max_audios": 256,
    "deadline": 3600.0, "drain_seconds": 0.0,
}  # fmt: skip


@contextmanager
def private_api(music: MusicLM) -> Iterator[ChatClient]:
    """A loaded model behind an API at a free port of this machine, for as long as the context is open.

    Raises PromptError where the server does not start.
    """
    key = secrets.token_urlsafe(32)
    settings = ServeSettings(api_keys=[key], **LIMITS)
    engine = MusicEngine(music)
    server = make_server(create_app(engine, settings, about=describe(music)), HOST, 0)
    listening = socket.create_server((HOST, 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), name="mllm-chat-api", daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
            if not thread.is_alive():
                raise PromptError("the API of the chat page did not start; the log above says why")
        yield ChatClient(f"http://{HOST}:{listening.getsockname()[1]}/v1", key)
    finally:
        engine.close()
        server.should_exit = True
        thread.join(10)
        listening.close()
