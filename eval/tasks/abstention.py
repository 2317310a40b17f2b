"""Questions that a clip cannot answer beside such that look like them and can be: it must say which is which.

Saying "I cannot tell" to all, or to none, is right half of the time. An answer to what can be answered counts here
whatever it says; whether it is right is the other tasks' business.
"""

from __future__ import annotations

import re

from mllm.eval.item import Item
from mllm.eval.row_tasks import row_task
from mllm.eval.task import Verdict
from mllm.rows import Row

_DECLINES = re.compile(
    r"\b(?:cannot|can not|can[’']t|could not|unable|impossible|not possible|unknown|unclear|unsure)\b"
    r"|\b(?:does|do|did|is|are) ?(?:not|n[’']t)\b|\b(?:nothing|nobody|no one|no words|no singer|no key|no way)\b"
    r"|\b(?:not sure|don[’']t know)\b|\bhear no\b|\bthere (?:is|are) (?:no|only)\b|\bhas no (?:metre|tempo|key)\b",
    re.IGNORECASE,
)


def declines(answer: str) -> bool:
    """Whether an answer says that the question cannot be answered."""
    return bool(_DECLINES.search(answer))


def truth(row: Row) -> str | None:
    """What is right to do; whether somebody sings is answered by "no" and left out."""
    voices = row["task"] == "can_tell" and re.match(r"\W*(?:yes|no|nobody|there)\b", _answer(row), re.IGNORECASE)
    return None if voices else "decline" if row["task"] == "cannot_tell" else "answer"


def _answer(row: Row) -> str:
    return str(row["messages"][-1]["content"])


def score(answer: str, item: Item) -> Verdict:
    """Right where it declines what cannot be told, and says something about what can."""
    did = "decline" if declines(answer) else "answer" if answer.strip() else None
    return Verdict(did, float(did == item.truth), {f"to {item.truth}": float(did == item.truth)})


def credit(guess: str, item: Item) -> Verdict:
    return Verdict(guess, float(guess == item.truth))


TASK = row_task(
    "abstention",
    "says when it cannot be told",
    ("can_tell", "cannot_tell").__contains__,
    truth,
    score,
    max_new_tokens=32,
    most=200,
    credit=credit,
)
