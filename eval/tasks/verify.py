"""Is it so? Yes-or-no questions about a clip; half of them are to be denied."""

from __future__ import annotations

import re

from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.task import Verdict, exact
from mllm.rows import Row

_LEADING = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_OTHER = re.compile(r"(?:[.,:;!?\n]|\band\b)[^\w.,:;!?\n]*(yes|no)[^\w.,:;!?\n]*(?=[.,:;!?\n]|$)", re.IGNORECASE)
_EITHER = re.compile(r"\W*(?:\bor\b|/)\W*(?:yes|no)\b", re.IGNORECASE)


def read(answer: str) -> str | None:
    """yes or no, where an answer begins with one of them: "Yes, there are no drums" is a yes.

    One that goes on with "or no", or says the other as well by itself ("Yes. No.", "Yes and no"), is none.
    """
    found = _LEADING.match(answer)
    if not found or _EITHER.match(answer, found.end()):
        return None
    said = found[1].lower()
    return said if all(other.lower() == said for other in _OTHER.findall(answer, found.end())) else None


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
    version="2",
)
