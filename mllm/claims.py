"""The musical claims in an answer: what it says of key, tempo, metre, bars, notes, chords and instruments.

`find_claims` cuts the answer into sentences, lets the finders of `claim_finders` look at each, and decides by the words
around (`claim_words`) whether a claim is denied, hedged, or none at all: questions and hypotheses say nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mllm import claim_words as words
from mllm.claim_finders import FINDERS
from mllm.claim_reading import Value, any_of

MAX_TEXT = 50_000  # characters; what comes after is not read
BARE = 80  # characters of an answer that may be nothing but the value asked for
_REACH = 200  # characters before a claim whose words can change what it means


@dataclass(frozen=True)
class Claim:
    """Something an answer says about the music, which is true or false.

    Attributes:
        kind: key, tempo, metre, bar, note, chord or instrument.
        value: what is said, as the finder of the kind gives it (`mllm.claim_finders`), plain JSON; {"any_of": [values]}
            where the answer leaves it open: "G major or E minor".
        text: the words it was found in. span: their place in the answer, start and end in characters.
        negated: whether the answer says that it is not so. hedged: whether it says so with a doubt, "perhaps".
        clip: which recording or score it is about, from 1 on; None for all.
    """

    kind: str
    value: Value
    text: str
    span: tuple[int, int]
    negated: bool = False
    hedged: bool = False
    clip: int | None = None


def find_claims(answer: str, question: str = "") -> list[Claim]:
    """The claims in an answer, in order.

    Found in prose, lists, tables, fields of JSON ("key": "G major") and of ABC text (K:G). The same claim made twice is
    there twice.

    Args:
        answer: any text; only its first `MAX_TEXT` characters are read.
        question: what was asked; needed to know what an answer such as "120" or "Yes." is about.
    """
    answer = answer[:MAX_TEXT]
    text = _plain(answer)
    found = _of_bare_answer(answer, question) if _is_bare(answer, question) else []
    if found:
        return found
    for pattern, reader in ((_JSON_FIELD, _json_value), (_ABC_FIELD, _abc_value)):
        spans = []
        for match in pattern.finditer(text):
            if (read := reader(match, text)) is not None:
                template, value, end = read
                found += _framed(template, value, answer, (match.start(), end))
                spans.append((match.start(), end))
        text = _without(text, spans)
    for start, end in _sentences(text):
        found += _of_sentence(text[start:end], start, answer)
    return _assign_clips(sorted(found, key=lambda c: c.span), text)


def _plain(text: str) -> str:
    """The same text, as long as before, in the letters that the finders know."""
    return text.translate(_LETTERS)


_LETTERS = str.maketrans(
    {"♯": "#", "♭": "b", "\xa0": " ", "’": "'", "*": " ", "`": " ", "_": " ", "“": '"', "”": '"', "\t": " "}
)
# In JSON the names of fields keep their underscores: the letters above have made spaces of them.
_JSON_FIELD = re.compile(
    rf'"({any_of(field.replace("_", " ") for field in words.FIELDS)})"\s{{0,8}}:\s{{0,8}}(?=["\d]|\[\s{{0,8}}["\d])',
    re.IGNORECASE,
)
_ABC_FIELD = re.compile(r"^([KMQL]):[ ]{0,4}([^\n]{1,40})$", re.MULTILINE)
_ABC_TONIC = re.compile(r"[A-G][#b]?")
_DECODER = json.JSONDecoder()


def _json_value(match: re.Match[str], text: str) -> tuple[str, str, int] | None:
    try:
        value, end = _DECODER.raw_decode(text[match.end() : match.end() + 4 * _REACH])
    except (ValueError, RecursionError):
        return None
    template = words.FIELDS[match[1].lower().replace(" ", "_")]
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value)
    return template, str(value), match.end() + end


def _abc_value(match: re.Match[str], text: str) -> tuple[str, str, int] | None:
    value = match[2].strip()
    if match[1] == "K" and _ABC_TONIC.fullmatch(value):
        value += " major"  # what ABC means by a tonic alone
    return words.ABC_FIELDS.get(match[1], ""), value, match.end()


def _framed(template: str, value: str, answer: str, span: tuple[int, int]) -> list[Claim]:
    """The claims of a sentence that is made of a value alone, said of `span` in the answer."""
    if value in ("C", "C|") and template == words.ABC_FIELDS["M"]:
        value = {"C": "4/4", "C|": "2/2"}[value]
    claims = _of_sentence(template.replace("{}", value), 0, "")
    return [replace(claim, text=answer[slice(*span)].strip(), span=span) for claim in claims]


# sentences
_ABBREVIATION = re.compile(r"\b(approx|ca|no|vs|e\.g|i\.e|op|nr)\.(?=\s)", re.IGNORECASE)
_STOP = re.compile(r"[.!?]{1,8}(?=[\s\"')\]]|$)|\n|;")


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence or line that states something."""
    text = _ABBREVIATION.sub(lambda m: m[0][:-1] + " ", text)
    start = 0
    for stop in _STOP.finditer(text):
        if "?" not in stop[0] and stop.start() > start:
            yield start, stop.start()
        start = stop.end()
    if start < len(text):
        yield start, len(text)


