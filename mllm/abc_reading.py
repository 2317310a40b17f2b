"""ABC text to `Score`: ABC 2.1 as folk tunes, lead sheets and converted piano scores use it.

Read here rather than by music21 10.5 because that loses ties of chords, key changes inside a line, voices named in
brackets or taken up again, and overlays; on single-voice tunes the two agree (tests). One pass, linear in the text,
so a hostile file costs no more time than a long one. Standard: https://abcnotation.com/wiki/abc:standard:v2.1
"""

import re
from collections import Counter
from fractions import Fraction
from operator import itemgetter

from mllm.abc_fields import default_unit, read_key, read_metre, read_tempo, read_unit
from mllm.abc_lyrics import align
from mllm.abc_voice import TOKEN, Voice
from mllm.errors import ScoreError
from mllm.score_jumps import in_order
from mllm.score_repeats import unfold as play_out
from mllm.score_types import (
    DRUMS,
    MAX_NOTES,
    Change,
    Grace,
    Key,
    Lyric,
    Note,
    Score,
    changes_after,
    instrument_name,
)

MAX_LETTERS = 300_000  # of one tune: read in three seconds or less, whatever stands there

_OF_A_BOOK = re.compile(r"[ILMQU]:|%%MIDI")  # what stands before the first tune and holds for all of them
_OCTAVE = re.compile(r"\boctave=\s*([+-]?\d)\b")
_QUOTED = re.compile(r'"[^"]*"')
_CLEF = re.compile(r"\b(?:treble|alto|tenor|bass|perc)[1-5]?(?:([+-])8)?(?=\s|$)")
_TRANSPOSE = re.compile(r"\btranspose=\s*([+-]?\d{1,2})\b")
_NOTES = re.compile(r"[A-Ga-gxyz\d\s/,'^_=<>(){}\[\]:&.~!-]*")  # a line of music without a bar line
_ENDING_OF_LINE = re.compile(r"\s*([1-9])(?=\s*[A-Ga-gxz^_=(\[{\"~.])")  # its bar line ends the line before


def read_abc(text: str, *, number: int | None = None, unfold: bool = False, name: str = "ABC") -> Score:
    """Read one tune.

    Args:
        text: ABC; of several tunes the first, or the one whose X: field is `number`.
        number: the X: field of the tune to read.
        unfold: play repeats and endings out; otherwise each bar comes once, as written.
        name: what error messages call the text.

    Raises:
        ScoreError: no such tune, one of more than 300,000 letters, no K: field, no notes, or a line that is not ABC;
            the message has the line number.
    """
    reader = _Reader(name)
    tune = _tune(text, number, name)
    if (letters := sum(len(line) for _, line in tune)) > MAX_LETTERS:
        raise ScoreError(f"{name}: a tune of {letters:,} letters; at most {MAX_LETTERS:,} are read, cut it into parts")
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
            tune = lines[start : starts[k + 1] if k + 1 < len(starts) else None]
            return [tune[0], *(line for line in lines[: starts[0]] if _OF_A_BOOK.match(line[1])), *tune[1:]]
    raise ScoreError(
        f"{name}: no tune X:{number} in it; it holds {', '.join(map(str, tune_numbers(text)[:20])) or 'none'}"
    )


