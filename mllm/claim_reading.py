"""Reading the small parts of what is said about music: numbers, notes, chords, lists of them, and the words before.

Every pattern is bounded, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from mllm import claim_words as words

Value = dict[str, Any]
Found = tuple[Value, int, int]  # start and end in the sentence
MOST_ITEMS = 64  # of a list of notes or chords
_CONTEXT = 40  # characters before a claim that can change what it means


def any_of(phrases: Iterable[str]) -> str:
    """A pattern for one of these phrases, the longest first, with any white space in place of a space."""
    return "|".join(re.escape(p).replace(r"\ ", r"\s{1,3}") for p in sorted(phrases, key=lambda p: (-len(p), p)))


def pattern(source: str) -> re.Pattern[str]:
    """A compiled pattern, blind to case; NUM in it stands for a number in digits or words."""
    return re.compile(source.replace("NUM", NUMBER), re.IGNORECASE)


NUMBER = r"(?:\d{1,5}|" + any_of(words.NUMBERS) + ")"
SIGN = r"(?:#|b(?![a-z])|[ -](?i:sharp|flat)\b)"
NOTE = re.compile(
    rf"([A-G])({SIGN})?(-?\d)?(?![A-Za-z0-9#♮'])(?!\s(?i:{any_of([*words.MODES, *words.CHORD_NOUNS])})\b)"
)
_CHORD_KIND = r"(?:maj|min|dim|aug|sus|add|m|M|°|ø|\+|\d){0,5}"
CHORD = re.compile(
    rf"([A-G])({SIGN})?(?:\s(?i:({any_of(words.CHORD_KINDS)}))\b|({_CHORD_KIND})(/[A-G](?:#|b)?)?(?![A-Za-z0-9#]))"
)
_JOIN = re.compile(r"\s{0,3}(?:,\s{0,3}(?:(?:and|then)\s{1,3})?|->|→|–|-|\||(?:and|then|to)\s{1,3}|\s)\s{0,3}")
AN = r"(?-i:an?\s)?"  # in small letters: a capital A is a note
SMALL = r"(?:(?:the\s)?(?:notes?|pitch(?:es)?)\s|(?-i:the|an?)\s)?"
PITCH = r"(?:notes?|pitch(?:es)?|tones?)"
IS = r"(?:\s(?:of|in)\s(?:the|this|its)\s\w{1,12})?[\s,|]{0,3}(?:is|are|was|being|:|=|-|–)?[\s|:]{0,3}"


def number_of(text: str) -> int:
    """The value of a number in digits or words."""
    return words.NUMBERS[text.lower()] if text.lower() in words.NUMBERS else int(text)


def spelled(letter: str, sign: str | None) -> str:
    """The usual name of a pitch class: ("f", "-sharp") is "F#"."""
    accidental = (sign or "").strip(" -").lower()
    return letter.upper() + {"sharp": "#", "flat": "b"}.get(accidental, accidental)


def stands_before(sentence: str, place: int, phrases: Iterable[str]) -> bool:
    """Whether one of these phrases stands right before a place."""
    context = sentence[max(place - _CONTEXT, 0) : place].lower().rstrip(" :,\"'(")
    return any(context.endswith(p) and not context[: -len(p)][-1:].isalnum() for p in phrases)


def stands_near(sentence: str, place: int, phrases: Iterable[str]) -> bool:
    """Whether one of these phrases stands within some words before a place."""
    context = f" {sentence[max(place - _CONTEXT, 0) : place].lower()} "
    return any(re.search(rf"(?<![a-z]){re.escape(p)}(?![a-z])", context) for p in phrases)


def read_list(
    sentence: str, place: int, item: re.Pattern[str], read: Callable[[re.Match[str]], str]
) -> tuple[list[str], int]:
    """Items one after the other from a place on, and where they end."""
    items: list[str] = []
    end = place
    while len(items) < MOST_ITEMS and (match := item.match(sentence, place)):
        items.append(read(match))
        end = match.end()
        join = _JOIN.match(sentence, end)
        if not join:
            break
        place = join.end()
    return items, end


def read_note(match: re.Match[str]) -> str:
    """The name of a match of `NOTE`: "F#5", "Bb"."""
    return spelled(match[1], match[2]) + (match[3] or "")


def read_chord(match: re.Match[str]) -> str:
    """The symbol of a match of `CHORD`: "Am7", also of "A minor seventh"."""
    kind = words.CHORD_KINDS[match[3].lower()] if match[3] else (match[4] or "")
    return spelled(match[1], match[2]) + kind + (match[5] or "")


def bounds(sentence: str, place: int, low: float, high: float) -> Value:
    """{"low", "high"} of a number at a place, one of them None after "over", "at most" and their like."""
    if stands_before(sentence, place, words.ABOVE):
        return {"low": low, "high": None}
    return {"low": None, "high": high} if stands_before(sentence, place, words.BELOW) else {"low": low, "high": high}


class Taken:
    """The stretches of a sentence that claims were found in."""

    def __init__(self, sentence: str):
        self._marks = bytearray(len(sentence))

    def take(self, start: int, end: int) -> bool:
        """Mark a stretch; False, and no mark, where a part of it is taken."""
        if any(self._marks[start:end]):
            return False
        self._marks[start:end] = b"\1" * (end - start)
        return True
