"""Fetch one file over HTTP so that a broken line, a full disk or a wrong byte never leaves a wrong file behind."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from safetensors import SafetensorError

from .errors import WeightsError
from .package_index import http_client

MAX_BYTES = 64 * 2**30
ATTEMPTS = 3
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_of(path: Path) -> str:
    """The sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a WeightsError, after removing `path`: nothing half-written stays."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        if code in _FULL_DISK or "os error 28" in str(error):  # safetensors hides the system's error in its text
            path.unlink(missing_ok=True)
            raise WeightsError(
                f"no room on the disk for {path.name.removesuffix('.incomplete')} in {path.parent}: free some space, "
                "or point MLLM_CACHE at a folder on a larger disk; nothing half-written was kept."
            ) from error
        if code in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST}:
            raise WeightsError(
                f"cannot write {path.parent}: {os.strerror(code)}. Point MLLM_CACHE at a folder you may write to."
            ) from error
        raise


def download(url: str, partial: Path, *, sha256: str | None = None, progress: bool = True) -> Path:
    """Fetch `url` into `partial`, going on where an earlier try stopped, and return `partial` once it is whole.

    The caller moves it to its final name, so an unfinished file never has one. Raises WeightsError when the line breaks
    (what has arrived stays for the next try), when the disk is full or the hash is wrong (nothing stays).
    """
    name = urlsplit(url).path.rsplit("/", 1)[-1]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    trouble: Exception | None = None
    with (
        disk_errors(partial),
        http_client() as client,
        Progress(
            *columns, TimeRemainingColumn(), console=console, disable=not (progress and console.is_terminal)
        ) as bar,
    ):
        task = bar.add_task(name, total=None)
        partial.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            try:
                _stream(client, url, partial, bar, task)
                break
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                trouble = error
                if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                    raise WeightsError(f"{name}: the server answered {error.response.status_code}") from error
        else:
            have = partial.stat().st_size if partial.exists() else 0
            raise WeightsError(
                f"the download of {name} was interrupted after {have:,} bytes ({trouble}): "
                "run the same command again, it goes on from there."
            ) from trouble
    found = sha256_of(partial) if sha256 else None
    if found != sha256:
        partial.unlink()
        raise WeightsError(
            f"{name} has the wrong hash: expected sha256 {sha256}, found {found}. It was deleted; try again, "
            "and if it happens again do not use that mirror."
        )
    return partial


def _stream(client: httpx.Client, url: str, partial: Path, bar: Progress, task) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    # identity: a compressed body would make byte offsets meaningless.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as answer:
        if (
            answer.status_code == 416
        ):  # the part is as long as the file (or longer): a hash check or a new start decides
            if answer.headers.get("content-range", "").endswith(f"/{have}"):
                return
            partial.unlink()
            raise httpx.ReadError("the part on disk does not fit the file")
        answer.raise_for_status()
        resumed = answer.status_code == 206
        have = have if resumed else 0
        rest = int(answer.headers.get("content-length", 0))
        if have + rest > MAX_BYTES:
            raise WeightsError(f"{url} is larger than {MAX_BYTES:,} bytes: refused")
        if rest > shutil.disk_usage(partial.parent).free:
            raise OSError(errno.ENOSPC, "no space left")
        bar.update(task, total=have + rest or None, completed=have)
        with partial.open("ab" if resumed else "wb") as file:
            for piece in answer.iter_raw():  # as they come: a chunk size would hold pieces back and lose them
                file.write(piece)
                bar.advance(task, len(piece))
