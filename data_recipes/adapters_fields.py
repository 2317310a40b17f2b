"""How a recipe's `fields` say where a fact stands in a source: a small, closed language of columns and filters.

    column            value of a column; dots reach into nested ones, a number indexes a list, `*` takes all of a list
    {ytid}.wav        pattern with columns in braces, Python's format language after a colon: {track_id:06}
    =piano            the constant text "piano"
    a | split comma   filters (FILTERS), each given what stands on its left; its argument follows after a space
    a ?               the item does without it where it is missing; without `?` an item that lacks it is skipped

A column `.` is the whole row. Rows of files also have `_file` (stem), `_n` (number of the row) and `_split`.
"""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mllm.errors import ScoreError
from mllm.score import Key, read_score, to_abc

MAX_SIDE_BYTES = 8_000_000
"""An annotation file larger than this is not read: a three-hour piece has about 2 MB of notes."""
_SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "slash": "/", "": None}
_MODES = {
    "": "major", "maj": "major", "major": "major", "ionian": "major",
    "m": "minor", "min": "minor", "minor": "minor", "aeolian": "minor",
    "lydian": "lydian", "mixolydian": "mixolydian", "dorian": "dorian", "phrygian": "phrygian", "locrian": "locrian",
}  # fmt: skip
_KEY = re.compile(r"\s*([A-Ga-g])\s*([#b♯♭]|sharp|flat)?\s*[:\s_-]*\s*([A-Za-z]*)\s*")


class Skip(Exception):
    """This row gives no item; the message is the reason that is counted, the same for all rows alike."""


class Missing(Skip):
    """The value is not there, which an optional field may be."""


@dataclass
class Place:
    """What filters may look at beside the row: files under `root` (by way of `find`) and tables of the recipe."""

    find: Callable[[str], Path]
    """A path that a row names -> the file; raises Skip for one that is missing or outside."""
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Recipe.options.names: table -> their name -> ours."""


def key_name(text: str) -> str:
    """ "F#:min", "f# minor", "Gbm" -> "F# minor". Raises ValueError where it is no key."""
    match = _KEY.fullmatch(str(text))
    # "Am" and "a minor" are the usual ways to write minor; a lone small letter means minor too (RomanText, Krumhansl).
    mode = _MODES.get(match[3] if match and match[3] in ("m", "M") else (match[3].lower() if match else "?"))
    if match and match[3] == "M":
        mode = "major"
    if match and not match[3] and match[1].islower():
        mode = "minor"
    if not match or not mode:
        raise ValueError(f"{text!r} is not a key")
    sign = {"#": "#", "♯": "#", "sharp": "#", "b": "b", "♭": "b", "flat": "b"}.get(match[2] or "", "")
    return Key(match[1].upper() + sign, mode).name


def reach(value: Any, path: str) -> Any:
    """What stands at a dotted path in nested mappings, lists and objects; None where nothing does.

    Only mappings' keys, lists' positions and public attributes are reached: no calls, no names with underscores in
    front except the keys of a mapping.
    """
    if path in ("", "."):
        return value
    # A column whose very name has dots comes first: CSV headers know no nesting.
    if isinstance(value, Mapping) and path in value:
        return value[path]
    head, _, rest = path.partition(".")
    if value is None:
        return None
    if head == "*":
        many = list(value.values()) if isinstance(value, Mapping) else value
        return [reach(v, rest) for v in many] if isinstance(many, list | tuple) else None
    if isinstance(value, Mapping):
        return reach(value.get(head), rest)
    if isinstance(value, list | tuple):
        inside = head.isdigit() and int(head) < len(value)
        return reach(value[int(head)], rest) if inside else None
    return None if head.startswith("_") else reach(getattr(value, head, None), rest)


class _Pattern(string.Formatter):
    def get_field(self, name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        value = reach(args[0], name)
        if value is None or isinstance(value, list | dict):
            raise Missing(f"missing field {name}")
        return value, name

    def format_field(self, value: Any, spec: str) -> str:
        # "{id:06}" of the text "42" pads it as the number would be.
        text = str(int(value)) if spec[:1] == "0" and str(value).isdigit() else str(value)
        return text.rjust(int(spec), "0") if spec[:1] == "0" else format(value, spec)


def _each(of: Callable[[str], Any]) -> Callable[[Any, str, Place], Any]:
    return lambda value, _, __: [of(str(v)) for v in value] if isinstance(value, list) else of(str(value))


def read_literal(value: Any) -> Any:
    """The list or mapping that is written as Python or JSON text in one cell. Raises ValueError where it is neither."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    raise ValueError("not a list")


