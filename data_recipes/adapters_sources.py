"""Where rows come from: tables, the Hugging Face hub, mirdata, folders of scores; and the files that rows name."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as default
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from mllm.data_recipes.adapters_fields import Missing, Skip, reach
from mllm.data_recipes.config import Recipe
from mllm.data_recipes.licences import DataError
from mllm.errors import ScoreError
from mllm.score import facts as score_facts
from mllm.score import read_score, to_abc, tune_numbers

Row = Mapping[str, Any]
"""Columns of a table, or attributes of a track of mirdata, by name."""


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

    def absent(self, what: str) -> DataError:
        """The error that says what to download."""
        return DataError(f"{self.recipe.name}: {what}. {self.recipe.get or 'See ' + self.recipe.url}".strip())

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


def _found(source: Source, fs: Any, base: str, files: Any) -> list[tuple[str, str]]:
    """(split, path in `fs`) of all files, in a fixed order."""
    out: dict[str, str] = {}
    for split, pattern in _patterns(files):
        if ".." in PurePosixPath(pattern).parts or pattern.startswith("/"):
            raise DataError(f"{source.recipe.name}: options.files {pattern!r} leaves the folder; give it from there on")
        for path in sorted(fs.glob(f"{base.rstrip('/')}/{pattern}")):
            out.setdefault(path, split)
    return [(split, path) for path, split in out.items()]


def _lines(address: str) -> Iterator[str]:
    import datasets

    # The text builder streams lines of any fsspec address, packed or not. Cells stay text and each line fails alone,
    # where the csv and json builders guess types (track "007" -> 7) and stop at the first bad line of a block.
    how = {"split": "train", "streaming": True, "encoding_errors": "replace", "chunksize": 1 << 20}
    rows = datasets.load_dataset("text", data_files=address, **how)
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


def _json_lines(address: str, source: Source) -> Iterator[dict[str, Any]]:
    for line in _lines(address):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            source.skipped["corrupt line"] += 1


def _json(address: str, source: Source) -> Iterator[dict[str, Any]]:
    """A list of objects, or (many sets call that .json too) an object a line."""
    import datasets

    with fsspec.open(address, "rt", encoding="utf-8-sig", errors="replace", compression="infer") as stream:
        first = stream.read(4096).lstrip()[:1]
    if first != "[":
        yield from _json_lines(address, source)
        return
    yield from datasets.load_dataset("json", data_files=address, split="train", streaming=True)


def _parquet(address: str, source: Source) -> Iterator[dict[str, Any]]:
    import datasets

    rows = datasets.load_dataset("parquet", data_files=address, split="train", streaming=True)
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
    found = _found(source, fs, base, files)
    if not found:
        patterns = ", ".join(p for _, p in _patterns(files)) or "options.files"
        raise source.absent(f"nothing matches {patterns} in {source.root}")
    for split, path in found:
        suffix = next((s for s in reversed(PurePosixPath(path).suffixes) if s in _READERS), "")
        if not suffix:
            raise DataError(f"{source.recipe.name}: {path} is no table; readable are {' '.join(_READERS)}")
        stem = PurePosixPath(path).name.split(".")[0]
        address = str(path) if "file" in listed(fs.protocol) else fs.unstrip_protocol(path)
        n = 0
        try:
            for n, row in enumerate(_READERS[suffix](address, source)):
                yield {**row, "_file": stem, "_n": n, "_split": split, "_id": f"{stem}-{n}"}
        except Exception as error:  # what readers, codecs and network libraries trip over has no common class
            if "file" not in listed(fs.protocol):
                raise source.absent(f"{address} cannot be read to its end") from error
            source.skipped[f"unreadable file: {stem}" if n == 0 else f"file breaks off: {stem}"] += 1


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
    if _found(source, source.fs, source.base, options.get("files")):
        yield from table(source)
        return
    address = f"hf://datasets/{options['repo']}"
    try:
        fs, base = url_to_fs(address)
        reached = bool(_found(source, fs, base, options.get("files")))
    except Exception as error:  # offline, gated, gone: each network library has its own errors
        why = "not reachable, gone, or its terms are not yet accepted"
        raise source.absent(f"no copy in {source.root}, and {address} is {why}") from error
    if not reached:
        raise source.absent(f"no copy in {source.root}, and {address} has no such files")
    yield from _joined(source, fs, base, _rows_of(source, fs, base, options.get("files")))


def score_folder(source: Source) -> Iterator[Row]:
    """A row a score, or a tune of an ABC book: `abc`, its facts (mllm.score.facts), `path`, `folder`, `stem`, `n`."""
    if not source.local:
        raise DataError(f"{source.recipe.name}: scores are read from a folder on this machine, not from {source.root}")
    found = _found(source, source.fs, source.base, source.recipe.options.get("files"))
    if not found:
        raise source.absent(f"no score in {source.root}")
    for split, path in found:
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
                known: dict[str, Any] = {k: v for k, v in score_facts(score).items() if v not in (None, "", [])}
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


class _Track(Mapping[str, Any]):
    """A track of mirdata by attribute; annotations as FACTS (row.py) holds them."""

    def __init__(self, track: Any, id: str):
        self._track, self._own = track, {"_id": id, "_split": "", "_file": id}

    def __getitem__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        if name.startswith("_") or not hasattr(type(self._track), name) and name not in vars(self._track):
            raise KeyError(name)
        try:
            return plain(getattr(self._track, name))
        except Exception as error:  # mirdata's parsers raise whatever a damaged or absent file makes them trip over
            if isinstance(error, FileNotFoundError):
                raise Missing(f"missing annotation {name}") from error
            raise Skip(f"unreadable annotation {name}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def _spans(data: Any) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in data.intervals]


def _only_key(data: Any) -> str | None:
    """The key of a recording that stays in one; one that changes has no one key."""
    keys = {k for k in data.keys if k not in ("N", "Silence", "")}
    return keys.pop() if len(keys) == 1 else None


def _surest_tempo(data: Any) -> float | None:
    confidence = data.confidence if data.confidence is not None else [0.0] * len(data.tempos)
    sure = sorted(zip(confidence, data.tempos, strict=True), key=lambda pair: -float(pair[0]))
    return float(sure[0][1]) if sure else None


def _midi_notes(data: Any) -> list[list[Any]]:
    """[onset, end, MIDI number], whether they are written as numbers or as Hz (69 = 440 Hz)."""
    pitches = [float(p) for p in data.pitches]
    if data.pitch_unit == "hz":
        pitches = [69 + 12 * math.log2(p / 440) for p in pitches]
    return [[round(a, 4), round(b, 4), round(p)] for (a, b), p in zip(_spans(data), pitches, strict=True)]


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "BeatData": lambda data: [float(t) for t in data.times],
    "ChordData": lambda data: [[a, b, str(c)] for (a, b), c in zip(_spans(data), data.labels, strict=True)],
    "SectionData": lambda data: [
        {"start": a, "end": b, "label": str(label)} for (a, b), label in zip(_spans(data), data.labels, strict=True)
    ],
    "KeyData": _only_key,
    "TempoData": _surest_tempo,
    "NoteData": _midi_notes,
    "MultiAnnotator": lambda data: [plain(a) for a in data.annotations],
}
"""Class of mirdata.annotations -> what FACTS holds."""


def plain(value: Any) -> Any:
    """An annotation of mirdata as lists and numbers of FACTS; other values as they are."""
    convert = _PLAIN.get(type(value).__name__)
    return convert(value) if convert and type(value).__module__ == "mirdata.annotations" else value


def mirdata_tracks(source: Source) -> Iterator[Row]:
    """Tracks (or, with `of: multitracks`, multitracks) in the order of mirdata's index.

    The index is taken from the set's own folder where it lies there, else from where mirdata's download puts it.
    """
    import mirdata

    options = source.recipe.options
    if not source.local:
        raise DataError(f"{source.recipe.name}: mirdata reads a folder on this machine, not {source.root}")
    if not Path(source.base).is_dir():
        raise source.absent(f"{source.root} does not exist")
    name = options["dataset"]
    data = mirdata.initialize(name, data_home=source.base, version=options.get("version", "default"))
    own = Path(source.base) / Path(data.index_path).name
    data.index_path = str(own) if own.is_file() else data.index_path
    if not Path(data.index_path).is_file():
        raise source.absent(
            f"the index {own.name} of mirdata is neither in {source.root} nor in mirdata itself; fetch it with "
            f"python -c \"import mirdata; mirdata.initialize('{name}').download(['index'])\""
        )
    whole = options.get("of") == "multitracks"
    listed_paths = data._index["multitracks" if whole else "tracks"]
    for id in data.mtrack_ids if whole else data.track_ids:
        try:
            for path in listed_paths[id].values():
                source.inside(str(path[0] or "") if isinstance(path, list) else "")
            track = (data.multitrack if whole else data.track)(id)
        except Skip as why:
            source.skipped[str(why)] += 1
            continue
        except Exception:  # an index that does not fit the folder; see _Track
            source.skipped["unreadable track"] += 1
            continue
        yield _Track(track, str(id))