class _Reader:
    """State of one tune: the header's fields, and the voices as far as they have been read."""

    def __init__(self, name: str) -> None:
        self.name, self.line_number = name, 0
        self.title = ""
        self.tempo: float | None = None
        self.key: Key | None = None  # as it sounds
        self.written: Key | None = None
        self.metre: tuple[int, int] | None = None
        self.unit: Fraction | None = None
        self.sharps: dict[str, int] = {}
        self.octave = self.clef = self.transposed = 0  # see Voice
        self.carried = "pitch"  # see Voice
        self.program = ""
        self.in_body = False
        self.directive = False  # inside of a %% directive that goes on in the next line
        self.voices: dict[str, Voice] = {}
        self.keys: dict[Fraction, Key | int] = {}
        self.metres: dict[Fraction, tuple[int, int] | None] = {}
        self.tempos: dict[Fraction, float] = {}
        self.block, self.goes_on = 0, False  # lines of music that w: lines belong to
        self.blank = self.ended = False  # a blank line before this one; and free text behind it: the tune is over
        self.stray: ScoreError | None = None  # what a line of the header is that is none
        self.current: Voice | None = None
        self.count = 0

    def error(self, what: str) -> ScoreError:
        words = " ".join(what.split())
        return ScoreError(f"{self.name}, line {self.line_number}: {words if len(words) < 200 else words[:200] + '…'}")

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
        if directive := re.match(r"(?:%%|I:)\s*propagate-accidentals\s+(not|octave|pitch)\b", line):
            return self.set_carried(directive[1])
        line = re.sub(r"(?<!\\)%.*", "", line)
        match = re.match(r"([A-Za-z+]):(?![|:])\s*(.*)", line)
        if match:
            return self.field(match[1], match[2].strip())
        if not line.strip():
            self.blank = self.in_body
            return None
        self.ended |= self.blank and "|" not in line and not _NOTES.fullmatch(line)
        self.blank = False
        if self.ended:  # free text between the tunes of a book
            return None
        if not self.in_body:
            if re.search(r"\w", line):
                stray = self.error("music or prose before the K: field; every tune needs K: to end its header")
                if "|" in line:
                    raise stray
                self.stray = self.stray or stray  # a slip of the pen, where K: comes after all
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

    def set_carried(self, how: str) -> None:
        self.carried = how
        for voice in self.voices.values():
            voice.carried = how

    def field(self, letter: str, value: str) -> None:
        """Read one information field such as `M:6/8`; unknown letters are skipped."""
        try:
            if letter == "T" and not self.title:
                self.title = value.replace("\\%", "%")
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
        if not any(v.notes for v in self.voices.values()):
            self.tempo = tempo
        else:
            self.tempos.setdefault(self.voice().time, tempo)

    def set_key(self, key: Key | None, sharps: dict[str, int], value: str) -> None:
        """The header ends with the first key; a later one changes it from here on."""
        octave, clef, transposed = _OCTAVE.search(value), _octave_of_clef(value), _TRANSPOSE.search(value)
        if not self.in_body:
            self.octave, self.clef = int(octave[1]) if octave else 0, clef or 0
            self.transposed = int(transposed[1]) if transposed else 0
            self.in_body, self.sharps, self.written = True, sharps, key
            self.key = key.transpose(self.transposed) if key else None
            for voice in self.voices.values():  # voices declared before K:
                voice.sharps, voice.metre = dict(sharps), self.metre
                voice.unit = self.unit or default_unit(self.metre)
                if "octave" not in voice.stated:
                    voice.octave = self.octave
                if "clef" not in voice.stated:
                    voice.clef = self.clef
                voice.transpose(voice.transposed if "transpose" in voice.stated else self.transposed, key)
            return
        voice, none = self.voice(), value.strip().lower().startswith("none")
        if transposed:
            voice.transpose(int(transposed[1]), key)
        key = key.transpose(voice.transposed) if key else None
        if voice.time == 0 and len(self.voices) == 1:
            if sharps != voice.sharps or key is not None:
                self.key = key
        elif key is not None or none:
            self.keys.setdefault(voice.time, 0 if key is None else key)
        if key is not None or none or sharps:
            voice.sharps = sharps
        if octave:
            voice.octave = int(octave[1])
        if clef is not None:
            voice.clef = clef

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
            voice.name = name[1].replace("\\n", " ").replace("\\%", "%").strip()
        if octave := _OCTAVE.search(value):
            voice.octave = int(octave[1])
            voice.stated.add("octave")
        if (clef := _octave_of_clef(value.removeprefix(label))) is not None:
            voice.clef = clef
            voice.stated.add("clef")
        if transposed := _TRANSPOSE.search(value):
            voice.stated.add("transpose")
            voice.transpose(int(transposed[1]), self.written)
        if re.search(r"\bperc\b", value):
            voice.name = DRUMS
        self.current = voice

    def new_voice(self) -> Voice:
        voice = Voice(
            self.counted,
            self.unit or default_unit(self.metre),
            self.metre,
            dict(self.sharps),
            self.octave,
            self.program,
            carried=self.carried,
            clef=self.clef,
        )
        voice.transpose(self.transposed, self.written)
        return voice

    def voice(self) -> Voice:
        if self.current is None:
            self.current = self.voices.setdefault("1", self.new_voice())
        return self.current

    def music(self, line: str) -> None:
        at = 0
        if ending := _ENDING_OF_LINE.match(line):
            self.voice().ending(ending[1])
            at = ending.end()
        while at < len(line):
            token = TOKEN.match(line, at)
            if token is None or token.end() == at:
                raise self.error(f"{line[at]!r} at column {at + 1} is not ABC")
            at = token.end()
            self.token(token)

    def token(self, token: re.Match[str]) -> None:
        if token["field"]:
            self.field(token["field"], token["value"].strip())
            return
        voice = self.voice()
        voice.open_line(self.block)
        try:
            voice.token(token.groupdict())
        except ScoreError as error:
            raise self.error(str(error)) from None

    def counted(self) -> None:
        self.count += 1
        if self.count > MAX_NOTES:
            raise ScoreError(f"more than {MAX_NOTES:,} notes")

    def score(self, abc: str, unfold: bool) -> Score:
        """What has been read as a `Score`, with repeats played out if `unfold`; ScoreError without notes."""
        if not self.in_body:
            raise self.stray or self.error(
                "no K: field up to here; every ABC tune needs one, such as K:G, as the end of its header"
            )
        voices = [v for v in self.voices.values() if v.notes]
        if not voices:
            raise self.error("a header but no notes")
        for voice in voices:
            voice.end_bar()
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
            keys=changes_after(self.key, _in_order(self.keys)),
            metres=changes_after(self.metre, _in_order(self.metres)),
            tempos=changes_after(self.tempo, _in_order(self.tempos)),
            repeats=tuple(dict.fromkeys((float(moment), mark) for moment, mark in first.repeats)),
            jumps=in_order((float(moment), mark) for v in voices for moment, mark in v.jumps),
            chords=tuple(sorted({chord for v in voices for chord in v.chords})),
            lyrics=tuple(sorted(lyrics)),
            graces=tuple(sorted(graces)),
        )
        return play_out(score) if unfold else score

    def pickup(self, voice: Voice) -> float:
        """Length of the first bar where it is shorter than the metre and not the only one."""
        first = next((moment for moment in voice.bars if moment > 0), None)
        if first is None or not self.metre or first >= max(n.end for n in voice.notes):
            return 0.0
        return float(first) if first < Fraction(4 * self.metre[0], self.metre[1]) else 0.0


def _octave_of_clef(value: str) -> int | None:
    """Octaves that a clef in a K: or V: field sounds higher (ABC 2.1, 4.6); None where no clef is named."""
    signs = _CLEF.findall(_QUOTED.sub(" ", value))  # of each clef: "" without an eight
    return {"": 0, "+": 1, "-": -1}[signs[-1]] if signs else None


def _in_order(marks: dict[Fraction, Change]) -> list[tuple[float, Change]]:
    return [(float(moment), value) for moment, value in sorted(marks.items(), key=itemgetter(0))]
