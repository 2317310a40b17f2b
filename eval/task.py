"""What an evaluation task is: a question, the truth of a clip, a strict reading of answers, and tools to beat."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mllm.eval.classical import Tool

Facts = dict[str, Any]
_REFUSAL = re.compile(
    r"\b(?:not|no|none|cannot|unable|sorry|unsure|unknown|unclear|neither|nor)\b|n[’']t\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Task:
    """One line of the table.

    Args:
        name: as `--tasks` says it.
        title: as the table says it, with the rule that makes an answer right.
        question: the one wording that every clip is asked with.
        truth: facts of a clip -> the right answer, or None where the clip does not take part.
        parse: what the model said -> its answer, or None where it gave none or hedged between several (wrong, counted).
        right: (parsed answer, truth) -> whether it is right.
        guess: truth -> the answer a guesser would give for it; chance and majority are over these (tempo: whole BPM).
        extras: further, more lenient verdicts by name.
        tools: classical methods on the same clips; each needs no fitting or is fitted on TRAIN clips.
    """

    name: str
    title: str
    question: str
    truth: Callable[[Facts], Any]
    parse: Callable[[str], Any]
    right: Callable[[Any, Any], bool]
    guess: Callable[[Any], Any] = lambda truth: truth
    extras: Mapping[str, Callable[[Any, Any], bool]] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()


def refuses(answer: str) -> bool:
    """Whether an answer denies or declines: "I cannot hear a piano" names a piano but is not the answer "piano"."""
    return bool(_REFUSAL.search(answer))
