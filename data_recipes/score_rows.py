"""Scores for prompts: excerpts of tunes as ABC text, its header and its bars, and dialogues of three questions.

The excerpt is written as `mllm.score` writes every score for a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllm.abc_validation import split_header
from mllm.data_recipes.row import Message, Turn, messages
from mllm.data_recipes.templates import wordings
from mllm.data_recipes.tune import Bar, Tune, key_name
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


@dataclass(frozen=True)
class Written:
    """A score of one voice as `to_abc` writes it, taken apart."""

    head: str
    """The lines of the header: X, M, L and K."""
    bars: tuple[str, ...]
    """The text of each bar."""

    @property
    def body(self) -> str:
        """The lines of music under the header, four bars a line."""
        lines = [" | ".join(self.bars[i : i + 4]) for i in range(0, len(self.bars), 4)]
        return " |\n".join(lines) + " |]"

    @property
    def text(self) -> str:
        """The whole tune."""
        return f"{self.head}\n{self.body}\n"


def written(score: Score) -> Written:
    """The ABC text of a score of one voice without a name, without its title."""
    head, bars = split_header(to_abc(score, title=False))
    music = bars.rstrip("\n").replace("\n", " ").removesuffix("|]")
    return Written(head.rstrip("\n"), tuple(bar.strip() for bar in music.split("|")))


def melody_of(bars: Sequence[Bar], tune: Tune, shift: int = 0) -> Score:
    """The melody (voice 0) of some bars of `tune`, `shift` semitones higher, with its key and metre."""
    notes = [
        Note(i * tune.bar_quarters + onset, duration, pitch)
        for i, bar in enumerate(bars)
        for onset, duration, pitch, voice in bar
        if voice == 0
    ]
    tonic, mode = key_name(tune.tonic, tune.mode).split()
    score = Score(title=tune.title, notes=sorted(notes), key=Key(tonic, mode), metre=tune.metre, instruments=[""])
    return transpose(score, shift) if shift else score


def fills_its_bars(score: Score, bars: int) -> bool:
    """Whether the last note ends with bar `bars`, so that the text has that many full bars, and none is without a note.

    Notes that overlap would be written as several voices: then it is False too.
    """
    length = score.bar_length or 0.0
    notes = score.notes
    overlap = any(a.onset + a.duration > b.onset + 1e-6 for a, b in zip(notes, notes[1:], strict=False))
    begun = {int(n.onset / length + 1e-6) for n in notes} if length else set()
    return not overlap and len(begun) == bars and abs(score.length - bars * length) < 1e-6


def excerpt(tune: Tune, rng: np.random.Generator, bars: tuple[int, int] = BARS) -> Score | None:
    """Some whole bars of a tune's melody in a random key within five semitones, or None where it has none.

    Args:
        bars: the least and the most bars; how many is drawn.
    """
    runs = [run for run in tune.runs if len(run) >= bars[0]]
    if not runs:
        return None
    run = runs[int(rng.integers(len(runs)))]
    count = int(rng.integers(bars[0], min(bars[1], len(run)) + 1))
    first = int(rng.integers(len(run) - count + 1))
    score = melody_of(run[first : first + count], tune)
    return transpose(score, int(rng.integers(-5, 6))) if len(score.notes) >= 4 else None


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


def shown(turns: Sequence[Turn], scores: Sequence[str], audio: Sequence[str] = ()) -> list[Message]:
    """A conversation under one score, or under several that are called Score A, Score B and so on."""
    talk = messages(turns, audio)
    parts: list[dict[str, str]] = []
    for letter, score in zip("ABCDE", scores, strict=False):
        if len(scores) > 1:
            parts.append({"type": "text", "text": f"Score {letter}:\n"})
        parts.append({"type": "text", "text": score.rstrip("\n") + "\n"})
    talk[0]["content"][len(audio) : len(audio)] = parts
    return talk
