"""The w: lines of ABC: which syllable stands under which note."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

Moment = TypeVar("Moment")
_TOKEN = re.compile(r"(?:\\-|[^\s\-_*|])+-?|[-_*|]")


def align(text: str, line: Sequence[Moment | None]) -> list[tuple[Moment, str]]:
    """Syllables of one w: line with the moments of the notes that they stand under.

    Standard: https://abcnotation.com/wiki/abc:standard:v2.1#lyrics. A syllable ends in "-" where its word goes on;
    those without a note are left out.

    Args:
        text: what stands behind w:.
        line: the notes of the line above in order, None at each bar line.
    """
    aligned: list[tuple[Moment, str]] = []
    at = 0
    while at < len(line) and line[at] is None:  # what opens a line is no bar line to skip to
        at += 1
    for token in _TOKEN.findall(text):
        if token == "|":
            while at < len(line) and line[at] is not None:
                at += 1
            at += 1
            continue
        while at < len(line) and line[at] is None:
            at += 1
        if at >= len(line):
            break
        moment = line[at]
        if token not in "-_*" and moment is not None:
            aligned.append((moment, token.replace("\\-", "\u2010").replace("~", " ").strip()))
        at += 1
    return aligned


def written(syllables: Sequence[str]) -> str:
    """The inverse: a w: line with one syllable for each note, "" for a note without one."""
    words = []
    for syllable in syllables:
        word, goes_on = syllable.rstrip("-"), syllable.endswith("-")
        word = re.sub(r"[*_|\\%]", "", word).replace("-", "\\-").replace("\u2010", "\\-")
        word = "~".join(word.split())
        words.append(f"{word}- " if word and goes_on else f"{word or '*'} ")
    return "".join(words).rstrip(" *")
