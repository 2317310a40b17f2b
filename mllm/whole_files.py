"""Files that are there whole, or as they were before."""

from __future__ import annotations

import os
from pathlib import Path

PART = ".part"
"""What the name of an unfinished file or folder ends with."""


def write_whole(file: Path, data: str | bytes) -> None:
    """Write a file beside its place and give it its name when it is complete; text as UTF-8.

    Folders that are missing are made. Raises OSError, and then leaves nothing unfinished.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}{PART}")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True)
        raise
