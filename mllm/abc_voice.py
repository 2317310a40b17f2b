"""One voice of an ABC tune: what each token of notation does to it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mllm.abc_fields import ACCIDENTALS, STRING
from mllm.chord_symbols import chord_text, move_chord_symbol
from mllm.errors import ScoreError
from mllm.score_jumps import AT_START, SEGNO, jump_of
from mllm.score_types import MAX_QUARTERS, ChordSymbol, Key
from mllm.transposition import fifths_moved

_MAX_DENOMINATOR = 1 << 20  # of a moment in quarters: keeps the arithmetic of absurd note lengths small

_SIGNS = {"S": "segno", "O": "coda"}  # letters that stand for them unless U: says otherwise
_STEPS = "CDEFGAB"
_SEMITONES = (0, 2, 4, 5, 7, 9, 11)
_LENGTH = r"(?P<{0}num>\d*)(?P<{0}slash>/*)(?P<{0}den>\d*)"
_NOTE = r"(?P<{0}acc>\^\^|\^|__|_|=|)(?P<{0}step>[A-Ga-g])(?P<{0}octave>[,']*)" + _LENGTH
TOKEN = re.compile(
    "|".join(
        [
            r"(?P<skip>[\s`$\\)*;?@#~.yH-WYh-w]|![^!\s|]{1,40}!|!|\+[a-z.()<>0-9]{1,40}\+|y\d*)",
            r"(?P<words>\"(?:\\\"|[^\"])*\"?)",
            r"(?P<grace>\{[^}]*\}?)",
            r"\[(?P<field>[A-Za-z]):(?P<value>[^\]]*)\]",
            r"(?P<bar>\[\|:*\]?|:+\|+:*\]?|\|+:*\]?|::+|\]|:)(?P<ending>[1-9][\d,.\-]*)?",
            r"\[(?P<volta>[1-9\"][\d,.\-]*)",
            r"\[(?P<chord>[^\[\]|]*)\]" + _LENGTH.format("c"),
            r"\((?P<p>\d+)(?::(?P<q>\d*))?(?::(?P<r>\d*))?",
            r"(?P<slur>\()",
            _NOTE.format("n"),
            r"(?P<rest>[zx])" + _LENGTH.format("r"),
            r"(?P<bars_rest>[ZX])(?P<count>\d*)",
            r"(?P<tie>-)",
            r"(?P<broken><+|>+)",
            r"(?P<overlay>&+)",
        ]
    )
)
_IN_CHORD = re.compile(_NOTE.format("n") + r"(?P<tie>-?)")


@dataclass
class Sounding:
    """A note being read; exact time."""

    onset: Fraction
    duration: Fraction
    pitch: int
    step: int  # staff position: octave * 7 + letter

    @property
    def end(self) -> Fraction:
        return self.onset + self.duration


@dataclass
class Voice:
    """What has been read of one voice, and the state that its next token is read in."""

    counted: Callable[[], None]  # called for each note; raises ScoreError where a tune has too many
    unit: Fraction  # quarters of a note without a length
    metre: tuple[int, int] | None
    sharps: dict[str, int]  # alteration of each letter by the key signature
    octave: int = 0
    name: str = ""
    transposed: int = 0  # semitones that it sounds above what is written
    fifths: int = 0  # the same along the line of fifths, for the names of chords
    stated: set[str] = field(default_factory=set)  # which of "octave", "clef", "transpose" its own V: field says
    clef: int = 0  # octaves that its clef says it sounds higher: -1 with treble-8
    carried: str = "pitch"  # how far an accidental holds within its bar: a word of %%propagate-accidentals
    time: Fraction = Fraction(0)
    bar_start: Fraction = Fraction(0)
    bar_end: Fraction | None = None  # of the first layer, while an overlay is read
    altered: dict[int, int] = field(default_factory=dict)  # by what `place` says, until the bar line
    tied: list[Sounding] = field(default_factory=list)
    last: list[Sounding] = field(default_factory=list)  # the notes of the last chord, for ties and broken rhythm
    last_length: Fraction = Fraction(0)
    next_factor: Fraction = Fraction(1)
    tuplet_factor: Fraction = Fraction(1)
    tuplet_left: int = 0
    notes: list[Sounding] = field(default_factory=list)
    bars: list[Fraction] = field(default_factory=list)  # where bar lines stand
    repeats: list[tuple[Fraction, str]] = field(default_factory=list)
    jumps: list[tuple[Fraction, str]] = field(default_factory=list)
    before_line: list[str] = field(default_factory=list)  # jumps of this bar that stand at its end
    chords: list[ChordSymbol] = field(default_factory=list)
    graces: list[tuple[Fraction, int]] = field(default_factory=list)
    before: list[int] = field(default_factory=list)  # grace notes whose main note is still to come
    lyrics: list[tuple[Fraction, str, int]] = field(default_factory=list)
    line: list[Fraction | None] = field(default_factory=list)  # of the last line: starts of notes, None at bar lines
    verse: int = 0  # w: lines under it so far
    block: int = 0  # the line of music that `line` is of

    def transpose(self, semitones: int, written: Key | None) -> None:
        """What is written from here on, in a key, sounds so many semitones higher (`transpose=` of K: and V:)."""
        self.transposed, self.fifths = semitones, fifths_moved(written, semitones) if semitones else 0

    def length(self, num: str, slash: str, den: str) -> Fraction:
        if len(num) > 4 or len(den) > 4 or len(slash) > 8:
            raise ScoreError("a note length out of all proportion")
        if den and not slash:
            raise ScoreError("a note length that is not one")
        if (num and int(num) == 0) or (den and int(den) == 0):
            raise ScoreError("a note length of zero")
        below = int(den) if den else 1 << len(slash)
        return Fraction(int(num or 1), below)

    def token(self, get: dict[str, Any]) -> None:
        """Read one match of TOKEN: note, rest, chord, bar line, tuplet; ScoreError says what is wrong with it."""
        if get["slur"]:
            return
        if (skip := get["skip"]) is not None:
            if len(skip) > 1 or skip in _SIGNS:
                self.jump(jump_of(_SIGNS.get(skip, skip.strip("!+"))))
            return
        if get["nstep"]:
            length = self.length(get["nnum"], get["nslash"], get["nden"])
            self.sound([(get["nacc"], get["nstep"], get["noctave"])], length)
        elif get["bar"]:
            self.bar(get["bar"], get["ending"])
        elif get["chord"] is not None:
            self.chord(get["chord"], self.length(get["cnum"], get["cslash"], get["cden"]))
        elif get["rest"]:
            self.sound([], self.length(get["rnum"], get["rslash"], get["rden"]))
        elif get["tie"]:
            self.tied += [n for n in self.last if n not in self.tied]
        elif get["broken"]:
            self.broken(get["broken"])
        elif get["p"]:
            self.tuplet(get)
        elif get["volta"]:
            self.ending(get["volta"])
        elif get["words"]:
            if text := chord_text(get["words"].strip('"')):
                self.chords.append(ChordSymbol(float(self.time), move_chord_symbol(text, self.fifths)))
            else:
                self.jump(jump_of(get["words"].strip('"')))
        elif get["grace"]:
            for grace in _IN_CHORD.finditer(get["grace"]):
                self.counted()
                step = self.step(grace["nstep"], grace["noctave"])
                self.before.append(self.pitch(step, ACCIDENTALS[grace["nacc"]], grace[0]))
        elif get["bars_rest"]:
            metre = self.metre or (4, 4)
            if len(get["count"]) > 4:
                raise ScoreError("a rest out of all proportion")
            self.advance(Fraction(4 * metre[0], metre[1]) * int(get["count"] or 1))
        elif get["overlay"]:
            self.bar_end = max(self.time, self.bar_end or self.time)
            self.time, self.altered, self.last = self.bar_start, {}, []

    def chord(self, inside: str, length: Fraction) -> None:
        notes = list(_IN_CHORD.finditer(STRING.sub("", inside)))
        if not notes:
            return
        if len(notes) > 128:
            raise ScoreError("a chord of more than 128 notes")
        first = self.length(notes[0]["nnum"], notes[0]["nslash"], notes[0]["nden"])
        self.sound([(n["nacc"], n["nstep"], n["noctave"]) for n in notes], first * length)
        self.tied += [s for s, n in zip(self.last, notes, strict=True) if n["tie"]]

    def sound(self, written: list[tuple[str, str, str]], length: Fraction) -> None:
        """Notes that start together, or a rest where there are none."""
        length *= self.unit * self.next_factor
        self.next_factor = Fraction(1)
        if self.tuplet_left:
            length *= self.tuplet_factor
            self.tuplet_left -= 1
        open_ties = [n for n in self.tied if n.end == self.time]
        self.last, self.tied, self.last_length = [], [], length
        self.graces += [(self.time, pitch) for pitch in self.before]
        self.before = []
        if written:
            self.line.append(self.time)
        for accidental, letter, marks in written:
            step = self.step(letter, marks)
            alteration = ACCIDENTALS[accidental]
            tied = next((n for n in open_ties if n.step == step), None) if alteration is None else None
            if alteration is not None:
                self.altered[self.place(step)] = alteration
            pitch = tied.pitch if tied else self.pitch(step, alteration, f"{accidental}{letter}{marks}")
            before = tied or next((n for n in open_ties if n.pitch == pitch), None)
            if before:
                before.duration += length
                open_ties.remove(before)
                self.last.append(before)
            else:
                self.counted()
                note = Sounding(self.time, length, pitch, step)
                self.notes.append(note)
                self.last.append(note)
        self.advance(length)

    def step(self, letter: str, marks: str) -> int:
        step = _STEPS.index(letter.upper()) + 7 * (5 if letter.islower() else 4)
        return step + 7 * (marks.count("'") - marks.count(",") + self.octave + self.clef)

    def place(self, step: int) -> int:
        """What an accidental at a staff position holds for: its letter in all octaves (ABC 2.1, 11.3), or in one."""
        return step if self.carried == "octave" else step % 7

    def pitch(self, step: int, alteration: int | None, written: str) -> int:
        """The MIDI number of a staff position as the bar and the key alter it."""
        if alteration is None:
            carried = self.altered.get(self.place(step)) if self.carried != "not" else None
            alteration = carried if carried is not None else self.sharps.get(_STEPS[step % 7], 0)
        pitch = 12 * (step // 7 + 1) + _SEMITONES[step % 7] + alteration + self.transposed
        if not 0 <= pitch <= 127:
            raise ScoreError(f"the note {written[:20]} lies outside of the MIDI range")
        return pitch

    def advance(self, length: Fraction) -> None:
        self.time += length
        if self.time.denominator > _MAX_DENOMINATOR or self.time > MAX_QUARTERS:
            raise ScoreError("note lengths out of all proportion")

    def broken(self, marks: str) -> None:
        short = Fraction(1, 2 ** min(len(marks), 4))
        first, self.next_factor = (2 - short, short) if marks[0] == ">" else (short, 2 - short)
        change = self.last_length * (first - 1)
        for note in self.last:
            note.duration += change
        self.time += change

    def tuplet(self, get: dict[str, Any]) -> None:
        if any(len(get[k] or "") > 2 for k in "pqr") or int(get["p"]) == 0:
            raise ScoreError(f"({get['p']} is not a tuplet")
        p = int(get["p"])
        compound = self.metre is not None and self.metre[0] % 3 == 0 and self.metre[0] > 3
        q = int(get["q"] or 0) or {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(p, 3 if compound else 2)
        self.tuplet_factor, self.tuplet_left = Fraction(q, p), int(get["r"] or 0) or p

    def bar(self, text: str, ending: str | None) -> None:
        if self.bar_end is not None:
            self.time, self.bar_end = max(self.time, self.bar_end), None
        self.bar_start, self.altered = self.time, {}
        self.end_bar()
        self.line.append(None)
        self.bars.append(self.time)
        closes, opens = text.startswith(":"), text.endswith(":")
        self.repeats += [(self.time, mark) for mark, there in ((":|", closes), ("|:", opens)) if there]
        if ending:
            self.ending(ending)

    def jump(self, mark: str | None) -> None:
        """D.C., a coda and the like: a place to go to stands where its bar begins, the others where theirs ends."""
        if mark in AT_START and self.time == self.bar_start:
            self.jumps.append((self.time, mark))
        elif mark == SEGNO:
            self.jumps.append((self.bar_start, mark))
        elif mark:
            self.before_line.append(mark)

    def end_bar(self) -> None:
        """The marks that stand at the end of the bar, now that it is known where that is."""
        self.jumps += [(self.time, mark) for mark in self.before_line]
        self.before_line = []

    def ending(self, numbers: str) -> None:
        if numbers[0].isdigit():
            self.repeats.append((self.time, f"[{numbers.rstrip(',.-')[:8]}"))

    def open_line(self, block: int) -> None:
        """Notes from here on are what the next w: line goes under, unless they go on in the same block."""
        if self.block != block:
            self.block, self.line, self.verse = block, [], 0
