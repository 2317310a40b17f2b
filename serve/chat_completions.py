"""`POST /v1/chat/completions`: whole, or as a stream of chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse
from starlette.requests import Request

from mllm.serve import music_facts
from mllm.serve.errors import ApiError, as_api_error
from mllm.serve.generation import GenerationRequest, TokenLogprob, Usage
from mllm.serve.guard import error_event
from mllm.serve.media import Shown
from mllm.serve.requests import ChatRequest, FactsFormat, JsonObject, SchemaFormat
from mllm.serve.responses import Envelope, chat_logprobs, new_id, total_usage
from mllm.serve.running import Ended, Running, while_connected
from mllm.serve.serving import Serving, client_of
from mllm.serve.tools import Arguments, CallBegins, Said, ToolCallReader, Words, json_grammar, tool_grammar, with_tools
from mllm.serve.verdicts import Verifier

PING = 15  # seconds without a word after which a comment keeps a stream open


async def chat(serving: Serving, body: ChatRequest, request: Request) -> Response:
    """Answer a request.

    Raises MllmError, ReaderLeft.
    """
    serving.check_model(body.model)
    shown = await while_connected(request, serving.media.read(body.messages))
    if isinstance(body.response_format, FactsFormat):
        return await _facts(serving, body, shown, request)
    verifier = Verifier(serving.media, shown) if body.verify else None
    top = (body.top_logprobs or 0) if body.logprobs else None
    wanted = serving.requests(
        body, request, body.longest,
        messages=with_tools(shown.messages, body.tools or () if body.tool_choice != "none" else ()),
        top_logprobs=top, grammar=await serving.media.in_thread(_grammar, body),
    )  # fmt: skip
    answer = _Answer(serving, body, wanted, verifier)
    if body.stream:
        return await answer.stream(request)
    return JSONResponse(await while_connected(request, answer.whole()))


def _grammar(body: ChatRequest) -> str | dict[str, Any] | None:
    """What the answer keeps to."""
    form = body.response_format
    schema: dict[str, Any] | None = None
    if isinstance(form, SchemaFormat):
        schema = form.json_schema.schema_
    elif isinstance(form, JsonObject):
        schema = {"type": "object"}
    if body.tools and body.tool_choice != "none":
        parallel = body.parallel_tool_calls is not False
        return tool_grammar(body.tools, body.tool_choice, parallel, schema)
    return None if schema is None else json_grammar(schema)


class _Choice:
    """One of the answers, as it comes: pieces of text in, what a client is told out."""

    def __init__(self, body: ChatRequest):
        self.text = ""
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[TokenLogprob] = []
        self.told = 0  # of the logprobs, in chunks
        self.usage = Usage(0, 0)
        self.finish = ""
        self._wants_logprobs = bool(body.logprobs)
        self._reader = ToolCallReader() if body.tools and body.tool_choice != "none" else None

    def feed(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        """Deltas that a piece brings."""
        self.logprobs += logprobs
        return self._deltas(self._reader.feed(text) if self._reader else [Words(text)] if text else [])

    def end(self, ended: Ended) -> list[dict[str, Any]]:
        """Deltas that the end brings."""
        self.usage = ended.usage
        deltas = self._deltas(self._reader.end() if self._reader else [])
        complete = ended.finish == "stop"
        self.finish = "tool_calls" if self.calls and complete else ended.finish
        return deltas

    def _deltas(self, said: Sequence[Said]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for one in said:
            if isinstance(one, Words):
                self.text += one.text
                deltas.append({"content": one.text})
            elif isinstance(one, CallBegins):
                function: dict[str, Any] = {"name": one.name, "arguments": ""}
                call = {"id": new_id("call"), "type": "function", "function": function}
                self.calls.append(call)
                deltas.append({"tool_calls": [{"index": one.index, **call, "function": dict(function)}]})
            elif isinstance(one, Arguments):
                self.calls[one.index]["function"]["arguments"] += one.text
                deltas.append({"tool_calls": [{"index": one.index, "function": {"arguments": one.text}}]})
        return deltas

    def new_logprobs(self) -> dict[str, Any] | None:
        """Those that no chunk has told yet."""
        fresh, self.told = self.logprobs[self.told :], len(self.logprobs)
        return chat_logprobs(fresh) if self._wants_logprobs and fresh else None

    def message(self, verification: Any) -> dict[str, Any]:
        """The whole message."""
        message: dict[str, Any] = {
            "role": "assistant", "content": self.text or (None if self.calls else ""), "refusal": None,
        }  # fmt: skip
        if self.calls:
            message["tool_calls"] = self.calls
        return message if verification is None else message | {"verification": verification}


class _Answer:
    """The choices of one request."""

    def __init__(
        self, serving: Serving, body: ChatRequest, wanted: Sequence[GenerationRequest], verifier: Verifier | None
    ):
        self._serving, self._body, self._wanted, self._verifier = serving, body, wanted, verifier
        self._choices = [_Choice(body) for _ in wanted]
        self._envelope = Envelope("chatcmpl", serving.model)
        self._begun = time.perf_counter()

    async def whole(self) -> dict[str, Any]:
        """A chat completion."""
        running = Running(self._serving.engine, self._wanted)
        async for number, event in running.events():
            choice = self._choices[number]
            if isinstance(event, Ended):
                choice.end(event)
            else:
                choice.feed(event.text, event.logprobs)
        rows = []
        for number, choice in enumerate(self._choices):
            logprobs = chat_logprobs(choice.logprobs) if self._body.logprobs else None
            message = choice.message(await self._verdicts(choice))
            rows.append({"index": number, "message": message, "logprobs": logprobs, "finish_reason": choice.finish})
        return self._envelope.chat(rows, self._counted())

    async def stream(self, request: Request) -> Response:
        """A stream. Its head is sent when the first words are there, so that what fails before has its own status."""
        events = Running(self._serving.engine, self._wanted).events()
        first = await while_connected(request, anext(events))
        self._serving.metrics.first_token.observe(time.perf_counter() - self._begun)
        return EventSourceResponse(
            self._chunks(first, events), sep="\n", ping=PING, send_timeout=self._serving.settings.send_seconds,
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )  # fmt: skip

    async def _chunks(self, first: Any, events: AsyncIterator[Any]) -> AsyncIterator[dict[str, str]]:
        with_usage = bool(self._body.stream_options and self._body.stream_options.include_usage)
        more: dict[str, Any] = {"usage": None} if with_usage else {}

        def chunk(number: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, str]:
            row = {"index": number, "delta": delta, "finish_reason": finish}
            row["logprobs"] = self._choices[number].new_logprobs()
            return {"data": self._envelope.chat_chunk([row], **more)}

        async def chained() -> AsyncIterator[Any]:
            yield first
            async for event in events:
                yield event

        try:
            for number in range(len(self._choices)):
                row = {"index": number, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
                yield {"data": self._envelope.chat_chunk([row | {"finish_reason": None}], **more)}
            async for number, event in chained():
                choice = self._choices[number]
                ended = isinstance(event, Ended)
                for delta in choice.end(event) if ended else choice.feed(event.text, event.logprobs):
                    yield chunk(number, delta)
                if ended:
                    verdicts = await self._verdicts(choice)
                    yield chunk(number, {} if verdicts is None else {"verification": verdicts}, choice.finish)
            usage = self._counted()
            if with_usage:
                yield {"data": self._envelope.chat_chunk([], usage=usage)}
            yield {"data": "[DONE]"}
        except Exception as error:  # the status is sent: what is left is to say it in the stream
            yield error_event(as_api_error(error))
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def _verdicts(self, choice: _Choice) -> Any:
        return await self._verifier.verdicts(choice.text) if self._verifier else None

    def _counted(self) -> Any:
        usage = total_usage([choice.usage for choice in self._choices])
        self._serving.metrics.tokens.labels("prompt").inc(usage.prompt_tokens)
        self._serving.metrics.tokens.labels("completion").inc(usage.completion_tokens)
        return usage


async def _facts(serving: Serving, body: ChatRequest, shown: Shown, request: Request) -> Response:
    """The preset `music_facts`: of a score what it says, of a recording what the model answers to each question."""
    if len(shown.media) != 1:
        raise ApiError(
            f"music_facts tells of one piece: give one recording or score, not {len(shown.media)}", param="messages"
        )
    (medium,) = shown.media
    usages: list[Usage] = []
    if not isinstance(medium, bytes):
        found = music_facts.facts_of_score(medium)
    else:
        wanted = music_facts.requests_for(medium, client_of(request), serving.settings.deadline)
        answers = await while_connected(request, Running(serving.engine, wanted).collect())
        usages = [answer.usage for answer in answers]
        found = music_facts.read_answers(
            [(a.text, [token.logprob for token in a.logprobs], a.finish == "stop") for a in answers]
        )
    words, envelope, usage = found.model_dump_json(), Envelope("chatcmpl", serving.model), total_usage(usages)
    if not body.stream:
        message = {"role": "assistant", "content": words, "refusal": None}
        row = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return JSONResponse(envelope.chat([row], usage))
    with_usage = bool(body.stream_options and body.stream_options.include_usage)

    async def chunks() -> AsyncIterator[dict[str, str]]:
        deltas = [({"role": "assistant", "content": ""}, None), ({"content": words}, None), ({}, "stop")]
        for delta, finish in deltas:
            row = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield {"data": envelope.chat_chunk([row], **({"usage": None} if with_usage else {}))}
        if with_usage:
            yield {"data": envelope.chat_chunk([], usage=usage)}
        yield {"data": "[DONE]"}

    return EventSourceResponse(chunks(), sep="\n", ping=PING)
