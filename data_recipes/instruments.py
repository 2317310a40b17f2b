"""Sixteen instrument families of General MIDI, where each can play, and how the names of instruments are said."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """A General MIDI program (0-based) and the MIDI pitches where its melody sounds natural."""

    number: int
    name: str
    low: int
    high: int


def _family(*rows: tuple[int, str, int, int]) -> tuple[Program, ...]:
    return tuple(Program(*row) for row in rows)


FAMILIES: dict[str, tuple[Program, ...]] = {
    "piano": _family((0, "grand piano", 36, 96), (1, "bright piano", 36, 96), (2, "electric grand piano", 36, 96)),
    "harpsichord": _family((6, "harpsichord", 36, 88)),
    "electric piano": _family((4, "electric piano", 36, 91), (5, "FM electric piano", 36, 91)),
    "mallets": _family(
        (11, "vibraphone", 53, 89),
        (12, "marimba", 45, 96),
        (13, "xylophone", 60, 96),
        (8, "celesta", 60, 96),
        (10, "music box", 60, 96),
    ),
    "organ": _family((16, "drawbar organ", 36, 91), (19, "church organ", 36, 91)),
    "accordion": _family((21, "accordion", 48, 88), (23, "bandoneon", 48, 88)),
    "acoustic guitar": _family((24, "nylon-string guitar", 40, 83), (25, "steel-string guitar", 40, 83)),
    "electric guitar": _family(
        (26, "jazz guitar", 40, 84),
        (27, "clean electric guitar", 40, 84),
        (29, "overdriven guitar", 40, 84),
        (30, "distortion guitar", 40, 84),
    ),
    "harp": _family((46, "harp", 36, 96)),
    "solo strings": _family((40, "violin", 55, 93), (41, "viola", 48, 81), (42, "cello", 36, 72)),
    "string ensemble": _family((48, "string ensemble", 36, 91), (49, "slow strings", 36, 91)),
    "choir": _family((52, "choir", 48, 81), (53, "voices", 48, 81)),
    "brass": _family(
        (56, "trumpet", 54, 84), (57, "trombone", 40, 72), (60, "French horn", 41, 77), (61, "brass section", 43, 84)
    ),
    "saxophone": _family(
        (64, "soprano saxophone", 56, 87),
        (65, "alto saxophone", 49, 81),
        (66, "tenor saxophone", 44, 75),
        (67, "baritone saxophone", 36, 69),
    ),
    "orchestral reeds": _family((68, "oboe", 58, 88), (70, "bassoon", 36, 70), (71, "clarinet", 50, 88)),
    "flute": _family(
        (73, "flute", 60, 93), (72, "piccolo", 74, 102), (74, "recorder", 60, 93), (75, "pan flute", 60, 90)
    ),
}
NAMES = tuple(FAMILIES)
PROGRAM_NAMES = {p.number: p.name for programs in FAMILIES.values() for p in programs}
PROGRAM_FAMILY = {p.number: name for name, programs in FAMILIES.items() for p in programs}
DRUMS = "drums"

SAID = {"mallets": "mallet percussion"}
"""Names that a sentence says otherwise."""
UNCOUNTABLE = frozenset("applause brass electronics fx noise percussion".split())
"""Last words of names without an article, their verb in the singular."""
PLURAL = frozenset("timpani".split())
"""Last words of plurals that do not end in s."""
_PLURAL_END = re.compile(r"[^su]s$")
PROPER = frozenset("Celtic English French Hammond Irish Mellotron Moog Rhodes Spanish Wurlitzer".split())
"""Words that keep their capital inside a sentence."""
_AN = re.compile(r"(?i:(?!u[kns]|eu)[aeiou])|[FHLMNRSX][A-Z]?\b")
"""How a name begins that takes `an`: with the sound of a vowel (not `ukulele`), or with a letter spelled out (FM)."""
_NUMBER = re.compile(r"(?: \(.*\)| \d+| [IVX]+)+$")
"""What follows the last word of a name: `Slap Bass 2`, `Electric Bass (finger)`, `Violin II`."""


def _last_word(name: str) -> str:
    return (_NUMBER.sub("", SAID.get(name, name)).split() or [""])[-1].lower()


def is_plural(name: str) -> bool:
    """Whether a verb beside the name stands in the plural: `solo strings` play, `brass` plays."""
    last = _last_word(name)
    return last not in UNCOUNTABLE and (last in PLURAL or bool(_PLURAL_END.search(last)))


def with_article(name: str) -> str:
    """The name as a sentence says it: `an organ`, `a French horn`; plurals and what cannot be counted without `a`."""
    words = SAID.get(name, name).split(" ")
    said = " ".join(w if w in PROPER or w.isupper() else w.lower() for w in words)
    if is_plural(name) or _last_word(name) in UNCOUNTABLE:
        return said
    return f"{'an' if _AN.match(said) else 'a'} {said}"


def bass_program(family: str) -> Program:
    """The member of a family that reaches lowest: it plays the bass."""
    return min(FAMILIES[family], key=lambda p: (p.low, p.number))


# Families that can carry an accompaniment of bass and chords under another family's melody.
ACCOMPANISTS = (
    "piano",
    "harpsichord",
    "electric piano",
    "organ",
    "accordion",
    "acoustic guitar",
    "harp",
    "string ensemble",
    "electric guitar",
)