def _phrases(phrases: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w'])(?:{any_of(phrases)})(?![\w'])", re.IGNORECASE)


_HYPOTHETICAL, _NOT_HYPOTHETICAL = _phrases(words.HYPOTHETICAL), _phrases(words.NOT_HYPOTHETICAL)
_NEGATOR, _NOT_NEGATOR, _BOUNDARY = _phrases(words.NEGATORS), _phrases(words.NOT_NEGATORS), _phrases(words.BOUNDARIES)
_UNDECIDED, _HEDGE = _phrases(words.UNDECIDED), _phrases(words.HEDGES)
_TURN = _phrases(words.TURNS)
_DENIED_AFTER = re.compile(
    rf"\s(?:(?:is|are|was|were|can|could|does|do|did|has|have)\s(?:{any_of(words.ABSENT)})|isn't|aren't|wasn't|can't|doesn't)(?![\w'])",
    re.IGNORECASE,
)
_LEADING_NO = re.compile(r"^\W{0,4}no\s{0,2}[,:]", re.IGNORECASE)
_ALTERNATIVE = re.compile(
    r"\s{0,2},?\s{0,2}(?:\bor\b|/)\s{0,2}(?:(?:maybe|perhaps|possibly|even|in|else|an?|about|around|at)\s{1,2}){0,3}",
    re.IGNORECASE,
)


