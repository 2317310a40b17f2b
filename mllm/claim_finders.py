"""Finding what one sentence says about music: a finder a kind of claim.

A finder takes a sentence and gives (value, start, end) of what it finds, whatever the sentence denies or doubts: that
is `mllm.claims`' part. The words are in `claim_words`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mllm import claim_words as words
from mllm.claim_pitch_finders import find_bars, find_chords, find_notes
from mllm.claim_reading import SIGN, Found, Taken, any_of, bounds, pattern, spelled, stands_before, stands_near

Finder = Callable[[str], Iterator[Found]]

# key
_MODE = any_of(words.MODES)
_KEY = re.compile(
    rf"(?<![A-Za-z#])([A-Ga-g])({SIGN})?[ -]{{0,2}}((?i:{_MODE}))\b"
    rf"(?!\s(?i:{any_of([*words.NOT_A_KEY, *words.CHORD_NOUNS])})\b)"
)
_TONIC = re.compile(
    r"(?i:\b(?:key(?:\ssignature)?|tonic|tonality|tonal cent(?:re|er)))(?i:\s(?:of|is|in)|\s?[:=|]){1,2}\s{0,3}"
    rf"(?i:the\snote\s)?([A-G])({SIGN})?(m|min|maj)?(?![A-Za-z0-9#/'])"
)
_MODE_ALONE = pattern(
    rf"\bmode\s?(?:is|:|=)\s?({_MODE})\b|\bin\s(?:a|the)\s({_MODE})\s(?:key|mode)\b"
    rf"|\b(?:a|the)\s({_MODE})\s(?:key|mode|tonality)\b|\b(?:tonality|key)\sis\s({_MODE})\b"
)


_AFTER_A_KEY = re.compile(r"(?:and|or|with|at|in|is|but|tonality)\b")


def find_keys(sentence: str) -> Iterator[Found]:
    """Keys: {"tonic": "F#" or None, "mode": "minor" or None, "where": "start" or "later"}."""
    taken = Taken(sentence)
    for match in _KEY.finditer(sentence):
        start, end = match.span()
        if _is_article(sentence, match) or stands_near(sentence, start, words.THEORY):
            continue
        taken.take(start, end)
        where = "later" if stands_before(sentence, start, words.LATER) else "start"
        yield {"tonic": spelled(match[1], match[2]), "mode": words.MODES[match[3].lower()], "where": where}, start, end
    for match in _TONIC.finditer(sentence):
        if taken.take(*match.span()):
            mode = {"m": "minor", "min": "minor", "maj": "major"}.get(match[3] or "")
            yield {"tonic": spelled(match[1], match[2]), "mode": mode, "where": "start"}, *match.span()
    for match in _MODE_ALONE.finditer(sentence):
        mode = words.MODES[next(group for group in match.groups() if group).lower()]
        yield {"tonic": None, "mode": mode, "where": "start"}, *match.span()


def _is_article(sentence: str, match: re.Match[str]) -> bool:
    """Whether the A of "a minor detail" or "A major work" is no tonic."""
    if match[1] not in "Aa" or match[2]:
        return False
    if match[1] == "a" and not stands_before(sentence, match.start(), ("in", "key of", "key", "is")):
        return True
    after = sentence[match.end() : match.end() + 12].lstrip()
    begins = match[1] == "a" or not sentence[: match.start()].strip(" \"'-")
    return begins and after[:1].isalpha() and not _AFTER_A_KEY.match(after)


# tempo
_BPM = r"(\d{2,3}(?:\.\d{1,3})?)"
_SPAN = rf"{_BPM}(?:\s?(?:-|–|to|and)\s?{_BPM})?"
_UNIT = any_of(word for word in words.BEATS if word.isascii())
_TEMPO = pattern(
    rf"(?<![\d./])(?:({any_of(words.BEATS)})(?:[\s-]notes?)?\s?(?:=|equals|is|at)|(\d/\d{{1,2}})\s?(?:=|equals))"
    rf"\s?(?:about\s|around\s|~\s?)?{_SPAN}"
    rf"|(?<![\d./]){_SPAN}\s?(?:({_UNIT})(?:[\s-]notes?|s)\s(?:per|a)\sminute"
    r"|-?bpm\b|beats?\s?(?:per|a|/)\s?min(?:ute)?|b\.p\.m\.?)"
    r"|\b(?:tempo|bpm|speed|metronome(?:\smark(?:ing)?)?)\b[\s|:=]{0,4}"
    rf"(?:(?:{any_of(words.TEMPO_LINKS)})[\s|:=]{{0,3}}){{0,4}}{_SPAN}"
    rf"(?![\d/]|\s?(?:bars|seconds|%)|\s?(?:{_UNIT})(?:[\s-]notes?|s)\s(?:per|a)\sminute)"
)


def find_tempos(sentence: str) -> Iterator[Found]:
    """Tempos: {"low": 120.0, "high": 120.0, "beat": quarters or None}; a side that is open is None."""
    for match in _TEMPO.finditer(sentence):
        units = (match[1], match[2], match[7])
        numbers = [group for group in match.groups() if group and group not in units]
        if len(numbers) == 2 and float(numbers[0]) > float(numbers[1]):
            numbers.reverse()
        unit = re.sub(r"\s+", " ", next((u for u in units if u), "")).lower()
        beat = words.BEATS.get(unit)
        if "/" in unit:
            beat = 4 * int(unit[0]) / int(unit[2:]) if int(unit[2:]) else None
        low, high = float(numbers[0]), float(numbers[-1])
        first = match.start() + match[0].rfind(numbers[0])
        yield bounds(sentence, first, low, high) | {"beat": beat}, match.start(), match.end()


# metre
_METRE = pattern(
    r"(?<![\d/.])(\d{1,2})\s?/\s?(1|2|4|8|16|32)(?![\d/]|\s?=|\s?(?:notes?|rests?|of\s(?:the|a)|hz|inch|th)\b)"
    rf"|\b({any_of(words.METRES)})\b(?!\s(?:bars?|phrase))"
)


def find_metres(sentence: str) -> Iterator[Found]:
    """Metres: {"numerator": 6, "denominator": 8, "where": "start" or "later"}."""
    for match in _METRE.finditer(sentence):
        name = re.sub(r"\s+", " ", (match[3] or "").lower())
        numerator, denominator = words.METRES[name] if name else (int(match[1]), int(match[2]))
        if numerator:
            where = "later" if stands_before(sentence, match.start(), words.LATER) else "start"
            yield {"numerator": numerator, "denominator": denominator, "where": where}, match.start(), match.end()


# instruments
_INSTRUMENT = pattern(rf"(?<![\w-])({any_of(words.INSTRUMENTS)})(s|es)?(?![\w-])")


_ALONE = [f"{word}{article}" for word in words.ALONE for article in ("", " a", " an", " the", " one")]
_NOT_ALONE = [f"not {phrase}" for phrase in _ALONE]


def find_instruments(sentence: str) -> Iterator[Found]:
    """Instruments: {"name": "flute", "alone": whether it is said to be the only one}."""
    for match in _INSTRUMENT.finditer(sentence):
        name = re.sub(r"\s+", " ", match[1].lower())
        after = sentence[match.end() : match.end() + 14].lower().strip()
        if any(re.match(rf"{re.escape(word)}\b", after) for word in words.NOT_AN_INSTRUMENT.get(name, ())):
            continue
        if stands_near(sentence, match.start(), words.LIKENESS):
            continue
        alone = stands_before(sentence, match.start(), _ALONE) and not stands_before(
            sentence, match.start(), _NOT_ALONE
        )
        yield {"name": name, "alone": alone}, *match.span()


FINDERS: dict[str, Finder] = {  # in this order: what one has found, the next ones do not see
    "tempo": find_tempos,
    "chord": find_chords,
    "key": find_keys,
    "bar": find_bars,
    "note": find_notes,
    "metre": find_metres,
    "instrument": find_instruments,
}
