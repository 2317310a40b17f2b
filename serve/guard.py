"""What stands before every route: request ids, keys, the size and pace of bodies, a line in the log for each request.

It is plain ASGI, so that a body is counted while it comes in and a client without a key sends none to be parsed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import time
import traceback
import uuid
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllm.serve.errors import ApiError, as_api_error
from mllm.serve.fair_threads import CLIENT
from mllm.serve.metrics import Metrics
from mllm.serve.settings import ServeSettings

log = logging.getLogger(__name__)
_ID = re.compile(r"[\w.:-]{1,128}")
PROTECTED = "/v1/"
JSON, FORM = "application/json", "multipart/form-data"  # what may be as large as the settings allow
SMALL_BODY = 64 << 10  # bytes of any other body, and of one that is sent where none is read
MOST_VALUES = 250_000  # in JSON: an empty list takes three bytes in a body and some seventy in memory
PIECE = 1 << 20  # bytes of a body that are handed on at a time; in between the event loop serves others
# What is still taken of a body that is refused, so that its sender comes to reading why. Nothing of it is kept.
LINGER_BODIES = 16  # times the largest body
LINGER_SECONDS, LINGER_IDLE = 30.0, 5.0  # altogether, and without a byte
LINGER_STRANGER = 5.0  # altogether, for who has no key


def digest(key: str) -> bytes:
    """What is kept and compared of a key."""
    return hashlib.sha256(key.encode()).digest()


class Keys:
    """The keys that open the API, as digests: compared in a time that tells nothing of them."""

    def __init__(self, keys: list[str]):
        self._digests = [digest(key) for key in keys]

    def client(self, headers: Headers, address: str) -> str | None:
        """Who asks: a mark of the key, or the network where no keys are asked for; None where the key is wrong."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = digest(key.strip())
        if not self._digests:
            return network_of(address)
        fits = [hmac.compare_digest(given, known) for known in self._digests]  # all of them, whichever fits
        return given.hex()[:16] if any(fits) and scheme.lower() == "bearer" else None


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one, all of which one machine may have."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


class Incoming:
    """A request's body on its way.

    Attributes:
        ended: nothing more of it comes.
        left: because its sender has gone.
    """

    def __init__(self, receive: Receive):
        self._receive = receive
        self.ended = self.left = False

    async def piece(self) -> bytes:
        """Some more of it."""
        message = await self._receive()
        self.left = message["type"] != "http.request"
        self.ended = self.left or not message.get("more_body")
        return bytes(message.get("body", b""))


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics):
        self._app, self._settings, self._metrics = app, settings, metrics
        self._keys = Keys(settings.api_keys)
        self._held: Counter[str] = Counter()  # bytes of bodies in memory, by client

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
        body, incoming, client = bytearray(), Incoming(receive), ""
        held = 0
        try:
            try:
                if scope["path"].startswith(PROTECTED):
                    known = self._keys.client(headers, (scope.get("client") or ("", 0))[0])
                    if known is None:
                        raise _unauthorized()
                    scope["state"]["client"] = client = known
                    CLIENT.set(client)
                await self._take(body, incoming, client, scope["path"], headers)
            except ApiError as error:
                self._give_back(client, len(body))
                body.clear()
                await self._refuse(error, incoming, scope, send)
                return
            finally:
                held = len(body)
            if not incoming.left:
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._give_back(client, held)

    async def _take(self, body: bytearray, incoming: Incoming, client: str, path: str, headers: Headers) -> None:
        """Read the body into `body`, as far as it comes."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        large = path.startswith(PROTECTED) and kind in (JSON, FORM)
        most = self._settings.max_body_bytes if large else min(SMALL_BODY, self._settings.max_body_bytes)
        stated = headers.get("content-length", "")
        if stated.isdigit() and int(stated) > most:
            raise _too_large(most, large)
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while not incoming.ended:
                    piece = await incoming.piece()
                    body += piece
                    self._held[client] += len(piece)
                    if len(body) > most:
                        raise _too_large(most, large)
                    self._refuse_crowd(client)
        except TimeoutError as error:
            seconds = self._settings.body_seconds
            raise ApiError(f"the body did not arrive within {seconds:g} s", 408, "body_too_slow") from error
        if kind == JSON and body.count(b",") > MOST_VALUES:
            raise ApiError(f"more than {MOST_VALUES:,} values in the body", code="too_many_values")

    def _refuse_crowd(self, client: str) -> None:
        """ApiError where all hold too much, or this client more than half of it and more than one whole body."""
        most, body = self._settings.max_held_bytes, self._settings.max_body_bytes
        if self._held[client] > max(most // 2, body):
            raise _crowded("your requests together hold as many bytes as one client may: wait for some of them")
        if self._held.total() > most:
            raise _crowded("the server holds as many bytes of requests as it may: try again")

    def _give_back(self, client: str, size: int) -> None:
        self._held[client] -= size
        if not self._held[client]:
            del self._held[client]

    async def _refuse(self, error: ApiError, incoming: Incoming, scope: Scope, send: Send) -> None:
        """Answer at once, take what still comes for a while, then close.

        A connection that is closed while its client sends is reset: many clients then tell of a broken pipe, not of the
        answer. The answer is whole by its content-length; only its last, empty piece waits.
        """

        async def whole_but_open(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await error.reply(connection="close")(scope, _nothing, whole_but_open)
        if error.status != 408:
            await self._linger(incoming, LINGER_STRANGER if error.status == 401 else LINGER_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self, incoming: Incoming, seconds: float) -> None:
        left = LINGER_BODIES * self._settings.max_body_bytes
        try:
            async with asyncio.timeout(seconds):
                while left > 0 and not incoming.ended:
                    async with asyncio.timeout(LINGER_IDLE):
                        left -= len(await incoming.piece())
        except TimeoutError:
            return


async def _nothing() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}


def _replay(body: bytearray, receive: Receive) -> Receive:
    """The body in pieces, each of which is let go of, then whatever comes: that the client leaves."""
    told = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal told
        if told:
            return await receive()
        await asyncio.sleep(0)
        piece = bytes(body[:PIECE])
        del body[:PIECE]
        told = not body
        return {"type": "http.request", "body": piece, "more_body": not told}

    return again


def _too_large(most: int, large: bool) -> ApiError:
    if large:
        what = f"the body is larger than {most / 1e6:g} MB: send a compressed or shorter recording"
    else:
        what = f"the body is larger than {most / 1e3:g} kB, and only {JSON} and {FORM} under {PROTECTED} may be"
    return ApiError(what, 413, "too_large")


def _unauthorized() -> ApiError:
    return ApiError(
        "no valid API key: send the header `Authorization: Bearer KEY`", 401, "invalid_api_key",
        kind="authentication_error",
    )  # fmt: skip


def _crowded(why: str) -> ApiError:
    return ApiError(why, 429, "server_busy", kind="rate_limit_error", retry_after=2.0)


def error_event(error: ApiError) -> dict[str, str]:
    """An error in the middle of a stream, when its status has been sent."""
    return {"data": json.dumps(error.body)}