def _split(value: Any, by: str, _: Place) -> list[str]:
    parts = str(value).split(_SEPARATORS.get(by, by))
    return [p.strip() for p in parts if p.strip()]


def _match(value: Any, expression: str, place: Place) -> Any:
    """What the regular expression finds: all of it, its one group, or the list of its groups; of a list, each."""
    if isinstance(value, list):
        return [_match(v, expression, place) for v in value if re.search(expression, str(v))]
    found = re.search(expression, str(value))
    if not found:
        raise Missing("missing match")
    return list(found.groups()) if found.re.groups > 1 else found[found.re.groups]


def _keep(value: Any, prefix: str, _: Place) -> list[str]:
    """Those that start with the prefix, without it."""
    return [str(v).removeprefix(prefix) for v in value if str(v).startswith(prefix)]


def _names(value: Any, table: str, place: Place) -> Any:
    known = place.names.get(table, {})
    if isinstance(value, list):
        return list(dict.fromkeys(known[str(v)] for v in value if str(v) in known))
    return known.get(str(value))


def _scale(value: Any, ends: str, _: Place) -> float:
    """From the scale LOW HIGH to -1..1."""
    low, high = (float(e) for e in ends.split())
    at = 2 * (float(value) - low) / (high - low) - 1
    if not -1 - 1e-9 <= at <= 1 + 1e-9:
        raise ValueError("outside its scale")
    return round(min(1.0, max(-1.0, at)), 4)


def _chosen(value: Any, _: str, __: Place) -> list[str]:
    """Names of the columns that hold a 1: tags that stand one a column."""
    return [str(k) for k, v in value.items() if str(v) in ("1", "1.0", "True") and not str(k).startswith("_")]


def _into(value: Any, pattern: str, _: Place) -> str:
    """The value in place of {}, or the values of a list in place of {0}, {1}."""
    if not isinstance(value, list):
        return pattern.replace("{}", str(value))
    return re.sub(r"\{(\d)\}", lambda m: str(value[int(m[1])]), pattern)


def _unique(value: Any, _: str, __: Place) -> list[str]:
    return list(dict.fromkeys(str(v) for v in value if not _nothing(v)))


def _only(value: Any, _: str, __: Place) -> Any:
    """The one value that all of a list are; nothing where they differ, for what changes is not true of the whole."""
    return value[0] if len(set(value)) == 1 else None


def _column(rows: Any, column: str, _: Place) -> list[str]:
    return [row[int(column)] for row in rows if len(row) > int(column)]


def _rows(value: Any, by: str, place: Place) -> list[list[str]]:
    """The lines of the annotation file that the value names, as cells."""
    path = place.find(str(value))
    if path.stat().st_size > MAX_SIDE_BYTES:
        raise Skip("annotation file too large")
    separator = _SEPARATORS.get(by, by)
    text = path.read_text(encoding="utf-8", errors="replace")
    return [[c.strip() for c in line.split(separator)] for line in text.splitlines() if line.strip()]


def _numbers(row: list[str], *columns: int) -> list[float] | None:
    try:
        return [float(row[c]) for c in columns]
    except (ValueError, IndexError):
        return None


def _times(rows: Any, column: str, _: Place) -> list[float]:
    return [n[0] for row in rows if (n := _numbers(row, int(column or 0)))]


def _spans(rows: Any, _: str, __: Place) -> list[list[Any]]:
    """Rows `start end label` -> [start, end, label]."""
    return [[*n, " ".join(row[2:])] for row in rows if (n := _numbers(row, 0, 1)) and len(row) > 2]


def _marks(rows: Any, _: str, __: Place) -> list[dict[str, Any]]:
    """Rows `time label`, each lasting until the next, the last one only ending -> sections."""
    at = [(n[0], " ".join(row[1:])) for row in rows if (n := _numbers(row, 0)) and len(row) > 1]
    ends = zip(at, at[1:], strict=False)
    return [{"start": start, "end": end, "label": label} for (start, label), (end, _) in ends if end > start]


