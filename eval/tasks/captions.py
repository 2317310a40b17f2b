"""Describe this music. Scored by the facts that the description states: key, metre, tempo, instruments.

The score is F1 of precision (of what is stated, how much is true) and recall (of what is true, how much is stated),
each fact read and judged as in the task of its name, instruments by family. Beside it stand the claims in other words
(`mllm.eval.metrics.facts_in_text`), whether a description finds its own clip, and n-gram scores.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from mllm.eval.caption_figures import judged
from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.task import Figure, Verdict
from mllm.eval.tasks import instrument, key, metre, tempo
from mllm.rows import Row

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_READERS: dict[str, Callable[[str], Any]] = {"key": key.parse, "metre": metre.parse, "tempo": tempo.parse}
_SAME: dict[str, Callable[[Any, Any], bool]] = {
    "key": lambda a, b: key.split(a) == key.split(b), "metre": lambda a, b: bool(a == b), "tempo": tempo.near,
}  # fmt: skip


@functools.lru_cache(4096)
def stated(text: str) -> frozenset[tuple[str, Any]]:
    """(fact, value) of what a description states, sentence by sentence; what one denies is not stated."""
    found: set[tuple[str, Any]] = set()
    for sentence in _SENTENCE.split(text):
        found |= {(name, value) for name, read in _READERS.items() if (value := read(sentence)) is not None}
        found |= {("instruments", name) for name in (instrument.parse(sentence) or "").split(", ") if name}
    return frozenset(found)


def truth(row: Row) -> dict[str, Any] | None:
    facts, asked = row.get("facts") or {}, (*_READERS, "instruments")
    if not set(asked) <= facts.keys():
        return None
    return {name: facts[name] for name in asked} | {"caption": answer_of(row)}


def holds(name: str, value: Any, true: dict[str, Any]) -> bool:
    """Whether a stated value is true, by the rule of the task of that name."""
    if name == "instruments":
        return value in true["instruments"]
    return _SAME[name](value, true[name])


def score(answer: str, item: Item) -> Verdict:
    """F1 of the facts; a description that states none is unread."""
    said = stated(answer)
    right = {(name, value) for name, value in said if holds(name, value, item.truth)}
    count = len(_READERS) + len(set(item.truth["instruments"]))
    precision, recall = len(right) / max(1, len(said)), min(1.0, len(right) / count)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return Verdict(sorted(map(list, said)) if said else None, f1, {"precision": precision, "recall": recall})


def together(records: list[dict[str, Any]]) -> dict[str, Figure]:
    said, truths = [str(record["answer"] or "") for record in records], [record["truth"] for record in records]
    return judged(said, [[truth["caption"]] for truth in truths], truths)


TASK = row_task(
    "captions", "captions (F1 of the facts in them)", "describe".__eq__, truth, score, max_new_tokens=80, most=150,
    guess=lambda item: str(item.truth["caption"]), overall=together, version="2",
)  # fmt: skip
