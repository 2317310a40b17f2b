"""Threads for what takes a while beside the event loop; clients take turns at them, and none has all of them."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")
CLIENT: ContextVar[str] = ContextVar("client", default="")
"""A mark of who asks, in whatever runs for a request."""


class FairThreads:
    """At most `limit` threads at a time, and one less for any one client. For one event loop."""

    def __init__(self, limit: int):
        self._limit, self._share = limit, max(limit - 1, 1)
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # whose turn it is comes first

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Cancelled, it gives its place up; a thread that runs ends first."""
        client = CLIENT.get()
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given in the same moment
                self._leave(client)
            raise
        try:
            return await to_thread.run_sync(work, limiter=CapacityLimiter(1))
        finally:
            self._leave(client)

    def _leave(self, client: str) -> None:
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        self._admit()

    def _admit(self) -> None:
        while self._running.total() < self._limit:
            client = next((one for one in self._waiting if self._running[one] < self._share), None)
            if client is None:
                return
            places = self._waiting.pop(client)
            place = places.popleft()
            if places:
                self._waiting[client] = places  # behind the others
            if not place.done():  # else it was cancelled
                self._running[client] += 1
                place.set_result(None)
