"""Questions about scores alone: an ABC excerpt, three questions, exact answers; no sound.

The excerpt is written as `mllm.score` writes every score for a prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mllm.data_recipes.row import Turn
from mllm.data_recipes.templates import wordings
from mllm.data_recipes.tune import Tune, key_name
from mllm.score import Key, Note, Score, facts, to_abc, transpose

QUESTIONS = {
    "key": ("key", "{key}"),
    "metre": ("metre", "{metre}"),
    "melody_lowest": ("melody_lowest", "{lowest}"),
    "melody_highest": ("melody_highest", "{highest}"),
    "bars": (None, "{bars}"),
}
BAR_QUESTIONS = ("How many bars does this score have?", "Count the bars.", "How many measures are there?")
BARS = (2, 4)  # least and most bars of an excerpt: it has to fit a short prompt


def excerpt(tune: Tune, rng: np.random.Generator) -> Score | None:
    """Some whole bars of a tune's melody in a random key within five semitones, or None where it has none."""
    runs = [run for run in tune.runs if len(run) >= BARS[0]]
    if not runs:
        return None
    run = runs[int(rng.integers(len(runs)))]
    count = int(rng.integers(BARS[0], min(BARS[1], len(run)) + 1))
    first = int(rng.integers(len(run) - count + 1))
    notes = [
        Note(i * tune.bar_quarters + onset, duration, pitch)
        for i, bar in enumerate(run[first : first + count])
        for onset, duration, pitch, voice in bar
        if voice == 0
    ]
    if len(notes) < 4:
        return None
    tonic, mode = key_name(tune.tonic, tune.mode).split()
    score = Score(title=tune.title, notes=sorted(notes), key=Key(tonic, mode), metre=tune.metre, instruments=[""])
    return transpose(score, int(rng.integers(-5, 6)))


def score_talk(tune: Tune, rng: np.random.Generator) -> tuple[str, list[Turn], dict[str, Any]] | None:
    """(ABC, three questions with answers, facts) about an excerpt of `tune`, or None where it has no usable one."""
    score = excerpt(tune, rng)
    if score is None:
        return None
    truth = facts(score)
    words, turns = wordings(), []
    for task in rng.permutation(list(QUESTIONS))[:3]:
        kind, answer = QUESTIONS[task]
        questions = words[kind]["short"]["questions"] if kind else BAR_QUESTIONS
        turns.append((str(questions[int(rng.integers(len(questions)))]), answer.format(**truth)))
    return to_abc(score), turns, {**truth, "tune_id": tune.id}
