"""From a recipe of a public set to its items: tables, the Hugging Face hub, mirdata, folders of scores.

Everything is streamed. What one row lacks or breaks is counted in `skipped` and passed over. What makes the whole set
unusable is a DataError: that it is not here (Absent, which says what to download and where to put it), or that the
recipe does not fit it (a pattern without a file, a column that no row has, a split that nobody knows).

Recipe.fields (adapters_fields.py) names, for an attribute of Item or a fact, where it stands in the source. Besides
those, `question` and `answer`, or `conversations` (a list of turns, LLaVA's from/value or OpenAI's role/content),
become Item.messages. Recipe.options of the loaders here:

    files       pattern or list of patterns under the root, or a mapping of split -> pattern; each must match a file
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

from mllm.data_recipes.adapters_columns import ColumnCheck, needed_columns
from mllm.data_recipes.adapters_embedded import embedded_audio
from mllm.data_recipes.adapters_facts import WRONG, shaped, text_of
from mllm.data_recipes.adapters_fields import Missing, Place, Skip, parse_field, reach
from mllm.data_recipes.adapters_mirdata import mirdata_tracks
from mllm.data_recipes.adapters_sources import Row, Source, hub, listed, score_folder, table
from mllm.data_recipes.adapters_splits import SplitReader
from mllm.data_recipes.config import Recipe
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


class _Maker:
    """Makes the items of one source."""

    def __init__(self, source: Source):
        recipe = source.recipe
        self.source = source
        self.fields = {name: parse_field(text) for name, text in recipe.fields.items()}
        self.splits = SplitReader(recipe)
        self.keep = {c: re.compile(p) for c, p in recipe.options.get("keep", {}).items()}
        self.place = Place(source.file, recipe.options.get("names", {}))

    def columns(self) -> ColumnCheck:
        """What looks whether the source has the columns that are named."""
        wished = {f"fields.{name}": field.columns for name, field in self.fields.items() if field.optional}
        needed = needed_columns(self.fields, self.splits.field, self.keep)
        return ColumnCheck(self.source.recipe.name, needed, wished, self.source.skipped)

    def item(self, row: Row) -> Item:
        """The item of a row. Raises Skip."""
        for column, pattern in self.keep.items():
            if not pattern.search(str(reach(row, column))):
                raise Skip(f"{column} not wanted")
        values: dict[str, Any] = {}
        for name, entry in self.fields.items():
            try:
                values[name] = shaped(name, entry.of(row, self.place))
            except Missing as why:
                if not entry.optional:
                    raise Skip(f"missing field {name}" if "file" not in str(why) else str(why)) from None
            except Skip as why:
                if not entry.optional:
                    raise
                self.source.skipped[f"{why}, left out"] += 1
            except WRONG:
                if not entry.optional:
                    raise Skip(f"unusable field {name}") from None
                self.source.skipped[f"unusable field {name}, left out"] += 1
        return self._made(values, row)

    def _made(self, values: dict[str, Any], row: Row) -> Item:
        own = {k: values[k] for k in _ATTRIBUTES if k in values}
        item = Item(id=str(own.get("id", row.get("_id", ""))), licence=self._licence(own))
        item.url = str(own.get("url", self.source.recipe.url))
        item.work = str(own.get("work", item.id))
        item.split = self.splits.of(row, self.place)
        item.start, item.end = (float(own.get(k, 0.0)) for k in ("start", "end"))
        if item.end and item.end <= item.start:
            raise Skip("end is not after start")
        if "audio" in own:
            try:
                item.audio = self._audio(own["audio"])
            except Missing:
                if not self.fields["audio"].optional:
                    raise
        item.score = str(own.get("score", ""))
        item.facts = {k: v for k, v in values.items() if k not in _ATTRIBUTES and k not in _TALK}
        if item.audio and isinstance(item.facts.get("notes"), int):
            raise Skip("unusable field notes")  # a count says nothing of an excerpt
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

    def _audio(self, value: Any) -> str:
        """Address of a recording: everything downstream opens it by one, also one that lies inside the table."""
        if isinstance(value, Mapping):
            if value.get("bytes"):
                return str(embedded_audio(value))
            value = value.get("path")
            if not value:
                raise Missing("missing field audio")
        try:
            return self.source.address(text_of(value))
        except ValueError:
            raise Skip("unusable field audio") from None


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
        turns = [(_PLACEHOLDER.sub("", values["question"]).strip(), values["answer"].strip())]
        if not all(turns[0]):
            raise Skip("malformed conversation")
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
        DataError: unknown loader, a field that cannot be read by its syntax. While the items are drawn: no such folder
            (Absent, with Recipe.get), a pattern that matches no file, a column that is not there, an unknown split.
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
    given, source, columns = 0, maker.source, maker.columns()
    for row in ADAPTERS[source.recipe.loader](source):
        if limit is not None and given >= limit:
            return
        columns.see(row)
        try:
            item = maker.item(row)
        except Skip as why:
            source.skipped[str(why)] += 1
            continue
        except (DataError, MemoryError):
            raise
        except Exception as error:  # one odd row must not end an hour's work, and an error of ours must show
            source.skipped[f"error in reading a row: {described(error)}"] += 1
            continue
        given += 1
        yield item
    columns.end()


def described(error: Exception) -> str:
    """An unexpected error as a reason that can be counted: its type and the start of its message, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}".rstrip(": ")
