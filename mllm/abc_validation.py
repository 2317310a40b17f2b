"""Is this ABC text a whole tune? `validate_abc` says what is wrong with it and where (`mllm.abc_repair` mends it).

Stricter than `mllm.abc_reading`, which reads what people have typed in thirty years: here each bar of each voice is as
long as the metre says, what is opened is closed, and nothing stands between the notes that is no notation. It is meant
for what a model writes. Standard: https://abcnotation.com/wiki/abc:standard:v2.1
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from mllm.abc_fields import read_key, read_metre, read_unit
from mllm.abc_reading import read_abc
from mllm.errors import ScoreError
from mllm.score_types import Note

_NAME = r"(?:\^\^|\^|__|_|=)?[A-Ga-g][,']*"
_LENGTH = r"\d*/*\d*"
ELEMENT = re.compile(
    rf"""(?P<space>\s+|`+|\\\s*$)
    |(?P<bar>:*\|[|\]:]*|\[\||::)(?P<ending>[1-9])?
    |(?P<field>\[[A-Za-z]:[^\]\n]*\])
    |(?P<volta>\[[1-9])
    |\((?P<tuplet>[2-9])(?::\d?){{0,2}}
    |(?P<slur>[()])
    |(?P<sound>(?P<before>(?:"[^"\n]*"|![a-zA-Z0-9.+<>()/^]{{1,30}}!|[.~HLMOPSTuv]|\{{[^{{}}\n]*\}}){{0,20}})
        (?P<what>{_NAME}|z|x|\[(?:{_NAME}{_LENGTH}-?)+\])(?P<length>{_LENGTH})(?P<tie>-?))
    |(?P<mark>"[^"\n]*"|![a-zA-Z0-9.+<>()/^]{{1,30}}!|[.~HLMOPSTuv](?=\())
    |(?P<broken>[<>]{{1,3}})
    |(?P<stray>.)""",
    re.VERBOSE,
)
_KINDS = ("space", "bar", "field", "volta", "tuplet", "slur", "sound", "mark", "broken", "stray")
MAX_TEXT = 50_000  # characters
_MAX_SIGNS = 500  # in one bar: what is longer is no bar, and would take long to look through
_PROSE = 0.25  # a line of the body with more than this part of it stray is words, not notes
_ENDLESS = f"a bar of more than {_MAX_SIGNS} signs"
_MARK = "=C,,,,,"  # the lowest pitch of MIDI: written behind a bar, its onset is the bar's length


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (line and bar count from 1, 0: the whole tune) and what."""

    what: str
    line: int = 0
    voice: str = ""
    bar: int = 0

    def __str__(self) -> str:
        where = [f"line {self.line}"] if self.line else []
        where += [f"voice {self.voice}"] if self.voice else []
        where += [f"bar {self.bar}"] if self.bar else []
        return f"{', '.join(where)}: {self.what}" if where else self.what


@dataclass
class Element:
    """A note with what belongs to it, a bar line, a space, a mark; `kind` is one of those of the pattern."""

    kind: str
    text: str
    line: int


@dataclass
class Bar:
    """What stands between two bar lines."""

    line: int
    elements: list[Element] = field(default_factory=list)
    end: str = ""  # the bar line; "" where it is missing
    head: str = ""  # metre, unit and key as header fields

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.elements)

    @property
    def sounds(self) -> list[Element]:
        return [e for e in self.elements if e.kind == "sound"]


@dataclass
class Tune:
    """A tune in its parts."""

    header: dict[str, str] = field(default_factory=dict)
    header_lines: list[str] = field(default_factory=list)
    voices: dict[str, list[Bar]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # the V: line of each voice
    problems: list[Problem] = field(default_factory=list)


def validate_abc(
    text: str,
    *,
    metre: tuple[int, int] | None = None,
    bars: int | None = None,
    lowest: int | None = None,
    highest: int | None = None,
) -> list[Problem]:
    """What is wrong with a tune; an empty list for one that is whole.

    Whole means: a header with X: M: K:, nothing but notation behind it, each bar of each voice as long as the metre
    (the first may be a pickup, the last may be shorter by it, two parts of a bar around a repeat or double bar line add
    up), tuplets,
    ties, slurs, quotes and brackets closed, as many bars in each voice, a bar line at the end, and notes in it.

    Args:
        text: ABC of one tune.
        metre: what the metre has to be.
        bars: how many full bars it has to have, a pickup not counted.
        lowest, highest: MIDI pitches that the notes have to lie between.

    Raises:
        ScoreError: the text is too long to look at.
    """
    tune = parse_tune(text)
    problems = tune.problems
    for letter in "XMK":
        if letter not in tune.header:
            problems.append(Problem(f"no {letter}: field in the header"))
    stated = stated_metre(tune.header.get("M", ""))
    if "M" in tune.header and (stated is None or (metre and stated != metre)):
        wanted = f"{metre[0]}/{metre[1]}" if metre else "such as 4/4"
        problems.append(Problem(f"M:{tune.header['M']} is not the metre that is wanted, {wanted}"))
    if not tune.voices or not any(bar.sounds for voice in tune.voices.values() for bar in voice):
        problems.append(Problem("no notes"))
        return problems
    counts = {}
    for name, voice in tune.voices.items():
        found, counts[name] = _voice_problems(voice, lowest, highest)
        label = name if len(tune.voices) > 1 else ""
        problems += [replace(p, voice=label) for p in found]
    if len(set(counts.values())) > 1:
        problems.append(Problem(f"voices of different length: {', '.join(f'{k} {v}' for k, v in counts.items())} bars"))
    elif bars is not None and bars not in counts.values():
        problems.append(Problem(f"{next(iter(counts.values()))} bars, not {bars}"))
    if not problems:
        try:
            read_abc(text)
        except ScoreError as error:
            problems.append(Problem(str(error)))
    return problems


def stated_metre(value: str) -> tuple[int, int] | None:
    """What an M: field says; None for no metre or what is none."""
    try:
        return read_metre(value)
    except ScoreError:
        return None


def parse_tune(text: str) -> Tune:
    """The tune in its bars, with what does not belong among the problems; ScoreError for a text out of proportion."""
    if len(text) > MAX_TEXT:
        raise ScoreError(f"{len(text):,} characters are too much for one tune, at most {MAX_TEXT:,} are looked at")
    tune = Tune()
    voice = "1"
    bar: Bar | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"(?<!\\)%.*", "", line).rstrip()
        named = re.match(r"([A-Za-z]):(?![|:])\s*(.*)", line)
        if not line:
            continue
        if "K" not in tune.header:
            if named:
                tune.header.setdefault(named[1], named[2].strip())
                tune.header_lines.append(line)
                tune.problems += field_problem(named[1], named[2], number)
            else:
                tune.problems.append(Problem(f"{line[:30]!r} stands in the header", number))
            continue
        if named:
            if named[1] == "V":
                voice = named[2].split()[0] if named[2].split() else "1"
                tune.labels.setdefault(voice, line)
                bar = None
            elif named[1] in "MLK":
                tune.problems.append(Problem(f"{line} changes what the header says", number))
            continue
        elements = [_element(m, number) for m in ELEMENT.finditer(line)]
        stray = "".join(e.text for e in elements if e.kind == "stray")
        if stray:
            tune.problems.append(Problem(f"{stray[:12]!r} is not notation", number))
        if len(stray) > _PROSE * len(line.replace(" ", "")):
            continue
        bars = tune.voices.setdefault(voice, [])
        for element in elements:
            if bar is None:
                bar = Bar(number, head=_head(tune.header))
                bars.append(bar)
            if element.kind == "bar":
                if bar.sounds:
                    bar.end, bar = element.text, None
            elif len(bar.elements) >= _MAX_SIGNS:
                if not tune.problems or tune.problems[-1].what != _ENDLESS:
                    tune.problems.append(Problem(_ENDLESS, number))
            elif element.kind != "stray":
                bar.elements.append(element)
    for bars in tune.voices.values():
        bars[:] = [b for b in bars if b.sounds]
    tune.voices = {name: bars for name, bars in tune.voices.items() if bars}
    return tune


def _element(match: re.Match[str], line: int) -> Element:
    return Element(next(kind for kind in _KINDS if match[kind] is not None), match[0], line)


def _head(header: dict[str, str]) -> str:
    """The header that a bar is read under."""
    return "X:1\n" + "".join(f"{letter}:{header[letter]}\n" for letter in "MLK" if letter in header)


def field_problem(letter: str, value: str, line: int = 0) -> list[Problem]:
    """What is wrong with a field of the header."""
    reader = {"M": read_metre, "L": read_unit, "K": read_key}.get(letter)
    try:
        if reader:
            reader(value.strip())
    except ScoreError as error:
        return [Problem(str(error), line)]
    return []


def length_of(bar: Bar, elements: Sequence[Element]) -> Fraction:
    """Quarters that some elements take; ScoreError where they cannot be read."""
    text = "".join(e.text for e in elements if e.kind not in ("slur", "volta"))
    return Fraction(max(n.onset for n in _read(bar, f"{text}|{_MARK}|]"))).limit_denominator(1 << 12)


def _read(bar: Bar, text: str) -> list[Note]:
    return read_abc(bar.head + text + "\n", name="the bar").notes


def _voice_problems(bars: list[Bar], lowest: int | None, highest: int | None) -> tuple[list[Problem], int]:
    """What is wrong in the bars of one voice, and how many full ones it has."""
    problems, lengths = [], []
    for number, bar in enumerate(bars, 1):
        found = bar_problems(bar, lowest, highest)
        problems += [replace(p, line=bar.line, bar=number) for p in found]
        try:
            lengths.append(length_of(bar, bar.elements))
        except ScoreError as error:
            problems.append(Problem(str(error), bar.line, bar=number))
            lengths.append(Fraction(0))
    for number, _ in loose_ties(bars):
        problems.append(Problem("a tie that leads to no note of its pitch", bars[number].line, bar=number + 1))
    if not bars[-1].end:
        problems.append(Problem("no bar line at the end", bars[-1].line, bar=len(bars)))
    if sum(e.text == "(" for b in bars for e in b.elements) != sum(e.text == ")" for b in bars for e in b.elements):
        problems.append(Problem("a slur that is not closed"))
    short, count = _bars_not_full(bars, lengths)
    return problems + short, count


def _bars_not_full(bars: list[Bar], lengths: list[Fraction]) -> tuple[list[Problem], int]:
    metre = stated_metre(_field_of(bars[0].head, "M"))
    if metre is None:
        return [], len(bars)
    full = Fraction(4 * metre[0], metre[1])
    pickup = lengths[0] if lengths[0] < full and len(bars) > 1 else Fraction(0)
    problems, count, i = [], 0, 1 if pickup else 0
    while i < len(bars):
        two_parts = i + 1 < len(bars) and len(bars[i].end) > 1 and lengths[i] + lengths[i + 1] == full
        if lengths[i] < full and two_parts:
            i += 1
        elif lengths[i] != full and not (i == len(bars) - 1 and lengths[i] == full - pickup):
            problems.append(Problem(f"{lengths[i]} quarters, not {full}", bars[i].line, bar=i + 1))
        count, i = count + 1, i + 1
    return problems, count


def _field_of(head: str, letter: str) -> str:
    found = re.search(rf"^{letter}:(.*)$", head, re.MULTILINE)
    return found[1] if found else ""


def bar_problems(bar: Bar, lowest: int | None, highest: int | None) -> list[Problem]:
    """What is wrong inside of a bar, its length aside."""
    problems = []
    for i, element in enumerate(bar.elements):
        if element.kind == "tuplet" and not tuplet_sounds(bar.elements, i):
            problems.append(Problem(f"{element.text} without so many notes behind it"))
        elif element.kind == "field":
            problems.append(Problem(f"{element.text} changes what the header says"))
        elif element.kind == "broken" and not _between_sounds(bar.elements, i):
            problems.append(Problem(f"{element.text} without a note on both sides"))
    if lowest is None and highest is None:
        return problems
    try:
        pitches = [n.pitch for n in _read(bar, bar.text + "|]")] if any(map(_names, bar.sounds)) else []
    except ScoreError:
        return problems  # told where the length is taken
    if lowest is not None and min(pitches, default=lowest) < lowest:
        problems.append(Problem(f"a note below the range (MIDI {min(pitches)}, not under {lowest})"))
    if highest is not None and max(pitches, default=highest) > highest:
        problems.append(Problem(f"a note above the range (MIDI {max(pitches)}, not over {highest})"))
    return problems


def tuplet_sounds(elements: list[Element], at: int) -> list[Element]:
    """The sounds of the tuplet that begins at an element; [] where there are too few of them."""
    match = re.match(r"\((\d)(?::(\d?))?(?::(\d?))?", elements[at].text)
    assert match is not None
    until = next((i for i, e in enumerate(elements) if i > at and e.kind == "tuplet"), None)
    sounds = [e for e in elements[at:until] if e.kind == "sound"]
    count = int(match[3] or match[1])
    return sounds[:count] if 0 < count <= len(sounds) else []


def _between_sounds(elements: list[Element], at: int) -> bool:
    before = [e.kind for e in elements[:at] if e.kind != "space"]
    after = [e.kind for e in elements[at + 1 :] if e.kind != "space"]
    return before[-1:] == ["sound"] and after[:1] == ["sound"]


def _names(element: Element) -> set[str]:
    """Letters with octave marks of the notes of a sound, without accidentals."""
    match = ELEMENT.fullmatch(element.text)
    return set(re.findall(r"[A-Ga-g][,']*", match["what"])) if match and match["what"] else set()


def _tied_names(element: Element) -> set[str]:
    match = ELEMENT.fullmatch(element.text)
    assert match is not None
    return _names(element) if match["tie"] else set(re.findall(rf"([A-Ga-g][,']*){_LENGTH}-", match["what"]))


def loose_ties(bars: list[Bar]) -> list[tuple[int, Element]]:
    """Sounds with a tie to what does not follow, each with the index of its bar."""
    sounds = [(i, e) for i, bar in enumerate(bars) for e in bar.sounds]
    after = [*(_names(e) for _, e in sounds[1:]), set[str]()]
    return [one for one, names in zip(sounds, after, strict=True) if not _tied_names(one[1]) <= names]


def split_header(abc: str) -> tuple[str, str]:
    """The header of an ABC tune with its K: line, and the rest; ScoreError where there is no K:."""
    lines = abc.splitlines(keepends=True)
    last = next((i for i, line in enumerate(lines) if line.startswith("K:")), None)
    if last is None:
        raise ScoreError("no K: field, with which the header of an ABC tune ends")
    return "".join(lines[: last + 1]), "".join(lines[last + 1 :])
