"""Questions about moments and their order: chords, beats, sections, Roman numerals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from mllm.data_recipes.choices import Pool
from mllm.data_recipes.row import Turn
from mllm.data_recipes.templates import (
    Facts,
    chord_name,
    clock,
    instrument_words,
    pick,
    round_tempo,
    wordings,
)
from mllm.data_recipes.theory import spell
from mllm.errors import MllmError
from mllm.score_types import Key

_LONGEST_LIST = 12
_MARGIN = 0.5
"""Seconds that a moment asked about keeps from the border of what sounds there."""
_QUALITIES = ("maj", "min", "7", "maj7", "min7")
_TRIES = 12


def _question(task: str, kind: str, rng: np.random.Generator, **fields: Any) -> str:
    return pick(wordings()[task][kind], rng).format(**fields)


def moment(start: float, end: float, rng: np.random.Generator, margin: float = _MARGIN) -> int | None:
    """A whole second that lies between start and end with a margin at both sides, or None."""
    first, last = int(np.ceil(start + margin)), int(np.floor(end - margin))
    return int(rng.integers(first, last + 1)) if first <= last else None


def chord_at(facts: Facts, rng: np.random.Generator) -> tuple[int, str] | None:
    """A second and the chord label that holds there, no-chord stretches left out."""
    for i in rng.permutation(len(facts["chords"]))[:_TRIES]:
        start, end, label = facts["chords"][int(i)]
        # Chords of a second or two still hold a whole second when the margin is a short one.
        at = moment(start, end, rng, min(_MARGIN, (end - start) / 5))
        if at is not None and label not in ("N", "X"):
            return at, label
    return None


def _chord(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    found = chord_at(facts, rng)
    return found and [(_question("chords", "at", rng, time=clock(found[0])), chord_name(found[1]))]


def _progression(facts: Facts) -> list[str]:
    return [label for label, _ in groupby(chord_name(c[2]) for c in facts["chords"]) if label != "no chord"]


def _chord_list(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    chords = _progression(facts)
    if not 2 <= len(chords) <= _LONGEST_LIST:
        return None
    return [(_question("chords", "list", rng), ", ".join(chords))]


def _chord_end(kind: str, place: int, facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    chords = _progression(facts)
    return [(_question("chords", kind, rng), chords[place])] if chords else None


def _content(label: str) -> tuple[int, str] | None:
    """Root, in fifths above F, and quality of a label in Harte's syntax, its bass and extensions left out."""
    root, _, quality = label.partition("/")[0].partition(":")
    try:
        return Key(root, "lydian").signature, quality.partition("(")[0] or "maj"
    except MllmError:
        return None


def _root(fifths: int) -> str:
    """Name of a root that far above F, brought where roots are usual: from Cb to A#."""
    return spell(fifths + 12 if fifths < -6 else fifths - 12 if fifths > 11 else fifths)


def other_chords(label: str, count: int, rng: np.random.Generator) -> list[str]:
    """Labels of other chords: neighbours in fifths, the relative, the other third, as an answer gives them.

    Their roots are spelled from the true one, so that sharps or flats do not tell it.
    """
    content = _content(label)
    if content is None:
        return []
    root, quality = content
    flipped = {"maj": "min", "min": "maj", "7": "min7", "min7": "7", "maj7": "min7"}.get(quality, "maj")
    relative = (root - 3 if quality.startswith("min") else root + 3, flipped)
    near = [(root + 1, quality), (root - 1, quality), (root, flipped), relative]
    near += [(root + fifths, quality) for fifths in (2, -2, 3, 4)]
    out = [f"{_root(r)}:{q}" for r, q in near if (r, q) != content]
    chosen = rng.permutation(len(out))[:count]
    return [chord_name(out[int(i)]) for i in chosen]


