"""What is asked of an engine and what comes back: the words between the API and whatever generates.

An engine takes a `GenerationRequest`, answers at once with a `Generation` (or refuses), and fills it piece by piece.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mllm.errors import MllmError

FinishReason = Literal["stop", "length", "cancelled"]


class BusyError(MllmError):
    """The queue is full. `retry_after`: seconds after which it is worth trying again."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(MllmError):
    """The answer was not there in the time that the request allowed."""


class StoppingError(MllmError):
    """The server is going down and takes nothing new."""


class EngineError(MllmError):
    """Something went wrong inside the engine; the request may be sent again."""


class UpstreamError(EngineError):
    """The server that requests are forwarded to is not there, or failed."""


@dataclass(frozen=True)
class GenerationRequest:
    """One conversation to answer, once.

    Args:
        messages: as `mllm.processing.read_conversation` takes them; parts of type text, audio (bytes of a file or a
            waveform), score (ABC text or a path inside a folder of the server's own).
        prompt: text to go on from instead of messages (`/v1/completions`); rendered by no template.
        max_tokens: longest answer.
        temperature, top_p, seed: sampling; temperature 0 takes the likeliest token. Equal seeds draw equal tokens,
            whatever else is in the batch.
        stop: strings at which the answer ends; they are not part of it.
        logit_bias: token id -> what is added to its logit.
        top_logprobs: how many alternatives each token comes with; None for no log-probabilities at all.
        grammar: EBNF of xgrammar (rule `root`), or a JSON schema (dict), that the answer keeps to.
        begin: words that the answer is to go on from; not part of it.
        seconds: deadline from submission, after which `DeadlineError` ends the generation.
        client: who asks (a hash of the key or the address); turns are shared among clients.
    """

    messages: Sequence[dict[str, Any]] = ()
    prompt: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: dict[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    grammar: str | dict[str, Any] | None = None
    begin: str = ""
    seconds: float = 300.0
    client: str = ""


Alternative = tuple[str, bytes, float]
"""Text, bytes and log-probability of a token that could have been written."""


@dataclass(frozen=True)
class TokenLogprob:
    """One token of an answer: its text, its bytes, its natural logarithm of probability, and the likeliest others."""

    token: str
    bytes: bytes
    logprob: float
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text as it comes: whole characters only. `logprobs` of the tokens that are in it."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Counts of tokens; `audio_tokens` (None: not counted) and `cached_tokens` are part of `prompt_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    audio_tokens: int | None = 0
    cached_tokens: int = 0


class Generation(Protocol):
    """An answer on its way. Iterate over its pieces once; after the last one `finish` and `usage` are set."""

    finish: FinishReason | None
    usage: Usage | None

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces as they come. Raises what stopped the generation: MllmError of a bad prompt, DeadlineError."""
        ...

    def cancel(self) -> None:
        """Ends the generation; from any thread, any number of times."""
        ...


class Engine(Protocol):
    """Generates for many at once. All methods may be called from the event loop; none of them blocks it."""

    model_name: str
    context: int | None

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request. Raises BusyError, StoppingError, PromptError (what can be seen at once)."""
        ...

    def statistics(self) -> dict[str, float]:
        """Gauges and counters for /metrics: running, waiting, tokens, cache hits, …"""
        ...

    async def drain(self, seconds: float) -> bool:
        """Takes nothing new, waits for what runs at most so long; whether all of it was answered."""
        ...

    def close(self) -> None:
        """Ends what runs and the generation thread."""
        ...
