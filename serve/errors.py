"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}` with the right status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from mllm.errors import AudioError, MllmError, PromptError, ScoreError, WeightsError
from mllm.serve.generation import BusyError, DeadlineError, EngineError, StoppingError, UpstreamError
from mllm.serve.requests import UnsupportedError

INVALID = "invalid_request_error"


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorBody


class ApiError(MllmError):
    """A request that gets an error as its answer.

    Args:
        message: what is wrong and what to do.
        status: of HTTP.
        code: a word for programs.
        param: the field of the request that is meant.
        kind: OpenAI's `type`.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str = "invalid_value",
        *,
        param: str | None = None,
        kind: str = INVALID,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.param, self.kind, self.retry_after = status, code, param, kind, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        # Half a character of somebody's JSON, which a message may repeat, cannot be sent.
        message, param = (text and text.encode(errors="replace").decode() for text in (str(self), self.param))
        error = ErrorBody(message=message or "", type=self.kind, param=param, code=self.code)
        return ErrorReply(error=error).model_dump()

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` and the like."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        return headers | ({"retry-after": str(max(1, round(self.retry_after)))} if self.retry_after else {})

    def reply(self, **headers: str) -> JSONResponse:
        """As an answer."""
        return JSONResponse(self.body, self.status, headers=self.headers | headers)


# The first class that an error belongs to decides: status, code, type.
KINDS: tuple[tuple[type[MllmError], int, str, str], ...] = (
    (BusyError, 429, "server_busy", "rate_limit_error"),
    (StoppingError, 503, "server_stopping", "server_error"),
    (UpstreamError, 502, "upstream_failed", "server_error"),
    (EngineError, 500, "internal", "server_error"),
    (DeadlineError, 504, "deadline_exceeded", "server_error"),
    (AudioError, 400, "invalid_audio", INVALID),
    (ScoreError, 400, "invalid_score", INVALID),
    (PromptError, 400, "invalid_prompt", INVALID),
    (WeightsError, 503, "weights_unavailable", "server_error"),
    (MllmError, 400, "invalid_value", INVALID),
)


def as_api_error(error: BaseException, param: str | None = None) -> ApiError:
    """Any error as one of the API; of what was not foreseen nothing is told."""
    if isinstance(error, ApiError):
        return error
    for kind, status, code, word in KINDS:
        if isinstance(error, kind):
            message = " ".join(str(error).split())
            retry = getattr(error, "retry_after", 5.0 if isinstance(error, StoppingError | UpstreamError) else None)
            return ApiError(message, status, code, param=param, kind=word, retry_after=retry)
    return ApiError("the server failed at this; the log of the server says why", 500, "internal", kind="server_error")


def not_found(message: str, code: str, param: str | None = None) -> ApiError:
    """404."""
    return ApiError(message, 404, code, param=param)


def of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a request; unknown fields before what is missing because of them."""
    entry = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
    kind, message = entry["type"], entry["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return ApiError("the body is not JSON", code="invalid_json")
    param = place_of(entry["loc"][1:], error.body, missing=kind == "missing")
    cause = entry.get("ctx", {}).get("error")
    if isinstance(cause, UnsupportedError):
        return ApiError(message, code="unsupported_parameter", param=cause.name)
    if kind == "extra_forbidden":
        return ApiError(f"unknown parameter {param!r}", code="unknown_parameter", param=param)
    if kind == "missing":
        return ApiError(f"missing parameter {param!r}", code="missing_parameter", param=param)
    return ApiError(f"{param}: {message}" if param else message, param=param)


def place_of(loc: Sequence[int | str], body: Any, missing: bool = False) -> str | None:
    """`messages[0].content[1].text` for the place of an error in a body.

    pydantic also puts the names of types into a place, which the body does not have: those are left out.
    """
    found = ""
    for number, part in enumerate(loc, 1):
        inside = part in body if isinstance(body, Mapping) else isinstance(part, int) and isinstance(body, list)
        if inside:
            body = body[part]
        elif not (missing and number == len(loc)):
            continue
        found += f"[{part}]" if isinstance(part, int) else f".{part}" if found else part
    return found or None
