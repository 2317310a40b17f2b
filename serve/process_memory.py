"""The memory of a server that runs for weeks: what is free goes back to the machine.

glibc gives each thread an arena of its own and keeps what is freed in the middle of one, and keys and values of answers
of all lengths leave many such holes.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_M_ARENA_MAX = -8  # malloc.h
ARENAS = 2


@cache
def _libc() -> Any:
    """The C library, where it is glibc; else None."""
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return None
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None


def share_arenas() -> None:
    """Let all threads of this process share a few arenas. Before there are many threads."""
    if _libc():
        _libc().mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return free memory to the machine; takes some milliseconds."""
    if _libc():
        _libc().malloc_trim(0)
