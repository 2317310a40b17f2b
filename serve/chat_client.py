"""The chat's way to an OpenAI-compatible API and back, with the official client. Nothing here runs a model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openai

from mllm.errors import MllmError, PromptError
from mllm.serve.addresses import FAILURES, api_address, is_local
from mllm.serve.chat_media import part_of
from mllm.serve.model_card import ServedModel, read_card

MAX_ANSWER = 320  # tokens: nine of ten folk tunes take 100 to 300 as ABC
RETRIES = 2  # of a question that the server did not take
PAUSES = (2.0, 60.0)  # seconds, least and most, before a retry
SAMPLING_RATE = 22_050  # Hz, of a server that does not say at what it listens; that of `mini`
TIMEOUT = openai.Timeout(3600.0, connect=10.0)  # the server has a deadline; half an hour of music takes minutes to hear
_PLACE = re.compile(r"messages\[(\d+)\]\.content\[(\d+)\]")


class ChatError(MllmError):
    """The server did not answer; the message is for who asked."""


@dataclass(frozen=True)
class Turn:
    """A message of the conversation.

    Attributes:
        text: its words.
        files: recordings and scores that a user's message brings.
    """

    role: Literal["user", "assistant"]
    text: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Reply:
    """An answer as far as it has come.

    Attributes:
        words: all of it so far.
        note: in place of words: what is being waited for.
        verdicts: on its claims, at its end, where they were asked for.
    """

    words: str = ""
    note: str = ""
    verdicts: list[dict[str, Any]] | None = None


class ChatClient:
    """A model behind an API.

    Args:
        url: of the API, such as http://127.0.0.1:8000/v1; /v1 is added to an address without a path.
        key: opens it.
        model: by the name that `GET /v1/models` lists; empty: the first.

    Attributes:
        card: what the server tells of the model.

    Raises PromptError where the API cannot be reached, does not open or does not have the model.
    """

    def __init__(self, url: str, key: str = "", model: str = ""):
        self.url = api_address(url)
        here = is_local(url)
        options: dict[str, Any] = {
            "base_url": self.url, "api_key": key or "none", "max_retries": 0, "timeout": TIMEOUT,
        }  # fmt: skip
        with openai.OpenAI(**options, http_client=openai.DefaultHttpxClient(trust_env=not here)) as client:
            self.card = self._card(client.with_options(timeout=30.0), model)
        self._client = openai.AsyncOpenAI(**options, http_client=openai.DefaultAsyncHttpxClient(trust_env=not here))

    def _card(self, client: openai.OpenAI, model: str) -> ServedModel:
        try:
            listed = client.models.list().data
        except FAILURES as error:
            raise PromptError(f"no chat with {self.url}: {self._words(error, ())}") from error
        names = [one.id for one in listed]
        found = next((one for one in listed if one.id == model or not model), None)
        if found is None:
            raise PromptError(f"{self.url} has no model {model!r}; it has {', '.join(names) or 'none'}")
        return read_card(found)

    async def answer(self, turns: Sequence[Turn], verify: bool = False) -> AsyncGenerator[Reply, None]:
        """The assistant's next turn, as it grows; closing the iterator ends it at the server too.

        A question that the server is too busy for, or that does not reach it, is asked again after a while.

        Args:
            turns: the conversation; the last one is the user's.
            verify: have the answer's claims held against the recordings and scores of the conversation.

        Raises:
            ChatError: no answer, or one that broke off. AudioError, ScoreError: a file of a turn.
        """
        messages = await asyncio.to_thread(self._messages, turns)
        size, most = sum(len(data) for data in _data(messages)), self.card.max_body_bytes
        if most and size > most:
            raise ChatError(
                f"the recordings take {size / 1e6:.0f} MB to send, and the server takes at most {most / 1e6:.0f} MB: "
                "give fewer or shorter ones"
            )
        for left in range(RETRIES, -1, -1):
            reply = Reply()
            try:
                async with aclosing(self._ask(messages, verify)) as replies:
                    async for reply in replies:
                        yield reply
                return
            except FAILURES as error:
                pause = None if reply.words or not left else _pause(error)
                told = self._words(error, turns)
                if pause is None:
                    raise ChatError(told) from error
                yield Reply(note=f"{told}\nAsking again in {pause:.0f} s.")
            await asyncio.sleep(pause)

    async def _ask(self, messages: Any, verify: bool) -> AsyncGenerator[Reply, None]:
        words, verdicts, finished = "", None, False
        stream = await self._client.chat.completions.create(
            model=self.card.id, messages=messages, stream=True, max_completion_tokens=MAX_ANSWER,
            extra_body={"verify": True} if verify else None,
        )  # fmt: skip
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    words = (words + (choice.delta.content or "")).lstrip()
                    verdicts = (choice.delta.model_extra or {}).get("verification", verdicts)
                    finished = finished or choice.finish_reason is not None
                    yield Reply(words, verdicts=verdicts)
        if not finished:
            raise openai.OpenAIError("the stream ended in the middle")

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        return [self._message(turn) for turn in turns]

    def _message(self, turn: Turn) -> dict[str, Any]:
        if turn.role == "assistant":
            return {"role": "assistant", "content": turn.text}
        files = [self._part(file) for file in turn.files]
        return {"role": "user", "content": [*files, {"type": "text", "text": turn.text}]}

    def _part(self, file: Path) -> dict[str, Any]:
        try:
            return part_of(file, self.card.sampling_rate or SAMPLING_RATE)
        except OSError as error:
            raise ChatError(f"{file.name}: it is not there any more; give it again") from error

    def _words(self, error: Exception, turns: Sequence[Turn]) -> str:
        """What went wrong, for who asked; of a file by its name."""
        body = getattr(error, "body", None)
        if not isinstance(body, dict) or not body.get("message"):
            if isinstance(error, openai.APIStatusError):
                return f"the server answered {error.status_code}, not as an API does: is {self.url} right?"
            return f"the server at {self.url} is not there, or went away: start it, then ask again"
        message = str(body["message"])
        place = _PLACE.match(str(body.get("param") or ""))
        if place is None:
            return message
        number, part = map(int, place.groups())
        files = turns[number].files if number < len(turns) else ()
        if part >= len(files):
            return message
        return f"{files[part].name}: {message.removeprefix('recording: ')}"


def _data(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the recordings and scores of messages hold."""
    for message in messages:
        for part in message["content"] if message["role"] == "user" else ():
            yield part.get("input_audio", part.get("score", {})).get("data", "")


def _pause(error: Exception) -> float | None:
    """Seconds after which to ask again; None where that would not help."""
    least, most = PAUSES
    if isinstance(error, openai.APIStatusError):
        if error.status_code not in (429, 503):
            return None
        try:
            return min(max(float(error.response.headers.get("retry-after", least)), least), most)
        except ValueError:  # a date
            return least
    if isinstance(error, openai.APIError) and isinstance(error.body, dict):
        return None  # it was answered: in the stream
    return least
