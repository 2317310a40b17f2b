"""Instruction rows as training and evaluation read them: from a built folder of parquet shards, or a JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllm.errors import MllmError

Row = dict[str, Any]
"""`messages`, and where they are known `id`, `task`, `facts`, `source`, `split`."""

_BATCH = 256


class RowsError(MllmError):
    """Instruction rows cannot be used: nothing there, or a line that is no row."""


def iter_rows(path: str | Path, split: str, rank: int = 0, world: int = 1) -> Iterator[Row]:
    """Rows of one split in the order of the files, a few hundred in memory at a time.

    Args:
        path: folder made by `mllm data build` (parquet shards somewhere in it), or a JSONL file whose lines hold
            `messages` (then every line belongs to the split "train" unless it says otherwise).
        rank, world: only every `world`-th row, from the `rank`-th on.

    Yields:
        rows with their JSON columns read and their paths of audios and scores made absolute.

    Raises:
        RowsError: nothing there, or a line that is no row (it is named).
    """
    path = Path(path)
    if not path.exists():
        raise RowsError(f"{path}: there is no such file or folder of rows")
    folder = path.parent if path.is_file() else path
    rows = _line_rows(path, split) if path.is_file() else _shard_rows(path, split)
    for number, row in enumerate(rows):
        if number % world == rank:
            yield _ready(row, folder)


def read_rows(path: str | Path, split: str) -> list[Row]:
    """All rows of one split; see `iter_rows`."""
    return list(iter_rows(path, split))


def row_audios(row: Row) -> list[str]:
    """Paths of the audios in a row's messages, in order; scores are not opened."""
    return [part["audio"] for part in _parts(row) if part.get("type") == "audio" and part.get("audio") is not None]


def is_whole_clip(row: Row) -> bool:
    """Whether a row is about one recording and its facts are true of it from end to end.

    Those of a medley change from section to section, and those of an episode are its labels.
    """
    return len(row_audios(row)) == 1 and bool(row.get("facts")) and not {"sections", "label_kind"} & row["facts"].keys()


def _shard_rows(path: Path, split: str) -> Iterator[Row]:
    import pyarrow.parquet as pq

    # a build names its shards by split; of other folders every shard is looked into
    shards = sorted(path.glob(f"**/{split}-*.parquet")) or sorted(path.glob("**/*.parquet"))
    found = False
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    if row.get("split", split) == split:
                        found = True
                        yield row
    if not found:
        raise RowsError(
            f"no rows of split {split!r} under {path}: build them first (mllm data build … --output {path})"
        )


def _line_rows(path: Path, split: str) -> Iterator[Row]:
    found, number = False, 0
    with open(path, encoding="utf-8-sig") as lines:  # some editors begin a file with a mark
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise RowsError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict) or not isinstance(row.get("messages"), list | str):
                raise RowsError(f'{path}, line {number}: a row is {{"messages": [...]}}')
            row.setdefault("id", f"line {number}")
            if row.get("split", "train") == split:
                found = True
                yield row
    if not number:
        raise RowsError(f'{path}: the file is empty; a line is a row, {{"messages": [...]}}')
    if not found:
        raise RowsError(f'{path}: no row of split {split!r}; write "split": "{split}" into some lines')


def _ready(row: Row, folder: Path) -> Row:
    for name in ("messages", "facts"):
        if isinstance(row.get(name), str):
            row[name] = json.loads(row[name])
    for part in _parts(row):
        kind = part.get("type")
        if kind in ("audio", "score") and isinstance(part.get(kind), str):
            part[kind] = str(folder / part[kind])
    return row


def _parts(row: Row) -> Iterator[dict[str, Any]]:
    """Content parts of all messages; what is no part is passed over, for the processor says so when it renders."""
    for message in row["messages"]:
        content = message.get("content") if isinstance(message, dict) else None
        yield from (part for part in content if isinstance(part, dict)) if isinstance(content, list | tuple) else ()
