"""What an evaluation task is: items, how an item becomes a prompt, and a strict scorer of answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mllm.errors import MllmError
from mllm.eval.item import Item
from mllm.eval.metrics.multiple_choice import read_choice

Facts = dict[str, Any]
Messages = list[dict[str, Any]]
"""A conversation in the house format; its last message is the user's."""
LETTERS = "ABCDEFGHIJ"
_REFUSAL = re.compile(
    r"\b(?:not|no|none|cannot|unable|sorry|unsure|unknown|unclear|neither|nor)\b|n[’']t\b", re.IGNORECASE
)
_OPTIONS = re.compile(rf"\n\(?[{LETTERS}][.)] .*", re.DOTALL)


class EvalError(MllmError):
    """An evaluation cannot start: no data, an unknown task, results of another run in the folder."""


@dataclass(frozen=True)
class Verdict:
    """What was read out of an answer, and what it is worth.

    Args:
        parsed: the answer in the form of the truth; None where it could not be read: then it is wrong, and counted.
        score: 0 to 1.
        extras: further scores by name, 0 to 1, that the table shows below the main one.
    """

    parsed: Any
    score: float
    extras: Mapping[str, float] = field(default_factory=dict)


def exact(parsed: Any, item: Item) -> Verdict:
    """What was read out of an answer is right where it is the item's truth."""
    return Verdict(parsed, float(parsed == item.truth))


def chosen(answer: str, item: Item) -> Verdict:
    """One of the item's options, by letter or words; see `read_choice`."""
    place = read_choice(answer, item.options)
    return exact(None if place is None else item.options[place], item)


class Tool(Protocol):
    """A method to beat that is no language model."""

    @property
    def name(self) -> str:
        """As the table says it."""
        ...

    def answers(
        self, train: Sequence[Item], items: Sequence[Item], advance: Callable[[], None]
    ) -> Iterator[str | Verdict]:
        """Answers to `items` in order, in words or judged already; `advance` is called once an item measured."""


def ask(item: Item) -> Messages:
    """The prompt of an item: its recordings, its score, its question, the lettered options; or its own messages."""
    if item.messages:
        return list(item.messages)
    question = item.question
    if item.options:
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, item.options, strict=False))
        question = f"{question}\n{listed}\nAnswer with the letter."
    parts: list[dict[str, Any]] = [{"type": "audio", "audio": path} for path in item.audio]
    parts += [{"type": "text", "text": item.score.rstrip("\n") + "\n"}] if item.score else []
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def without_options(messages: Messages) -> Messages:
    """The same prompt less the lettered options and what follows them: what an option's words are the answer to."""
    *before, last = messages
    if isinstance(last["content"], str):
        return [*before, last | {"content": _OPTIONS.sub("", last["content"])}]
    parts = [p | {"text": _OPTIONS.sub("", p["text"])} if p["type"] == "text" else p for p in last["content"]]
    return [*before, last | {"content": parts}]


def truth_in_words(item: Item) -> str | None:
    """What somebody would say who knew the truth; None where the truth is not a word or a number."""
    return f"{item.truth:g}" if isinstance(item.truth, float) else item.truth if isinstance(item.truth, str) else None


Figure = float | Sequence[float] | str
"""Of all answers together: a value for the whole, or one an answer, whose mean it is, or why it could not be had."""
Overall = Callable[[list[dict[str, Any]]], Mapping[str, Figure]]
"""Records of one condition (as results.jsonl has them) -> figures of all its answers together."""


@dataclass(frozen=True)
class Task:
    """One line of the table. New ones stand in `mllm.eval.tasks.TASKS`.

    Args:
        name: as `--tasks` says it.
        title: as the table says it, with the rule that makes an answer right.
        items: (data folder, split, most items or None, seed) -> the questions, the same ones for the same arguments;
            with a smaller limit the first of them. An empty list where the data has none. With the split "train" they
            are what majority and fitted tools are learned from.
        score: (answer, item) -> what it is worth. Strict: an answer that hedges or cannot be read is wrong.
        version: a change of items, prompt or scorer is a new one; runs of different versions are not compared.
        prompt: item -> messages.
        max_new_tokens: an answer is cut there.
        guess: item -> the answer that a guesser who knew this item would give to all; majority and chance are over
            those of TRAIN (of the items themselves where there is no TRAIN). None: there is no guessing this.
        credit: (a guess, item) -> what it is worth, where `score` wants another form than a bare answer (a letter,
            JSON); None: `score` says it.
        tools: classical methods to beat.
        most: items of a run without `--limit`; None: all.
        overall: figures of all answers of a condition together, 0 to 1, such as retrieval; shown as further lines.
        source: () -> sha256 of the files that the items come from, where those are not in the data folder.
    """

    name: str
    title: str
    items: Callable[[Path, str, int | None, int], list[Item]]
    score: Callable[[str, Item], Verdict]
    version: str = "1"
    prompt: Callable[[Item], Messages] = ask
    max_new_tokens: int = 24
    guess: Callable[[Item], str | None] = truth_in_words
    credit: Callable[[str, Item], Verdict] | None = None
    tools: tuple[Tool, ...] = ()
    most: int | None = None
    overall: Overall | None = None
    source: Callable[[], str] | None = None


def refuses(answer: str) -> bool:
    """Whether an answer denies or declines: "I cannot hear a piano" names a piano but is not the answer "piano"."""
    return bool(_REFUSAL.search(answer))
