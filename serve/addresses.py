"""Addresses of APIs that are asked from here, and how asking fails."""

from __future__ import annotations

import importlib
from urllib.parse import urlsplit

import openai

from mllm.errors import PromptError

_http = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
FAILURES: tuple[type[Exception], ...] = (openai.OpenAIError, _http.HTTPError)
"""What asking raises: openai's own errors, and in the middle of an answer those of its httpx (or httpx2)."""


def api_address(url: str) -> str:
    """The address of an API; `/v1` is added to one without a path. PromptError for what is none."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise PromptError("the address of an API holds no name and no password: the key has a variable of its own")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PromptError(f"{url}: not the address of an API; it looks like http://127.0.0.1:8000/v1")
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"


def is_local(url: str) -> bool:
    """Whether no proxy of the environment leads to an address."""
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
