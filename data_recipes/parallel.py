"""Work shared out over processes, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
AHEAD = 4
"""Pieces of work that wait for each process: enough that none is idle, few enough that a stream stays a stream."""


def parallel(work: Callable[[A], B], items: Iterable[A], workers: int, chunk: int = 1) -> Iterator[B]:
    """`map` over processes, in order; a bounded number of results is held at a time.

    Args:
        work: a function at the top of a module, or a `partial` of one.
        items: read as results are taken.
        workers: processes; with 1 everything happens in this one.
        chunk: items that travel together.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    left = iter(items)
    waiting: deque[Future[list[B]]] = deque()
    with ProcessPoolExecutor(workers) as pool:
        try:
            while True:
                while len(waiting) < workers * AHEAD and (some := list(islice(left, chunk))):
                    waiting.append(pool.submit(_all, work, some))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:  # a consumer that stops early must not wait for what it does not want
            for future in waiting:
                future.cancel()


def _all(work: Callable[[A], B], items: list[A]) -> list[B]:
    return [work(item) for item in items]
