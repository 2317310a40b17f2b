"""Files of the feature cache: whole or absent, mapped into memory, evicted when they take too much room.

    <root>/<fingerprint of a tower>/meta.json
    <root>/<fingerprint of a tower>/<first two digits>/<sha256 of a recording>.npy

Nothing but such .npy files is ever evicted, so a root may hold other things too.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import shutil
import tempfile
import time
import tokenize
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from mllm.train.config import ConfigError

DEFAULT_LIMIT_GIB = 20.0
LIMIT_VARIABLE = "MLLM_FEATURE_CACHE_GIB"
GIB = 2**30
HEADER_BYTES = 128  # that numpy writes before an array of three axes
ABANDONED_SECONDS = 3600.0  # writing a file takes milliseconds; what is unfinished after this was killed
ROOM_SECONDS = 60.0  # for which a count of what is stored is believed
ANOTHER_FOLDER = "set data.feature_cache to another folder"
CACHE_OFF = "(data.limit), or turn the cache off (data.feature_cache: false)"

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_GARBLED = (ValueError, TypeError, EOFError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError)

log = logging.getLogger(__name__)


class FeatureFiles:
    """Reads files of features [windows, `frames`, `hidden`] float16; what it has checked is not checked again."""

    def __init__(self, frames: int, hidden: int):
        self.frames, self.hidden = frames, hidden
        self.window_bytes = 2 * frames * hidden
        self._headers: dict[Path, tuple[tuple[int, int], tuple[int, int]]] = {}  # file -> version, (offset, windows)
        self._touched: set[Path] = set()

    def bytes_of(self, windows: int) -> int:
        """Size of a file of so many windows."""
        return HEADER_BYTES + windows * self.window_bytes

    def load(self, file: Path) -> np.ndarray | None:
        """Features out of a file, mapped; None where it is not there or was damaged, and then it is removed.

        Raises:
            ConfigError: a sound file, but of something else.
        """
        self.touch(file)
        try:
            status = os.stat(file)
            version = (status.st_size, status.st_mtime_ns)
            known = self._headers.get(file)
            if known is None or known[0] != version:
                if (header := read_header(file, self.frames, self.hidden)) is None:
                    log.warning("%s is damaged (the power may have failed): its recording is encoded again", file)
                    file.unlink(missing_ok=True)
                    return None
                known = self._headers[file] = (version, header)
            offset, windows = known[1]
            return map_features(file, offset, (windows, self.frames, self.hidden))
        except FileNotFoundError:
            return None

    def has(self, file: Path) -> bool:
        """Whether a file is there and as long as whole windows are; one that is not goes the way that `load` takes."""
        try:
            windows, rest = divmod(os.stat(file).st_size - HEADER_BYTES, self.window_bytes)
        except FileNotFoundError:
            return False
        self.touch(file)
        return (windows > 0 and not rest) or self.load(file) is not None

    def touch(self, file: Path) -> None:
        """Note the use of a file in its time, by which it is evicted: once, to spare the disk."""
        if file not in self._touched:
            self._touched.add(file)
            with suppress(OSError):  # evicted meanwhile, of another user, or read-only
                os.utime(file)

    def write(self, file: Path, features: np.ndarray) -> None:
        """Write features [windows, frames, hidden]; the file appears whole or not at all. Raises ConfigError."""

        def write(stream: IO[bytes]) -> None:
            np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(features))
            stream.write(np.ascontiguousarray(features).data)  # np.save would not say that the disk is full

        write_atomically(file, write)
        self._touched.add(file)


class Room:
    """How much more may be written under `root` before features of any tower must go.

    Args:
        root: the cache, with a folder a tower.
        limit: bytes that all features may take.
    """

    def __init__(self, root: Path, limit: float):
        self.root, self.limit = root, limit
        self._left, self._counted = 0.0, -math.inf  # bytes, and when that was true

    def take(self, new_bytes: int, needed: Collection[str]) -> None:
        """See to it that `new_bytes` more fit, counting what is stored (again) only where that may have changed.

        Raises:
            ConfigError: they cannot; see `make_room`, which `needed` is for.
        """
        now = time.monotonic()
        if new_bytes <= self._left and now - self._counted < ROOM_SECONDS:
            self._left -= new_bytes
        elif new_bytes:
            self._left, self._counted = make_room(self.root, needed, new_bytes, self.limit), now


def limit_bytes(limit_gib: float | None = None) -> float:
    """Bytes that all features together may take: what is given, else $MLLM_FEATURE_CACHE_GIB, else the default.

    Raises:
        ConfigError: not a number above 0; `inf` is no limit.
    """
    given = limit_gib if limit_gib is not None else os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT_GIB
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        name = LIMIT_VARIABLE if limit_gib is None else "data.feature_cache_gib"
        raise ConfigError(f"{name}: a number of GiB above 0, or inf for no limit, not {given}")
    return limit * GIB


def read_header(file: Path, frames: int, hidden: int) -> tuple[int, int] | None:
    """Where the features in a file begin (bytes) and how many windows there are; None where the file is damaged.

    Raises:
        ConfigError: a sound file that holds anything but float16 [windows, `frames`, `hidden`].
        FileNotFoundError: evicted meanwhile.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except _GARBLED:  # each of these comes from some garbled header, ValueError where bytes are missing
        return None
    if not isinstance(array, np.memmap):
        return None
    if array.dtype != np.float16 or array.shape != (len(array), frames, hidden) or not array.flags.c_contiguous:
        raise ConfigError(
            f"{file} holds {array.dtype} {list(array.shape)}, and this tower gives float16 [windows, {frames}, "
            f"{hidden}]: delete the file, or {ANOTHER_FOLDER}"
        )
    return array.offset, len(array)


