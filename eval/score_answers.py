"""What an answer about a score says, and whether it is right: one rule for each kind of question.

A row's `facts` hold the bare `answer` and its `style`; its question holds the options of a choice. Reading is strict:
an answer that names two options, bars or words is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping

from mllm.errors import ScoreError
from mllm.eval.metrics.multiple_choice import read_choice
from mllm.rows import Row
from mllm.score import read_abc, sounding

Given = str | None
_DISAGREE = re.compile(r"\b(?:not|don't|no longer|stop|cease|disagree)\b", re.IGNORECASE)
_OPTION = re.compile(r"^([A-E])\. (.+)$", re.MULTILINE)


def question_of(row: Row) -> str:
    """The words of a row's last user turn."""
    last = next(m for m in reversed(row["messages"]) if m["role"] == "user")["content"]
    return last if isinstance(last, str) else "\n".join(part["text"] for part in last if part["type"] == "text")


def options_of(row: Row) -> dict[str, str]:
    """Letter -> option of a multiple choice; nothing where the question offers none."""
    if (row.get("facts") or {}).get("style") != "choice" and not row.get("task", "").endswith("_choice"):
        return {}
    return {letter: text.strip() for letter, text in _OPTION.findall(question_of(row))}


def given_answer(text: str, row: Row, answers: Collection[str]) -> Given:
    """The answer that a text gives to a row's question, in the form of `facts["answer"]`; None where it gives none.

    Args:
        text: what was said.
        row: the question, with its facts.
        answers: what questions of this task are answered with elsewhere; of words, one of these is looked for.
    """
    text = text.strip()
    options = list(options_of(row).values())
    if len(options) > 1:
        chosen = read_choice(text, options)
        return None if chosen is None else options[chosen]
    if row["facts"].get("style") == "json":
        try:
            value = json.loads(text)["answer"]
        except (ValueError, TypeError, KeyError):
            return None
        text = {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return _READERS.get(row["task"], _words)(text, row, answers)


def is_right(given: Given, row: Row) -> bool:
    """Whether an answer is the row's; two texts of ABC are the same where they sound the same."""
    if given is None:
        return False
    answer = row["facts"]["answer"]
    if row["facts"].get("head") is None:
        return given.casefold() == str(answer).casefold()
    return _sounds(row["facts"]["head"], given) == _sounds(row["facts"]["head"], answer)


def _sounds(head: str, body: str) -> list[tuple[float, float, int]] | None:
    try:
        return sounding(read_abc(f"{head}\n{body}\n").notes)
    except ScoreError:
        return None


def _number(text: str, row: Row, answers: Collection[str]) -> Given:
    found = set(re.findall(r"\d+", re.sub(r"\bbar \d+", "", text)))
    return found.pop() if len(found) == 1 else None


def _bar(text: str, row: Row, answers: Collection[str]) -> Given:
    text = re.sub(r"\d+[:/]\d+", "", text)  # a time or a metre is no bar
    found = {f"bar {number}" for number in re.findall(r"(?:\bbar )?(\d+)", text)}
    if re.search(r"\bagree|no difference|the same\b", text, re.IGNORECASE) and not _DISAGREE.search(text):
        found |= {"they agree"}
    if row["task"] == "score_compare" and len(found) > 1:  # "bar 3 has more notes than bar 5"
        found = {f"bar {number}" for number in re.findall(r"^\D*(\d+)", text)}
    return found.pop() if len(found) == 1 else None


def _yes_or_no(text: str, row: Row, answers: Collection[str]) -> Given:
    found = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    return found[1].lower() if found else None


def _abc(text: str, row: Row, answers: Collection[str]) -> Given:
    """The bars, without a header where it was said again."""
    lines = [line for line in text.splitlines() if line.strip() and not re.match(r"[A-Za-z]:(?!\|)", line)]
    return "\n".join(lines) or None


def _score(text: str, row: Row, answers: Collection[str]) -> Given:
    text = re.sub(r"^\W*A (?!or\b|and\b)(?=[a-z])", "", text)  # an article: "A recording of Score B"
    found = {f"Score {letter}" for letter in re.findall(r"\b([ABC])\b", text)}
    return found.pop() if len(found) == 1 else None


def _words(text: str, row: Row, answers: Collection[str]) -> Given:
    """The one known answer that stands in the text; a longer one hides those inside of it."""
    words = f" {re.sub(r'[^a-z0-9#+°ø]+', ' ', text.casefold()).strip()} "
    known = {answer: f" {re.sub(r'[^a-z0-9#+°ø]+', ' ', answer.casefold()).strip()} " for answer in answers}
    found = [answer for answer, form in known.items() if form in words]
    longest = [a for a in found if not any(a != b and known[a] in known[b] for b in found)]
    return longest[0] if len(longest) == 1 else None


_READERS: Mapping[str, Callable[[str, Row, Collection[str]], Given]] = (
    dict.fromkeys(("score_count_notes", "score_count_pitch"), _number)
    | dict.fromkeys(
        ("score_compare", "score_locate", "score_bar_error", "score_wrong_note", "first_difference", "bar_at"), _bar
    )
    | dict.fromkeys(("score_bar_sum", "match"), _yes_or_no)
    | dict.fromkeys(("score_transpose", "score_invert", "score_retrograde", "transcribe"), _abc)
    | {"which_of_three": _score}
)
