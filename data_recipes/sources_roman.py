"""Roman-numeral analyses (RomanText) as items whose fact is the list of chords, for rows of text."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from mllm.data_recipes.config import Recipe
from mllm.data_recipes.row import Item
from mllm.data_recipes.sources_scores import SECONDS, File, Read, TooSlow, processor_limit

_MAX_BYTES = 200_000


def read_roman(recipe: Recipe, file: File) -> Read:
    """An analysis as an item: Tymoczko, Gotham, Cuthbert, Ariza, "The RomanText format", ISMIR 2019.

    Facts: `roman`, a list of [bar, beat, key, numeral] in order, where a beat is that of RomanText (6/8 has two), a key
    is `F# minor`, and a chord stands only where it begins; `key`, if the whole begins and ends in it; `metre`, if there
    is only one; `bars`, the pickup not counted; `title` and `composer`, where the file has them. Repeats written as
    `m5 = m1` are played out; variants are not taken.
    """
    path, name, why = file
    found = why or _read(path)
    if isinstance(found, str):
        return [], Counter([found])
    stem = name.rsplit(".", 1)[0]
    item = Item(
        id=f"{recipe.name}/{stem}",
        licence=recipe.licence,
        url=recipe.url,
        work=" ".join(filter(None, [found.get("composer"), found.get("title")])) or stem,
        facts=found,
    )
    return [item], Counter()


def _read(path: Path) -> dict[str, Any] | str:
    """The facts of a file, or why it has none."""
    from music21 import converter

    if path.stat().st_size > _MAX_BYTES:
        return "larger than 200 kB"
    warnings.filterwarnings("ignore")
    try:
        with processor_limit(SECONDS):
            score = converter.parse(path, format="romantext", forceSource=True)
    except TooSlow:
        return f"took longer than {SECONDS:g} s"
    except Exception as error:  # music21 raises almost anything on odd files
        return f"music21 cannot read it ({type(error).__name__})"
    roman = []
    for chord in score.recurse().getElementsByClass("RomanNumeral"):
        if chord.tie is not None and chord.tie.type in ("continue", "stop"):  # music21 repeats a chord in every bar
            continue
        if chord.key is None or not chord.figure:
            return "a chord without a key, or that music21 does not understand"
        measure = chord.getContextByClass("Measure")
        bar = int(measure.number) if measure is not None else 0
        roman.append([bar, round(float(chord.beat), 3), _key(chord.key), chord.figure])
    if len(roman) < 2:
        return "fewer than two chords"
    facts: dict[str, Any] = {
        "roman": roman,
        "bars": len({m.number for m in score.recurse().getElementsByClass("Measure") if m.number}),
    }
    metres = {s.ratioString for s in score.recurse().getElementsByClass("TimeSignature")}
    if len(metres) == 1:
        facts["metre"] = metres.pop()
    if roman[0][2] == roman[-1][2]:
        facts["key"] = roman[0][2]
    if score.metadata is not None:
        known = {"title": score.metadata.title, "composer": score.metadata.composer}
        facts |= {name: text for name, text in known.items() if text}
    return facts


def _key(key: Any) -> str:
    return f"{key.tonic.name.replace('-', 'b')} {key.mode}"
