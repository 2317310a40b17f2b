"""Chord symbols as they are written above a melody: "Am7", "D/F#", "Bbmaj7"."""

from __future__ import annotations

import re
from typing import Any

from mllm.score_types import LINE_OF_FIFTHS, fifths_to_name

_PITCH = r"[A-G](?:##?|bb?)?"
_SYMBOL = re.compile(
    rf"(?P<open>\(?)(?P<root>{_PITCH})"
    r"(?P<kind>(?:maj|min|mi|ma|dim|aug|sus|add|dom|alt|omit|no|[mMj^°øo+\-0-9#b(),Δ ])*)"
    rf"(?P<bass>/{_PITCH.replace('A-G', 'A-Ga-g')})?(?P<close>\)?)"
)


NO_CHORD = "N.C."
_NO_CHORD = re.compile(r"(?i)\(?n\.? ?c\.?\)?|no chord")


def chord_text(text: str) -> str:
    """A text above the notes as it stands among the chords of a score: a symbol as written, "N.C." where the chord
    before it ends and none begins, "" where it is about something else.
    """
    text = text.strip()
    return NO_CHORD if _NO_CHORD.fullmatch(text) else text if is_chord_symbol(text) else ""


def is_chord_symbol(text: str) -> bool:
    """Whether a text above the notes names a chord, rather than saying "Fine" or "D.C. al Coda"."""
    return _match(text) is not None


def _match(text: str) -> re.Match[str] | None:
    # the pattern has several ways to read "maj": the length bounds how many it tries
    return _SYMBOL.fullmatch(text.strip()) if len(text) <= 24 else None


def _bass(found: re.Match[str]) -> str:
    """The bass of a symbol, "" for none; some books write it small."""
    return (found["bass"] or "/")[1:2].upper() + (found["bass"] or "/")[2:]


def fifths_of(name: str) -> int:
    """Place of a pitch name on the line of fifths: C = 0, G = 1, F = -1, F# = 6, Bb = -2."""
    return LINE_OF_FIFTHS.index(name[0]) - 1 + 7 * (name.count("#") - name.count("b", 1))


def move_chord_symbol(text: str, fifths: int) -> str:
    """The symbol with root and bass moved along the line of fifths: by 2 "Am7/G" becomes "Bm7/A".

    What is no chord symbol stays as it is.
    """
    found = _match(text)
    if found is None:
        return text
    root = fifths_to_name(fifths_of(found["root"]) + fifths)
    bass = "/" + fifths_to_name(fifths_of(_bass(found)) + fifths) if found["bass"] else ""
    return f"{found['open']}{root}{found['kind']}{bass}{found['close']}"


def parts_of(text: str) -> tuple[str, str, str]:
    """Root, kind and bass of a symbol: ("A", "m7", "G") of "Am7/G", "" where it has no bass.

    Raises ValueError for what is no chord symbol.
    """
    found = _match(text)
    if found is None:
        raise ValueError(f"{text!r} is no chord symbol")
    return found["root"], found["kind"].strip("() "), _bass(found)


def to_music21(text: str) -> Any:
    """The symbol as a `music21.harmony.ChordSymbol` that is written as a symbol and keeps its wording.

    music21 spells a flat "-", so a minus for minor becomes "m"; of a kind that it does not know, root and bass stand.
    "N.C." is its `NoChord`. Raises ValueError for what is no chord symbol.
    """
    from music21 import harmony
    from music21.exceptions21 import Music21Exception

    if text == NO_CHORD:
        return harmony.NoChord(NO_CHORD)
    root, kind, bass = parts_of(text)
    root, bass = root.replace("b", "-"), bass.replace("b", "-")
    known = re.sub(r"^(?:-|mi(?!n))", "m", kind).replace("m7b5", "ø7").replace("Δ", "maj7")
    try:
        symbol = harmony.ChordSymbol(f"{root}{known}/{bass}" if bass else root + known)
    except (ValueError, KeyError, Music21Exception):
        symbol = harmony.ChordSymbol(root=root, bass=bass or None, kind="major")
        symbol.chordKind = "other"
    symbol.chordKindStr = kind
    symbol.writeAsChord = False
    return symbol


def from_music21(symbol: Any) -> str:
    """The text of a `music21.harmony.ChordSymbol`: as written where that says all of it, else as music21 names it."""
    from music21 import harmony

    if isinstance(symbol, harmony.NoChord):
        return NO_CHORD
    root, bass = symbol.root(), symbol.bass()
    added = [str(step.degree) for step in symbol.chordStepModifications]
    if symbol.chordKindStr and root is not None and all(degree in symbol.chordKindStr for degree in added):
        over, under = root.name.replace("-", "b"), bass.name.replace("-", "b") if bass is not None else ""
        return f"{over}{symbol.chordKindStr}{'/' + under if under not in ('', over) else ''}"
    return re.sub(r"(?:^|(?<=/))([A-G])(-{1,2})", lambda m: m[1] + "b" * len(m[2]), symbol.figure or "")
