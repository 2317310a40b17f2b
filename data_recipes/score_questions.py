"""A question about scores, before its words: what is true, what is shown, what else could be said; and its words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mllm.data_recipes.choices import LETTERS, Pool, listed
from mllm.data_recipes.makers import CHOICE_ENDINGS, chosen
from mllm.data_recipes.row import Turn
from mllm.data_recipes.templates import pick, wordings

LEVELS = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Question:
    """One question with its true answer."""

    answer: str
    """The bare answer: what the style `short` says."""
    level: str
    """One of LEVELS."""
    scores: tuple[str, ...] = ()
    """ABC texts that stand over it."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Fields of the wording, beside `answer`."""
    others: Callable[[int, np.random.Generator], list[str]] | None = None
    """(count, generator) -> up to so many false answers, drawn anew with each call."""
    options: tuple[str, ...] = ()
    """A closed set of options, all of one kind, the truth at `place`: then every style is a choice."""
    place: int = 0
    value: str | int | bool | None = None
    """What a JSON answer holds; None: it is not asked for in JSON."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is true and worth keeping."""


def drawn(false: Sequence[str]) -> Callable[[int, np.random.Generator], list[str]]:
    """False answers out of a fixed set of them, for `Question.others`; they keep their order."""
    some = list(dict.fromkeys(false))
    return lambda count, rng: [some[int(i)] for i in sorted(rng.permutation(len(some))[:count])]


def bar_question(bar: int, bars: int, level: str, scores: tuple[str, ...], **more: Any) -> Question:
    """A question whose answer is one of the bars 1 to `bars`; `more` are further fields of Question."""
    false = [f"bar {n}" for n in range(1, bars + 1) if n != bar]
    return Question(f"bar {bar}", level, scores, others=drawn(false), value=bar, **more)


def pose(task: str, asked: Question, rng: np.random.Generator, pool: Pool) -> tuple[str, Turn, dict[str, Any]]:
    """(style, (question, answer), facts) of a question in one of the styles that it allows.

    The facts are those of the question, and `level`, `style`, `answer` (the bare one, whatever the style).
    """
    words = wordings("scores")[task]
    question = pick(words["questions"], rng).format(**asked.given)
    facts = {**asked.facts, "level": asked.level, "answer": asked.answer}
    if asked.options:
        ending, form = CHOICE_ENDINGS[int(rng.integers(len(CHOICE_ENDINGS)))]
        text = f"{question}\n{listed(asked.options)}\n{ending}"
        letter = LETTERS[asked.place]
        turn = (text, form.format(letter=letter, text=asked.answer))
        return "choice", turn, facts | {"style": "choice", "options": list(asked.options), "letter": letter}
    styles = ["short", "short", *(["sentence"] if "sentence" in words else [])]
    styles += ["choice"] * (asked.others is not None) + ["json"] * (asked.value is not None)
    style = styles[int(rng.integers(len(styles)))]
    if style == "choice" and (others := asked.others) is not None:
        made = chosen(task, question, asked.answer, lambda count: others(count, rng), rng, pool)
        if made is not None:
            return style, made[0], facts | {"style": style}
        style = "short"
    ends = wordings("scores")["endings"]
    if style == "sentence":
        said = words["sentence"]
        forms = said.get(asked.answer) or said["otherwise"] if isinstance(said, dict) else said
        answer = pick(forms, rng).format(answer=asked.answer, Answer=_capital(asked.answer), **asked.given)
        return style, (f"{question} {pick(ends['sentence'], rng)}", answer), facts | {"style": style}
    if style == "json":
        kind = {int: "integer", bool: "boolean"}.get(type(asked.value), "string")
        answer = json.dumps({"answer": asked.value}, ensure_ascii=False)
        return style, (f"{question} {pick(ends['json'], rng).format(kind=kind)}", answer), facts | {"style": style}
    ending = pick(words.get("endings", ends["short"]), rng)
    return style, (f"{question} {ending}".rstrip(), asked.answer), facts | {"style": style}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
