"""Which option does an answer choose? Read strictly: what chooses none, or more than one, is unread."""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence

LETTERS = string.ascii_uppercase
_OPEN, _CLOSE = r"[\s(\[\"'*]{0,4}", r"(?=[)\]\"'*]{0,3}\s*(?:[.:,;)、。,;:!-]|$|\n|because\b|since\b|as\b))"
# Words that announce a letter, in English and in Chinese (ZIQI-Eval).
_ANNOUNCE = r"(?:\b(?:answer|option|choice)(?:\s+(?:is|would\s+be))?\s*[:=]?|答案(?:是|为|选)?:?|选(?:项|择)?:?)"
_ANNOUNCED = re.compile(rf"{_ANNOUNCE}{_OPEN}([A-Z])(?![\w#♯♭'])(?:{_CLOSE}|(?=\s))", re.IGNORECASE)
_HEAD = re.compile(rf"{_OPEN}([A-Z])(?![\w#♯♭']){_CLOSE}")
_SPACED = re.compile(rf"{_OPEN}([A-Z])\s+(?=\S)")
_ANOTHER = re.compile(r"[)\]\"'*]{0,3}\s*(?:and|or|,|/|&|、|和|或)\s*[(\[\"'*]{0,3}([A-Z])(?![\w'])")
_NOISE = re.compile(r"</?s>|<\|[^|<>]{0,40}\|>|\*\*|[\u200b\ufeff]")
_REFUSAL = re.compile(
    r"\b(?:neither|none\s+of|cannot|can't|unable|not\s+(?:sure|possible|enough|clear)|don't\s+know|unknown)\b"
)
_DENIED = re.compile(
    r"\b(?:not|no|isn't|aren't|neither|nor|without|(?:rather|other)\s+than|instead\s+of)\s(?:\w+\s){0,2}$"
)


def read_choice(text: str, options: Sequence[str]) -> int | None:
    """The index of the one option that `text` chooses, or None: unread, which counts as wrong.

    Args:
        text: what was said.
        options: texts of the options in the order in which they were shown, 2 to 26 of them, lettered A, B, C, ...

    A letter chooses where the answer begins with it ("B", "(B) guitar", "B. Guitar") and where "answer", "option" or
    "choice" announces it; a letter in running text does not (MuChoMusic's own parser finds "D" in "Drums"), and one
    that stands beside another option's words only is unread. Without a letter the words choose: the one option that is
    named and not denied; where one option's words contain another's ("electric guitar", "guitar"), the longer is meant.
    Two letters, two options, a refusal: unread.

    Raises ValueError for fewer than 2 or more than 26 options.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"give between 2 and {len(LETTERS)} options, not {len(options)}")
    text = _NOISE.sub(" ", unicodedata.normalize("NFKC", text)).replace("’", "'").strip()
    named = _named(text, options)
    if len({_words(options[index]) for index in named}) == 1:  # an option that is there twice
        named = {min(named)}
    letters = _letters(text, options)
    if len(letters) > 1:
        return None
    if letters:
        at = letters.pop()
        return at if not named or _words(options[at]) in {_words(options[index]) for index in named} else None
    return named.pop() if len(named) == 1 and not _REFUSAL.search(text.lower()) else None


def read_label(text: str, labels: Mapping[str, Sequence[str]]) -> str | None:
    """The one label that a text names; None for none, for several, for a refusal.

    Args:
        text: what was said; letters mean nothing here.
        labels: label -> further ways to write it ("hiphop" -> "hip-hop").
    """
    text = _NOISE.sub(" ", unicodedata.normalize("NFKC", text)).replace("’", "'").strip()
    spelled = [(label, way) for label, ways in labels.items() for way in (label, *ways)]
    named = {spelled[index][0] for index in _named(text, [way for _, way in spelled])}
    return named.pop() if len(named) == 1 and not _REFUSAL.search(text.lower()) else None


def _letters(text: str, options: Sequence[str]) -> set[int]:
    """Options that are chosen by their letters."""
    known = LETTERS[: len(options)]
    bare = text.strip(" .()[]\"'*:")
    if len(bare) == 1:
        return {known.index(bare.upper())} if bare.upper() in known else set()
    found = [match for match in _ANNOUNCED.finditer(text) if match[1].upper() in known and not match[1] == "a"]
    if (head := _HEAD.match(text)) and head[1] in known:
        found.append(head)
    elif (head := _SPACED.match(text)) and head[1] in known:
        words = _words(options[known.index(head[1])])
        rest = text[head.end() :]
        # "C Drums", where drums are B, contradicts itself; "A drum" begins with an article
        if (words and _words(rest).startswith(words)) or (head[1] != "A" and _named(rest, options)):
            found.append(head)
    chosen = {known.index(match[1].upper()) for match in found}
    for match in found:
        if (another := _ANOTHER.match(text, match.end(1))) and another[1] in known:
            chosen.add(known.index(another[1]))
    return chosen


@functools.lru_cache(1 << 16)  # constants are held against every question of a set
def _words(text: str) -> str:
    """The words of a text in lower case, a space between them; signs that are part of names stay (C#, 4/4)."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    return " ".join(re.findall(r"[\w#♯♭/]+(?:['.][\w#]+)*", text))


def _named(text: str, options: Sequence[str]) -> set[int]:
    """Options whose words stand in the text, not denied and not inside a longer option's words."""
    said = _words(text)
    places: dict[int, list[tuple[int, int]]] = {}
    for index, option in enumerate(options):
        words = _words(option)
        if words and words == said:
            return {index}
        if words not in said:
            continue
        # Chinese is written without spaces between words
        edge = "" if any("\u4e00" <= letter <= "\u9fff" for letter in words) else r"(?<!\S)"
        found = re.finditer(f"{edge}{re.escape(words)}{edge.replace('<', '')}", said) if words else ()
        places[index] = [match.span() for match in found]
    every = [span for spans in places.values() for span in spans]
    return {
        index
        for index, spans in places.items()
        if any(
            not _DENIED.search(said[: span[0]]) and not any(_covers(other, span) for other in every) for span in spans
        )
    }


def _covers(longer: tuple[int, int], span: tuple[int, int]) -> bool:
    return longer != span and longer[0] <= span[0] and span[1] <= longer[1]
