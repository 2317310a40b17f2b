"""Where a build lies: a folder, or any address that fsspec knows (s3://…, gs://…, hf://…). What appears is whole."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import fsspec
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem

from mllm.data_recipes.licences import DataError
from mllm.whole_files import PART, write_whole

_IN_MEMORY = 32 << 20
"""Bytes of a file from elsewhere that are held in memory while it is open; a longer one lies in a temporary file."""
_BLOCK = 1 << 20
_LOCK = "build.lock"
_PATIENCE = 3.0
"""Seconds that a build waits for the workers of one that was killed to end."""


@dataclass(frozen=True)
class Store:
    """Files under one address, by names relative to it.

    On a local disk a file or folder is written beside its place and renamed; object stores show an object only when it
    is complete, and a folder's files before whatever names the folder. Whatever a file system raises is an OSError
    here. It holds nothing but the address, so that worker processes can be given one.
    """

    address: str

    @staticmethod
    def at(place: str | Path) -> Store:
        """The store at a path or address; a path is made absolute, so that workers may change their folder.

        Raises:
            DataError: the address is of no file system that is installed; the message says what to install.
        """
        text = str(place)
        if "://" not in text:
            return Store(str(Path(text).expanduser().absolute()))
        store = Store(text)
        try:
            _ = store._fs
        except Exception as error:
            raise DataError(f"{text} cannot be opened: {_first_line(error)}") from error
        return store

    @property
    def local(self) -> Path | None:
        """The folder on this machine, or None for an address elsewhere."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    @property
    def passing(self) -> bool:
        """Whether what is written there is gone when this process ends, and not seen by others."""
        return any(part.startswith("memory://") for part in self.address.split("::"))

    @property
    def _fs(self) -> Any:
        return fsspec.core.url_to_fs(self.address)[0]

    @property
    def _root(self) -> str:
        return str(fsspec.core.url_to_fs(self.address)[1]).rstrip("/")

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def where(self, name: str) -> str:
        """The path or address of a file, as it would be given to another program."""
        # In a chain of addresses (dir://a::file:///b) the first one names the file.
        first, chain, rest = self.address.partition("::") if "://" in self.address else (self.address, "", "")
        return f"{first.rstrip('/')}/{name}{chain}{rest}"

    def exists(self, name: str) -> bool:
        """Whether a file or folder of this name is there."""
        with _plain_errors(name):
            try:  # `fs.exists` also says no where it could not ask
                self._fs.info(self._at(name))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def names(self, folder: str, ending: str = "") -> list[str]:
        """Sorted names `folder/…` of what lies directly in `folder` and ends so; the unfinished is left out."""
        fs, at = self._fs, self._at(folder)
        with _plain_errors(folder):
            try:
                fs.invalidate_cache(at)
                paths = fs.ls(at, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        found = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(f"{folder}/{name}" for name in found if name.endswith(ending) and not name.endswith(PART))

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        with _plain_errors(name):
            return bytes(self._fs.cat_file(self._at(name)))

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedIOBase]:
        """A file to read from, at any place in it; one from elsewhere is fetched once and as a whole.

        Raises:
            OSError: it cannot be read; FileNotFoundError where there is no such file.
        """
        if self.local is not None:
            path = self.local / name
            if not path.is_file():  # opening a pipe would wait for ever
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            # By its number: readers that go by the ending of a name must see the same here as in a copy.
            with os.fdopen(os.open(path, os.O_RDONLY), "rb") as file:
                yield file
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="mllm-data-") as copy:
            with _plain_errors(name), self._fs.open(self._at(name), "rb") as source:
                shutil.copyfileobj(source, copy, _BLOCK)
            copy.seek(0)
            yield cast(BufferedIOBase, copy)

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        if self.local is None:
            self._send(name, lambda at: self._fs.pipe_file(at, data))
            return
        write_whole(self.local / name, data)

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A fresh local folder to fill; when the block ends well it appears as `name`, replacing an older one."""
        if self.local is None:
            with tempfile.TemporaryDirectory(prefix="mllm-data-") as temporary:
                yield Path(temporary)
                for path in sorted(p for p in Path(temporary).rglob("*") if p.is_file()):
                    put = partial(self._fs.put_file, str(path))
                    self._send(f"{name}/{path.relative_to(temporary).as_posix()}", put)
            return
        target = self.local / name
        part = target.with_name(target.name + PART)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        shutil.rmtree(target, ignore_errors=True)
        if any(part.iterdir()):
            os.replace(part, target)
        else:
            part.rmdir()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the block runs, no other build writes here. Elsewhere than on this machine nothing can be held.

        The system lets go of the place when the process ends, however that comes about.

        Raises:
            DataError: another build is running here, or nothing can be written here.
        """
        if self.local is None:
            yield
            return
        new = not self.local.exists()
        lock = FileLock(self.local / _LOCK, timeout=_PATIENCE)
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise DataError(
                f"another build is running in {self.address}: wait until it has ended, or choose another folder"
            ) from None
        except OSError as error:
            raise DataError(f"{self.address} cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            with suppress(OSError):
                (self.local / _LOCK).unlink()  # while it is held: later it could be another build's
            lock.release()
            if new:  # and nothing came of it
                with suppress(OSError):
                    self.local.rmdir()

    def _send(self, name: str, send: Callable[[str], object]) -> None:
        """Call `send` with the place of a file that is not here; make its folder where folders have to be made."""
        at = self._at(name)
        with _plain_errors(name):
            try:
                send(at)
            except FileNotFoundError:
                self._fs.makedirs(at.rpartition("/")[0], exist_ok=True)
                send(at)

    def clear_parts(self, folder: str) -> None:
        """Remove what a kill left half-written in `folder`."""
        if self.local is not None:
            for left in (self.local / folder).glob(f"*{PART}"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """Turn the errors that each file system has of its own, and those without a word, into an OSError that says why."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and str(error):
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"{name}: {type(error).__name__}: {_first_line(error)}") from error
