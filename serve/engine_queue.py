"""Who waits for an answer: clients take turns, however much each of them asks."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A bounded queue that serves its clients in turn. May be used from several threads.

    Where it is full, a client with less in it than another takes the place of the other's latest: nobody can keep the
    rest out by asking much.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()  # the client whose turn it is comes first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return self._count()

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: T) -> T | None:
        """Queue something; returns what has no place now: nothing, another client's item, or this one."""
        with self._lock:
            pushed_out = None
            if self._count() >= self.limit:
                greediest = max(self._waiting, key=lambda name: len(self._waiting[name]), default=client)
                if len(self._waiting.get(greediest, ())) <= len(self._waiting.get(client, ())) + 1:
                    return item
                pushed_out = self._waiting[greediest].pop()
            self._waiting.setdefault(client, deque()).append(item)
            return pushed_out

    def take(self, but: Collection[str] = ()) -> T | None:
        """The oldest item of the client whose turn it is, of those that are not in `but`."""
        with self._lock:
            client = next((client for client in self._waiting if client not in but), None)
            if client is None:
                return None
            items = self._waiting.pop(client)
            item = items.popleft()
            if items:
                self._waiting[client] = items
            return item

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out all that `unwanted` says yes to."""
        removed: list[T] = []
        with self._lock:
            for client, items in list(self._waiting.items()):
                removed += (gone := [item for item in items if unwanted(item)])
                if len(gone) == len(items):
                    del self._waiting[client]
                elif gone:
                    self._waiting[client] = deque(item for item in items if item not in gone)
        return removed
