"""Grammars (EBNF) of tunes in ABC: what a model may write, token by token, when it composes.

A tune that such a grammar lets through has the bars that were asked for, each of them exactly full, notes inside of the
range, accidentals that the mode knows, and ends on the tonic. Bars add up because each rule stands for one moment of a
bar and leads on by exactly the length of the note it writes: the grammar is a finite automaton over the sixteenths that
are left. The text has the form that `mllm.abc_writing.to_abc` gives a score. The dialect of EBNF is that of
xgrammar (https://xgrammar.mlc.ai/docs/tutorials/ebnf_guided_generation.html).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

from mllm.abc_writing import note_length, to_abc
from mllm.errors import ScoreError
from mllm.score_types import Key, Note, Score

MAX_BARS = 64
MAX_VOICES = 4
LOWEST, HIGHEST = 24, 108  # C1 to C8: note names beyond have so many marks that nobody reads them
MIN_RANGE = 7  # semitones: a fifth; any fifth holds a tonic or a note of its triad to end on
BARS_A_LINE = 4
_QUARTER = 4  # sixteenths
_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)  # of notes, in sixteenths
_CLOSES = (4, 2, 1)  # sixteenths of the last note: a quarter or more where the metre lets it
_TRIPLET_BEATS = (4, 8, 16)
_TIES_TO = (2, 4)  # sixteenths that a note may go on for after the bar line
# semitones above the tonic that the scale of the mode does not hold, but tunes in it do: raised fourth and lowered
# seventh, or the raised sixth and seventh of minor
_CHROMATIC = {"major": (6, 10), "lydian": (10,), "mixolydian": (11, 6)}
_CHROMATIC_MINOR = (9, 11)


@dataclass(frozen=True)
class Part:
    """What one voice may write.

    Attributes:
        lowest, highest: MIDI pitches, both allowed.
        label: the line that opens the voice, such as "V:1"; "" in a tune of one voice.
        given: bars of the voice that stand already, as ABC text with its last bar line; "" for none.
        anchors: pitch that each bar has to begin with, None where it is free; () for all free.
        bars_given: how many bars `given` has.
    """

    lowest: int
    highest: int
    label: str = ""
    given: str = ""
    bars_given: int = 0
    anchors: tuple[int | None, ...] = ()


def sixteenths(quarters: float, what: str) -> int:
    """A length in quarters as a number of sixteenths; ScoreError where it is none."""
    length = round(quarters * _QUARTER)
    if abs(length / _QUARTER - quarters) > 1e-6:
        raise ScoreError(f"{what} of {quarters:g} quarters: what is composed moves in sixteenths")
    return length


def bar_sixteenths(metre: tuple[int, int]) -> int:
    """Sixteenths in a bar; ScoreError for a metre that cannot be composed in."""
    beats, value = metre
    if beats < 1 or value not in (1, 2, 4, 8) or not 4 <= beats * 16 // value <= 32:
        raise ScoreError(
            f"metre {beats}/{value}: possible are bars from 1/4 to 8/4 long, counted in 1, 2, 4 or 8, such as 6/8"
        )
    return beats * 16 // value


def beat_sixteenths(metre: tuple[int, int]) -> int:
    """Sixteenths in a beat: three of what the metre counts in 6/8, 9/8, 12/8, else one."""
    beats, value = metre
    return 16 // value * (3 if value == 8 and beats % 3 == 0 and beats > 3 else 1)


@lru_cache(maxsize=256)
def names_of(key: Key, pitches: tuple[int, ...]) -> tuple[str, ...]:
    """How each MIDI pitch is written in a key, such as "^f'"."""
    notes = [Note(float(i), 1.0, pitch) for i, pitch in enumerate(pitches)]
    text = to_abc(Score(notes=notes, key=key, metre=(1, 4)))  # a bar a note: no accidental bears on the next one
    if "L:1/4\n" not in text:
        raise AssertionError("quarters are written without a length only where they are the unit")
    body = text.split("\nK:")[1].split("\n", 1)[1]
    return tuple(body.replace("]", "").replace("|", " ").split())


def scale_pitches(key: Key, lowest: int, highest: int, chromatic: bool = False) -> tuple[int, ...]:
    """MIDI pitches of the scale between two pitches; with `chromatic` also the mode's usual altered ones."""
    scale = {(Key.from_signature(key.signature).pitch_class + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)}
    if chromatic:
        scale |= {(key.pitch_class + step) % 12 for step in _CHROMATIC.get(key.mode, _CHROMATIC_MINOR)}
    return tuple(p for p in range(lowest, highest + 1) if p % 12 in scale)


def check_part(part: Part) -> None:
    """ScoreError where nothing can be written in the range."""
    low, high = part.lowest, part.highest
    if not (LOWEST <= low and high <= HIGHEST and high - low >= MIN_RANGE):
        c = Key("C")
        asked = f"{c.spell(low)} to {c.spell(high)}" if 0 <= low <= 127 and 0 <= high <= 127 else f"{low} to {high}"
        raise ScoreError(
            f"range {asked}: possible is a fifth (7 semitones) or more between {c.spell(LOWEST)} and {c.spell(HIGHEST)}"
        )


