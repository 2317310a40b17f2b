"""The OpenAI-compatible API around an engine: `create_app(engine, settings)` is an ASGI app (docs/serving.md)."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, FastAPI, Form, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from openai.types import Completion, CreateEmbeddingResponse, Embedding
from openai.types.chat import ChatCompletion
from openai.types.create_embedding_response import Usage
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mllm.errors import MllmError
from mllm.serve.chat_completions import chat
from mllm.serve.completions import complete
from mllm.serve.embedding import Embedder
from mllm.serve.errors import ApiError, ErrorReply, as_api_error, not_found, of_validation
from mllm.serve.fetching import Fetcher
from mllm.serve.generation import Engine
from mllm.serve.guard import Guard
from mllm.serve.media import Shown
from mllm.serve.model_card import ServedModel
from mllm.serve.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from mllm.serve.running import ReaderLeft, while_connected
from mllm.serve.serving import Serving, serving_of, texts_of
from mllm.serve.settings import ServeSettings
from mllm.serve.transcription import TranscriptionForm, transcribe

log = logging.getLogger(__name__)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": words}
    for status, words in {
        400: "The request cannot be used; `param` says which part", 401: "No valid API key", 404: "No such model",
        408: "The body came too slowly", 413: "The body is too large", 429: "Busy; Retry-After says when to try again",
        500: "The server failed", 501: "Not installed on this server", 502: "The server behind this one failed",
        503: "Going down", 504: "Deadline passed",
    }.items()
}  # fmt: skip
_STREAM = {"text/event-stream": {"schema": {"description": "`data: ` and a chunk as JSON; the last is `data: [DONE]`"}}}

ops = APIRouter(tags=["operation"])
v1 = APIRouter(prefix="/v1", responses=_ERRORS)


class Health(BaseModel):
    """Whether the server takes requests."""

    status: str
    model: str


class ModelList(BaseModel):
    """What is served."""

    object: str
    data: list[ServedModel]


class Vector(Embedding):
    """Numbers, or the bytes of little-endian float32 in base64 where the request asks for that."""

    embedding: list[float] | str  # type: ignore[assignment]


class Vectors(CreateEmbeddingResponse):
    """In the order of the inputs."""

    data: list[Vector]  # type: ignore[assignment]


@ops.get("/health", response_model=Health, responses={503: {"model": Health, "description": "Going down"}})
async def health(request: Request) -> Response:
    """200 while requests are taken, 503 from SIGTERM on."""
    serving = serving_of(request)
    state = Health(status="draining" if serving.draining else "ok", model=serving.model)
    return JSONResponse(state.model_dump(), 503 if serving.draining else 200)


@ops.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counts and times for Prometheus."""
    return PlainTextResponse(serving_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


@v1.get("/models")
async def models(request: Request) -> ModelList:
    """The one model that is served."""
    return ModelList(object="list", data=[serving_of(request).card])


@v1.get("/models/{model}")
async def model(model: str, request: Request) -> ServedModel:
    """The model, by its id."""
    serving_of(request).check_model(model)
    return serving_of(request).card


@v1.post("/chat/completions", response_model=ChatCompletion, responses={200: {"content": _STREAM}})
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation with recordings and scores in it; with `stream: true` as server-sent events."""
    return await chat(serving_of(request), body, request)


@v1.post("/completions", response_model=Completion, responses={200: {"content": _STREAM}})
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Go on from a text, which no template touches."""
    return await complete(serving_of(request), body, request)


@v1.post("/embeddings", response_model=Vectors)
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """A unit vector for each text, or for each list of content parts as in a user's message."""
    serving = serving_of(request)
    serving.check_model(body.model)
    if serving.embedder is None:
        raise ApiError("this model makes no embeddings", 501, "not_supported")
    rows, tokens = [], 0
    for number, given in enumerate(body.inputs):
        content = [{"type": "text", "text": given}] if isinstance(given, str) else (
            await serving.media.parts(given, f"input[{number}]", Shown())
        )  # fmt: skip
        serving.check_length(texts_of(content))
        work = serving.media.in_thread(serving.embedder.embed, content)
        try:
            vector, count = await while_connected(request, work)
        except MllmError as error:
            raise as_api_error(error, param=f"input[{number}]") from error
        tokens += count
        rows.append({"object": "embedding", "index": number, "embedding": _coded(vector, body)})
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens).model_dump()
    return JSONResponse({"object": "list", "data": rows, "model": serving.model, "usage": usage})


def _coded(vector: list[float], body: EmbeddingRequest) -> Any:
    if body.encoding_format != "base64":
        return vector
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


@v1.post("/audio/transcriptions", responses={200: {"description": "As `response_format` says", "content": {
    name: {"schema": {}} for name in ("application/json", "text/plain", "text/vnd.abc", "audio/midi",
                                      "application/vnd.recordare.musicxml+xml")
}}})  # fmt: skip
async def transcriptions(form: Annotated[TranscriptionForm, Form()], request: Request) -> Response:
    """A recording as ABC, MIDI, MusicXML or JSON."""
    return await transcribe(serving_of(request), form, request)


def create_app(
    engine: Engine,
    settings: ServeSettings,
    embedder: Embedder | None = None,
    fetcher: Fetcher | None = None,
    about: Mapping[str, Any] | None = None,
) -> FastAPI:
    """The app.

    Args:
        engine: answers; whoever made it closes it.
        settings: limits and keys.
        embedder: for `/v1/embeddings`; without one that route says that it cannot.
        fetcher: of what `audio_url` names; None makes the one that the settings describe.
        about: what `/v1/models` tells of the model, from `model_card.describe`.
    """
    serving = Serving(engine, settings, embedder, fetcher, about)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not settings.api_keys:
            log.warning("no API key is set: whoever reaches this address may ask (--api-key, MLLM_API_KEYS)")
        yield

    app = FastAPI(
        title="mllm", version=version("mllm"), lifespan=lifespan, redoc_url=None,
        description="A music language model behind OpenAI's protocol. What is not described here is refused by name.",
    )  # fmt: skip
    app.state.serving = serving
    app.include_router(ops)
    # Keys are looked at in `Guard`, before a body is read; this only says so on the page.
    app.include_router(v1, dependencies=[Security(HTTPBearer(auto_error=False))] if settings.api_keys else [])
    app.openapi = partial(_page, app)  # type: ignore[method-assign]
    app.add_middleware(Guard, settings=settings, metrics=serving.metrics)
    app.add_exception_handler(MllmError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ReaderLeft, _on_leaving)
    return app


def _page(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI page, without the 422 that FastAPI puts everywhere: what does not fit gets a 400 here."""
    page = FastAPI.openapi(app)
    for operations in page["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        page["components"]["schemas"].pop(name, None)
    return page


async def _on_error(request: Request, error: Exception) -> Response:
    return as_api_error(error).reply()


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return of_validation(error).reply()


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return not_found(
            f"there is nothing at {request.url.path[:200]}; /docs lists what there is", "not_found"
        ).reply()
    codes = {405: "method_not_allowed", 400: "invalid_body"}
    code = codes.get(error.status_code, "invalid_request")
    return ApiError(str(error.detail), error.status_code, code).reply(**headers)


async def _on_leaving(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the log does
