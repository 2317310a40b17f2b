"""Reasoning over scores: each task has a definition from which its answer is computed exactly; no sound.

A task gets a passage of full bars of one voice and a level, which says how long the passage is, and gives a Question,
or None where this passage does not decide it. Bars count from 1; notes are compared by name ("F#"), with octave where
the question says so. What a task asks stands at its function; the words are in wordings_scores.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mllm.data_recipes import notation_bars as bars
from mllm.data_recipes import notation_pitches as pitches
from mllm.data_recipes.choices import Pool
from mllm.data_recipes.score_changes import inverted, retrograde
from mllm.data_recipes.score_passages import TRIES, Passage, passage
from mllm.data_recipes.score_questions import LEVELS, Question, pose
from mllm.data_recipes.tune import Tune
from mllm.errors import ScoreError

Make = Callable[[Passage, np.random.Generator, Pool], Question | None]


@dataclass(frozen=True)
class Task:
    """How a question is made, and of how many bars at each level: easy, medium, hard."""

    make: Make
    lengths: tuple[int, int, int] = (2, 4, 8)


TASKS: Mapping[str, Task] = {
    "score_count_notes": Task(bars.count_notes),
    "score_count_pitch": Task(bars.count_pitch),
    "score_compare": Task(bars.compare),
    "score_locate": Task(bars.locate),
    "score_bar_error": Task(bars.bar_error),
    "score_bar_sum": Task(bars.bar_sum),
    "score_wrong_note": Task(bars.wrong_note, (2, 4, 6)),
    "score_next_bar": Task(bars.next_bar, (4, 5, 8)),
    "score_transpose": Task(pitches.ask_transpose, (1, 2, 4)),
    "score_transposed_by": Task(pitches.transposed_by, (1, 2, 4)),
    "score_invert": Task(partial(pitches.changed, inverted), (1, 2, 4)),
    "score_retrograde": Task(partial(pitches.changed, retrograde), (1, 2, 4)),
    "score_relation": Task(pitches.relation, (1, 2, 4)),
    "score_interval": Task(pitches.ask_interval),
    "score_signature": Task(pitches.ask_signature),
    "score_key": Task(pitches.ask_key, (4, 6, 8)),
    "score_form": Task(bars.form, (4, 8, 8)),
}
"""Name of a task -> how it is made; wordings_scores.yaml has its words."""


@dataclass(frozen=True)
class Asked:
    """A question in words, ready to become a row."""

    tune: Tune
    task: str
    style: str
    scores: tuple[str, ...]
    turn: tuple[str, str]
    facts: dict[str, Any]


def notation_question(
    tunes: Sequence[Tune], rng: np.random.Generator, pool: Pool, only: Sequence[str] = tuple(TASKS)
) -> Asked | None:
    """A question about a passage of one of `tunes`, the first of them that gives one; None where none does.

    Tasks and levels come in turn (`pool` deals them). `only` names the tasks that may be asked.
    """
    task = only[pool.deal("notation task", len(only))]
    level = pool.deal(f"level {task}", len(LEVELS))
    for tune in tunes:
        for _ in range(TRIES):
            it = passage(tune, LEVELS[level], TASKS[task].lengths[level], rng)
            try:
                asked = it and TASKS[task].make(it, rng, pool)
            except ScoreError:  # an inversion may leave the range of MIDI
                continue
            if it and asked:
                style, turn, facts = pose(task, asked, rng, pool)
                about = {"key": it.key.name, "metre": it.metre, "bars": it.bars, "tune_id": tune.id}
                return Asked(tune, task, style, asked.scores, turn, about | facts)
    return None