def tune_grammar(
    key: Key,
    metre: tuple[int, int],
    bars: int,
    parts: Sequence[Part],
    *,
    unit: Fraction = Fraction(1, 2),
    pickup: float = 0.0,
    chromatic: bool = True,
    chords: bool = False,
) -> str:
    """EBNF of the body of a tune: everything after its K: field, up to the last bar line.

    Args:
        key, metre: as the header says them.
        bars: full bars, at most `MAX_BARS`; with a pickup the last one is shorter by it.
        parts: the voices, each with all its bars, one after the other.
        unit: the header's L: field, in quarters.
        pickup: quarters before the first full bar.
        chromatic: let in the altered notes that are usual in the mode.
        chords: let in triads of the scale as well as single notes.

    Raises:
        ScoreError: what is asked for cannot be written: metre, range, number of bars or voices, pickup.
    """
    full, beat = bar_sixteenths(metre), beat_sixteenths(metre)
    if not 1 <= bars <= MAX_BARS:
        raise ScoreError(f"{bars} bars: possible are 1 to {MAX_BARS}")
    if not 1 <= len(parts) <= MAX_VOICES:
        raise ScoreError(f"{len(parts)} voices: possible are 1 to {MAX_VOICES}")
    upbeat = sixteenths(pickup, "a pickup")
    if not 0 <= upbeat <= full - _QUARTER:
        raise ScoreError(f"a pickup of {pickup:g} quarters: possible is up to a quarter less than the bar")
    spans = [(full - upbeat, full)] if upbeat else []
    spans += [(0, full)] * bars
    spans[-1] = (0, full - upbeat)
    rules: dict[str, str] = {}
    voices = []
    for number, part in enumerate(parts, 1):
        check_part(part)
        if part.bars_given >= len(spans):
            raise ScoreError(f"{bars} bars, of which {part.bars_given} are given: ask for more than that")
        voice = _Voice(f"v{number}", key, part, beat, spans, unit, chromatic, chords, rules)
        # what is given of the first voice stands in the prompt; nothing but the voices behind it is the grammar's
        head = "" if number == 1 else f"{part.label}\n" + part.given + _after_given(part) if part.label else ""
        if number == 1 and part.given:
            head = _after_given(part)
        voices.append((f"{quoted(head)} " if head else "") + voice.bar(part.bars_given, spans[part.bars_given][0]))
    rules["root"] = ' "\\n" '.join(voices)
    return "".join(f"{name} ::= {body}\n" for name, body in rules.items())


def _after_given(part: Part) -> str:
    return separator(part.bars_given - 1).removeprefix(" |") if part.given else ""


def separator(bar: int) -> str:
    """What stands between bar `bar` (from 0) and the next: four bars a line."""
    return " |\n" if (bar + 1) % BARS_A_LINE == 0 else " | "


def quoted(text: str) -> str:
    """A literal of EBNF."""
    return json.dumps(text, ensure_ascii=False)


