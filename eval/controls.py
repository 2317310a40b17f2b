"""What a score stands beside: the same questions without what they are about, and answers that need no model.

A condition turns the prompt of an item into the one that is asked; constants answer without being asked anything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm.eval.item import Item
from mllm.eval.sounds import UNKNOWN_SECONDS, Sound, noise, recording, silence
from mllm.eval.task import Messages, Task, Verdict
from mllm.score import read_score, to_abc

NUDGED_ITEMS = 100
"""Items a task that are also asked about with the sound moved by 30 ms."""
MOST_GUESSES = 300
"""Different answers of TRAIN that chance and majority are taken over, the most frequent ones."""
KIND = "of"
"""The stratum that says what is asked: a guesser knows it, so majority and chance are within it."""
_SCORE = re.compile(r"\s*X: ?\d")

Change = Callable[[Messages, Messages], Messages]
"""(prompt, prompt of another item) -> what is asked."""


@dataclass(frozen=True)
class Condition:
    """A way to ask. `deaf`: a model that answers as well so has not used what it was given."""

    title: str
    change: Change
    medium: str = ""
    """audio or score: only items with it are asked so; "": all."""
    needs_file: bool = False
    """Only where the recordings are there."""
    deaf: bool = True
    most: int | None = None


def _parts(messages: Messages, part: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> Messages:
    return [
        m if isinstance(m["content"], str) else m | {"content": [new for p in m["content"] for new in part(p)]}
        for m in messages
    ]


def _sounds(change: Callable[[Any], Sound]) -> Change:
    """Every recording through `change`."""
    return lambda messages, other: _parts(
        messages, lambda p: [{"type": "audio", "audio": change(p["audio"])}] if p["type"] == "audio" else [p]
    )


def _length(source: Path) -> float:
    return recording(source).seconds if Path(source).is_file() else UNKNOWN_SECONDS


def is_score(part: dict[str, Any]) -> bool:
    """Whether a content part is a score: ABC text with its header."""
    return part["type"] == "score" or (part["type"] == "text" and bool(_SCORE.match(part["text"])))


def _of(messages: Messages, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Parts of the last message."""
    content = messages[-1]["content"]
    return [] if isinstance(content, str) else [part for part in content if wanted(part)]


def _exchanged(wanted: Callable[[dict[str, Any]], bool]) -> Change:
    """The wanted parts of the last message are another item's."""

    def change(messages: Messages, other: Messages) -> Messages:
        theirs = _of(other, wanted)
        given = iter(theirs[i % len(theirs)] for i in range(len(_of(messages, wanted)))) if theirs else iter(())
        last = _parts(messages[-1:], lambda p: [next(given, p)] if wanted(p) else [p])
        return [*messages[:-1], *last]

    return change


def _is_audio(part: dict[str, Any]) -> bool:
    return part["type"] == "audio"


def _as_it_is(messages: Messages, other: Messages) -> Messages:
    return messages


CONDITIONS: dict[str, Condition] = {
    "model": Condition("model", _as_it_is, needs_file=True, deaf=False),
    "silence": Condition("silence", _sounds(lambda source: silence(_length(source))), "audio"),
    "noise": Condition("noise", _sounds(lambda source: noise(_length(source))), "audio"),
    "swapped": Condition("another clip", _exchanged(_is_audio), "audio", needs_file=True),
    "text": Condition("text only", lambda m, o: _parts(m, lambda p: [] if _is_audio(p) else [p]), "audio"),
    "no_score": Condition("no score", lambda m, o: _parts(m, lambda p: [] if is_score(p) else [p]), "score"),
    "other_score": Condition("another score", _exchanged(is_score), "score"),
    "nudged": Condition(
        "moved 30 ms", _sounds(lambda source: recording(source).nudged()), "audio", True, False, NUDGED_ITEMS
    ),
}
"""Name -> how it is asked; "model" is the question as it stands."""
CONSTANTS = {
    "majority": "majority", "chance": "chance", "longest": "longest option", "shortest": "shortest option",
    "position": "best position", "prompt": "commonest in the prompt",
}  # fmt: skip
"""Name -> title of what answers without a model."""
DEAF = (*(name for name, condition in CONDITIONS.items() if condition.deaf), *CONSTANTS)
"""What a listening gain is over."""


def medium_of(item: Item, messages: Messages) -> str:
    """audio, score or "" : what the question is about."""
    if item.audio or any(_of([m], _is_audio) for m in messages):
        return "audio"
    return "score" if any(_of([m], is_score) for m in messages) else ""


def prompts(task: Task, items: Sequence[Item], names: Iterable[str]) -> Iterable[tuple[str, Item, Messages]]:
    """(condition, item, messages as they are asked) of every item under every condition that applies to it."""
    plain = [task.prompt(item) for item in items]
    files = [[Path(p["audio"]) for m in messages for p in _of([m], _is_audio)] for messages in plain]
    there = [all(file.is_file() for file in of_item) for of_item in files]
    media = [medium_of(item, messages) for item, messages in zip(items, plain, strict=True)]
    for name in names:
        condition, asked = CONDITIONS[name], 0
        for i, item in enumerate(items):
            if (condition.medium and media[i] != condition.medium) or (condition.needs_file and not there[i]):
                continue
            if condition.medium == "audio" and not files[i]:
                continue
            if condition.most is not None and asked == condition.most:
                break
            other = _other(i, items, files, there)
            if name in ("swapped", "other_score") and other is None:
                continue
            asked += 1
            yield name, item, without_names(condition.change(plain[i], plain[other if other is not None else i]))