def _notes(rows: Any, columns: str, _: Place) -> list[list[Any]]:
    """Rows with START END PITCH in those columns, times in RATE ticks a second -> [onset, end, MIDI number]."""
    start, end, pitch, rate = (int(c) for c in columns.split())
    found = (n for row in rows if (n := _numbers(row, start, end, pitch)))
    return sorted([round(a / rate, 4), round(b / rate, 4), int(p)] for a, b, p in found)


def _score(value: Any, _: str, place: Place) -> str:
    """The score in the file that the value names, as ABC."""
    try:
        return to_abc(read_score(place.find(str(value))))
    except ScoreError:
        raise Skip("unreadable score") from None


def _roman(value: Any, _: str, place: Place) -> list[list[Any]]:
    """A RomanText file (Tymoczko et al. 2019) -> [bar, beat, key, Roman numeral]."""
    from music21 import converter, roman

    text = place.find(str(value)).read_text(encoding="utf-8", errors="replace")
    try:
        # parseData, not parse: parse leaves pickles in the user's temporary folder.
        part = converter.parseData(text, format="romanText")
        found = part.recurse().getElementsByClass(roman.RomanNumeral)
        return [[r.measureNumber, float(r.beat), f"{r.key.tonic.name} {r.key.mode}".replace("-", "b"), r.figure]
                for r in found]  # fmt: skip
    except Exception as error:  # music21 raises whatever its parser trips over
        raise Skip("unreadable analysis") from error


FILTERS: dict[str, Callable[[Any, str, Place], Any]] = {
    "split": _split,
    "literal": lambda value, _, __: read_literal(value),
    "pick": lambda value, path, _: reach(value, path),
    "lower": _each(str.lower),
    "words": _each(lambda t: " ".join(t.replace("_", " ").replace("-", " ").split())),
    "first": lambda value, _, __: value[0] if isinstance(value, list) and value else None,
    "list": lambda value, _, __: value if isinstance(value, list) else [value],
    "head": lambda value, n, _: str(value)[: int(n)],
    "before": lambda value, mark, _: str(value).split(_SEPARATORS.get(mark) or mark)[0],
    "match": _match,
    "keep": _keep,
    "names": _names,
    "scale": _scale,
    "divide": lambda value, by, _: float(value) / float(by),
    "chosen": _chosen,
    "into": _into,
    "unique": _unique,
    "only": _only,
    "rows": _rows,
    "column": _column,
    "times": _times,
    "spans": _spans,
    "marks": _marks,
    "notes": _notes,
    "score": _score,
    "roman": _roman,
}
"""Name -> function of (value, argument, place)."""


@dataclass(frozen=True)
class Field:
    """One parsed entry of Recipe.fields."""

    source: str
    filters: tuple[tuple[str, str], ...]
    optional: bool

    @property
    def columns(self) -> list[str]:
        """The columns that it reads, dotted where they are nested."""
        if self.source.startswith("="):
            return []
        if "{" in self.source:
            return [name for _, name, _, _ in string.Formatter().parse(self.source) if name]
        return [self.source]

    def of(self, row: Any, place: Place) -> Any:
        """Its value in a row. Raises Missing where there is none, ValueError where it is not what a filter needs."""
        if self.source.startswith("="):
            value: Any = self.source[1:]
        elif "{" in self.source:
            value = _Pattern().vformat(self.source, (row,), {}).strip()
        else:
            value = reach(row, self.source)
        for name, argument in self.filters:
            if _nothing(value):
                break
            value = FILTERS[name](value, argument, place)
        if _nothing(value):
            raise Missing("missing value")
        return value


def _nothing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and value != value) or (isinstance(value, list) and not value)


@lru_cache(maxsize=1024)
def parse_field(text: str) -> Field:
    """An entry of Recipe.fields. Raises ValueError for an unknown filter."""
    optional = text.rstrip().endswith("?")
    source, *rest = (text.rstrip().removesuffix("?") if optional else text).split(" | ")
    filters = tuple((name, argument.strip()) for name, _, argument in (r.strip().partition(" ") for r in rest))
    for name, _ in filters:
        if name not in FILTERS:
            raise ValueError(f"unknown filter {name!r} in {text!r}; known: {', '.join(FILTERS)}")
    return Field(source.strip() if "{" not in source else source, filters, optional)
