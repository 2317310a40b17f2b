"""Multiple choice about a clip: instrument, key, tempo, metre, texture, range and contour of the melody."""

from __future__ import annotations

from mllm.eval.item import Item
from mllm.eval.metrics.multiple_choice import read_choice
from mllm.eval.row_tasks import option_of_letter, row_task
from mllm.eval.task import Verdict


def score(answer: str, item: Item) -> Verdict:
    """By letter or words, one option; see `read_choice`."""
    chosen = read_choice(answer, item.options)
    parsed = None if chosen is None else item.options[chosen]
    return Verdict(parsed, float(parsed == item.truth))


TASK = row_task(
    "choice",
    "multiple choice about a clip",
    lambda kind: kind.endswith("_choice") and not kind.startswith("medley"),
    option_of_letter,
    score,
    max_new_tokens=16,
    strata=("of",),
    most=200,
    guess=lambda item: None,
)
