"""Work shared out over processes, which end with the one that started them; its results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from mllm.errors import MllmError

A = TypeVar("A")
B = TypeVar("B")
AHEAD = 4
"""Pieces of work that wait for each process: enough that none is idle, few enough that a stream stays a stream."""
_GLANCE = 1.0
"""Seconds after which a worker looks by itself whether its parent is still there."""


class WorkerError(MllmError):
    """A worker process was ended from outside. No DataError: a set whose reading ends so is not a broken set."""


@contextmanager
def process_pool(workers: int, start: Callable[..., None] | None = None, *given: Any) -> Iterator[ProcessPoolExecutor]:
    """Processes to give work to; when the block ends well they finish what they were given.

    They are gone at once when it ends by an error or by Ctrl-C (which they do not hear themselves), and when this
    process is killed.

    Args:
        workers: how many.
        start, given: a function at the top of a module that each of them calls first, with these arguments.

    Raises:
        WorkerError: one of them was killed, or there was no memory left for it.
    """
    ear, mouth = multiprocessing.Pipe(duplex=False)
    try:
        with ear, mouth, ProcessPoolExecutor(workers, initializer=_begin, initargs=(ear, start, given)) as pool:
            try:
                yield pool
            except BaseException:
                mouth.send_bytes(b"stop")  # nobody takes it out of the pipe, so that all of them see it
                raise
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process was killed, perhaps because the memory ran out: run the same command again to go on, "
            "with fewer workers if it was memory"
        ) from error


def _begin(ear: Connection, start: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(ear,), daemon=True).start()
    if start is not None:
        start(*given)


def _end_with_parent(ear: Connection) -> None:
    """Ends this worker when its parent says so or is gone: without it a killed build would leave it behind."""
    parent, beginning = multiprocessing.parent_process(), os.getppid()
    ends: list[Any] = [ear] if parent is None else [ear, parent.sentinel]
    # Workers forked later hold the sentinel open too, so it may come late; a parent that is gone shows in getppid.
    while not wait_for(ends, _GLANCE) and os.getppid() == beginning:
        pass
    os._exit(1)


def parallel(work: Callable[[A], B], items: Iterable[A], workers: int, chunk: int = 1) -> Iterator[B]:
    """`map` over processes, in order; a bounded number of results is held at a time.

    Args:
        work: a function at the top of a module, or a `partial` of one.
        items: read as results are taken.
        workers: processes; with 1 everything happens in this one.
        chunk: items that travel together.

    Raises:
        WorkerError: a process was killed; and whatever `work` raises.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    left = iter(items)
    waiting: deque[Future[list[B]]] = deque()
    with process_pool(workers) as pool:  # a consumer that stops early does not wait for what it does not want
        while True:
            while len(waiting) < workers * AHEAD and (some := list(islice(left, chunk))):
                waiting.append(pool.submit(_all, work, some))
            if not waiting:
                return
            yield from waiting.popleft().result()


def _all(work: Callable[[A], B], items: list[A]) -> list[B]:
    return [work(item) for item in items]
