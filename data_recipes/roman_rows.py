"""Questions about harmony in words: chords spelled out, their Roman numerals asked for, and the other way round."""

from __future__ import annotations

from typing import Any

import numpy as np

from mllm.data_recipes.row import Turn
from mllm.data_recipes.templates import pick, wordings

LENGTH = (3, 8)
"""Fewest and most chords of a question."""


ANSWERS = {"roman_analyse": "{numerals}", "roman_spell": "{chords}", "roman_name": "{name}"}
"""Task -> its answer; wordings_scores.yaml has its questions."""


def chord_notes(numeral: str, key: str) -> list[str]:
    """Note names of a Roman numeral in a key (`F# minor`), bass first. Raises ValueError where it has none."""
    from music21 import exceptions21, roman

    tonic, mode = key.split()
    name = tonic.replace("b", "-")
    try:
        found = roman.RomanNumeral(numeral, name.lower() if mode == "minor" else name)
        pitches = sorted(found.pitches)
    except (exceptions21.Music21Exception, ValueError, AttributeError) as error:
        raise ValueError(f"no chord {numeral} in {key}") from error
    if len(pitches) < 3:
        raise ValueError(f"no chord {numeral} in {key}")
    return [p.name.replace("-", "b") for p in pitches]


def roman_talks(facts: dict[str, Any], rng: np.random.Generator, count: int) -> list[tuple[str, list[Turn]]]:
    """(task, turns) of up to `count` questions about stretches of an analysis that stay in one key."""
    chords = facts["roman"]
    out: list[tuple[str, list[Turn]]] = []
    for _ in range(4 * count):
        if len(out) == count or len(chords) < LENGTH[0]:
            break
        length = int(rng.integers(LENGTH[0], min(LENGTH[1], len(chords)) + 1))
        first = int(rng.integers(len(chords) - length + 1))
        some = chords[first : first + length]
        key = some[0][2]
        if any(chord[2] != key for chord in some):
            continue
        numerals = [str(chord[3]) for chord in some]
        try:
            spelled = [" ".join(chord_notes(numeral, key)) for numeral in numerals]
        except ValueError:
            continue
        shown = " | ".join(spelled)
        line = " ".join(numerals)
        given = {"key": key, "chords": shown, "numerals": line, "last": spelled[-1]}
        task = list(ANSWERS)[int(rng.integers(len(ANSWERS)))]
        question = pick(wordings("scores")[task]["questions"], rng).format(**given)
        answer = ANSWERS[task].format(**given, name=numerals[-1])
        out.append((task, [(question, answer)]))
    return out
