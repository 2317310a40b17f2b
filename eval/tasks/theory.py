"""Theory in words: intervals, scales, signatures, chords, Roman numerals, metres, transpositions. No sound."""

from __future__ import annotations

import re
from collections.abc import Callable

from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.task import Task, Verdict

_WORD = re.compile(r"[A-Za-z0-9#/°ø]+")
_FILLERS = frozenset("It it is has The the a An an of in this Answer answer".split())
_ARTICLE = re.compile(r"\bA(?= (?:perfect|major|minor|augmented|diminished) (?:[a-z]+th|second|third|octave|unison)\b)")
"""A as a word, for an interval follows; anywhere else it is a note."""


def words(text: str) -> tuple[str, ...]:
    """What an answer says, less the words around it, in order: "It has 5 sharps." is ("5", "sharps")."""
    text = _ARTICLE.sub(" ", text.replace("♯", "#").replace("♭", "b"))
    return tuple(word for word in _WORD.findall(text) if word not in _FILLERS)


def score(answer: str, item: Item) -> Verdict:
    """Right where nothing but the right words is said, in their order; Roman numerals keep their case."""
    said, true = words(answer), words(item.truth)
    if "roman" not in item.strata["of"]:
        said, true = (tuple(word.casefold() for word in some) for some in (said, true))
    return Verdict(" ".join(said) or None, float(bool(said) and said == true))


def _task(name: str, title: str, kinds: Callable[[str], bool]) -> Task:
    return row_task(name, title, kinds, answer_of, score, strata=("of",), max_new_tokens=32, most=240)


TOPICS = {
    "theory_interval": "intervals", "theory_scale": "scales", "theory_signature": "key signatures",
    "theory_chord": "chords", "theory_roman": "Roman numerals", "theory_metre": "note values and bars",
    "theory_transposition": "transposition", "theory_score_chord": "chords in a score",
    "theory_score_roman": "Roman numerals of a score",
}  # fmt: skip
TASK = _task("theory", "theory in words", lambda kind: kind.startswith("theory_"))
TASKS = {name: _task(name, f"theory: {title}", name.__eq__) for name, title in TOPICS.items()} | {
    "roman": _task("roman", "Roman numerals of annotated chorales", lambda kind: kind.startswith("roman_"))
}
"""Topic by topic, and the analyses that people wrote."""
