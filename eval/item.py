"""One question of an evaluation: what is asked about what, and what is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Item:
    """One question with its truth.

    Args:
        id: unique within a task and stable: results are resumed and paired between runs by it.
        question: what is asked, without options and media.
        truth: the right answer: an option's text, a fact, or reference texts (a list).
        audio: recordings that the question is about, in order; a path need not exist (a benchmark whose audio the user
            has not given): then only conditions without sound can be asked.
        score: ABC text that the question is about, or "".
        options: texts of a multiple choice, in the order in which they are shown; empty for an open question.
        messages: the whole conversation in our message format where it is more than media and one question (few-shot
            prompts, dialogues); the last message is the user's. Empty: made from the fields above.
        group: what depends on one another (clips of a work, questions about a clip): intervals resample groups.
        strata: named classes by which results are also shown: {"level": "hard", "subject": "harmony"}.
        meta: whatever scorers need besides.
    """

    id: str
    question: str
    truth: Any
    audio: tuple[Path, ...] = ()
    score: str = ""
    options: tuple[str, ...] = ()
    messages: Sequence[dict[str, Any]] = ()
    group: str = ""
    strata: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
