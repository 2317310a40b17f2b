"""Recordings that lie inside a table, as the hub's tables have them: each is written once into the project's cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mllm.data_recipes.adapters_fields import Skip
from mllm.data_recipes.licences import DataError
from mllm.download import disk_errors
from mllm.errors import WeightsError
from mllm.weights import cache_dir
from mllm.whole_files import write_whole


def embedded_audio(value: Mapping[str, Any]) -> Path:
    """The file that holds the bytes of `{bytes, path}`.

    Its name is the sha256 of the bytes: equal recordings share a file, others never meet whatever their items are
    called, and one that is there needs no second look. The set's own folder is only read, and may be anywhere.

    Raises:
        Skip: the bytes are none.
        DataError: the cache cannot be written.
    """
    data = value["bytes"]
    if not isinstance(data, bytes | bytearray | memoryview):
        raise Skip("unusable field audio")
    digest = hashlib.sha256(data).hexdigest()
    suffix = PurePosixPath(str(value.get("path") or "")).suffix
    name = digest + (suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,5}", suffix) else "")
    # Folders of 256 each: a set of a million recordings in one folder slows every file system.
    path = cache_dir() / "embedded_audio" / digest[:2] / name
    if not path.is_file():
        try:
            with disk_errors(path):
                write_whole(path, bytes(data))
        except WeightsError as error:
            raise DataError(str(error)) from error
    return path
