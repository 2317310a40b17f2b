"""Work shared out over processes: the order of a plain map, no more read than is asked for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest

from mllm.data_recipes.parallel import AHEAD, WorkerError, parallel


def slow_square(x: int) -> tuple[int, int]:
    time.sleep(0.02 * (x % 3))
    return x * x, os.getpid()


def broken(x: int) -> int:
    if x == 7:
        raise ValueError("seven")
    return x


@pytest.mark.parametrize("chunk", [1, 3])
def test_results_come_in_order_and_from_several_processes(chunk: int) -> None:
    results = list(parallel(slow_square, range(20), 2, chunk))
    assert [r for r, _ in results] == [x * x for x in range(20)]
    assert len({pid for _, pid in results} - {os.getpid()}) == 2


def test_a_stream_is_read_only_as_far_as_its_results_are_taken() -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            read.append(len(read))
            yield read[-1]

    results = parallel(slow_square, endless(), 2, chunk=2)
    assert next(results)[0] == 0 and len(read) <= 2 * 2 * AHEAD
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_out_where_it_stands_in_the_order(workers: int) -> None:
    results = parallel(broken, range(20), workers)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)


def killed(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def test_a_worker_that_is_killed_is_one_clear_line() -> None:
    with pytest.raises(WorkerError, match="run the same command again") as caught:
        list(parallel(killed, range(20), 2))
    assert "\n" not in str(caught.value)


def asleep(x: int) -> int:
    time.sleep(0 if x == 0 else 60)
    return x


def test_nobody_waits_for_what_is_not_wanted_any_more() -> None:
    began = time.monotonic()
    results = parallel(asleep, range(20), 2)
    assert next(results) == 0
    results.close()
    assert time.monotonic() - began < 20 and not multiprocessing.active_children()


def test_large_pieces_do_not_keep_a_pool_from_ending() -> None:
    results = parallel(len, [bytes(2_000_000)] * 40, 2)
    assert next(results) == 2_000_000
    results.close()