@dataclass
class _Voice:
    """Makes the rules of one voice; a rule's name says voice, moment and end of the bar, so it is made once."""

    name: str
    key: Key
    part: Part
    beat: int
    spans: list[tuple[int, int]]
    unit: Fraction
    chromatic: bool
    chords: bool
    rules: dict[str, str]

    def __post_init__(self) -> None:
        low, high = self.part.lowest, self.part.highest
        plain = scale_pitches(self.key, low, high)
        every = scale_pitches(self.key, low, high, self.chromatic)
        self.plain = names_of(self.key, plain)
        triads = [plain[i : i + 5 : 2] for i in range(len(plain) - 4)] if self.chords else []
        chords = ["[" + "".join(names_of(self.key, triad)) + "]" for triad in triads]
        # an accidental holds to the end of its bar in all octaves: it must neither stand on the letter that closes the
        # tune nor lead out of the range
        names = [
            name
            for pitch, name in zip(every, names_of(self.key, every), strict=True)
            if name in self.plain or (self.key.tonic[0] not in name.upper() and self.carries(pitch, name, plain))
        ]
        self.rules[f"{self.name}n"] = either(map(quoted, names))
        self.rules[f"{self.name}s"] = either([f"{self.name}n", quoted("z"), *map(quoted, chords)])
        closes = [p for p in plain if p % 12 == self.key.pitch_class]
        fifth = (self.key.pitch_class + 7) % 12
        closes = closes or [p for p in plain if p % 12 == fifth] or list(plain)
        start, end = self.spans[-1]
        self.close = next(n for n in _CLOSES if _fillable(start, end, n, self.beat))
        self.rules[f"{self.name}f"] = either(quoted(name) for name in names_of(self.key, tuple(closes)))

    def carries(self, pitch: int, name: str, plain: tuple[int, ...]) -> bool:
        """Whether every plain note of an altered one's letter stays in the range when it is altered likewise."""
        letter = name.lstrip("^_=")[0].upper()
        same = [p for p, other in zip(plain, self.plain, strict=True) if other[0].upper() == letter]
        return all(self.part.lowest <= p + (pitch - p + 6) % 12 - 6 <= self.part.highest for p in same)

    def length(self, sixteenths: int) -> str:
        return note_length(Fraction(sixteenths, _QUARTER) / self.unit)

    def rule(self, name: str, body: Callable[[], str]) -> str:
        if name not in self.rules:
            self.rules[name] = body()
        return name

    def bar(self, number: int, start: int) -> str:
        """The rest of the tune from sixteenth `start` of bar `number` on."""
        return self.rule(f"{self.name}b{number}x{start}", partial(self._bar, number, start))

    def _bar(self, number: int, start: int) -> str:
        first, end = self.spans[number]
        anchor = self.anchor(number) if start == first else None
        if number == len(self.spans) - 1:
            return f"{self.inside(self.close, start, end, anchor)} {quoted(' |]')}"
        line, following = separator(number), self.spans[number + 1]
        ways = [f"{self.inside(0, start, end, anchor)} {quoted(line)} {self.bar(number + 1, following[0])}"]
        before = end - _QUARTER
        if self.anchor(number + 1) is None and start < before and before % self.beat % 2 == 0:
            for more in _TIES_TO:
                close = self.close if number + 1 == len(self.spans) - 1 else 0
                if _fillable(start, before, 0, self.beat) and _fillable(more, following[1], close, self.beat):
                    name = f"{self.name}t{more}{'n' * line.endswith(chr(10))}"
                    tie = self.rule(name, partial(self.tie, line, more))
                    then = self.bar(number + 1, more)
                    ways.append(f'{self.inside(0, start, before, anchor)} " " {tie} " " {then}')
        return either(ways)

    def anchor(self, number: int) -> int | None:
        """The pitch that a bar must begin with."""
        return self.part.anchors[number] if number < len(self.part.anchors) else None

    def tie(self, line: str, more: int) -> str:
        """A quarter held over the bar line."""
        return either(quoted(f"{name}{self.length(_QUARTER)}-{line}{name}{self.length(more)}") for name in self.plain)

    def inside(self, close: int, at: int, end: int, anchor: int | None = None) -> str:
        """Sounds from sixteenth `at` to `end`; where `close` is not 0, the last is the tonic and at least so long."""
        name = f"{self.name}{'l' if close else 'c'}{at}x{end}"
        if anchor is None:
            return self.rule(name, partial(self._inside, close, at, end, f"{self.name}s"))
        sound = quoted(names_of(self.key, (anchor,))[0])
        return self.rule(f"{name}a{anchor}", partial(self._inside, close, at, end, sound, anchored=True))

    def _inside(self, close: int, at: int, end: int, sound: str, anchored: bool = False) -> str:
        ways = []
        for length in _lengths(at, end, self.beat):
            then, text = at + length, self.length(length)
            if then < end and _fillable(then, end, close, self.beat):
                ways.append(f"{sound} {quoted(text + ' ')} {self.inside(close, then, end)}")
            elif then == end and length >= close:
                last = f"{self.name}f" if close else sound
                ways.append(f"{last} {quoted(text)}" if text else last)
        if self.beat in _TRIPLET_BEATS and at % _QUARTER == 0 and not anchored:
            then, note = at + _QUARTER, f"{self.name}n"
            mark = self.length(2)
            three = " ".join([quoted("(3"), *[f"{note} {quoted(mark)}" if mark else note] * 3])
            if then == end and not close:
                ways.append(three)
            elif then < end and _fillable(then, end, close, self.beat):
                ways.append(f'{three} " " {self.inside(close, then, end)}')
        return either(ways)


@lru_cache(maxsize=4096)
def _lengths(at: int, end: int, beat: int) -> tuple[int, ...]:
    """Lengths in sixteenths of a note at a moment of the bar, so that the beats can be seen.

    Off the eighths only a sixteenth, which leads back to them; off the beat nothing that goes beyond it; in compound
    metres nothing but whole beats where it is longer than one.
    """
    if at % 2:
        return (1,)
    found = [n for n in _LENGTHS if at + n <= end and (n % 2 == 0 or at + n + 1 <= end or at + n == end)]
    left = beat - at % beat
    if at % beat:
        return tuple(n for n in found if n <= left)
    return tuple(n for n in found if n <= beat or beat % 3 or n % beat == 0)


@lru_cache(maxsize=4096)
def _fillable(at: int, end: int, close: int, beat: int) -> bool:
    """Whether notes can fill a bar from `at` to `end`, the last of at least `close` sixteenths."""
    return any(n >= close if at + n == end else _fillable(at + n, end, close, beat) for n in _lengths(at, end, beat))


def either(ways: Iterable[str]) -> str:
    """One of several, in EBNF."""
    return " | ".join(ways)
