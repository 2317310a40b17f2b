"""A real server for the tests of the API: uvicorn in a thread, the engine on the tiny random model."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import socket
import threading
import time
from typing import Any

import httpx
import numpy as np
import openai
import soundfile
import torch
from tiny import clicks
from tiny_checkpoint import tiny_folder

from mllm.chat import MusicLM, load
from mllm.serve.api import create_app
from mllm.serve.embedding import Embedder
from mllm.serve.engine import MusicEngine
from mllm.serve.model_card import describe
from mllm.serve.server import make_server
from mllm.serve.settings import ServeSettings

MODEL = "tiny"
TUNE = 'X:1\nT:A tune\nM:3/4\nL:1/4\nQ:1/4=90\nK:G\n"G"G A B|"D"A2 F|"G"G3|]\n'


@functools.cache
def tiny_music() -> MusicLM:
    """The model that all servers of a test run share."""
    return load(str(tiny_folder()), dtype=torch.float32)


class LiveServer:
    """A server at a free port of this machine; `close` it.

    Args:
        engine: an engine itself, else there is a `MusicEngine` with so many `slots` and `waiting`.
        about: what is told of the model; of the tiny one, if None.
        settings: of `ServeSettings`.
    """

    def __init__(
        self,
        *,
        fetcher: Any = None,
        engine: Any = None,
        about: Any = None,
        slots: int = 8,
        waiting: int = 64,
        **settings: Any,
    ):
        self.engine = engine or MusicEngine(tiny_music(), slots=slots, waiting=waiting)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        music = tiny_music()
        app = create_app(
            self.engine, ServeSettings(name=MODEL, **settings), Embedder(music), fetcher, about or describe(music)
        )
        self.server = make_server(app, "127.0.0.1", self.port)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()), daemon=True)
        self._thread.start()
        for _ in range(600):
            if self.server.started:
                return
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def client(self, key: str = "no key") -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def http(self, **options: Any) -> httpx.Client:
        """A plain client."""
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False, **options)

    def statistics(self) -> dict[str, float]:
        """The engine's."""
        return self.engine.statistics()

    def close(self) -> None:
        """End it."""
        self.server.should_exit = True
        self._thread.join(20)
        self.engine.close()


def sound(samples: np.ndarray, kind: str = "WAV", rate: int = 22_050) -> bytes:
    """The bytes of a sound file."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind)
    return out.getvalue()


def based(data: bytes) -> str:
    """In base64."""
    return base64.b64encode(data).decode()


@functools.cache
def clip(bpm: float = 97, seconds: float = 2.0, kind: str = "WAV") -> bytes:
    """A short recording of clicks."""
    return sound(clicks(bpm, seconds), kind)


def audio_part(data: bytes | None = None, form: str = "wav") -> dict[str, Any]:
    """A recording in a request."""
    return {"type": "input_audio", "input_audio": {"data": based(data or clip()), "format": form}}


def score_part(data: str = TUNE, form: str = "abc", **more: Any) -> dict[str, Any]:
    """A score in a request."""
    return {"type": "score", "score": {"data": data, "format": form, **more}}


def asking(*parts: dict[str, Any], text: str = "What is the tempo?") -> list[dict[str, Any]]:
    """Messages of one question about some parts."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
