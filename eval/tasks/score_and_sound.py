"""Between a score and a recording: do they match, which of three is it, where do they part, which bar is heard?"""

from __future__ import annotations

from mllm.eval.row_tasks import exact_task
from mllm.eval.task import Task

TITLES = {
    "match": "does the recording play the score (yes, no)",
    "which_of_three": "which of three scores is played",
    "first_difference": "the first bar that differs",
    "bar_at": "the bar that is heard at a time",
}
MOST = 150
"""Items of a run without `--limit`: each is asked five times, and few prompts are alike."""
TASKS: dict[str, Task] = {name: exact_task(name, title, most=MOST) for name, title in TITLES.items()}
