"""ABC text to `Score`: ABC 2.1 as folk tunes, lead sheets and converted piano scores use it.

Read here rather than by music21 10.5 because that loses ties of chords, key changes inside a line, voices named in
brackets or taken up again, and overlays; on single-voice tunes the two agree (tests). One pass, linear in the text,
so a hostile file costs no more time than a long one. Standard: https://abcnotation.com/wiki/abc:standard:v2.1
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeVar

from mllm.abc_fields import ACCIDENTALS, STRING, default_unit, read_key, read_metre, read_tempo, read_unit
from mllm.abc_lyrics import align
from mllm.chord_symbols import is_chord_symbol
from mllm.errors import ScoreError
from mllm.score_repeats import unfold as play_out
from mllm.score_types import (
    DRUMS,
    MAX_NOTES,
    MAX_QUARTERS,
    ChordSymbol,
    Grace,
    Key,
    Lyric,
    Note,
    Score,
    instrument_name,
)  # fmt: skip

Change = TypeVar("Change")

_MAX_DENOMINATOR = 1 << 20  # of a moment in quarters: keeps the arithmetic of absurd note lengths small

_STEPS = "CDEFGAB"
_SEMITONES = (0, 2, 4, 5, 7, 9, 11)
_LENGTH = r"(?P<{0}num>\d*)(?P<{0}slash>/*)(?P<{0}den>\d*)"
_NOTE = r"(?P<{0}acc>\^\^|\^|__|_|=|)(?P<{0}step>[A-Ga-g])(?P<{0}octave>[,']*)" + _LENGTH
_TOKEN = re.compile(
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
_ENDING_OF_LINE = re.compile(r"\s*([1-9])(?=\s*[A-Ga-gxz^_=(\[{\"~.])")  # its bar line ends the line before
_IN_CHORD = re.compile(_NOTE.format("n") + r"(?P<tie>-?)")


@dataclass
class _Sounding:
    """A note being read; exact time."""

    onset: Fraction
    duration: Fraction
    pitch: int
    step: int  # staff position: octave * 7 + letter

    @property
    def end(self) -> Fraction:
        return self.onset + self.duration


@dataclass
class _Voice:
    unit: Fraction  # quarters of a note without a length
    metre: tuple[int, int] | None
    sharps: dict[str, int]  # alteration of each letter by the key signature
    octave: int = 0
    name: str = ""
    time: Fraction = Fraction(0)
    bar_start: Fraction = Fraction(0)
    bar_end: Fraction | None = None  # of the first layer, while an overlay is read
    altered: dict[int, int] = field(default_factory=dict)  # by staff step, until the bar line
    tied: list[_Sounding] = field(default_factory=list)
    last: list[_Sounding] = field(default_factory=list)  # the notes of the last chord, for ties and broken rhythm
    last_length: Fraction = Fraction(0)
    next_factor: Fraction = Fraction(1)
    tuplet: Fraction = Fraction(1)
    tuplet_left: int = 0
    notes: list[_Sounding] = field(default_factory=list)
    bars: list[Fraction] = field(default_factory=list)  # where bar lines stand
    repeats: list[tuple[Fraction, str]] = field(default_factory=list)
    chords: list[ChordSymbol] = field(default_factory=list)
    graces: list[tuple[Fraction, int]] = field(default_factory=list)
    before: list[int] = field(default_factory=list)  # grace notes whose main note is still to come
    lyrics: list[tuple[Fraction, str, int]] = field(default_factory=list)
    line: list[Fraction | None] = field(default_factory=list)  # of the last line: starts of notes, None at bar lines
    verse: int = 0  # w: lines under it so far
    block: int = 0  # the line of music that `line` is of


def read_abc(text: str, *, number: int | None = None, unfold: bool = False, name: str = "ABC") -> Score:
    """Read one tune.

    Args:
        text: ABC; of several tunes the first, or the one whose X: field is `number`.
        number: the X: field of the tune to read.
        unfold: play repeats and endings out; otherwise each bar comes once, as written.
        name: what error messages call the text.

    Raises:
        ScoreError: no such tune, no K: field, no notes, or a line that is not ABC; the message has the line number.
    """
    reader = _Reader(name)
    tune = _tune(text, number, name)
    for line_number, line in tune:
        reader.line(line_number, line)
    return reader.score("\n".join(line for _, line in tune).strip() + "\n", unfold)


def tune_numbers(text: str) -> list[int]:
    """The X: fields of a tune book, in order."""
    return [int(m) for m in re.findall(r"^X:\s*(\d{1,9})", text, re.MULTILINE)]


def _tune(text: str, number: int | None, name: str) -> list[tuple[int, str]]:
    lines = [(i, line.rstrip()) for i, line in enumerate(text.lstrip("\ufeff").splitlines(), 1)]
    starts = [k for k, (_, line) in enumerate(lines) if line.startswith("X:")]
    if not starts and number is None:
        return lines
    for k, start in enumerate(starts):
        if number is None or re.fullmatch(rf"X:\s*0*{number}\s*(%.*)?", lines[start][1]):
            return lines[start : starts[k + 1] if k + 1 < len(starts) else None]
    raise ScoreError(
        f"{name}: no tune X:{number} in it; it holds {', '.join(map(str, tune_numbers(text)[:20])) or 'none'}"
    )


class _Reader:
    """State of one tune: the header's fields, and the voices as far as they have been read."""

    def __init__(self, name: str) -> None:
        self.name, self.line_number = name, 0
        self.title = ""
        self.tempo: float | None = None
        self.key: Key | None = None
        self.metre: tuple[int, int] | None = None
        self.unit: Fraction | None = None
        self.sharps: dict[str, int] = {}
        self.octave = 0
        self.program = ""
        self.in_body = False
        self.directive = False  # inside of a %% directive that goes on in the next line
        self.voices: dict[str, _Voice] = {}
        self.keys: dict[Fraction, Key | int] = {}
        self.metres: dict[Fraction, tuple[int, int] | None] = {}
        self.tempos: dict[Fraction, float] = {}
        self.block, self.goes_on = 0, False  # lines of music that w: lines belong to
        self.header_line = 1
        self.current: _Voice | None = None
        self.count = 0

    def error(self, what: str) -> ScoreError:
        return ScoreError(f"{self.name}, line {self.line_number}: {what}")

    def line(self, number: int, line: str) -> None:
        """Read one line of the file: a field, notation, or something to skip; ScoreError names it."""
        self.line_number = number
        if re.search(r"[\x00-\x08\x0e-\x1f]", line):
            raise self.error("control characters; this is not ABC text")
        continued, self.directive = self.directive, (line.startswith("%%") or self.directive) and line.endswith("\\")
        if line.startswith("%%MIDI"):
            return self.midi(line.split())
        if continued:
            return None
        line = re.sub(r"(?<!\\)%.*", "", line)
        match = re.match(r"([A-Za-z+]):(?![|:])\s*(.*)", line)
        if match:
            return self.field(match[1], match[2].strip())
        if not line.strip():
            return None
        if not self.in_body:
            if number > self.header_line and re.search(r"\w", line):
                raise self.error(
                    "music or prose before the K: field; every tune needs K: as the last line of its header"
                )
            return None
        self.block += not self.goes_on
        self.goes_on = line.endswith("\\")
        return self.music(re.sub(r"=(20)?\s*$", "", line))  # a mail program's line break, as in many old books

    def midi(self, words: list[str]) -> None:
        numbers = [int(w) for w in words[2:] if w.isdigit() and len(w) < 4]
        if len(words) > 2 and words[1] == "program" and numbers:
            self.program = instrument_name(min(numbers[-1], 127))
        elif len(words) > 2 and words[1] == "channel" and numbers and numbers[-1] == 10:
            self.program = DRUMS
        if self.program and self.current:
            self.current.name = self.program

    def field(self, letter: str, value: str) -> None:
        """Read one information field such as `M:6/8`; unknown letters are skipped."""
        try:
            if letter == "T" and not self.title:
                self.title = value
            elif letter == "M":
                self.set_metre(read_metre(value))
            elif letter == "L":
                self.set_unit(read_unit(value))
            elif letter == "Q":
                self.set_tempo(read_tempo(value, self.unit or default_unit(self.metre)))
            elif letter == "K":
                self.set_key(*read_key(value), value)
            elif letter == "V":
                self.set_voice(value)
            elif letter == "w" and self.in_body:
                voice = self.voice()
                voice.verse += 1
                voice.lyrics += [(moment, text, voice.verse) for moment, text in align(value, voice.line)]
        except ScoreError as error:
            raise self.error(str(error)) from None

    def set_metre(self, metre: tuple[int, int] | None) -> None:
        if not self.in_body:
            self.metre = metre
            return
        voice = self.voice()
        if metre != voice.metre:
            if voice.time == 0 and not voice.notes:
                self.metre = metre  # stated after K: but before the music
            else:
                self.metres.setdefault(voice.time, metre)
        voice.metre = metre

    def set_unit(self, unit: Fraction) -> None:
        if self.in_body:
            self.voice().unit = unit
        else:
            self.unit = unit

    def set_tempo(self, tempo: float | None) -> None:
        if tempo is None:
            return
        if self.tempo is None and not any(v.notes for v in self.voices.values()):
            self.tempo = tempo
        else:
            self.tempos.setdefault(self.voice().time, tempo)

    def set_key(self, key: Key | None, sharps: dict[str, int], value: str) -> None:
        """The header ends with the first key; a later one changes it from here on."""
        octave = re.search(r"octave=(-?\d)", value)
        if not self.in_body:
            self.in_body, self.key, self.sharps = True, key, sharps
            self.octave = int(octave[1]) if octave else 0
            for voice in self.voices.values():  # voices declared before K:
                voice.sharps, voice.metre = dict(sharps), self.metre
                voice.unit = self.unit or default_unit(self.metre)
            return
        voice, none = self.voice(), value.strip().lower().startswith("none")
        if sharps != voice.sharps or (key and self.key and key != self.key):
            if voice.time == 0 and len(self.voices) == 1:
                self.key = key
            elif key is not None or none:
                self.keys.setdefault(voice.time, 0 if key is None else key)
        if key is not None or none:
            voice.sharps = sharps
        if octave:
            voice.octave = int(octave[1])

    def set_voice(self, value: str) -> None:
        """Go on in the voice of this label, a new one where it is new."""
        label = value.split()[0] if value.split() else "1"
        if label == "*":
            return
        voice = self.voices.get(label)
        if voice is None:
            if len(self.voices) >= 64:
                raise ScoreError("more than 64 voices")
            voice = self.voices[label] = self.new_voice()
        if name := re.search(r'(?:\bname|\bnm)\s*=\s*"([^"]*)"', value):
            voice.name = name[1].replace("\\n", " ").strip()
        if octave := re.search(r"octave=(-?\d)", value):
            voice.octave = int(octave[1])
        if re.search(r"\bperc\b", value):
            voice.name = DRUMS
        self.current = voice

    def new_voice(self) -> _Voice:
        return _Voice(self.unit or default_unit(self.metre), self.metre, dict(self.sharps), self.octave, self.program)

    def voice(self) -> _Voice:
        if self.current is None:
            self.current = self.voices.setdefault("1", self.new_voice())
        return self.current

    def length(self, num: str, slash: str, den: str) -> Fraction:
        if len(num) > 4 or len(den) > 4 or len(slash) > 8:
            raise self.error("a note length out of all proportion")
        if den and not slash:
            raise self.error("a note length that is not one")
        if (num and int(num) == 0) or (den and int(den) == 0):
            raise self.error("a note length of zero")
        below = int(den) if den else 1 << len(slash)
        return Fraction(int(num or 1), below)

    def music(self, line: str) -> None:
        at = 0
        if ending := _ENDING_OF_LINE.match(line):
            self.ending(self.voice(), ending[1])
            at = ending.end()
        while at < len(line):
            token = _TOKEN.match(line, at)
            if token is None or token.end() == at:
                raise self.error(f"{line[at]!r} at column {at + 1} is not ABC")
            at = token.end()
            self.token(token)

    def token(self, token: re.Match[str]) -> None:
        """Read one token of notation: note, rest, chord, bar line, tuplet, inline field."""
        get = token.groupdict()
        if get["skip"] is not None or get["slur"]:
            return
        if get["field"]:
            self.field(get["field"], get["value"].strip())
            return
        voice = self.voice()
        if get["nstep"]:
            length = self.length(get["nnum"], get["nslash"], get["nden"])
            self.sound(voice, [(get["nacc"], get["nstep"], get["noctave"])], length)
        elif get["bar"]:
            self.bar(voice, get["bar"], get["ending"])
        elif get["chord"] is not None:
            self.chord(voice, get["chord"], self.length(get["cnum"], get["cslash"], get["cden"]))
        elif get["rest"]:
            self.sound(voice, [], self.length(get["rnum"], get["rslash"], get["rden"]))
        elif get["tie"]:
            voice.tied += [n for n in voice.last if n not in voice.tied]
        elif get["broken"]:
            self.broken(voice, get["broken"])
        elif get["p"]:
            self.tuplet(voice, get)
        elif get["volta"]:
            self.ending(voice, get["volta"])
        elif get["words"]:
            text = get["words"].strip('"').strip()
            if is_chord_symbol(text):
                voice.chords.append(ChordSymbol(float(voice.time), text))
        elif get["grace"]:
            for grace in _IN_CHORD.finditer(get["grace"]):
                self.counted()
                step = self.step(voice, grace["nstep"], grace["noctave"])
                voice.before.append(self.pitch(voice, step, ACCIDENTALS[grace["nacc"]], grace[0]))
        elif get["bars_rest"]:
            metre = voice.metre or (4, 4)
            if len(get["count"]) > 4:
                raise self.error("a rest out of all proportion")
            self.advance(voice, Fraction(4 * metre[0], metre[1]) * int(get["count"] or 1))
        elif get["overlay"]:
            voice.bar_end = max(voice.time, voice.bar_end or voice.time)
            voice.time, voice.altered, voice.last = voice.bar_start, {}, []

    def chord(self, voice: _Voice, inside: str, length: Fraction) -> None:
        notes = list(_IN_CHORD.finditer(STRING.sub("", inside)))
        if not notes:
            return
        if len(notes) > 128:
            raise self.error("a chord of more than 128 notes")
        first = self.length(notes[0]["nnum"], notes[0]["nslash"], notes[0]["nden"])
        self.sound(voice, [(n["nacc"], n["nstep"], n["noctave"]) for n in notes], first * length)
        voice.tied += [s for s, n in zip(voice.last, notes, strict=True) if n["tie"]]

    def sound(self, voice: _Voice, written: list[tuple[str, str, str]], length: Fraction) -> None:
        """Notes that start together, or a rest where there are none."""
        length *= voice.unit * voice.next_factor
        voice.next_factor = Fraction(1)
        if voice.tuplet_left:
            length *= voice.tuplet
            voice.tuplet_left -= 1
        open_ties = [n for n in voice.tied if n.end == voice.time]
        voice.last, voice.tied, voice.last_length = [], [], length
        voice.graces += [(voice.time, pitch) for pitch in voice.before]
        voice.before = []
        if written:
            self.line_of(voice).append(voice.time)
        for accidental, letter, marks in written:
            step = self.step(voice, letter, marks)
            alteration = ACCIDENTALS[accidental]
            tied = next((n for n in open_ties if n.step == step), None) if alteration is None else None
            if alteration is not None:
                voice.altered[step] = alteration
            pitch = tied.pitch if tied else self.pitch(voice, step, alteration, f"{accidental}{letter}{marks}")
            before = tied or next((n for n in open_ties if n.pitch == pitch), None)
            if before:
                before.duration += length
                open_ties.remove(before)
                voice.last.append(before)
            else:
                self.counted()
                note = _Sounding(voice.time, length, pitch, step)
                voice.notes.append(note)
                voice.last.append(note)
        self.advance(voice, length)

    def counted(self) -> None:
        self.count += 1
        if self.count > MAX_NOTES:
            raise self.error(f"more than {MAX_NOTES:,} notes")

    def line_of(self, voice: _Voice) -> list[Fraction | None]:
        """What w: lines will be aligned to; a new line of music begins it anew."""
        if voice.block != self.block:
            voice.block, voice.line, voice.verse = self.block, [], 0
        return voice.line

    def step(self, voice: _Voice, letter: str, marks: str) -> int:
        step = _STEPS.index(letter.upper()) + 7 * (5 if letter.islower() else 4)
        return step + 7 * (marks.count("'") - marks.count(",") + voice.octave)

    def pitch(self, voice: _Voice, step: int, alteration: int | None, written: str) -> int:
        """The MIDI number of a staff position as the bar and the key alter it."""
        if alteration is None:
            alteration = voice.altered.get(step, voice.sharps.get(_STEPS[step % 7], 0))
        pitch = 12 * (step // 7 + 1) + _SEMITONES[step % 7] + alteration
        if not 0 <= pitch <= 127:
            raise self.error(f"the note {written} lies outside of the MIDI range")
        return pitch

    def advance(self, voice: _Voice, length: Fraction) -> None:
        voice.time += length
        if voice.time.denominator > _MAX_DENOMINATOR or voice.time > MAX_QUARTERS:
            raise self.error("note lengths out of all proportion")

    def broken(self, voice: _Voice, marks: str) -> None:
        short = Fraction(1, 2 ** min(len(marks), 4))
        first, voice.next_factor = (2 - short, short) if marks[0] == ">" else (short, 2 - short)
        change = voice.last_length * (first - 1)
        for note in voice.last:
            note.duration += change
        voice.time += change

    def tuplet(self, voice: _Voice, get: dict[str, str]) -> None:
        if any(len(get[k] or "") > 2 for k in "pqr") or int(get["p"]) == 0:
            raise self.error(f"({get['p']} is not a tuplet")
        p = int(get["p"])
        compound = voice.metre is not None and voice.metre[0] % 3 == 0 and voice.metre[0] > 3
        q = int(get["q"] or 0) or {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(p, 3 if compound else 2)
        voice.tuplet, voice.tuplet_left = Fraction(q, p), int(get["r"] or 0) or p

    def bar(self, voice: _Voice, text: str, ending: str | None) -> None:
        if voice.bar_end is not None:
            voice.time, voice.bar_end = max(voice.time, voice.bar_end), None
        voice.bar_start, voice.altered = voice.time, {}
        self.line_of(voice).append(None)
        voice.bars.append(voice.time)
        closes, opens = text.startswith(":"), text.endswith(":")
        voice.repeats += [(voice.time, mark) for mark, there in ((":|", closes), ("|:", opens)) if there]
        if ending:
            self.ending(voice, ending)

    def ending(self, voice: _Voice, numbers: str) -> None:
        if numbers[0].isdigit():
            voice.repeats.append((voice.time, f"[{numbers[0]}"))

    def score(self, abc: str, unfold: bool) -> Score:
        """What has been read as a `Score`, with repeats played out if `unfold`; ScoreError without notes."""
        if not self.in_body:
            raise self.error("no K: field up to here; every ABC tune needs one, such as K:G, as the end of its header")
        voices = [v for v in self.voices.values() if v.notes]
        if not voices:
            raise self.error("a header but no notes")
        first = voices[0]
        notes, graces, lyrics = [], [], []
        for index, voice in enumerate(voices):
            notes += [Note(float(n.onset), float(n.duration), n.pitch, index) for n in voice.notes]
            places = Counter[Fraction]()
            for moment, pitch in voice.graces:
                graces.append(Grace(float(moment), index, places[moment], pitch))
                places[moment] += 1
            lyrics += [Lyric(float(moment), text, index, verse) for moment, text, verse in voice.lyrics]
        score = Score(
            title=self.title,
            notes=sorted(notes),
            key=self.key,
            metre=self.metre,
            tempo=self.tempo,
            pickup=self.pickup(first),
            instruments=[v.name for v in voices],
            abc=abc,
            bars=tuple(sorted({float(moment) for moment in first.bars if moment > 0})),
            keys=_new(self.key, self.keys),
            metres=_new(self.metre, self.metres),
            tempos=_new(self.tempo, self.tempos),
            repeats=tuple(dict.fromkeys((float(moment), mark) for moment, mark in first.repeats)),
            chords=tuple(sorted({chord for v in voices for chord in v.chords})),
            lyrics=tuple(sorted(lyrics)),
            graces=tuple(sorted(graces)),
        )
        return play_out(score) if unfold else score

    def pickup(self, voice: _Voice) -> float:
        """Length of the first bar where it is shorter than the metre and not the only one."""
        first = next((moment for moment in voice.bars if moment > 0), None)
        if first is None or not self.metre or first >= max(n.end for n in voice.notes):
            return 0.0
        return float(first) if first < Fraction(4 * self.metre[0], self.metre[1]) else 0.0


def _new(first: Change | None, later: dict[Fraction, Change]) -> tuple[tuple[float, Change], ...]:
    """Those changes that change something, in order."""
    changes: list[tuple[float, Change]] = []
    for moment, value in sorted(later.items()):
        if value != (changes[-1][1] if changes else first):
            changes.append((float(moment), value))
    return tuple(changes)
