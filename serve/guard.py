"""What stands before every route: request ids, keys, the size and pace of bodies, a line in the log for each request.

It is plain ASGI, so that a body is counted while it comes in and a client without a key sends none to be parsed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllm.serve.errors import ApiError, as_api_error
from mllm.serve.metrics import Metrics
from mllm.serve.settings import ServeSettings

log = logging.getLogger(__name__)
_ID = re.compile(r"[\w.:-]{1,128}")
PROTECTED = "/v1/"


def digest(key: str) -> bytes:
    """What is kept and compared of a key."""
    return hashlib.sha256(key.encode()).digest()


class Keys:
    """The keys that open the API, as digests: compared in a time that tells nothing of them."""

    def __init__(self, keys: list[str]):
        self._digests = [digest(key) for key in keys]

    def client(self, headers: Headers, address: str) -> str | None:
        """Who asks: a mark of the key, or the address where no keys are asked for; None where the key is wrong."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = digest(key.strip())
        if not self._digests:
            return address
        fits = [hmac.compare_digest(given, known) for known in self._digests]  # all of them, whichever fits
        return given.hex()[:16] if any(fits) and scheme.lower() == "bearer" else None


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics):
        self._app, self._settings, self._metrics = app, settings, metrics
        self._keys = Keys(settings.api_keys)
        self._held = 0  # bytes of bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        begun, status = time.perf_counter(), 499
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        self._metrics.open.inc()
        try:
            await self._answer(scope, headers, receive, send_marked)
        except Exception as error:
            # Where it happened and not what it was about: no log holds what a request said.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s failed with %s:\n%s", request_id, type(error).__name__, frames)
            if status == 499:  # else the head is sent, and uvicorn closes what stays incomplete
                await as_api_error(error).reply(connection="close")(scope, receive, send_marked)
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.open.dec()
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            log.info("%s %s %s %d %.3f s", request_id, scope["method"], route, status, seconds)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        body = bytearray()
        try:
            if scope["path"].startswith(PROTECTED):
                client = self._keys.client(headers, (scope.get("client") or ("", 0))[0])
                if client is None:
                    raise _unauthorized()
                scope["state"]["client"] = client
            if not await self._take(body, headers, receive):
                return  # the client has left
        except ApiError as error:
            self._held -= len(body)
            if error.status != 408:
                await self._discard(receive)
            await error.reply(connection="close")(scope, receive, send)
            return
        held = len(body)
        try:
            await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._held -= held

    async def _take(self, body: bytearray, headers: Headers, receive: Receive) -> bool:
        """Read the body into `body`; whether it came whole."""
        stated = headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self._settings.max_body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        self._held -= len(body)
                        return False
                    body += message.get("body", b"")
                    self._held += len(message.get("body", b""))
                    if len(body) > self._settings.max_body_bytes:
                        raise self._too_large()
                    if self._held > self._settings.max_held_bytes:
                        raise _crowded()
                    if not message.get("more_body"):
                        return True
        except TimeoutError as error:
            seconds = self._settings.body_seconds
            raise ApiError(f"the body did not arrive within {seconds:g} s", 408, "body_too_slow") from error

    async def _discard(self, receive: Receive) -> None:
        """Take what is still coming for a while: a client that is cut off in the middle never reads the answer."""
        left = self._settings.max_body_bytes
        try:
            async with asyncio.timeout(min(self._settings.body_seconds, 5.0)):
                while left > 0:
                    message = await receive()
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return
                    left -= len(message.get("body", b""))
        except TimeoutError:
            return

    def _too_large(self) -> ApiError:
        most = self._settings.max_body_bytes / 1e6
        return ApiError(
            f"the body is larger than {most:g} MB: send a compressed or shorter recording", 413, "too_large"
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body in one piece, then whatever comes: that the client leaves."""
    told = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _unauthorized() -> ApiError:
    return ApiError(
        "no valid API key: send the header `Authorization: Bearer KEY`", 401, "invalid_api_key",
        kind="authentication_error",
    )  # fmt: skip


def _crowded() -> ApiError:
    return ApiError(
        "the server holds as many bytes of requests as it may: try again", 429, "server_busy", kind="rate_limit_error",
        retry_after=2.0,
    )  # fmt: skip


def error_event(error: ApiError) -> dict[str, str]:
    """An error in the middle of a stream, when its status has been sent."""
    return {"data": json.dumps(error.body)}
