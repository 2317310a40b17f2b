"""Which time signature: 2/4, 3/4, 4/4 or 6/8?"""

from __future__ import annotations

import re

from mllm.eval import classical
from mllm.eval.data import clip_task
from mllm.eval.task import refuses

METRES = ("2/4", "3/4", "4/4", "6/8")
_SIGNATURE = re.compile(r"(?<![\d/])(\d{1,2}) ?/ ?(\d{1,2})(?![\d/])")
_COMMON = re.compile(r"\bcommon time\b", re.IGNORECASE)


def parse(answer: str) -> str | None:
    """The one time signature named (it need not be one of the four); None for none or several."""
    if refuses(answer):
        return None
    named = {f"{int(a)}/{int(b)}" for a, b in _SIGNATURE.findall(_COMMON.sub("4/4", answer))}
    return named.pop() if len(named) == 1 else None


TASK = clip_task(
    name="metre",
    title="metre (2/4, 3/4, 4/4, 6/8)",
    question="What is the metre?",
    truth=lambda facts: metre if (metre := facts.get("metre")) in METRES else None,
    parse=parse,
    right=lambda answer, truth: answer == truth,
    tools=(classical.Classical("onset autocorrelation + logistic regression", classical.accents, classical.logistic),),
)
