"""A public benchmark: where its files lie, under which terms, and how its records become items."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllm.eval.caption_figures import OwnTrack
from mllm.eval.item import Item
from mllm.eval.task import EvalError

LOG = logging.getLogger("mllm.eval")
FOLDER, AUDIO = "MLLM_BENCHMARKS", "MLLM_BENCHMARK_AUDIO"
"""Environment: the folder with one folder a benchmark (else `bench` in $MLLM_DATA), and the same for sound."""
Load = Callable[[Path, Path], Iterator[Item]]
"""(folder of the set, folder of its audio) -> its items, with options in their official order."""


@dataclass(frozen=True)
class Benchmark:
    """A set that others made.

    Args:
        name: as `--tasks` says it. title: as the table says it.
        load: reads the set; raises EvalError for a file that is not what it should be.
        scorer: a name in `mllm.eval.benchmarks.scorers.SCORERS`.
        folder: of the set, inside the benchmarks' folder. files: patterns; one of them has to be there.
        where: what to download, from where. size: of it. licence: as its makers name it.
        citation: the paper. official: the metric of the paper, and where ours differs.
        shuffle: whether options are shuffled by seed: where the place of the right one is not balanced.
        sound: whether its questions are about recordings.
        also: patterns of further files that its items are read from.
        train: reads its TRAIN part, for what is fitted, and `train_file` says whether that is here; None: it has none.
    """

    name: str
    title: str
    load: Load
    scorer: str
    folder: str
    files: tuple[str, ...]
    where: str
    size: str
    licence: str
    citation: str
    official: str
    shuffle: bool = False
    sound: bool = True
    also: tuple[str, ...] = ()
    train: Load | None = None
    train_file: str = ""

    def missing(self, root: Path | None = None) -> str | None:
        """One line that says what to download, from where and to where; None where the set is there."""
        base = root or benchmarks_dir()
        folder = base / self.folder if base else None
        if folder and any(next(folder.glob(pattern), None) for pattern in self.files):
            return None
        at = f"into {folder}" if folder else f"into {self.folder}/ of a folder, and name that folder in {FOLDER}"
        return f"{self.name} is not here: get {self.where} ({self.size}, {self.licence}) {at}"

    def items(
        self, root: Path | None = None, *, limit: int | None = None, seed: int = 0, official_order: bool = False
    ) -> list[Item]:
        """Its items in an order drawn by `seed`, at most `limit`; options shuffled too, unless `official_order`.

        Args:
            root: the folder with one folder a benchmark; None: that which the environment names.

        Items of captions know all tracks of the set (meta "tracks", an `OwnTrack`) and which is theirs ("track").
        Raises EvalError where the set is not there or cannot be read.
        """
        items = self._read(self.load, root, seed)
        if self.scorer == "caption":  # searched in the whole set, whatever the limit: a figure of few is a high one
            tracks = OwnTrack([item.truth for item in items])
            items = [replace(item, meta=item.meta | {"tracks": tracks, "track": i}) for i, item in enumerate(items)]
        items = items if limit is None else items[:limit]
        return [_shuffled(item, seed) for item in items] if self.shuffle and not official_order else items

    def train_items(self, root: Path | None = None, *, limit: int | None = None, seed: int = 0) -> list[Item]:
        """Those of its TRAIN part, likewise; none where it has no such part, or where that is not here."""
        if self.train is None or self.missing(root) or not (self._there(root) / self.train_file).is_file():
            return []
        return self._read(self.train, root, seed)[:limit]

    def _read(self, load: Load, root: Path | None, seed: int) -> list[Item]:
        """What a loader finds, in an order drawn by `seed`."""
        folder = self._there(root)
        audio = Path(os.environ[AUDIO]).expanduser() / self.folder if os.environ.get(AUDIO) else folder
        try:
            items = sorted(load(folder, audio), key=lambda item: _drawn(seed, item.id))
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise EvalError(
                f"{folder} does not hold {self.name} as published ({type(error).__name__}: {error}): "
                f"get {self.where} anew"
            ) from error
        if bad := [item.meta["malformed"] for item in items if "malformed" in item.meta]:
            LOG.warning("%s: %d records are left out: %s", self.name, len(bad), bad[0])
            items = [item for item in items if "malformed" not in item.meta]
        if not items:
            raise EvalError(f"{folder} holds no questions of {self.name}: get {self.where} anew")
        return items

    def sha256(self, root: Path | None = None) -> str:
        """sha256 over the files that its items are read from, sound and names left out.

        Raises EvalError where the set is not there.
        """
        folder = self._there(root)
        read = next(pattern for pattern in self.files if next(folder.glob(pattern), None))
        files = {file for pattern in (read, *self.also) for file in folder.glob(pattern)}
        digests = []
        for file in files:
            with file.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").digest())
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()

    def _there(self, root: Path | None) -> Path:
        """The set's folder."""
        if line := self.missing(root):
            raise EvalError(line)
        base = root or benchmarks_dir()
        assert base is not None
        return base / self.folder


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def _shuffled(item: Item, seed: int) -> Item:
    options = list(item.options)
    random.Random(_drawn(seed, item.id)).shuffle(options)
    return replace(item, options=tuple(options))


def benchmarks_dir() -> Path | None:
    """$MLLM_BENCHMARKS, or the folder `bench` in or beside $MLLM_DATA; None where there is neither."""
    if given := os.environ.get(FOLDER):
        return Path(given).expanduser()
    if data := os.environ.get("MLLM_DATA"):
        folder = Path(data).expanduser()
        return next((place for place in (folder / "bench", folder.parent / "bench") if place.is_dir()), None)
    return None


def sound(audio: Path, name: str) -> Path:
    """The path of a recording below `audio`. Raises ValueError for a name that leads out of it."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the folder of the set")
    return audio / path


def choice(id: str, question: str, options: list[str], truth: str, **more: Any) -> Item:
    """A multiple choice; marked as malformed, and so left out, unless the truth is one of 2 to 10 options."""
    options = [str(option).strip() for option in options]
    truth = str(truth).strip()
    if truth not in options or len(set(options)) < 2 or len(options) > 10:  # MMAU repeats an option once
        why = f"{id}: {truth!r} is not one of 2 to 10 options {options}"
        return Item(id, str(question), truth, meta={"malformed": why})
    return Item(id, str(question).strip(), truth, options=tuple(options), **more)


def read_json(file: Path) -> Any:
    """The content of a JSON file. Raises ValueError where it is none."""
    return json.loads(file.read_text(encoding="utf-8"))


def read_jsonl(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, or of a JSON list in its place."""
    text = file.read_text(encoding="utf-8")
    yield from json.loads(text) if text.lstrip().startswith("[") else map(json.loads, filter(None, text.splitlines()))


def read_table(file: Path, delimiter: str = ",") -> Iterator[Mapping[str, str]]:
    """The rows of a CSV file with a head."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream, delimiter=delimiter)


def read_parquet(folder: Path, pattern: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of parquet files, without their sound."""
    import pyarrow.parquet as pq

    for file in sorted(folder.glob(pattern)):
        table = pq.ParquetFile(file)
        names = [name for name in table.schema_arrow.names if columns is None or name in columns]
        for batch in table.iter_batches(columns=names):
            yield from batch.to_pylist()


def first_of(folder: Path, *names: str) -> Path:
    """The first of these files that exists. Raises FileNotFoundError where none does."""
    for name in names:
        if found := next(iter(sorted(folder.glob(name))), None):
            return found
    raise FileNotFoundError(f"none of {', '.join(names)} in {folder}")
