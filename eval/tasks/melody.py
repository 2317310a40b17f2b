"""What the tune does: lowest, highest, range and first notes by name with octave, and its contour."""

from __future__ import annotations

import functools
import re

from mllm.eval import note_tools
from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.task import Verdict, refuses
from mllm.score_types import Key

_NOTE = re.compile(r"(?<![A-Za-z#])([A-G])([#♯b♭]?)(-?\d)(?!\d)")
CONTOURS = ("rising", "falling", "arch", "valley", "level")
_CONTOUR = re.compile(rf"\b({'|'.join(CONTOURS)})\b", re.IGNORECASE)
_KINDS = ("melody_lowest", "melody_highest", "melody_range", "melody_first_notes", "melody_contour")


@functools.lru_cache(16_384)
def notes(text: str) -> tuple[int, ...]:
    """MIDI numbers of the notes that a text names with their octaves, in order; C4 is 60."""
    signs = {"♯": "#", "♭": "b"}
    found = ((letter + signs.get(sign, sign), int(octave)) for letter, sign, octave in _NOTE.findall(text))
    return tuple(12 * (octave + 1) + _natural(name) for name, octave in found)


def _natural(name: str) -> int:
    """Semitones above the C of its octave; Cb lies below it."""
    return Key(name[0]).pitch_class + {"": 0, "#": 1, "b": -1}[name[1:]]


def score(answer: str, item: Item) -> Verdict:
    """Right where just the true notes, or the true contour alone, are named."""
    if refuses(answer):
        return Verdict(None, 0.0)
    if item.strata["of"] == "melody_contour":
        named = {word.lower() for word in _CONTOUR.findall(answer)}
        return Verdict(", ".join(sorted(named)) or None, float(named == {item.truth.lower()}))
    found = notes(answer)
    return Verdict(list(found) or None, float(bool(found) and found == notes(item.truth)))


TASK = row_task(
    "melody",
    "melody (notes with octave, contour)",
    lambda kind: kind.removesuffix("_short") in _KINDS,
    answer_of,
    score,
    strata=("of",),
    most=200,
    tools=(note_tools.MELODY,),
)