def _other(i: int, items: Sequence[Item], files: Sequence[list[Path]], there: Sequence[bool]) -> int | None:
    """The nearest item of another group, with another recording that is there; neighbours exchange where they can."""
    count = len(items)
    near = [i ^ 1, *(j % count for step in range(1, min(count, 50)) for j in (i - step, i + step))]
    for j in near:
        if j < count and j != i and there[j] and files[j] != files[i]:
            if not items[i].group or items[j].group != items[i].group:
                return j
    if any(files):
        return next((j for j in near if j < count and j != i and there[j] and files[j] != files[i]), None)
    return next((j for j in near if j < count and j != i and items[j].group != items[i].group), None)


def without_names(messages: Messages) -> Messages:
    """Messages whose files have become sounds without a name, and scores in files their ABC."""

    def nameless(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "audio" and not isinstance(part["audio"], Sound):
            return {"type": "audio", "audio": recording(Path(part["audio"]))}
        return {"type": "text", "text": to_abc(read_score(part["score"])) + "\n"} if part["type"] == "score" else part

    return _parts(messages, lambda part: [nameless(part)])


# constants
Rows = list[tuple[str | None, Verdict]]


def constants(task: Task, items: Sequence[Item], train: Sequence[Item]) -> dict[str, Rows]:
    """Constant -> its answer to each item with its verdict; what does not apply to the task is not there."""
    out: dict[str, Rows] = {}
    guessed = _guessed(task, items, train or items)
    if guessed:
        out["majority"], out["chance"] = guessed
    if any(item.options for item in items):
        elsewhere = out.get("majority", [(None, Verdict(None, 0.0))] * len(items))  # of a question without options
        out |= _of_options(items, elsewhere, out.get("chance", elsewhere))
    shown = [_commonest_shown(task.prompt(item)) for item in items]
    if any(shown):
        out["prompt"] = [(said, task.score(said or "", item)) for said, item in zip(shown, items, strict=True)]
    return out


def _guessed(task: Task, items: Sequence[Item], train: Sequence[Item]) -> tuple[Rows, Rows] | None:
    """Majority and chance, kind by kind of question; None where nothing can be guessed."""
    credit = task.credit or task.score
    by_kind: dict[str, list[Item]] = {}
    for item in train:
        by_kind.setdefault(item.strata.get(KIND, ""), []).append(item)
    guesses = {kind: _guesses(task, credit, of_kind) for kind, of_kind in by_kind.items()}
    if not any(guesses.values()):
        return None
    majority: Rows = []
    chance: Rows = []
    for item in items:
        possible = guesses.get(item.strata.get(KIND, ""), [])
        verdicts = [credit(guess, item) for guess in possible]
        majority.append((possible[0], verdicts[0]) if possible else (None, Verdict(None, 0.0)))
        chance.append((None, Verdict("", float(np.mean([v.score for v in verdicts])) if verdicts else 0.0)))
    return majority, chance


def _guesses(task: Task, credit: Callable[[str, Item], Verdict], train: Sequence[Item]) -> list[str]:
    """Answers that TRAIN calls for, the one that is right on most of it first."""
    counts = Counter(guess for item in train if (guess := task.guess(item)) is not None)
    if not counts:
        return []
    guesses = sorted(guess for guess, _ in counts.most_common(MOST_GUESSES))
    alike: dict[str, tuple[Item, int]] = {}  # items with one truth are judged once
    for item in train:
        kind = repr((item.truth, item.options))
        alike[kind] = (item, alike.get(kind, (item, 0))[1] + 1)
    best = max(guesses, key=lambda guess: sum(credit(guess, item).score * n for item, n in alike.values()))
    return [best, *(guess for guess in guesses if guess != best)]


def _of_options(items: Sequence[Item], elsewhere: Rows, chance: Rows) -> dict[str, Rows]:
    """Constants that pick options by their looks; `elsewhere`, `chance`: what they answer where there are none."""

    def answers(pick: Callable[[Item], list[str]], otherwise: Rows = elsewhere) -> Rows:
        """Picked options; of several the mean."""
        rows = []
        for item, other in zip(items, otherwise, strict=True):
            picked = pick(item) if item.options else []
            score = float(np.mean([option == item.truth for option in picked])) if picked else 0.0
            rows.append((picked[0] if len(picked) == 1 else None, Verdict("", score)) if picked else other)
        return rows

    def place(k: int) -> Callable[[Item], list[str]]:
        return lambda item: [item.options[min(k, len(item.options) - 1)]]

    by_place = [answers(place(k)) for k in range(max(len(item.options) for item in items))]
    return {
        "longest": answers(lambda item: [o for o in item.options if len(o) == max(map(len, item.options))]),
        "shortest": answers(lambda item: [o for o in item.options if len(o) == min(map(len, item.options))]),
        "position": max(by_place, key=lambda rows: sum(verdict.score for _, verdict in rows)),
        "chance": answers(lambda item: list(item.options), chance),
    }


def _commonest_shown(messages: Messages) -> str | None:
    """The answer that stands most often in the prompt itself, as in a few examples before the question."""
    said = [m["content"] for m in messages if m["role"] == "assistant" and isinstance(m["content"], str)]
    return Counter(said).most_common(1)[0][0] if said else None
