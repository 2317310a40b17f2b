"""Tasks whose questions are rows of a build: what a row asks, what it answers, and items of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mllm.eval.data import rows_of_task, work_of
from mllm.eval.item import Item
from mllm.eval.score_answers import given_answer, is_right, options_of
from mllm.eval.task import LETTERS, Task, Verdict
from mllm.rows import Row, row_audios

LONGEST, LONGEST_ABC = 32, 96
"""Tokens of an answer: a sentence; four bars of ABC."""


def answer_of(row: Row) -> str:
    """The words of a row's last assistant turn."""
    said = row["messages"][-1]["content"]
    return said if isinstance(said, str) else "\n".join(part["text"] for part in said)


def row_items(
    rows: Sequence[Row], truth: Callable[[Row], Any], limit: int | None, strata: Sequence[str] = ()
) -> list[Item]:
    """Items that ask what rows ask, word for word; rows of several turns are passed over.

    Args:
        truth: row -> the right answer, or None where the row does not take part.
        strata: names of facts by which results are also shown; "of" is the row's task.
    """
    found: list[Item] = []
    for row in rows:
        if len(found) == limit:
            break
        asked = row["messages"][:-1]
        if (len(asked) != 1 and not row["task"].startswith("episode")) or (right := truth(row)) is None:
            continue
        shown = {**(row.get("facts") or {}), "of": row["task"].removesuffix("_short")}
        found.append(
            Item(
                id=str(row["id"]), question=_last_words(asked[-1]["content"]), truth=right,
                audio=tuple(Path(path) for path in row_audios(row)), options=tuple(options_of(row).values()),
                messages=tuple(asked), group=work_of(row) or str(row["id"]),
                strata={name: str(shown[name]) for name in strata if name in shown}, meta={"row": row},
            )
        )  # fmt: skip
    return found


def _last_words(content: Any) -> str:
    return content if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"][-1]


def row_task(
    name: str,
    title: str,
    kinds: Callable[[str], bool],
    truth: Callable[[Row], Any],
    score: Callable[[str, Item], Verdict],
    *,
    strata: Sequence[str] = (),
    most: int | None = None,
    **more: Any,
) -> Task:
    """A task over the rows whose task `kinds` takes; the other arguments as in `row_items` and `Task`."""

    def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
        return row_items(_in_turn(rows_of_task(data, split, kinds)), truth, limit, strata)

    return Task(name, title, items, score, most=most, **more)


def _in_turn(rows: Sequence[Row]) -> list[Row]:
    """Rows of several kinds by turns, so that the first of them hold every kind."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row["task"], []).append(row)
    longest = max(map(len, by_kind.values()), default=0)
    return [of_kind[i] for i in range(longest) for of_kind in by_kind.values() if i < len(of_kind)]


def exact_task(name: str, title: str, *, abc: bool = False, most: int | None = None, guess: bool = True) -> Task:
    """A task over rows of its own name whose `facts` hold the bare `answer` and its `style` (questions about scores).

    Args:
        abc: the answer is notation; what sounds the same is the same, and nobody guesses it.
    """
    known: dict[tuple[Path, str], tuple[str, ...]] = {}

    def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
        rows = [row for row in rows_of_task(data, split, name.__eq__) if "answer" in (row.get("facts") or {})]
        found = row_items(rows, lambda row: str(row["facts"]["answer"]), limit, ("level", "style"))
        known[data, split] = tuple(dict.fromkeys(str(row["facts"]["answer"]) for row in rows))
        for item in found:
            item.meta["answers"] = known[data, split]
        return found

    def score(answer: str, item: Item) -> Verdict:
        given = given_answer(answer, item.meta["row"], item.meta["answers"])
        return Verdict(given, float(is_right(given, item.meta["row"])))

    def credit(guess: str, item: Item) -> Verdict:
        return Verdict(guess, float(is_right(guess, item.meta["row"])))

    longest = LONGEST_ABC if abc else LONGEST
    nobody: Any = {"guess": lambda item: None} if abc or not guess else {}
    return Task(name, title, items, score, max_new_tokens=longest, credit=credit, most=most, **nobody)


def option_of_letter(row: Row) -> str | None:
    """The option that a row's own answer names by its letter; None where the row has no options."""
    options = options_of(row)
    return options.get(answer_of(row).strip()[:1]) if options and answer_of(row).strip()[:1] in LETTERS else None
