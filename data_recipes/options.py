"""What each loader may be told in a recipe's `options`, and of which shape: checked when a recipe is loaded.

What an option means stands beside its loader: `adapters.py`, `sources_scores.collection`, `sources_midi.read_midi`.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from mllm.settings import Settings

Patterns = str | list[str] | dict[str, str | list[str]]
"""One pattern of file names, several, or split -> those of it."""


class NoOptions(Settings):
    """Of loaders that need to know nothing more."""


class CollectionOptions(Settings):
    """Of loaders that read all files of a collection."""

    files: list[str] = []
    skip: dict[str, Any] = {}
    """Pattern -> why its files are left out."""


class MidiOptions(CollectionOptions):
    """Of the loader that cuts MIDI files into excerpts."""

    seconds: float = Field(15.0, ge=1, le=600)
    excerpts: int = Field(3, ge=1, le=600)


class ItemOptions(Settings):
    """Of every loader that makes items out of rows."""

    keep: dict[str, re.Pattern[str]] = {}
    names: dict[str, dict[Any, Any]] = {}


class FolderOptions(ItemOptions):
    """Of the loader of folders of scores."""

    files: Patterns = ""


class Join(Settings):
    """A second table."""

    files: Patterns
    by: tuple[str, str]
    """The column here and the column there."""
    take: list[str]


class TableOptions(FolderOptions):
    """Of the loader of tables."""

    separator: str = Field("", max_length=1)
    quotes: bool = False
    columns: list[str] = []
    header: int = Field(0, ge=0)
    join: Join | None = None


class HubOptions(TableOptions):
    """Of the loader that reads the Hugging Face hub."""

    repo: str


class MirdataOptions(ItemOptions):
    """Of the loader that reads by way of mirdata."""

    dataset: str
    version: str = ""
    of: str = Field("tracks", pattern="^(tracks|multitracks)$")


OPTIONS: dict[str, type[Settings]] = {
    "table": TableOptions,
    "hub": HubOptions,
    "mirdata": MirdataOptions,
    "score_folder": FolderOptions,
    "midi_folder": MidiOptions,
    "music21_abc": CollectionOptions,
    "music21_chorales": CollectionOptions,
    "music21_roman": CollectionOptions,
    "music21_scores": CollectionOptions,
    "openewld": NoOptions,
    "openscore_lieder": NoOptions,
    "tonal": NoOptions,
}
"""Recipe.loader -> what its options may be."""
