"""Other wordings of the rows from any OpenAI-compatible endpoint, kept only where they still say the same facts."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from mllm.data_recipes.licences import DataError
from mllm.data_recipes.mentions import agrees

__all__ = ["Endpoint", "agrees", "rewrite"]

PROMPT = (
    "You reword questions and answers about music. You get a JSON list of texts. Return a JSON list of as many texts, "
    "each saying the same in other, plain words. Keep every fact as it is: keys, tempi, metres, instruments, note "
    "names, chords, numbers, times, yes and no. Add nothing, leave nothing out. A question stays a question. Return "
    "the JSON list only."
)
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
_GIVE_UP = 20
"""So many rows in a row without an answer mean that the server is gone."""
_FEWEST_WORDS = 4
"""Shorter answers are what the question asked for: they have no other wording."""
_LONGEST_TIMES = 3.0
"""A text that grew by more than this factor said more than it was asked to."""


class _Unreachable(Exception):
    """The endpoint gave no usable answer after all tries; the message is the reason that is counted."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server, such as `http://localhost:8000/v1`.

    The key is read from the environment variable `key_env` at each call, sent to `base_url` only, and never kept.
    """

    base_url: str
    key_env: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    """Seconds until an answer must have come."""
    retries: int = 4
    """Tries after the first."""
    wait: float = 1.0
    """Seconds before the second try; doubled each time, or what the server asks for, at most a minute."""

    def complete(self, http: httpx.Client, model: str, texts: list[str]) -> str:
        """The model's reply to PROMPT and the texts. Raises _Unreachable, or DataError where trying on is no use."""
        body = {
            "model": model,
            "messages": [
                {"role": "system", "content": PROMPT},
                {"role": "user", "content": json.dumps(texts, ensure_ascii=False)},
            ],
        }
        key = os.environ.get(self.key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        reason, asked = "", 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(_LONGEST_WAIT, max(self.wait * 2 ** (attempt - 1), asked)))
            try:
                reply = http.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body, headers=headers)
            except httpx.TimeoutException:
                reason = "endpoint: too slow"
                continue
            except httpx.TransportError:
                reason = "endpoint: no connection"
                continue
            if reply.status_code in _BUSY:
                reason, asked = f"endpoint: status {reply.status_code}", _seconds(reply.headers.get("retry-after", ""))
                continue
            if reply.status_code != 200:
                raise DataError(
                    f"{self.base_url} refuses with status {reply.status_code}: check the address, the model {model!r} "
                    f"and the key in ${self.key_env}"
                )
            try:
                return str(reply.json()["choices"][0]["message"]["content"])
            except (ValueError, KeyError, IndexError, TypeError):
                reason = "endpoint: reply is no chat completion"
        raise _Unreachable(reason)


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else 0.0


