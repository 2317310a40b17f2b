"""What a value of a source must be to become an attribute or a fact of an item; a wrong one raises here, not later.

Sources write what they like: a number where a name belongs, "no" for a boolean, a list as text in one cell. Makers rely
on the types that FACTS (row.py) states, so that every one of FACTS has a shape here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date
from numbers import Real
from typing import Any

from mllm.data_recipes.adapters_fields import Skip, key_name, read_literal
from mllm.data_recipes.properties import CONTOURS, TEXTURES, midi_number
from mllm.data_recipes.row import FACTS
from mllm.data_recipes.templates import join

_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0", "on"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", "off"), False),
}
_METRE = re.compile(r"\s*([1-9]\d?)\s*/\s*(1|2|4|8|16|32)\s*")
_LETTER_NAME = re.compile(r"[A-G](?:#{0,2}|b{0,2})-?\d*")
_UNREAD = "\ufffd"
"""What stands in place of bytes that are no UTF-8: a table saved by a program of Windows, most often."""
_GLUED = re.compile(r"""['"]\s+['"]""")
"""A list as numpy prints it, ['rock' 'pop']: Python would read it as one word."""


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("a truth value, not a number")
    out = float(value)
    if not math.isfinite(out):
        raise ValueError("not finite")
    return out


def _within(low: float, high: float) -> Callable[[Any], float]:
    def shape(value: Any) -> float:
        out = _number(value)
        if not low <= out <= high:
            raise ValueError(f"not in {low:g}..{high:g}")
        return out

    return shape


def _count(low: int, high: int) -> Callable[[Any], int]:
    def shape(value: Any) -> int:
        out = _number(value)
        if out != int(out) or not low <= out <= high:
            raise ValueError(f"not a whole number in {low}..{high}")
        return int(out)

    return shape


def _positive(value: Any) -> float:
    out = _number(value)
    if not 0 < out < 1e6:
        raise ValueError("not positive")
    return out


