"""What the routes of one server share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from mllm.errors import PromptError
from mllm.serve.errors import ApiError, not_found
from mllm.serve.fetching import Fetcher
from mllm.serve.generation import Engine, GenerationRequest
from mllm.serve.media import MediaReader
from mllm.serve.metrics import Metrics
from mllm.serve.model_card import ServedModel
from mllm.serve.requests import Sampling
from mllm.serve.settings import ServeSettings

if TYPE_CHECKING:
    from mllm.serve.embedding import Embedder


OWNER = "mllm"
LETTERS_A_TOKEN = 64  # the most that a token stands for, in a run of spaces
MOST_LETTERS = 2_000_000  # where the model does not say what it holds
COLDEST = 1e-4  # temperature and top_p below which only the likeliest token is left, and arithmetic suffers


class Serving:
    """An engine with its limits, counts and readers.

    Args:
        engine: answers.
        settings: limits and keys.
        embedder: makes vectors; None where this server cannot.
        fetcher: of recordings elsewhere; None makes the one that the settings describe.
        about: what is told of the model, from `model_card.describe`.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServeSettings,
        embedder: Embedder | None = None,
        fetcher: Fetcher | None = None,
        about: Mapping[str, Any] | None = None,
    ):
        self.engine, self.settings, self.embedder = engine, settings, embedder
        self.metrics = Metrics(engine)
        self.media = MediaReader(settings, fetcher)
        self.model = settings.model_id(engine.model_name)
        self.card = ServedModel(
            id=self.model, created=int(time.time()), object="model", owned_by=OWNER,
            max_audio_seconds=settings.max_audio_seconds, max_body_bytes=settings.max_body_bytes, **(about or {}),
        )  # fmt: skip
        self.draining = False

    def check_model(self, name: str) -> None:
        """ApiError for a model that is not served here."""
        if name != self.model:
            raise not_found(f"there is no model {name!r} here; GET /v1/models lists {self.model!r}", "model_not_found",
                            "model")  # fmt: skip

    def check_length(self, texts: Sequence[str]) -> None:
        """PromptError for texts that cannot fit: to count the tokens of 100 MB would take minutes, and gigabytes."""
        letters, context = sum(map(len, texts)), self.engine.context
        most = context * LETTERS_A_TOKEN if context else MOST_LETTERS
        if letters > most:
            raise PromptError(f"{letters:,} letters of text are more than this model can hold ({most:,}): give it less")

    def choices(self, body: Sampling) -> int:
        """How many answers a request wants; ApiError where those are too many."""
        wanted = body.n or 1
        if wanted > self.settings.max_choices:
            raise ApiError(f"n: at most {self.settings.max_choices} choices are made here", param="n")
        return wanted

    def requests(self, body: Sampling, request: Request, longest: int | None, **what: Any) -> list[GenerationRequest]:
        """One for each choice; with a seed, each choice has its own, made from it. PromptError: far too much text."""
        said = [part for message in what.get("messages", ()) for part in message["content"]]
        self.check_length([what.get("prompt", ""), *texts_of(said)])
        return [
            GenerationRequest(
                max_tokens=longest or self.settings.max_tokens,
                temperature=temperature if (temperature := body.temperature or 0.0) >= COLDEST else 0.0,
                top_p=1.0 if body.top_p is None else max(body.top_p, COLDEST),
                seed=None if body.seed is None else (body.seed + number) % 2**63,
                stop=body.stops,
                logit_bias=body.biases,
                seconds=self.settings.deadline,
                client=client_of(request),
                **what,
            )
            for number in range(self.choices(body))
        ]


def texts_of(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The words and the notation in content parts."""
    return [str(part[part["type"]]) for part in parts if part["type"] in ("text", "score")]


def client_of(request: Request) -> str:
    """A mark of who asks."""
    return str(getattr(request.state, "client", ""))


def serving_of(request: Request) -> Serving:
    """The server that a request came to."""
    return request.app.state.serving  # type: ignore[no-any-return]
