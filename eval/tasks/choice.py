"""Multiple choice about a clip: instrument, key, tempo, metre, texture, range and contour of the melody."""

from __future__ import annotations

from mllm.eval.row_tasks import option_of_letter, row_task
from mllm.eval.task import chosen

TASK = row_task(
    "choice",
    "multiple choice about a clip",
    lambda kind: kind.endswith("_choice") and not kind.startswith("medley"),
    option_of_letter,
    chosen,
    max_new_tokens=16,
    strata=("of",),
    most=200,
    guess=lambda item: None,
)
