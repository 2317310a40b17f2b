"""Rows of the sets that mirdata knows: its tracks, with their annotations in the form of FACTS (row.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mllm.data_recipes.adapters_fields import Missing, Skip
from mllm.data_recipes.adapters_sources import Row, Source
from mllm.data_recipes.licences import DataError


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
        kind = type(self._track)
        return (n for n in dir(self._track) if not n.startswith("_") and not callable(getattr(kind, n, None)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


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
