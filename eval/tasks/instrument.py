"""Which of sixteen instrument families plays? Clips with one family only."""

from __future__ import annotations

import re

from mllm.eval import classical
from mllm.eval.data import clip_task
from mllm.eval.task import Facts, refuses

FAMILIES = (
    "piano", "harpsichord", "electric piano", "mallets", "organ", "accordion", "acoustic guitar", "electric guitar",
    "harp", "solo strings", "string ensemble", "choir", "brass", "saxophone", "orchestral reeds", "flute",
)  # fmt: skip
_NAMES = {name: name for name in (*FAMILIES, "drums")} | {"mallet percussion": "mallets"}
# Longest first: "electric piano" is not a piano, and "harp" is not the beginning of "harpsichord".
_NAME = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True)) + r")s?\b", re.IGNORECASE)


def parse(answer: str) -> str | None:
    """The family named; several families, joined, when several are named (never right here); None when none is."""
    if refuses(answer):
        return None
    named = dict.fromkeys(_NAMES[m.group(1).lower()] for m in _NAME.finditer(answer))
    return ", ".join(named) or None


def truth(facts: Facts) -> str | None:
    """The only family of the clip, or None."""
    return facts["instruments"][0] if len(facts["instruments"]) == 1 and not facts.get("drums") else None


TASK = clip_task(
    name="instrument",
    title="instrument (16 families)",
    question="Which instrument is playing?",
    truth=truth,
    parse=parse,
    right=lambda answer, truth: answer == truth,
    tools=(classical.Classical("MFCC + logistic regression", classical.timbre, classical.logistic),),
)