def _chord_check(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    found = chord_at(facts, rng)
    wrong = other_chords(found[1], 1, rng) if found else []
    if found is None or not wrong:
        return None
    truth = pool.deal("verify chords", 2) == 0
    value = chord_name(found[1]) if truth else wrong[0]
    question = _question("chords", "verify", rng, time=clock(found[0]), value=value)
    if rng.random() < 0.5:
        return [(f"{question} Answer yes or no.", "Yes." if truth else "No.")]
    return [(question, f"Yes, it is {value}." if truth else f"No, it is {chord_name(found[1])}.")]


def _beat_count(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    beats = np.asarray(facts["beats"], float)
    for _ in range(_TRIES):
        start = int(rng.integers(0, max(1, int(beats[-1]))))
        end = start + int(rng.integers(2, 7))
        edge = min(float(np.abs(beats - t).min()) for t in (start, end))
        if end <= beats[-1] and edge > 0.1:
            count = int(((beats > start) & (beats < end)).sum())
            question = pick(wordings()["beats"]["count"], rng).format(**{"from": clock(start), "to": clock(end)})
            return [(question, str(count))] if count else None
    return None


def _first_beat(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    return [(_question("beats", "first", rng), f"{facts['beats'][0]:.1f} s")]


_SAID: dict[str, Callable[[Any], str]] = {
    "key": lambda v: f"in {v}",
    "metre": lambda v: f"in {v}",
    "tempo": lambda v: f"at about {round_tempo(v)} BPM",
    "instruments": lambda v: f"played by {instrument_words(v)}",
}
_CHANGING: dict[str, Callable[[Any], str]] = {
    "key": str,
    "metre": str,
    "tempo": lambda v: f"about {round_tempo(v)} BPM",
    "instruments": instrument_words,
}


def _section_count(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    return [(_question("sections", "count", rng), str(len(facts["sections"])))]


def _section_start(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    labels = [s["label"] for s in facts["sections"]]
    once = [s for s in facts["sections"] if labels.count(s["label"]) == 1]
    if len(labels) < 2 or not once:
        return None
    section = once[int(rng.integers(len(once)))]
    question = _question("sections", "start", rng, label=section["label"])
    return [(question, clock(round(section["start"])))]


def _section_at(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    section = facts["sections"][int(rng.integers(len(facts["sections"])))]
    at = moment(section["start"], section["end"], rng)
    if at is None:
        return None
    said = [say(section[fact]) for fact, say in _SAID.items() if section.get(fact)]
    return [(_question("sections", "at", rng, time=clock(at)), f"Section {', '.join([section['label'], *said])}.")]


def _section_list(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    if not 2 <= len(facts["sections"]) <= _LONGEST_LIST:
        return None
    said = [f"{clock(round(s['start']))} {s['label']}" for s in facts["sections"]]
    return [(_question("sections", "list", rng), ", ".join(said))]


def _form(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    if not 2 <= len(facts["sections"]) <= _LONGEST_LIST:
        return None
    return [(_question("sections", "form", rng), ", ".join(s["label"] for s in facts["sections"]))]


def _differs(a: Any, b: Any) -> bool:
    """Whether two sections differ in a fact: tempi by more than 4 %, instruments as sets."""
    if isinstance(a, int | float):
        return abs(a / b - 1) > 0.04
    return bool(set(a) != set(b)) if isinstance(a, list) else bool(a != b)


def _change(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    sections = facts["sections"]
    stated = [f for f in _CHANGING if all(s.get(f) for s in sections)]
    if len(sections) < 2 or not stated:
        return None
    fact = stated[int(rng.integers(len(stated)))]
    what = {"instruments": "instrumentation"}.get(fact, fact)
    say = _CHANGING[fact]
    places = [
        f"at {clock(round(b['start']))} from {say(a[fact])} to {say(b[fact])}"
        for a, b in zip(sections, sections[1:], strict=False)
        if _differs(a[fact], b[fact])
    ]
    if len(places) > _LONGEST_LIST:
        return None
    answer = f"The {what} changes {'; '.join(places)}." if places else f"The {what} does not change."
    return [(_question("sections", "change", rng, what=what), answer)]


def _place(entry: Sequence[Any]) -> dict[str, str]:
    return {"bar": str(entry[0]), "beat": f"{float(entry[1]):g}"}


def _roman_at(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    entry = facts["roman"][int(rng.integers(len(facts["roman"])))]
    return [(_question("roman", "at", rng, **_place(entry)), f"{entry[3]} in {entry[2]}")]


def _roman_key(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    entry = facts["roman"][int(rng.integers(len(facts["roman"])))]
    return [(_question("roman", "key", rng, **_place(entry)), entry[2])]


def _roman_list(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    first = [e for e in facts["roman"] if e[2] == facts["roman"][0][2]]
    count = min(int(rng.integers(3, 7)), len(facts["roman"]))
    # One key only: a numeral means nothing without it.
    if count < 3 or first[:count] != facts["roman"][:count]:
        return None
    answer = f"{', '.join(e[3] for e in first[:count])} in {first[0][2]}"
    return [(_question("roman", "list", rng, count=count), answer)]


TIMELINE: dict[str, tuple[tuple[str, ...], str, Callable[[Facts, np.random.Generator, Pool], list[Turn] | None]]] = {
    "chords.at": (("chords",), "short", _chord),
    "chords.list": (("chords",), "short", _chord_list),
    "chords.first": (("chords",), "short", partial(_chord_end, "first", 0)),
    "chords.last": (("chords",), "short", partial(_chord_end, "last", -1)),
    "chords.verify": (("chords",), "verify", _chord_check),
    "beats.count": (("beats",), "short", _beat_count),
    "beats.first": (("beats",), "short", _first_beat),
    "sections.count": (("sections",), "short", _section_count),
    "sections.start": (("sections",), "short", _section_start),
    "sections.at": (("sections",), "sentence", _section_at),
    "sections.list": (("sections",), "short", _section_list),
    "sections.form": (("sections",), "short", _form),
    "sections.change": (("sections",), "sentence", _change),
    "roman.at": (("roman",), "short", _roman_at),
    "roman.list": (("roman",), "short", _roman_list),
    "roman.key": (("roman",), "short", _roman_key),
}
"""Name of a maker -> the facts it needs, its style, how it makes its turns."""
