"""Describe this music. Scored by the facts that the description states: key, metre, tempo, instruments.

The score is F1 of precision (of what is stated, how much is true) and recall (of what is true, how much is stated),
each fact read and judged as in the task of its name, instruments by family. Beside it stand the claims in other words
(`mllm.eval.metrics.facts_in_text`), whether a description finds its own clip, and n-gram scores.
"""

from __future__ import annotations

from typing import Any

from mllm.eval.caption_figures import judged
from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.stated_facts import FACTS, holds, stated
from mllm.eval.task import Figure, Verdict
from mllm.rows import Row


def truth(row: Row) -> dict[str, Any] | None:
    facts = row.get("facts") or {}
    if not set(FACTS) <= facts.keys():
        return None
    return {name: facts[name] for name in FACTS} | {"caption": answer_of(row)}


def score(answer: str, item: Item) -> Verdict:
    """F1 of the facts; a description that states none is unread."""
    said = stated(answer)
    right = {(name, value) for name, value in said if holds(name, value, item.truth)}
    count = len(FACTS) - 1 + len(set(item.truth["instruments"]))
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