def text_of(value: Any) -> str:
    """A text, or a number as text. Raises ValueError for a list, mapping, truth value or bytes, and for NaN."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        raise ValueError("not a text")
    return str(value)


def _words_of(value: Any) -> str:
    """A text that a row may say. Raises Skip where it was written in another encoding than UTF-8."""
    if _UNREAD in (text := text_of(value)):
        raise Skip("text that is not UTF-8")
    return text


def _stripped(value: Any) -> str:
    return _words_of(value).strip()


def _sequence(value: Any) -> list[Any]:
    """A list, also one that is written as text in one cell."""
    if isinstance(value, str) and value.strip().startswith("[") and not _GLUED.search(value):
        value = read_literal(value)
    if not isinstance(value, list | tuple):
        raise ValueError("not a list")
    return list(value)


def _words(value: Any) -> list[str]:
    """Names: one, a list of them, or a list as text; what is empty among them is passed over."""
    many = _sequence(value) if not isinstance(value, str) or value.strip().startswith("[") else [value]
    out = [name for v in many if v is not None and v == v and (name := _stripped(v))]
    if not out:
        raise ValueError("no word")
    return out


def _one_name(value: Any) -> str:
    """One name; several of a list are joined. A number is none: it numbers a class whose name stands elsewhere."""
    if isinstance(value, Real):
        raise ValueError("a number, not a name")
    return join(_words(value))


def _one_text(value: Any) -> str:
    """One text, also as the only one of a list; several are several captions, of which `first` takes one."""
    if isinstance(value, list | tuple):
        (value,) = value
    return " ".join(_words_of(value).split())


def _flag(value: Any) -> bool:
    return _FLAGS[str(value).strip().lower()]


def _metre(value: Any) -> str:
    found = _METRE.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError("not a metre")
    return f"{found[1]}/{found[2]}"


def _pitch_name(value: Any) -> str:
    name = _stripped(value)
    if midi_number(name) is None:
        raise ValueError("not a note name with octave")
    return name


def _letter_names(value: Any) -> list[str]:
    names = [_stripped(v) for v in _sequence(value)]
    if not all(_LETTER_NAME.fullmatch(name) for name in names):
        raise ValueError("not note names")
    return names


def _one_of(*known: str) -> Callable[[Any], str]:
    def shape(value: Any) -> str:
        if (name := _stripped(value)) not in known:
            raise ValueError(f"none of {', '.join(known)}")
        return name

    return shape


def _span(start: Any, end: Any) -> tuple[float, float]:
    first, last = _number(start), _number(end)
    if last < first:
        raise ValueError("ends before it starts")
    return first, last


def _chords(value: Any) -> list[list[Any]]:
    return sorted(([*_span(a, b), _label(c)] for a, b, c in _sequence(value)), key=lambda chord: chord[0])


def _label(value: Any) -> str:
    if not (label := _stripped(value)):
        raise ValueError("an empty label")
    return label


def _beats(value: Any) -> list[float]:
    return sorted(_number(v) for v in _sequence(value))


def _section(value: Any) -> dict[str, Any]:
    if isinstance(value, list | tuple):
        value = dict(zip(("start", "end", "label"), value, strict=True))
    if not isinstance(value, Mapping):
        raise ValueError("not a section")
    start, end = _span(value["start"], value["end"])
    more = {k: shaped(k, v) for k, v in value.items() if k not in ("start", "end", "label") and v is not None}
    return {"start": start, "end": end, "label": _label(value["label"]), **more}


def _sections(value: Any) -> list[dict[str, Any]]:
    return sorted((_section(v) for v in _sequence(value)), key=lambda section: section["start"])


def _notes(value: Any) -> list[list[Any]] | int:
    """Notes; of a score also how many there are, as mllm.score.facts says it."""
    if isinstance(value, int):
        return _count(1, 10**7)(value)
    return [[*_span(a, b), _count(0, 127)(pitch)] for a, b, pitch in _sequence(value)]


def _roman(value: Any) -> list[list[Any]]:
    bars, entries = _count(-1000, 10**6), _sequence(value)
    return [[bars(bar), _number(beat), _label(key), _label(numeral)] for bar, beat, key, numeral in entries]


def _plain(value: Any) -> Any:
    """What no maker reads and a row only keeps: whatever JSON holds, and dates as text."""
    if isinstance(value, date):
        return value.isoformat()
    json.dumps(value, allow_nan=False)
    return value


SHAPES: dict[str, Callable[[Any], Any]] = {
    # Attributes of an item (row.py); `audio` and `conversations` are looked at where they are used.
    "id": text_of,
    "licence": text_of,
    "url": text_of,
    "work": text_of,
    "score": text_of,
    "start": _within(0, 1e6),
    "end": _within(0, 1e6),
    "question": _words_of,
    "answer": _words_of,
    "audio": lambda value: value,
    "conversations": lambda value: value,
    # FACTS.
    "instruments": _words,
    "key": lambda value: key_name(text_of(value)),
    "tempo": _within(5, 1000),
    "metre": _metre,
    "caption": _one_text,
    "tags": _words,
    "genre": _one_name,
    "mood": _words,
    "valence": _within(-1, 1),
    "arousal": _within(-1, 1),
    "pitch": _count(0, 127),
    "chords": _chords,
    "beats": _beats,
    "sections": _sections,
    "notes": _notes,
    "lowest": _pitch_name,
    "highest": _pitch_name,
    # `mllm.score.facts` has words of its own for two of the shapes, which the makers know.
    "contour": _one_of(*CONTOURS, "ascending", "descending"),
    "first_notes": _letter_names,
    "texture": _one_of(*TEXTURES),
    "drums": _flag,
    "bars": _count(1, 10**6),
    "roman": _roman,
    "title": _one_text,
    "composer": _one_name,
    "seconds": _positive,
}
"""Attribute of Item or fact -> what makes a value of the source one, or raises."""
assert set(FACTS) <= set(SHAPES)

WRONG = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, OSError)
"""What filters and shapes raise for a value that is not what they need."""


def shaped(name: str, value: Any) -> Any:
    """The value of a field as an item holds it. Raises one of WRONG where it is none."""
    return SHAPES.get(name, _plain)(value)