def rewrite(
    rows: Iterable[Mapping[str, Any]],
    client: Endpoint,
    model: str,
    cache: str | Path,
    *,
    workers: int = 4,
    rejected: Counter[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows in their order, reworded where the new words pass `agrees`; the others as they came.

    Args:
        rows: of `row.SCHEMA`. Their audio, scores, options and JSON answers are never touched.
        client: the server. At most `workers` requests run at a time; a busy or broken one is tried again, and given
            up for the row at hand only.
        model: its name at the server; it is noted in the row's provenance as `reworded`.
        cache: folder of replies, one file a conversation by the hash of its texts, model and prompt: a run that was
            killed, or is repeated, asks for nothing twice.
        rejected: reasons are counted here, for example "key", "dropped tempo", "not a JSON list", "endpoint: status
            500"; and "nothing to reword".

    Raises:
        DataError: the server refuses for good (address, key, model) or answers nobody any more, or the cache cannot
            be written.
    """
    if workers < 1:
        raise DataError("workers must be at least 1")
    if not client.base_url.startswith(("http://", "https://")):
        raise DataError(f"{client.base_url!r} is no address of a server: it starts with http:// or https://")
    counts: Counter[str] = Counter() if rejected is None else rejected
    folder = Path(cache).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot hold the replies: {error.strerror}; name another cache folder") from error
    with httpx.Client(timeout=client.timeout, follow_redirects=False) as http, ThreadPoolExecutor(workers) as threads:
        waiting: deque[Future[tuple[dict[str, Any], str]]] = deque()
        silent = 0

        def next_row() -> dict[str, Any]:
            nonlocal silent
            row, reason = waiting.popleft().result()
            silent = silent + 1 if reason.startswith("endpoint") else 0
            if silent >= _GIVE_UP:
                raise DataError(f"{client.base_url} left {silent} rows in a row unanswered ({reason}): is it running?")
            if reason:
                counts[reason] += 1
            return row

        try:
            for row in rows:
                waiting.append(threads.submit(_reworded, dict(row), client, http, model, folder))
                if len(waiting) >= 2 * workers:
                    yield next_row()
            while waiting:
                yield next_row()
        finally:
            for job in waiting:
                job.cancel()


def _reworded(
    row: dict[str, Any], client: Endpoint, http: httpx.Client, model: str, folder: Path
) -> tuple[dict[str, Any], str]:
    """The row and why it stayed as it was ("" where it was reworded)."""
    talk = json.loads(row["messages"])
    places = _places(talk)
    if not places:
        return row, "nothing to reword"
    texts = [_text(talk, place) for place in places]
    try:
        reply = _reply(client, http, model, texts, folder)
    except _Unreachable as error:
        return row, str(error)
    new = _listed(reply, len(texts))
    if new is None:
        return row, "not a JSON list"
    facts = json.loads(row["facts"])
    for (i, _), old, text in zip(places, texts, new, strict=True):
        # A question must not give its answer away, so it may say no more than it did.
        question = talk[i]["role"] == "user"
        if wrong := agrees(text, {} if question else facts, old):
            return row, wrong[0].partition(":")[0]
        if len(text) > _LONGEST_TIMES * len(old) + 40:
            return row, "much longer"
    for place, text in zip(places, new, strict=True):
        _put(talk, place, text)
    provenance = json.loads(row.get("provenance") or "{}")
    provenance["reworded"] = model
    return {
        **row,
        "messages": json.dumps(talk, ensure_ascii=False),
        "provenance": json.dumps(provenance, ensure_ascii=False),
    }, ""


Place = tuple[int, int]
"""Index of a message and of its part; -1 where the content is a text."""


def _places(talk: list[dict[str, Any]]) -> list[Place]:
    """Where the texts stand that have other wordings: questions without options or JSON, answers in sentences."""
    out: list[Place] = []
    fixed = False
    for i, message in enumerate(talk):
        content = message["content"]
        if isinstance(content, str):
            place = (i, -1)
        else:
            # The question is the last part; a text before it is a score.
            place = (i, len(content) - 1)
            if not content or content[-1].get("type") != "text":
                continue
        text = _text(talk, place)
        # The answer to a question of fixed form has a fixed form too.
        fixed = "\n" in text or "JSON" in text or "{" in text or (fixed and message["role"] == "assistant")
        if not fixed and (message["role"] == "user" or len(text.split()) >= _FEWEST_WORDS):
            out.append(place)
    return out


def _text(talk: list[dict[str, Any]], place: Place) -> str:
    content = talk[place[0]]["content"]
    return str(content if place[1] < 0 else content[place[1]]["text"])


def _put(talk: list[dict[str, Any]], place: Place, text: str) -> None:
    if place[1] < 0:
        talk[place[0]]["content"] = text
    else:
        talk[place[0]]["content"][place[1]]["text"] = text


def _listed(reply: str, count: int) -> list[str] | None:
    """The list of texts in a reply, which may stand in a Markdown fence; None where there is none of `count` texts."""
    body = reply.strip()
    if body.startswith("```"):
        body = body.partition("\n")[2].rpartition("```")[0]
    try:
        found = json.loads(body)
    except ValueError:
        return None
    if not isinstance(found, list) or len(found) != count or not all(isinstance(t, str) and t.strip() for t in found):
        return None
    return [" ".join(t.split()) for t in found]


def _reply(client: Endpoint, http: httpx.Client, model: str, texts: list[str], folder: Path) -> str:
    """The reply from the cache, or from the server and then kept."""
    name = hashlib.sha256(json.dumps([PROMPT, model, texts], ensure_ascii=False).encode()).hexdigest()
    path = folder / name[:2] / f"{name}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["reply"]
        if isinstance(kept, str):
            return kept
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or damaged: asked anew
    reply = client.complete(http, model, texts)
    try:
        path.parent.mkdir(exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"model": model, "texts": texts, "reply": reply}, file, ensure_ascii=False)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; free some space or name another cache") from error
    return reply
