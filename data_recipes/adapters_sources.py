"""Where rows come from: tables, the Hugging Face hub, folders of scores; and the files that rows name."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as default
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from mllm.data_recipes.adapters_fields import Missing, Skip, reach
from mllm.data_recipes.adapters_splits import split_name
from mllm.data_recipes.config import Recipe
from mllm.data_recipes.licences import DataError
from mllm.errors import ScoreError
from mllm.score import facts as score_facts
from mllm.score import read_score, to_abc, tune_numbers

_PIECE = 1 << 16
"""Characters of a JSON list that are read together."""
_BETWEEN = tuple(" \t\r\n,")
Row = Mapping[str, Any]
"""Columns of a table, or attributes of a track of mirdata, by name."""


class Absent(DataError):
    """A set, or a part of it, is not here; the message says where to get it. Builds go on without such a set."""


def listed(value: Any) -> list[Any]:
    """A list of it, unless it is one."""
    return list(value) if isinstance(value, list | tuple) else [value]


@dataclass
class Source:
    """One recipe at one place, with the counter of what was passed over."""

    recipe: Recipe
    root: str
    """Address of the set: the given root with Recipe.path."""
    skipped: Counter[str] = default(default_factory=Counter)

    def __post_init__(self) -> None:
        self.fs, self.base = url_to_fs(self.root)
        self.local = "file" in listed(self.fs.protocol)

    def absent(self, what: str) -> Absent:
        """The error that says what to download."""
        return Absent(f"{self.recipe.name}: {what}. {self.recipe.get or 'See ' + self.recipe.url}".strip())

    def inside(self, name: str) -> PurePosixPath:
        """A path that a set names, from the root on; Skip where it, or what it links to, lies outside."""
        name, base = name.replace("\\", "/"), self.base.rstrip("/") + "/"
        path = PurePosixPath(name.removeprefix(base) if self.local else name)
        if path.is_absolute() or ".." in path.parts or "://" in name or "\0" in name:
            raise Skip("file outside the folder")
        if self.local and not (Path(base) / path).resolve().is_relative_to(Path(base).resolve()):
            raise Skip("file outside the folder")
        return path

    def address(self, name: str) -> str:
        """Address of a file that a row names; Skip where it is outside, Missing where it is not there (local roots)."""
        path = self.inside(name)
        if not self.local:
            return f"{self.root.rstrip('/')}/{path}"
        here = Path(self.base) / path
        if not here.is_file():
            raise Missing(f"missing file ({path.suffix or 'no ending'})")
        return str(here)

    def file(self, name: str) -> Path:
        """The same as a path; Skip where the root is not on this machine."""
        address = self.address(name)
        if not self.local:
            raise Skip("file not on this machine")
        return Path(address)


def _patterns(files: Any) -> list[tuple[str, str]]:
    """(split or "", pattern) of options.files."""
    if isinstance(files, Mapping):
        return [(split, pattern) for split, given in files.items() for pattern in listed(given)]
    return [("", pattern) for pattern in listed(files)] if files else []


def _found(source: Source, fs: Any, base: str, files: Any, all_of_them: bool = True) -> list[tuple[str, str]]:
    """(split, path in `fs`) of all files, in a fixed order.

    Raises:
        DataError: a pattern that leaves the folder or belongs to no split; with `all_of_them`, one without a file.
    """
    out: dict[str, str] = {}
    name = source.recipe.name
    if not _patterns(files):
        raise DataError(f"{name}: options.files is missing: give a pattern of the files of the set")
    for split, pattern in _patterns(files):
        if ".." in PurePosixPath(pattern).parts or pattern.startswith("/"):
            raise DataError(f"{name}: options.files {pattern!r} leaves the folder; give it from there on")
        if split and not split_name(split):
            raise DataError(f"{name}: options.files: {split!r} is no split; known are train, validation and test")
        paths = sorted(fs.glob(f"{escape(base.rstrip('/'))}/{pattern}"))
        if not paths and all_of_them:
            # A part that is silently not there would be missed only in the results.
            where = source.root if fs is source.fs else fs.unstrip_protocol(base)
            get = source.recipe.get or f"See {source.recipe.url}"
            raise DataError(
                f"{name}: no file matches options.files {pattern!r} in {where}; correct it or add the files. {get}"
            )
        for path in paths:
            out.setdefault(path, split)
    return [(split, path) for path, split in out.items()]


def _lines(address: str) -> Iterator[str]:
    import datasets

    # The text builder streams lines of any fsspec address, packed or not. Cells stay text and each line fails alone,
    # where the csv and json builders guess types (track "007" -> 7) and stop at the first bad line of a block.
    how = {"split": "train", "streaming": True, "encoding_errors": "replace", "chunksize": 1 << 20}
    rows = datasets.load_dataset("text", data_files=escape(address), **how)
    for row in rows:
        yield row["text"].removeprefix("\ufeff")


def _cells(address: str, source: Source) -> Iterator[dict[str, Any]]:
    options = source.recipe.options
    separator = options.get("separator", "," if ".csv" in address else "\t")
    columns = list(options.get("columns", [])) or None
    rest = columns[-1].removesuffix("*") if columns and columns[-1].endswith("*") else ""
    if columns and rest:
        columns[-1] = rest
    lines = _lines(address)
    for _ in range(options.get("header", 0)):
        next(lines, None)
    # Some tables have cells longer than csv's default limit of 131,072 characters (lists of chords).
    csv.field_size_limit(16_000_000)
    # In tabs-separated text a quotation mark is mostly just one, and would swallow the lines up to the next.
    plain_text = not options.get("quotes", separator != "\t")
    reader = csv.DictReader(
        (f"{t}\n" for t in lines),
        columns,
        restkey="_rest",
        delimiter=separator,
        quoting=csv.QUOTE_NONE if plain_text else csv.QUOTE_MINIMAL,
        skipinitialspace=True,
    )
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            source.skipped["corrupt line"] += 1
            continue
        if row is None:
            return
        more = row.pop("_rest", [])
        if None in row.values() or (more and not rest):
            source.skipped["corrupt line"] += 1
            continue
        if rest:
            row[rest] = [row[rest], *more]
        yield {k.strip(): v for k, v in row.items()}


def _objects(values: Iterable[Any], source: Source) -> Iterator[dict[str, Any]]:
    for value in values:
        if isinstance(value, dict):
            yield value
        else:
            source.skipped["corrupt line"] += 1


def _json_lines(address: str, source: Source) -> Iterator[dict[str, Any]]:
    yield from _objects((_parsed(line) for line in _lines(address) if line.strip()), source)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None


def _json(address: str, source: Source) -> Iterator[dict[str, Any]]:
    """A list of objects, or (many sets call that .json too) an object a line."""
    with fsspec.open(address, "rt", encoding="utf-8-sig", errors="replace", compression="infer") as stream:
        start = stream.read(4096).lstrip()
        if start[:1] == "[":
            # Read here: readers that turn it into columns change values of mixed types, and dates.
            yield from _objects(_elements(stream, start[1:]), source)
            return
    yield from _json_lines(address, source)


def _elements(stream: Any, text: str) -> Iterator[Any]:
    """What a JSON list holds, one after the other, of which `text` has been read behind its bracket.

    Raises ValueError where it is not JSON any more; a list may be longer than memory.
    """
    decoder, at, piece = json.JSONDecoder(), 0, _PIECE
    while True:
        while text[at : at + 1] in _BETWEEN:
            at += 1
        if text[at : at + 1] == "]":
            return
        try:
            element, end = decoder.raw_decode(text, at)
            whole = end < len(text)  # of a number cut in two the first half is one too
        except json.JSONDecodeError:
            whole = False
        if whole:
            yield element
            at, piece = end, _PIECE
            continue
        if not (more := stream.read(piece)):
            raise ValueError("the list does not end")
        text, at, piece = text[at:] + more, 0, 2 * piece


def _parquet(address: str, source: Source) -> Iterator[dict[str, Any]]:
    import datasets

    rows = datasets.load_dataset("parquet", data_files=escape(address), split="train", streaming=True)
    yield from rows.decode(False)


_READERS: dict[str, Callable[[str, Source], Iterator[dict[str, Any]]]] = {
    ".csv": _cells,
    ".tsv": _cells,
    ".txt": _cells,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
"""Ending -> reader of rows; a packing (.gz, .xz, .zst, .bz2) may follow the ending."""


def _rows_of(source: Source, fs: Any, base: str, files: Any) -> Iterator[dict[str, Any]]:
    labels: set[str] = set()
    for split, path in _found(source, fs, base, files):
        suffix = next((s for s in reversed(PurePosixPath(path).suffixes) if s in _READERS), "")
        if not suffix:
            raise DataError(f"{source.recipe.name}: {path} is no table; readable are {' '.join(_READERS)}")
        stem = PurePosixPath(path).name.split(".")[0]
        # Files of one stem, in two folders or of two formats, are different files: an id is of one row.
        inside = str(path).removeprefix(base.rstrip("/") + "/")
        label = inside[: inside.rindex(suffix)]
        labels.add(label := inside if label in labels else label)
        address = str(path) if "file" in listed(fs.protocol) else fs.unstrip_protocol(path)
        n = -1
        try:
            for n, row in enumerate(_READERS[suffix](address, source)):
                yield {**row, "_file": stem, "_n": n, "_split": split, "_id": f"{label}-{n}"}
        except MemoryError:
            raise
        except Exception as error:  # what readers, codecs and network libraries trip over has no common class
            if "file" not in listed(fs.protocol):
                raise source.absent(f"{address} cannot be read to its end") from error
            source.skipped[f"unreadable file: {stem}" if n < 0 else f"file breaks off: {stem}"] += 1


def _joined(source: Source, fs: Any, base: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows with the columns of options.join; only those columns of the second table are held in memory."""
    join = source.recipe.options.get("join")
    if not join:
        yield from rows
        return
    here, there = join["by"]
    beside: dict[str, dict[str, Any]] = {}
    for row in _rows_of(source, fs, base, join["files"]):
        if (mark := reach(row, there)) is not None:
            beside[str(mark)] = {column: reach(row, column) for column in join["take"]}
    for row in rows:
        yield {**row, **beside.get(str(reach(row, here)), {})}


