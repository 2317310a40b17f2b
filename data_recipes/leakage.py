"""Benchmarks, and how their items can be known in training data: by their source's id, words, sound or score.

A number alone names nothing: `1234` or `clip_12` counts only together with the collection that it belongs to. Words are
compared as runs of eight. Runs that many training works or many benchmark texts have in common are phrases of a
template, not a leak; questions and answers in our own wordings are left out before.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mllm.data_recipes.config import HERE
from mllm.data_recipes.fingerprints import WORD_GRAM, note_fingerprints, text_fingerprint, words
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.store import Store
from mllm.errors import ScoreError

if TYPE_CHECKING:
    from mllm.data_recipes.shard_contents import File

AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".aiff", ".aif")
TEXT_FIELDS = ("caption", "captions", "text", "description", "reference", "references", "question", "instruction",
               "prompt", "answer", "answers", "response", "output")  # fmt: skip
ASKED = ("question", "instruction", "prompt")
SCORE_FIELDS = ("abc", "score", "notes")
SOURCE_FIELDS = ("dataset", "source", "collection")
CONTAINED = 0.5
"""Least share of a benchmark text's uncommon runs of words that one training row must hold."""

_YOUTUBE = re.compile(r"(?:youtu\.be/|[?&]v=|youtube\.com/(?:embed|shorts|v)/)([\w-]{11})(?![\w-])")
_TIMED = re.compile(r"^(?P<id>[\w-]{11})(?:[_\s-]*[\[(]?\d+(?:\.\d+)?(?:[_,-]\d+(?:\.\d+)?)?[\])]?)?$")
_NUMBERED = re.compile(
    r"^(?:audio|clip|item|track|sample|song|music|test|train|validation|question|row|file|id|q)?[-_ ]?\d+$", re.I
)
_GAP = r"\{[^{}]*\}"
_ID_FIELD = re.compile(r"(^|_)(id|ids|ytid|url|uri|link|path|file|filename|audio|work)$|ytid$", re.I)


def identities(names: Iterable[str], source: str) -> tuple[str, ...]:
    """What a thing can be recognised by, whoever names it.

    Args:
        names: ids, addresses and file names of the thing.
        source: the collection, without which a mere number means nothing.
    """
    out: dict[str, None] = {}
    for name in names:
        name = name.strip()
        if not name:
            continue
        if match := _YOUTUBE.search(name):
            out[match[1]] = None
            continue
        if "://" in name:
            out[name.rstrip("/").lower()] = None
            continue
        stem = PurePosixPath(name.replace("\\", "/")).name
        stem = stem.rsplit(".", 1)[0] if stem.lower().endswith(AUDIO_SUFFIXES) else stem
        for one in (name, stem):
            digits = sum(c.isdigit() for c in one)
            if (_NUMBERED.match(one) and (one.isdigit() or digits < 7)) or len(one) < 5:
                out[f"{_plain(source)}:{one}"] = None
            elif one == name or digits:
                out[one] = None
        if (match := _TIMED.match(stem)) and any(c.isupper() or c.isdigit() for c in match["id"]):
            out[match["id"]] = None
    return tuple(out)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


@dataclass
class Item:
    """One item of a benchmark."""

    label: str
    identities: tuple[str, ...] = ()
    texts: list[str] = field(default_factory=list)
    audio: File | None = None
    notes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))


def read_benchmark(place: str | Path) -> list[Item]:
    """Items of a benchmark; DataError where there is nothing to read.

    It is the test split of a build, here or at an fsspec address; or, on this machine, a .jsonl, .json, .csv, .tsv or
    .parquet file, or a folder of those and of audio files. Ids, texts, audio and scores are found by the names of the
    fields.
    """
    store = Store.at(place)
    if store.exists("rows"):
        return list(_built(store))
    path = store.local
    if path is None:
        raise DataError(
            f"benchmark {place} holds no rows/*.parquet: of addresses only builds are read, copy others to a folder"
        )
    if not path.exists():
        raise DataError(f"benchmark {place} does not exist")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    root = path.parent if path.is_file() else path
    items: list[Item] = []
    for file in files:
        if file.suffix.lower() in _READERS:
            try:
                for i, raw in enumerate(_READERS[file.suffix.lower()](file)):
                    items.append(_item(raw, f"{file.stem} {i}", file.parent, path.stem))
            except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
                raise DataError(f"benchmark {file} cannot be read: {str(error).splitlines()[0]}") from error
    known = {item.audio for item in items}
    for file in files:
        if file.suffix.lower() in AUDIO_SUFFIXES and (audio := _file(file)) not in known:
            name = str(file.relative_to(root))
            items.append(Item(name, identities([name], path.stem), audio=audio))
    if not items:
        raise DataError(f"benchmark {place} holds no items (.jsonl, .json, .csv, .tsv, .parquet) and no audio")
    return items


