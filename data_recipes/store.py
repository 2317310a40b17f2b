"""Where a build lies: a folder, or any address that fsspec knows (s3://…, gs://…, hf://…). What appears is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

PART = ".part"


@dataclass(frozen=True)
class Store:
    """Files under one address, by names relative to it.

    On a local disk a file or folder is written beside its place and renamed; object stores show an object only when it
    is complete, and a folder's files before whatever names the folder.
    """

    address: str

    @staticmethod
    def at(place: str | Path) -> Store:
        """The store at a path or address; a path is made absolute, so that workers may change their folder."""
        text = str(place)
        return Store(text if "://" in text else str(Path(text).expanduser().absolute()))

    @property
    def local(self) -> Path | None:
        """The folder on this machine, or None for an address elsewhere."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    @property
    def _fs(self) -> Any:
        return fsspec.core.url_to_fs(self.address)[0]

    @property
    def _root(self) -> str:
        return str(fsspec.core.url_to_fs(self.address)[1]).rstrip("/")

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether a file or folder of this name is there."""
        return bool(self._fs.exists(self._at(name)))

    def names(self, folder: str, ending: str = "") -> list[str]:
        """Sorted names `folder/…` of what lies directly in `folder` and ends so; the unfinished is left out."""
        fs, at = self._fs, self._at(folder)
        if not fs.exists(at):
            return []
        fs.invalidate_cache(at)
        found = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(at, detail=False))
        return sorted(f"{folder}/{name}" for name in found if name.endswith(ending) and not name.endswith(PART))

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return bytes(self._fs.cat_file(self._at(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        if self.local is None:
            self._fs.pipe_file(self._at(name), data)
            return
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
        try:
            part.write_bytes(data)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A fresh local folder to fill; when the block ends well it appears as `name`, replacing an older one."""
        if self.local is None:
            with tempfile.TemporaryDirectory(prefix="mllm-data-") as temporary:
                yield Path(temporary)
                for path in sorted(p for p in Path(temporary).rglob("*") if p.is_file()):
                    self._fs.put_file(str(path), self._at(f"{name}/{path.relative_to(temporary).as_posix()}"))
            return
        target = self.local / name
        part = target.with_name(target.name + PART)
        for old in (part, target):
            shutil.rmtree(old, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if any(part.iterdir()):
            os.replace(part, target)
        else:
            part.rmdir()

    def clear_parts(self, folder: str) -> None:
        """Remove what a kill left half-written in `folder`."""
        if self.local is not None:
            for left in (self.local / folder).glob(f"*{PART}"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
