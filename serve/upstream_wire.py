"""A `GenerationRequest` in the words of OpenAI's protocol, and what another server answers to it in ours.

Written for vLLM, whose own fields carry what OpenAI has none for: `structured_outputs` (a grammar),
`continue_final_message` (words to go on from). A request that needs neither goes to any server of the protocol.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import openai
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from mllm.errors import MllmError, PromptError
from mllm.processing import read_conversation
from mllm.serve.addresses import FAILURES
from mllm.serve.generation import (
    BusyError,
    EngineError,
    FinishReason,
    GenerationRequest,
    Piece,
    TokenLogprob,
    UpstreamError,
    Usage,
)
from mllm.sound_files import sound_file

BUSY_SECONDS = 5.0  # until the next try, where a busy server names no time
LONGEST_REASON = 500  # characters of what another server says that are passed on
# Control tokens of chat templates: ChatML, Llama, Qwen, DeepSeek write them in bars, Mistral, Gemma and others do not.
MARKS = re.compile(
    r"<\|[^\s|<>]{1,64}\|>|<｜[^\s｜<>]{1,64}｜>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\]"
)
_FORMATS = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"FORM": "aiff", b"ID3": "mp3", b"\xff": "mp3"}


def refuse_marks(text: str) -> None:
    """PromptError where a text holds what a chat template marks turns with: the other server would take it for that."""
    if found := MARKS.search(text):
        raise PromptError(f"the text holds {found[0]!r}, which is reserved for the prompt's own marks: remove it")


def body_of(request: GenerationRequest, model: str, sampling_rate: int | None = None) -> dict[str, Any]:
    """The arguments of the client's `create` that ask for the same, as a stream.

    Of `chat.completions` where the request has messages, of `completions` where it has a prompt.

    Args:
        request: what is wanted.
        model: its name at the other server.
        sampling_rate: Hz of waveforms among the messages.

    Raises:
        PromptError, ScoreError, AudioError: messages that cannot be used.
    """
    more: dict[str, Any] = {}
    body: dict[str, Any] = {
        "model": model, "max_tokens": request.max_tokens, "temperature": request.temperature, "top_p": request.top_p,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    if request.prompt is not None:
        refuse_marks(request.prompt)
        body["prompt"] = request.prompt + request.begin
        if request.top_logprobs is not None:
            body["logprobs"] = request.top_logprobs
    else:
        body["messages"] = wire_messages(request.messages, sampling_rate)
        if request.begin:
            body["messages"].append({"role": "assistant", "content": request.begin})
            more |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    if isinstance(request.grammar, str):
        more["structured_outputs"] = {"grammar": request.grammar}
    elif request.grammar is not None:
        wanted = {"name": "answer", "schema": request.grammar, "strict": True}
        form = {"type": "json_schema", "json_schema": wanted}
        # Completions have no such field of OpenAI's; vLLM takes it there too.
        (more if request.prompt is not None else body)["response_format"] = form
    return body | ({"extra_body": more} if more else {})


def wire_messages(messages: Sequence[dict[str, Any]], sampling_rate: int | None = None) -> list[dict[str, Any]]:
    """Messages of ours as OpenAI has them: scores as ABC text, recordings as `input_audio`; errors as in `body_of`.

    Texts that follow each other become one, because servers differ in what they put between two.
    """
    conversation = read_conversation(messages)
    audios = iter(conversation.audios)
    out = []
    for message in conversation.messages:
        parts: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] == "audio":
                parts.append(_audio_part(next(audios), sampling_rate))
            elif parts and parts[-1]["type"] == "text":
                parts[-1]["text"] += part["text"]
            else:
                parts.append(dict(part))
        texts = [part["text"] for part in parts if part["type"] == "text"]
        for text in texts:
            refuse_marks(text)
        out.append({"role": message["role"], "content": "".join(texts) if len(texts) == len(parts) else parts})
    return out


def _audio_part(source: Any, sampling_rate: int | None) -> dict[str, Any]:
    if isinstance(source, np.ndarray):
        if sampling_rate is None:
            raise PromptError("a waveform does not say its sampling rate: give the bytes of a sound file")
        source = sound_file(source, sampling_rate, ".flac")
    if not isinstance(source, bytes):
        raise PromptError("a recording for another server is the bytes of a sound file, and no path")
    # For the record; servers look at the content.
    form = next((form for head, form in _FORMATS.items() if source.startswith(head)), "wav")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(source).decode(), "format": form}}


class ChunkReader:
    """The chunks of one stream, taken one after the other.

    Attributes:
        finish: why the answer ended, once that is known.
        usage: as the other server counts; what it does not count is None (audio) or 0.
    """

    def __init__(self) -> None:
        self.finish: FinishReason | None = None
        self.usage = Usage(0, 0, audio_tokens=None)
        self._text = bytearray()
        self._spelled = bytearray()  # by the tokens

    def read(self, chunk: ChatCompletionChunk | Completion) -> Piece | None:
        """What a chunk brings; UpstreamError where it says that the answer was broken off."""
        if chunk.usage:
            details = chunk.usage.prompt_tokens_details
            self.usage = Usage(
                chunk.usage.prompt_tokens, chunk.usage.completion_tokens,
                details.audio_tokens if details else None, (details.cached_tokens if details else 0) or 0,
            )  # fmt: skip
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        text = (choice.delta.content if isinstance(chunk, ChatCompletionChunk) else choice.text) or ""  # type: ignore[union-attr]
        tokens = list(_token_logprobs(choice.logprobs))
        self._text += text.encode()
        self._spelled += b"".join(token.bytes for token in tokens)
        if reason := choice.finish_reason:
            if str(reason) in ("abort", "error"):
                raise UpstreamError("the server behind this one broke the answer off: ask again")
            self.finish = "length" if reason == "length" else "stop"
            if tokens and self._ends_answer(tokens[-1]):
                tokens.pop()
        return Piece(text, tuple(tokens)) if text or tokens else None

    def _ends_answer(self, token: TokenLogprob) -> bool:
        """Whether the last token is the one that ends an answer, which vLLM lists and which is no part of the text."""
        return self.finish == "stop" and (
            not token.bytes or self._spelled != self._text == self._spelled.removesuffix(token.bytes)
        )


def _token_logprobs(logprobs: Any) -> Iterator[TokenLogprob]:
    """Of a chunk of either kind."""
    if logprobs is None:
        return
    if getattr(logprobs, "tokens", None) is None:  # of a chat
        for token in logprobs.content or ():
            top = [(other.token, _bytes(other), other.logprob) for other in token.top_logprobs or ()]
            yield TokenLogprob(token.token, _bytes(token), token.logprob, tuple(top))
        return
    others = logprobs.top_logprobs or [None] * len(logprobs.tokens)
    for name, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, others, strict=True):
        likeliest = sorted((top or {}).items(), key=lambda other: -other[1])
        yield TokenLogprob(name, name.encode(), logprob, tuple((t, t.encode(), p) for t, p in likeliest))


def _bytes(token: Any) -> bytes:
    return token.token.encode() if token.bytes is None else bytes(token.bytes)


def explained(error: Exception) -> MllmError:
    """An error of the client as one of ours.

    BusyError of 429; PromptError of what is wrong with the request, in the other server's words; else UpstreamError.
    """
    if isinstance(error, MllmError):
        return error
    body = getattr(error, "body", None)
    told = " ".join(str(body.get("message") or "").split())[:LONGEST_REASON] if isinstance(body, dict) else ""
    status = error.status_code if isinstance(error, openai.APIStatusError) else _status_in(body)
    if status == 429:
        return BusyError("the server behind this one is busy: try again in a while", _retry_after(error))
    if status in (400, 413, 422) and told:
        return PromptError(told)
    if status in (401, 403):
        return UpstreamError("the server behind this one does not take our key: whoever runs this has to set it right")
    if status == 404:
        return UpstreamError("the server behind this one does not have the model: whoever runs this has to name it")
    if status is not None:
        return UpstreamError(f"the server behind this one failed with status {status}: ask again in a while")
    if isinstance(error, FAILURES):
        return UpstreamError("the server behind this one is not there, or went away: ask again in a while")
    return EngineError(f"what the server behind this one said could not be read ({type(error).__name__})")


def _status_in(body: Any) -> int | None:
    """The status that an error within a stream would have had."""
    if not isinstance(body, dict):
        return None
    if str(body.get("code")).isdigit():
        return int(body["code"])
    kinds = {"invalid_request_error": 400, "BadRequestError": 400, "rate_limit_error": 429}
    return kinds.get(str(body.get("type")), 500)


def _retry_after(error: Exception) -> float:
    header = error.response.headers.get("retry-after", "") if isinstance(error, openai.APIStatusError) else ""
    return float(header) if re.fullmatch(r"\d+(\.\d+)?", header) else BUSY_SECONDS