def _file(path: Path) -> File:
    real = path.resolve()
    return Store.at(real.parent), real.name


def _jsonl(file: Path) -> Iterator[Any]:
    with open(file, encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _json(file: Path) -> Iterator[Any]:
    loaded = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(loaded, dict):
        lists = [v for v in loaded.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if lists:
            loaded = [x for v in lists for x in v]
        elif all(isinstance(v, dict) for v in loaded.values()):
            loaded = [{"id": k, **v} for k, v in loaded.items()]
        else:
            loaded = [loaded]
    if not isinstance(loaded, list):
        raise ValueError("neither a list nor an object")
    yield from loaded


def _csv(file: Path) -> Iterator[Any]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")


def _parquet(file: Path) -> Iterator[Any]:
    with pq.ParquetFile(file) as table:
        names = [n for n in table.schema_arrow.names if not pa.types.is_nested(table.schema_arrow.field(n).type)]
        for batch in table.iter_batches(256, columns=names):
            yield from batch.to_pylist()


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}


def _item(raw: Any, label: str, folder: Path, benchmark: str) -> Item:
    if not isinstance(raw, Mapping):
        raise ValueError("an item is not an object")
    plain = {str(k).lower(): v for k, v in raw.items() if v not in (None, "")}
    source = next((str(plain[k]) for k in SOURCE_FIELDS if isinstance(plain.get(k), str)), benchmark)
    names = [str(v) for k, v in plain.items() if _ID_FIELD.search(k) and isinstance(v, str | int)]
    item = Item(next(iter(names), label), identities(names, source))
    for value in plain.values():
        if isinstance(value, str) and value.lower().endswith(AUDIO_SUFFIXES) and "://" not in value:
            path = (folder / value).resolve()
            # A list may name files that only the benchmark's authors have, but never one outside its own folder.
            if path.is_relative_to(folder.resolve()) and path.is_file():
                item.audio = _file(path)
    question = " ".join(str(plain[k]) for k in ASKED if isinstance(plain.get(k), str))
    for key in TEXT_FIELDS:
        if key in ASKED:
            continue
        value = plain.get(key)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                answer = question and not key.startswith(("caption", "description", "text"))
                item.texts.append(f"{question}\n{text}" if answer else text)
    if question and not item.texts:
        item.texts.append(question)
    for key in SCORE_FIELDS:
        value = plain.get(key)
        try:
            if isinstance(value, list) or (isinstance(value, str) and "K:" in value):
                item.notes = note_fingerprints(value)
        except (ScoreError, ValueError, TypeError, IndexError):
            continue
    return item


def _built(store: Store) -> Iterator[Item]:
    from mllm.data_recipes.shard_contents import inside, read_shard, shards

    heard: set[str] = set()
    for shard in shards(store):
        contents = read_shard(store, shard, (), texts=True)
        audio = {n.row: n.name for n in contents.audio}
        scores = {n.row: n for n in contents.scores}
        for i, (id, split) in enumerate(zip(contents.ids, contents.splits, strict=True)):
            if split != "test":
                continue
            item = Item(id, (*contents.identities[i], contents.works[i]), contents.texts[i])
            if (name := audio.get(i)) and name not in heard:
                heard.add(name)
                item.audio = (store, name) if inside(store, name) and store.exists(name) else None
            if i in scores:
                item.notes = scores[i].print
            yield item


@lru_cache(maxsize=1)
def _own() -> tuple[frozenset[str], re.Pattern[str]]:
    """Our own wordings: those without a gap; one pattern for those with gaps and three words or more beside them."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, str):
            found.add(node)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(child)

    for path in sorted([*HERE.glob("*.yaml"), *HERE.glob("wordings/**/*.yaml")]):
        walk(yaml.safe_load(path.read_text(encoding="utf-8")))
    gaps = [w for w in sorted(found) if "{" in w and len(words(re.sub(_GAP, " ", w))) >= 3]
    pattern = "|".join(".{1,200}?".join(re.escape(p) for p in re.split(_GAP, w)) for w in gaps)
    return frozenset(w for w in found if "{" not in w), re.compile(pattern or r"(?!)", re.S)


def foreign(text: str) -> str:
    """The lines of a text that are not in our own wordings."""
    whole, gaps = _own()
    return "\n".join(t for t in text.split("\n") if t.strip() not in whole and not gaps.fullmatch(t.strip()))


class TextIndex:
    """Runs of words of a benchmark's texts, and which of them training rows hold."""

    def __init__(self, items: Sequence[Item], rows: int) -> None:
        """Index the texts of `items`; `rows` is how many training rows will be looked at."""
        pairs = [(text_fingerprint(foreign(t)), i) for i, item in enumerate(items) for t in item.texts]
        pairs = [(grams, i) for grams, i in pairs if len(grams)]
        self.item = np.array([i for _, i in pairs], np.int64)
        every = np.concatenate([g for g, _ in pairs]) if pairs else np.zeros(0, np.uint64)
        text = np.repeat(np.arange(len(pairs)), [len(g) for g, _ in pairs])
        order = np.lexsort((text, every))
        self.text = text[order]
        self.grams, self.first, self.count = np.unique(every[order], return_index=True, return_counts=True)
        items_of = (
            np.unique(np.stack([np.searchsorted(self.grams, every), self.item[text]]), axis=1)[0] if pairs else text
        )
        self.common = np.bincount(items_of, minlength=len(self.grams)) > max(3, len(items) // 100)
        self._often = max(10, rows // 500)
        self._hits: list[np.ndarray] = []
        """(3, n): gram, work, row."""

    def grams_of(self, texts: Iterable[str]) -> np.ndarray:
        """Which of the benchmark's runs these texts hold: (m,) indices."""
        found = [text_fingerprint(foreign(t)) for t in texts if t.count(" ") >= WORD_GRAM - 2]
        if not found or not len(self.grams):
            return np.zeros(0, np.int64)
        grams = np.unique(np.concatenate(found))
        at = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        return at[self.grams[at] == grams]

    def add(self, grams: np.ndarray, work: int, row: int) -> None:
        """Note that training row `row`, of work `work` (both any numbers), holds `grams`."""
        grams = grams[~self.common[grams]]
        if len(grams):
            self._hits.append(np.stack([grams, np.full_like(grams, work), np.full_like(grams, row)]))
        if len(self._hits) > 5000:
            self._settle()

    def _settle(self) -> None:
        """Drop what has become common, so that templates never fill the memory."""
        if not self._hits:
            return
        hits = np.concatenate(self._hits, axis=1)
        works = np.unique(hits[:2], axis=1)[0]
        self.common |= np.bincount(works, minlength=len(self.grams)) > self._often
        self._hits = [hits[:, ~self.common[hits[0]]]]

    def leaks(self) -> list[tuple[int, int, float]]:
        """(row, item, share of the item's text that the row holds), best first for each row and item."""
        self._settle()
        if not self._hits or not self._hits[0].shape[1]:
            return []
        gram, _, row = self._hits[0]
        n = self.count[gram]
        at = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(self.first[gram], n)
        pairs, shared = np.unique(np.stack([self.text[at], np.repeat(row, n)]), axis=1, return_counts=True)
        uncommon = np.repeat(~self.common, self.count)
        total = np.bincount(self.text[uncommon], minlength=len(self.item))[pairs[0]]
        every = np.bincount(self.text, minlength=len(self.item))[pairs[0]]
        # One shared run is chance, unless it is all there is.
        sure = (shared >= CONTAINED * total) & ((shared >= 2) | (every == 1))
        best: dict[tuple[int, int], float] = {}
        for t, r, share in zip(pairs[0][sure], pairs[1][sure], (shared / np.maximum(total, 1))[sure], strict=True):
            key = (int(r), int(self.item[t]))
            best[key] = max(best.get(key, 0.0), round(float(share), 3))
        return [(r, i, s) for (r, i), s in sorted(best.items())]
