"""Models behind an OpenAI-compatible API: sound goes as `input_audio`, several requests are under way at once."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mllm.eval.respondents import Failure
from mllm.eval.task import EvalError, Messages

PARALLEL = 8
RETRIES = 5
"""Of a request that a server turned down for a while (429, 5xx, no connection); the client waits longer each time."""
SECONDS = 300.0
"""After which a request is given up."""


class ApiModel:
    """A model at an address such as `http://127.0.0.1:8000/v1`; the key is read from OPENAI_API_KEY."""

    at_once = 4 * PARALLEL

    def __init__(self, url: str, model: str, parallel: int = PARALLEL):
        """`model`: as the server calls it; `parallel`: requests under way at once. Raises EvalError without a name."""
        if not model:
            raise EvalError(f"{url}: say what the server calls the model, with --model-name")
        from openai import OpenAI

        self.name = f"{url} {model}"
        self.sha256 = hashlib.sha256(self.name.encode()).hexdigest()
        self._model, self._parallel = model, parallel
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self._client = OpenAI(base_url=url, api_key=key, max_retries=RETRIES, timeout=SECONDS)

    def answer(self, messages: Sequence[Messages], max_new_tokens: int) -> list[str | Failure]:
        """Greedy answers (temperature 0) to conversations, in order; a request that failed is a Failure."""
        with ThreadPoolExecutor(self._parallel) as pool:
            return list(pool.map(lambda one: self._ask(one, max_new_tokens), messages))

    def _ask(self, messages: Messages, max_new_tokens: int) -> str | Failure:
        from openai import OpenAIError

        try:
            sent: Any = [m | {"content": _content(m["content"])} for m in messages]
            answer = self._client.chat.completions.create(
                model=self._model, messages=sent, max_tokens=max_new_tokens, temperature=0
            )
        except OpenAIError as error:
            return Failure(" ".join(str(error).split())[:300])
        return (answer.choices[0].message.content or "").strip() if answer.choices else Failure("no choices came back")


def _content(content: Any) -> Any:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "audio":
        return {"type": "text", "text": part["text"]}
    data = base64.b64encode(part["audio"].wav()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
