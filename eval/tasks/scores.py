"""Reasoning over scores, seventeen kinds: notes counted, bars compared, tunes transposed, keys and forms named.

Each has a definition from which its answer is computed (data_recipes/notation_tasks.py). No sound.
"""

from __future__ import annotations

from mllm.eval.row_tasks import exact_task
from mllm.eval.task import Task

TITLES = {
    "score_count_notes": "notes in a bar, counted",
    "score_count_pitch": "times a note occurs",
    "score_compare": "which of two bars",
    "score_locate": "in which bar",
    "score_bar_error": "the bar that does not add up",
    "score_bar_sum": "does a bar add up",
    "score_wrong_note": "the bar with a wrong note",
    "score_next_bar": "the bar that comes next",
    "score_transpose": "transposed, as ABC",
    "score_transposed_by": "by how much it is transposed",
    "score_invert": "inverted, as ABC",
    "score_retrograde": "backwards, as ABC",
    "score_relation": "how two tunes are related",
    "score_interval": "interval between notes",
    "score_signature": "key signature",
    "score_key": "key of the passage",
    "score_form": "form in letters",
}
_NOTATION = ("score_transpose", "score_invert", "score_retrograde")
TASKS: dict[str, Task] = {
    name: exact_task(name, f"score: {title}", abc=name in _NOTATION) for name, title in TITLES.items()
}