def table(source: Source) -> Iterator[Row]:
    fs, base = source.fs, source.base
    if not fs.exists(base):
        raise source.absent(f"{source.root} does not exist")
    yield from _joined(source, fs, base, _rows_of(source, fs, base, source.recipe.options.get("files")))


def hub(source: Source) -> Iterator[Row]:
    """Tables of the user's own copy where there is one, else those of the hub; recordings always under the root."""
    options = source.recipe.options
    if _found(source, source.fs, source.base, options.get("files"), all_of_them=False):
        yield from table(source)
        return
    address = f"hf://datasets/{options['repo']}"
    try:
        fs, base = url_to_fs(address)
        fs.info(base)
    except Exception as error:  # offline, gated, gone: each network library has its own errors
        why = "not reachable, gone, or its terms are not yet accepted"
        raise source.absent(f"no copy in {source.root}, and {address} is {why}") from error
    yield from _joined(source, fs, base, _rows_of(source, fs, base, options.get("files")))


def score_folder(source: Source) -> Iterator[Row]:
    """A row a score, or a tune of an ABC book: `abc`, its facts (mllm.score.facts), `path`, `folder`, `stem`, `n`."""
    if not source.local:
        raise DataError(f"{source.recipe.name}: scores are read from a folder on this machine, not from {source.root}")
    if not Path(source.base).is_dir():
        raise source.absent(f"{source.root} does not exist")
    for split, path in _found(source, source.fs, source.base, source.recipe.options.get("files")):
        try:
            inside = source.inside(str(path))
        except Skip as why:
            source.skipped[str(why)] += 1
            continue
        book = Path(path).suffix == ".abc"
        text = Path(path).read_text(encoding="utf-8", errors="replace") if book else ""
        numbers: list[int | None] = [*tune_numbers(text)] if book else []
        for number in numbers or [None]:
            try:
                score = read_score(path, number=number)
                # What is not known keeps its column, so that a misspelt one is told from it.
                known: dict[str, Any] = {k: None if v in ("", []) else v for k, v in score_facts(score).items()}
                abc = to_abc(score)
            except ScoreError:
                source.skipped["unreadable score"] += 1
                continue
            if score.metre and score.metre[1] == 8 and score.metre[0] in (6, 9, 12) and score.tempo:
                known["tempo"] = score.tempo / 1.5  # the felt beat is a dotted quarter
            known["instruments"] = [i for i in dict.fromkeys(score_facts(score)["instruments"]) if i]
            known["first_notes"] = score_facts(score)["first_notes"][:3]
            row = {"path": str(inside), "folder": str(inside.parent), "stem": inside.stem, "n": number, "abc": abc}
            id = f"{inside.with_suffix('')}" + (f"-{number}" if number is not None else "")
            yield {**known, **row, "_id": id, "_split": split, "_file": inside.stem}
