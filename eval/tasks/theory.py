"""Theory in words: intervals, scales, signatures, chords, Roman numerals, metres, transpositions. No sound."""

from __future__ import annotations

import re

from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.task import Verdict

_WORD = re.compile(r"[A-Za-z0-9#/°ø]+")
_FILLERS = frozenset("It it is has The the a an of in this Answer answer".split())


def words(text: str) -> tuple[str, ...]:
    """What an answer says, less the words around it, in order: "It has 5 sharps." is ("5", "sharps")."""
    text = text.replace("♯", "#").replace("♭", "b")
    return tuple(word for word in _WORD.findall(text) if word not in _FILLERS)


def score(answer: str, item: Item) -> Verdict:
    """Right where nothing but the right words is said, in their order; Roman numerals keep their case."""
    said, true = words(answer), words(item.truth)
    if "roman" not in item.strata["of"]:
        said, true = (tuple(word.casefold() for word in some) for some in (said, true))
    return Verdict(" ".join(said) or None, float(bool(said) and said == true))


TASK = row_task(
    "theory",
    "theory in words",
    lambda kind: kind.startswith("theory_"),
    answer_of,
    score,
    strata=("of",),
    max_new_tokens=32,
    most=240,
)
