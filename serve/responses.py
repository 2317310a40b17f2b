"""What is answered, in OpenAI's own types; chunks have the fields that OpenAI's have and no others."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import Logprobs
from openai.types.completion_usage import PromptTokensDetails

from mllm.serve.generation import TokenLogprob, Usage

IMPOSSIBLE = -9999.0  # OpenAI's number for a token of no probability: JSON knows no infinity


def new_id(kind: str) -> str:
    """`chatcmpl-…` and the like."""
    return f"{kind}-{uuid.uuid4().hex}"


def total_usage(usages: Sequence[Usage]) -> CompletionUsage:
    """Of several choices of one prompt, which is counted once."""
    first = usages[0] if usages else Usage(0, 0)
    prompt, written = first.prompt_tokens, sum(usage.completion_tokens for usage in usages)
    details = PromptTokensDetails(audio_tokens=first.audio_tokens, cached_tokens=first.cached_tokens)
    return CompletionUsage(
        prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written, prompt_tokens_details=details
    )


def finite(logprob: float) -> float:
    """A logarithm that JSON can say."""
    return max(logprob, IMPOSSIBLE)


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a choice or of a chunk's."""
    content = [
        ChatCompletionTokenLogprob(
            token=token.token,
            bytes=list(token.bytes),
            logprob=finite(token.logprob),
            top_logprobs=[TopLogprob(token=t, bytes=list(b), logprob=finite(p)) for t, b, p in token.top],
        )
        for token in tokens
    ]
    return {"content": [token.model_dump() for token in content], "refusal": None}


def completion_logprobs(tokens: Iterable[TokenLogprob], offset: int) -> dict[str, Any]:
    """`logprobs` of a completion; `offset`: characters of the answer before these tokens."""
    found = Logprobs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])
    for token in tokens:
        found.text_offset.append(offset)
        found.token_logprobs.append(finite(token.logprob))
        found.tokens.append(token.token)
        found.top_logprobs.append({text: finite(logprob) for text, _, logprob in token.top})
        offset += len(token.token)
    return found.model_dump()


class Envelope:
    """What all chunks and the whole of one answer have in common."""

    def __init__(self, kind: str, model: str):
        self.id, self.created, self.model = new_id(kind), int(time.time()), model

    def chat(self, choices: list[dict[str, Any]], usage: CompletionUsage) -> dict[str, Any]:
        """A whole chat completion."""
        whole = ChatCompletion.model_validate(self._with("chat.completion", choices) | {"usage": usage})
        return whole.model_dump(mode="json", exclude_unset=True)

    def chat_chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        """A chunk of a stream, as JSON."""
        chunk = ChatCompletionChunk.model_validate(self._with("chat.completion.chunk", choices) | more)
        return chunk.model_dump_json(exclude_unset=True)

    def completion(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A completion, whole or a chunk of it."""
        rows = [CompletionChoice.model_construct(**choice) for choice in choices]
        whole = Completion.model_construct(**self._with("text_completion", rows) | more)
        return whole.model_dump(mode="json", exclude_unset=True, warnings=False)

    def _with(self, kind: str, choices: Any) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