def map_features(file: Path, offset: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Features of `shape` float16 as `read_header` found them, read from the disk only where they are looked at.

    What is written into the array stays in memory and does not reach the file.
    """
    try:
        # numpy's own map keeps a file open for as long as its array lives, and a warm-up holds thousands of arrays
        raw = torch.from_file(str(file), shared=False, size=offset + 2 * math.prod(shape), dtype=torch.uint8)
    except RuntimeError:  # evicted meanwhile, or the system allows no more maps
        return np.load(file, allow_pickle=False)
    return raw.numpy()[offset:].view(np.float16).reshape(shape)


def make_room(root: Path, needed: Collection[str], new_bytes: int, limit: float) -> float:
    """Evict the least recently used features of all towers until `new_bytes` more fit; returns the bytes then left.

    Args:
        root: the cache, with a folder a tower.
        needed: paths of files that must stay.
        new_bytes: what is to be written.
        limit: bytes that all features may take.

    Raises:
        ConfigError: it cannot fit, because of the limit or of the disk; nothing was evicted then.
    """
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        files = sorted(_all_files(root))
        free = shutil.disk_usage(root).free
        old = [(size, path) for _, size, path in files if path not in needed]
        evictable = sum(size for size, _ in old)
        kept = sum(size for _, size, _ in files) - evictable
        if kept + new_bytes > limit:
            raise ConfigError(
                f"this run needs about {_gib(kept + new_bytes)} of audio features, and the cache in {root} may take "
                f"{_gib(limit)}: set data.feature_cache_gib (or {LIMIT_VARIABLE}) higher, take fewer clips {CACHE_OFF}"
            )
        if new_bytes > free + evictable:
            raise ConfigError(
                f"about {_gib(new_bytes)} of audio features are to be written, and the disk of {root} has "
                f"{_gib(free)} left: free some space, {ANOTHER_FOLDER}, take fewer clips {CACHE_OFF}"
            )
        room = min(limit - kept - evictable, free)
        # No lock: who else evicts now takes the same files, the oldest, and one that is gone counts for both.
        for size, path in old:
            if new_bytes <= room:
                break
            try:
                os.unlink(path)  # who has it mapped keeps its bytes
            except PermissionError:  # of another user
                continue
            except FileNotFoundError:
                pass
            room += size
    return room - new_bytes


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the system says of a full or read-only disk into a ConfigError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise ConfigError(
                f"no room on the disk for audio features in {folder}: free some space, or set data.feature_cache to a "
                "folder on a larger disk, and run again; what was encoded before is kept"
            ) from error
        raise ConfigError(f"cannot write {folder} ({error.strerror or error}): {ANOTHER_FOLDER}") from error


def write_atomically(file: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a file that has its name only when it is whole; nothing stays of one that fails.

    Raises:
        ConfigError: the disk is full, or may not be written.
    """
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=file.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                write(stream)
            os.chmod(partial, 0o644)  # mkstemp makes it private, but a cache may be shared
            os.replace(partial, file)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(partial)
            raise


def stored_files(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Feature files of one tower; what a killed process left unfinished among them is removed."""
    for shelf in _entries(folder, r"[0-9a-f]{2}"):
        yield from _entries(shelf.path, r"[0-9a-f]{64}\.npy")
        for entry in _entries(shelf.path, r"tmp\w+\.partial"):
            with suppress(FileNotFoundError, PermissionError):
                if time.time() - entry.stat().st_mtime > ABANDONED_SECONDS:
                    os.unlink(entry.path)


def _all_files(root: Path) -> list[tuple[float, int, str]]:
    """(time of last use, bytes, path) of every tower's feature files."""
    found = []
    for tower in _entries(root, r"[0-9a-f]{16}"):
        for entry in stored_files(tower.path):
            with suppress(FileNotFoundError):
                status = entry.stat()
                found.append((status.st_mtime, status.st_size, entry.path))
    return found


def _entries(folder: str | Path, pattern: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if re.fullmatch(pattern, entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB"
