"""Is it so? Yes-or-no questions about a clip; half of them are to be denied."""

from __future__ import annotations

import re

from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.task import Verdict, exact
from mllm.rows import Row

_YES_OR_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def read(answer: str) -> str | None:
    """yes or no, where an answer begins with one of them and does not name the other."""
    found = _YES_OR_NO.match(answer)
    said = {word.lower() for word in re.findall(r"\b(yes|no)\b", answer, re.IGNORECASE)}
    return found[1].lower() if found and len(said) == 1 else None


def truth(row: Row) -> str | None:
    return read(answer_of(row))


def score(answer: str, item: Item) -> Verdict:
    return exact(read(answer), item)


TASK = row_task(
    "verify",
    "yes or no about a clip",
    lambda kind: kind.endswith("_verify") and not kind.startswith("medley"),
    truth,
    score,
    strata=("of",),
    most=150,
)
