"""`POST /v1/completions`: text to go on from, without a template."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse
from starlette.requests import Request

from mllm.serve.chat_completions import PING
from mllm.serve.errors import as_api_error
from mllm.serve.generation import Piece, Usage
from mllm.serve.guard import error_event
from mllm.serve.requests import CompletionRequest
from mllm.serve.responses import Envelope, completion_logprobs, total_usage
from mllm.serve.running import Ended, Running, while_connected
from mllm.serve.serving import Serving


async def complete(serving: Serving, body: CompletionRequest, request: Request) -> Response:
    """Answer a request.

    Raises MllmError, ReaderLeft.
    """
    serving.check_model(body.model)
    wanted = [
        one
        for prompt in body.prompts
        for one in serving.requests(body, request, body.max_tokens, prompt=prompt, top_logprobs=body.logprobs)
    ]
    envelope, choices = Envelope("cmpl", serving.model), serving.choices(body)
    running = Running(serving.engine, wanted)
    if body.stream:
        events = running.events()
        first = await while_connected(request, anext(events))
        chunks = _chunks(serving, body, envelope, first, events, len(wanted))
        return EventSourceResponse(chunks, sep="\n", ping=PING, send_timeout=serving.settings.send_seconds)
    whole = await while_connected(request, running.collect())
    rows = [
        _row(number, one.text, completion_logprobs(one.logprobs, 0) if body.logprobs is not None else None, one.finish)
        for number, one in enumerate(whole)
    ]
    usage = _usage([one.usage for one in whole], choices)
    return JSONResponse(envelope.completion(rows, usage=usage))


def _row(number: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _usage(usages: list[Usage], choices: int) -> Any:
    """Each prompt is counted once, whatever the number of its choices."""
    total = total_usage(usages)
    total.prompt_tokens = sum(usage.prompt_tokens for usage in usages[::choices])
    total.total_tokens = total.prompt_tokens + total.completion_tokens
    return total


async def _chunks(
    serving: Serving, body: CompletionRequest, envelope: Envelope, first: Any, events: AsyncIterator[Any], count: int
) -> AsyncIterator[dict[str, str]]:
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    more: dict[str, Any] = {"usage": None} if with_usage else {}
    usages, offsets = [Usage(0, 0)] * count, [0] * count

    def chunk(number: int, event: Piece | Ended) -> dict[str, str]:
        if isinstance(event, Ended):
            usages[number] = event.usage
            row = _row(number, "", None, event.finish)
        else:
            found = completion_logprobs(event.logprobs, offsets[number]) if body.logprobs is not None else None
            offsets[number] += len(event.text)
            row = _row(number, event.text, found, None)
        return {"data": json.dumps(envelope.completion([row], **more))}

    try:
        yield chunk(*first)
        async for number, event in events:
            yield chunk(number, event)
        if with_usage:
            yield {"data": json.dumps(envelope.completion([], usage=_usage(usages, serving.choices(body))))}
        yield {"data": "[DONE]"}
    except Exception as error:  # the status is sent: what is left is to say it in the stream
        yield error_event(as_api_error(error))
    finally:
        await events.aclose()  # type: ignore[attr-defined]