def _blank(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda m: " " * len(m[0]), text)


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with blanks in place of some spans."""
    pieces, last = [], 0
    for start, end in sorted(spans):
        start = max(start, last)
        pieces += [text[last:start], " " * (end - start)]
        last = max(end, last)
    return "".join([*pieces, text[last:]])


def _of_sentence(sentence: str, offset: int, answer: str) -> list[Claim]:
    """The claims of one sentence, which starts at `offset` of the answer."""
    if _HYPOTHETICAL.search(_blank(_NOT_HYPOTHETICAL, sentence)):
        return []
    context = _blank(_NOT_NEGATOR, _blank(_LEADING_NO, sentence))
    left = sentence
    claims: list[Claim] = []
    for kind, find in FINDERS.items():
        spans = []
        for value, start, end in find(left):
            before = context[max(start - _REACH, 0) : start]
            turns = [m.end() for m in _TURN.finditer(before)]
            clause = before[turns[-1] if turns else 0 :]
            if not _UNDECIDED.search(clause):
                denied = _denied(before) or bool(
                    _NEGATOR.search(context, start, end) or _DENIED_AFTER.match(context, end)
                )
                place = (start + offset, end + offset)
                words_of = answer[slice(*place)] if answer else sentence[start:end]
                claims.append(Claim(kind, value, words_of, place, denied, bool(_HEDGE.search(clause))))
            spans.append((start, end))
        left = _without(left, spans)
    return _merge_alternatives(sorted(claims, key=lambda c: c.span), sentence, offset, answer)


def _denied(before: str) -> bool:
    """Whether the words before a claim deny it."""
    limits = [m.end() for m in _BOUNDARY.finditer(before)]
    clause = before[limits[-1] if limits else 0 :]
    negators = list(_NEGATOR.finditer(clause))
    if not negators:
        return False
    last = negators[-1]
    # "not a violin, a flute" denies one of them; "no violin, flute or harp" all three.
    return not (words.SHORT_REACH.intersection(last[0].lower().split()) and "," in clause[last.end() :])


def _merge_alternatives(claims: list[Claim], sentence: str, offset: int, answer: str) -> list[Claim]:
    """ "G major or E minor" is one claim."""
    merged: list[Claim] = []
    for claim in claims:
        last = merged[-1] if merged else None
        if last and last.kind == claim.kind and not last.negated:
            between = sentence[last.span[1] - offset : claim.span[0] - offset]
            if between and _ALTERNATIVE.fullmatch(between):
                values = [*last.value.get("any_of", [last.value]), claim.value]
                span = (last.span[0], claim.span[1])
                text = (
                    (answer or sentence)[span[0] : span[1]] if answer else sentence[span[0] - offset : span[1] - offset]
                )
                merged[-1] = replace(last, value={"any_of": values}, text=text, span=span)
                continue
        merged.append(claim)
    return merged


# answers that say nothing but the value
_STATING = _phrases(words.STATING)
_YES_NO = re.compile(r"\W{0,3}(yes|no)\W{0,3}", re.IGNORECASE)


def _is_bare(answer: str, question: str) -> bool:
    """Whether an answer is nothing but the value that was asked for."""
    return (
        bool(question)
        and 0 < len(answer.strip()) <= BARE
        and not _STATING.search(answer)
        and "\n" not in answer.strip()
    )


def _of_bare_answer(answer: str, question: str) -> list[Claim]:
    """ "120" after "What is the tempo?", and "Yes." after "Is it in G major?"."""
    asked = question[-2000:].lower()
    span = (0, len(answer))
    if decided := _YES_NO.fullmatch(answer):
        statement = _plain(question[-2000:]).replace("?", " ")
        claims = _of_sentence(statement.rpartition(". ")[2], 0, "")
        denied = decided[1].lower() == "no"
        return [replace(c, text=answer.strip(), span=span, negated=c.negated != denied) for c in claims]
    for needed, template in words.QUESTIONS:
        if all(word in asked for word in needed):
            return _framed(template, _plain(answer).strip().rstrip("."), answer, span)
    return []


# several clips
_NUMERALS = {"one": 1, "two": 2, "three": 3, "four": 4, "a": 1, "b": 2}
_CLIP = re.compile(
    rf"\b(?:(?P<ordinal>{any_of(words.ORDINALS)})\s(?:{any_of(words.CLIPS)})\b(?!\sof\b)"
    rf"|\bthe\s(?P<alone>{any_of(words.ORDINALS)})(?=\s(?:is|has|in|at|goes|uses|was)\b|[.,:;)]|$)"
    rf"|(?:{any_of(words.CLIPS)})\s(?:no\.?\s|#)?(?P<number>\d|one|two|three|four|[AB])\b|(?P<all>{any_of(words.ALL_CLIPS)})\b)",
    re.IGNORECASE,
)  # fmt: skip
_RIGHT_AFTER = re.compile(r"[\s(]{0,3}(?:(?:in|for|of|on)\s)?(?:the\s)?", re.IGNORECASE)


def _assign_clips(claims: list[Claim], text: str) -> list[Claim]:
    """Which clip each claim is about: the one named right after it, else the last one named before it."""
    marks: list[tuple[int, int | None]] = []
    for match in _CLIP.finditer(text):
        ordinal = match["ordinal"] or match["alone"]
        number = (match["number"] or "").lower()
        clip = (
            words.ORDINALS[ordinal.lower()] if ordinal else _NUMERALS.get(number) or (int(number) if number else None)
        )
        marks.append((match.start(), clip))
    if not marks:
        return claims
    out = []
    following = 0
    for claim in claims:
        start, end = claim.span
        while following < len(marks) and marks[following][0] < start:
            following += 1
        clip = marks[following - 1][1] if following else None
        nearest = next((mark for mark in marks[following : following + 2] if mark[0] >= end), None)
        if nearest and (gap := _RIGHT_AFTER.match(text, end)) and nearest[0] <= gap.end():
            clip = nearest[1]
        out.append(replace(claim, clip=clip))
    return out


def to_json(claim: Claim) -> dict[str, Any]:
    """A claim as plain JSON."""
    return {
        "kind": claim.kind, "value": claim.value, "text": claim.text, "span": list(claim.span),
        "negated": claim.negated, "hedged": claim.hedged, "clip": claim.clip,
    }  # fmt: skip
