"""Chord symbols as they are written above a melody: "Am7", "D/F#", "Bbmaj7"."""

from __future__ import annotations

import re

from mllm.score_types import LINE_OF_FIFTHS, fifths_to_name

_PITCH = r"[A-G](?:##?|bb?)?"
_SYMBOL = re.compile(
    rf"(?P<open>\(?)(?P<root>{_PITCH})"
    r"(?P<kind>(?:maj|min|mi|ma|dim|aug|sus|add|dom|alt|omit|no|[mMj^°øo+\-0-9#b(),Δ ])*)"
    rf"(?P<bass>/{_PITCH})?(?P<close>\)?)"
)


def is_chord_symbol(text: str) -> bool:
    """Whether a text above the notes names a chord, rather than saying "Fine" or "D.C. al Coda"."""
    return len(text) <= 24 and _SYMBOL.fullmatch(text.strip()) is not None


def fifths_of(name: str) -> int:
    """Place of a pitch name on the line of fifths: C = 0, G = 1, F = -1, F# = 6, Bb = -2."""
    return LINE_OF_FIFTHS.index(name[0]) - 1 + 7 * (name.count("#") - name.count("b", 1))


def move_chord_symbol(text: str, fifths: int) -> str:
    """The symbol with root and bass moved along the line of fifths: by 2 "Am7/G" becomes "Bm7/A".

    What is no chord symbol stays as it is.
    """
    found = _SYMBOL.fullmatch(text.strip())
    if found is None:
        return text
    root = fifths_to_name(fifths_of(found["root"]) + fifths)
    bass = "/" + fifths_to_name(fifths_of(found["bass"][1:]) + fifths) if found["bass"] else ""
    return f"{found['open']}{root}{found['kind']}{bass}{found['close']}"


def to_music21(text: str) -> str:
    """The symbol as `music21.harmony.ChordSymbol` spells it: a flat is "-", so a minus for minor becomes "m"."""
    found = _SYMBOL.fullmatch(text.strip())
    if found is None:
        return text
    kind = re.sub(r"^(?:-|mi(?!n))", "m", found["kind"])
    return found["root"].replace("b", "-") + kind.strip("() ") + (found["bass"] or "").replace("b", "-")


def from_music21(figure: str) -> str:
    """The inverse of `to_music21` for root and bass."""
    return re.sub(r"(?:^|(?<=/))([A-G])(-{1,2})", lambda m: m[1] + "b" * len(m[2]), figure)
