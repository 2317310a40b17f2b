"""From a recipe of a public set to its items: tables, the Hugging Face hub, mirdata, folders of scores.

Everything is streamed. What one row lacks or breaks is counted in `skipped` and passed over; what makes the whole set
unusable (no folder, no file, no index) is a DataError that says what to download and where to put it.

Recipe.fields (adapters_fields.py) names, for an attribute of Item or a fact, where it stands in the source. Besides
those, `question` and `answer`, or `conversations` (a list of turns, LLaVA's from/value or OpenAI's role/content),
become Item.messages. Recipe.options of the loaders here:

    files       pattern or list of patterns under the root, or a mapping of split -> pattern
    separator   of csv and tsv (default: by the ending)
    quotes      whether cells may be in quotation marks (default: not where tabs separate)
    columns     names of the columns where the file's own do not do; the last may end in `*`: all further cells
    header      lines to pass over before the first row (or the line of names)
    repo        hub: organisation/name
    join        {files, by: [column here, column there], take: [columns]}: columns of a second table, by a key
    keep        column -> regular expression that its value must match; others are skipped
    names       tables for the filter `names`
    dataset, version, of   mirdata: its name there, version of the index, tracks or multitracks
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields as attributes_of
from pathlib import Path, PurePosixPath
from typing import Any

from mllm.data_recipes.adapters_fields import Missing, Place, Skip, key_name, parse_field, reach
from mllm.data_recipes.adapters_sources import Row, Source, hub, listed, mirdata_tracks, score_folder, table
from mllm.data_recipes.config import SPLITS, Recipe
from mllm.data_recipes.licences import PER_TRACK, DataError, normalise, refuse_forbidden
from mllm.data_recipes.row import Item, Message, Turn, messages

ADAPTERS: dict[str, Callable[[Source], Iterator[Row]]] = {
    "table": table,
    "hub": hub,
    "mirdata": mirdata_tracks,
    "score_folder": score_folder,
}
"""Recipe.loader -> rows of a source."""

_TALK = ("question", "answer", "conversations")
_ATTRIBUTES = {f.name for f in attributes_of(Item)} - {"facts", "messages", "split"}
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_PLACEHOLDER = re.compile(r"<(?:audio|music|image|sound|speech)>\s*", re.IGNORECASE)
_SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "test", "training": "train"}


def _words(value: Any) -> list[str]:
    return [str(v).strip() for v in listed(value) if str(v).strip()]


def _moment(value: Any) -> float:
    if not 0 <= float(value) < 1e6:
        raise ValueError("not a time")
    return float(value)


def _positive(value: Any) -> float:
    if not 0 < float(value) < 1e6:
        raise ValueError("not positive")
    return float(value)


def _affect(value: Any) -> float:
    if not -1 <= float(value) <= 1:
        raise ValueError("not in -1..1")
    return float(value)


def _pitch(value: Any) -> int:
    if not 0 <= int(value) <= 127:
        raise ValueError("not a MIDI number")
    return int(value)


_SHAPES: dict[str, Callable[[Any], Any]] = {
    "start": _moment,
    "end": _moment,
    "instruments": _words,
    "tags": _words,
    "mood": _words,
    "key": key_name,
    "tempo": _positive,
    "seconds": _positive,
    "valence": _affect,
    "arousal": _affect,
    "pitch": _pitch,
    "caption": lambda v: " ".join(str(v).split()),
    "genre": lambda v: str(v).strip(),
    "title": lambda v: str(v).strip(),
    "composer": lambda v: str(v).strip(),
}
"""Fact -> what makes a value of the source one of FACTS (row.py), or raises ValueError."""


class _Maker:
    """Makes the items of one source."""

    def __init__(self, source: Source):
        recipe = source.recipe
        self.source = source
        self.fields = {name: parse_field(text) for name, text in recipe.fields.items()}
        self.split_field = parse_field(recipe.split.column) if recipe.split.column else None
        self.keep = {c: re.compile(p) for c, p in recipe.options.get("keep", {}).items()}
        self.place = Place(source.file, recipe.options.get("names", {}))

    def item(self, row: Row) -> Item:
        """The item of a row. Raises Skip."""
        for column, pattern in self.keep.items():
            if not pattern.search(str(reach(row, column))):
                raise Skip(f"{column} not wanted")
        values: dict[str, Any] = {}
        for name, entry in self.fields.items():
            try:
                value = entry.of(row, self.place)
                values[name] = _SHAPES[name](value) if name in _SHAPES else value
            except Missing as why:
                if not entry.optional:
                    raise Skip(f"missing field {name}" if "file" not in str(why) else str(why)) from None
            except Skip as why:
                if not entry.optional:
                    raise
                self.source.skipped[f"{why}, left out"] += 1
            except (ValueError, TypeError, KeyError, IndexError, OverflowError):
                if not entry.optional:
                    raise Skip(f"unusable field {name}") from None
        return self._made(values, row)

    def _made(self, values: dict[str, Any], row: Row) -> Item:
        own = {k: values[k] for k in _ATTRIBUTES if k in values}
        item = Item(id=str(own.get("id", _of(row, "_id"))), licence=self._licence(own))
        item.url = str(own.get("url", self.source.recipe.url))
        item.work = str(own.get("work", item.id))
        item.split = self._split(row)
        item.start, item.end = (float(own.get(k, 0.0)) for k in ("start", "end"))
        if "audio" in own:
            try:
                item.audio = self._audio(own["audio"], item.id)
            except Missing:
                if not self.fields["audio"].optional:
                    raise
        item.score = str(own.get("score", ""))
        item.facts = {k: v for k, v in values.items() if k not in _ATTRIBUTES and k not in _TALK}
        item.messages = _talk(values, item)
        try:
            refuse_forbidden(f"{item.id} | {item.url} | {item.facts.get('origin', '')}", "row")
        except DataError:
            raise Skip("forbidden source") from None
        if "thesession.org" in item.score.lower():
            raise Skip("forbidden source")
        return item

    def _licence(self, own: Mapping[str, Any]) -> str:
        if self.source.recipe.licence != PER_TRACK:
            return self.source.recipe.licence
        try:
            return normalise(str(own.get("licence", "")))
        except DataError:
            raise Skip("unknown licence") from None

    def _split(self, row: Row) -> str:
        rule = self.source.recipe.split
        if self.split_field is None:
            return _SPLIT_NAMES.get(_of(row, "_split"), _of(row, "_split"))
        try:
            theirs = str(self.split_field.of(row, self.place))
        except (Skip, ValueError, TypeError):
            return ""
        ours = rule.values.get(theirs, rule.values.get("*", ""))
        if not rule.values:
            ours = _SPLIT_NAMES.get(theirs.lower(), theirs.lower())
        if ours == "skip":
            raise Skip(f"split {theirs} left out")
        return ours if ours in SPLITS else ""

    def _audio(self, value: Any, id: str) -> str:
        if not isinstance(value, Mapping):
            return self.source.address(str(value))
        data, name = value.get("bytes"), str(value.get("path") or "")
        if not data:
            return self.source.address(name)
        # Audio inside a table is written out once, because everything downstream opens recordings by address.
        if not self.source.local:
            raise Skip("audio inside a table needs a folder on this machine")
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in id)[:100]
        suffix = Path(name).suffix if re.fullmatch(r"\.\w{1,5}", Path(name).suffix) else ".audio"
        path = Path(self.source.base) / "audio" / f"{stem}{suffix}"
        if not path.is_file() or path.stat().st_size != len(data):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_bytes(data)
            part.replace(path)
        return str(path)


def _of(row: Row, name: str) -> str:
    value = row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)
    return "" if value is None else str(value)


def _talk(values: Mapping[str, Any], item: Item) -> list[Message]:
    """The conversation that the source brings; Skip where the turns do not alternate."""
    turns: list[Turn] = []
    if "conversations" in values:
        said = []
        for turn in listed(values["conversations"]):
            if not isinstance(turn, Mapping):
                raise Skip("malformed conversation")
            role = str(turn.get("from", turn.get("role", ""))).lower()
            text = _PLACEHOLDER.sub("", str(turn.get("value", turn.get("content", "")) or "")).strip()
            if role != "system":
                said.append((_ROLES.get(role, ""), text))
        for (asks, question), (answers, answer) in zip(said[::2], said[1::2], strict=False):
            if (asks, answers) != ("user", "assistant") or not question or not answer:
                raise Skip("malformed conversation")
            turns.append((question, answer))
        if not turns or len(said) % 2:
            raise Skip("malformed conversation")
    elif "question" in values and "answer" in values:
        turns = [(_PLACEHOLDER.sub("", str(values["question"])).strip(), str(values["answer"]).strip())]
    return messages(turns, [item.audio] if item.audio else [], item.score) if turns else []


def load_items(
    recipe: Recipe, root: str | Path, limit: int | None = None, skipped: Counter[str] | None = None
) -> Iterator[Item]:
    """Stream the items of a public set.

    Args:
        recipe: its loader must be one of ADAPTERS.
        root: folder or fsspec address under which the set lies at Recipe.path.
        limit: at most so many items.
        skipped: reason -> how many rows gave no item (or, "..., left out": came without an optional field); added to
            while the items are drawn.

    Raises:
        DataError: unknown loader, no such folder or file (with Recipe.get), a field that cannot be read by its syntax.
    """
    if recipe.loader not in ADAPTERS:
        raise DataError(f"recipe {recipe.name}: unknown loader {recipe.loader!r}; known: {', '.join(ADAPTERS)}")
    refuse_forbidden(f"{recipe.name} | {recipe.title} | {recipe.url}", f"source {recipe.name!r}")
    address = str(root) if "://" in str(root) else str(Path(root).expanduser().absolute())
    if ".." in PurePosixPath(recipe.path).parts or recipe.path.startswith("/"):
        raise DataError(f"recipe {recipe.name}: path {recipe.path!r} leaves the root; give it from there on")
    count = Counter() if skipped is None else skipped
    try:
        maker = _Maker(Source(recipe, f"{address.rstrip('/')}/{recipe.path}" if recipe.path else address, count))
    except (ValueError, ImportError, re.error) as error:
        raise DataError(f"recipe {recipe.name}: {error}") from None
    return _items(maker, limit)


def _items(maker: _Maker, limit: int | None) -> Iterator[Item]:
    given, source = 0, maker.source
    for row in ADAPTERS[source.recipe.loader](source):
        if limit is not None and given >= limit:
            return
        try:
            item = maker.item(row)
        except Skip as why:
            source.skipped[str(why)] += 1
            continue
        given += 1
        yield item
