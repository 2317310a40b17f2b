"""What a score is: `Score`, `Note`, `Key` and what else stands in one.

Time is in quarter notes from the first sounding or silent moment; pitch is a MIDI number (60 = C4, middle C).
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import TypeVar

from mllm.errors import ScoreError

Change = TypeVar("Change")

MAX_NOTES = 200_000
MAX_QUARTERS = 100_000.0  # a day of music; what claims to be longer is a damaged file
DRUMS = "Drums"  # the instrument name of an unpitched percussion voice
DRUM_CHANNEL = 9  # of MIDI, counted from zero

LINE_OF_FIFTHS = "FCGDAEB"  # F# follows B
MODES = {"lydian": 1, "major": 0, "mixolydian": -1, "dorian": -2, "minor": -3, "phrygian": -4, "locrian": -5}
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def fifths_to_name(position: int) -> str:
    """Name of a pitch class by its place on the line of fifths, C = 0, G = 1, F = -1."""
    octave, letter = divmod(position + 1, 7)
    return LINE_OF_FIFTHS[letter] + ("#" * octave if octave > 0 else "b" * -octave)


@dataclass(frozen=True)
class Key:
    """A key: tonic such as "F#" or "Bb" and a mode: major, minor or one of the church modes.

    Raises ScoreError when tonic or mode is not a name of music.
    """

    tonic: str
    mode: str = "major"

    def __post_init__(self) -> None:
        if not self.tonic or self.tonic[0] not in LINE_OF_FIFTHS or self.tonic[1:] not in ("", "#", "b"):
            raise ScoreError(f"key {self.tonic!r}: the tonic is a letter A to G with # or b after it, such as 'F#'")
        if self.mode not in MODES:
            raise ScoreError(f"mode {self.mode!r}: known are {', '.join(MODES)}")

    @property
    def name(self) -> str:
        """ "F# minor"."""
        return f"{self.tonic} {self.mode}"

    @property
    def pitch_class(self) -> int:
        """The tonic in semitones above C, 0 to 11."""
        return (SEMITONES[self.tonic[0]] + self.tonic.count("#") - self.tonic.count("b")) % 12

    @property
    def signature(self) -> int:
        """Sharps (positive) or flats (negative) at the clef, that is between -7 and 7 for the keys in use."""
        position = LINE_OF_FIFTHS.index(self.tonic[0]) - 1 + 7 * (self.tonic.count("#") - self.tonic.count("b"))
        return position + MODES[self.mode]

    @classmethod
    def of(cls, pitch_class: int, mode: str = "major") -> "Key":
        """The usual spelling of a key: the fewest accidentals; of six sharps and six flats, F# major and Eb minor."""
        fifths = [p for p in range(-8, 11) if p * 7 % 12 == pitch_class % 12]
        prefer = 1 if mode in ("major", "lydian") else -1
        best = min(fifths, key=lambda p: (abs(p + MODES[mode]), -prefer * p))
        return cls(fifths_to_name(best), mode)

    @classmethod
    def from_signature(cls, sharps: int, mode: str = "major") -> "Key":
        """The key of a mode that has this many sharps (negative: flats) at the clef."""
        return cls(fifths_to_name(sharps - MODES[mode]), mode)

    def alteration(self, letter: str) -> int:
        """What the key signature does to a letter: 1 for a sharp, -1 for a flat, 0."""
        place = LINE_OF_FIFTHS.index(letter)
        return (self.signature + 6 - place) // 7

    def transpose(self, semitones: int) -> "Key":
        """The key `semitones` higher in its usual spelling; an octave more or less leaves the name as it is."""
        return self if semitones % 12 == 0 else Key.of(self.pitch_class + semitones, self.mode)

    @cached_property
    def _spelling(self) -> dict[int, str]:
        # Seven notes of the scale plus three flats and two or three sharps beyond it: in C that is
        # Eb Bb F C G D A E B F# C# G#, as most composers write chromatic notes.
        return {p * 7 % 12: fifths_to_name(p) for p in range(self.signature - 3, self.signature + 9)}

    def spell(self, pitch: int) -> str:
        """The name of a MIDI pitch in this key with its octave: 60 is "C4", 61 in D major "C#4", in F minor "Db4"."""
        name = self._spelling[pitch % 12]
        # The octave number turns at the letter C, so B# and Cb belong to the neighbour's octave.
        return f"{name}{(pitch - name.count('#') + name.count('b')) // 12 - 1}"


@dataclass(frozen=True, order=True)
class Note:
    """A sounding note. Tied notes are one note."""

    onset: float  # quarters from the start
    duration: float  # quarters
    pitch: int  # MIDI number, 60 = middle C
    voice: int = 0  # index into Score.instruments


@dataclass(frozen=True, order=True)
class Grace:
    """A grace note: written small before the note that sounds at `onset`, and without time of its own."""

    onset: float  # quarters, of the note that it leads to
    voice: int
    place: int  # 0 for the first of several before one note
    pitch: int


@dataclass(frozen=True, order=True)
class ChordSymbol:
    """A chord named above the notes, as written: "Am7", "D/F#"."""

    onset: float  # quarters
    text: str


@dataclass(frozen=True, order=True)
class Lyric:
    """A syllable under a note."""

    onset: float  # quarters
    text: str  # "Hap-" where the word goes on
    voice: int = 0
    verse: int = 1


@dataclass
class Score:
    """A piece of music, written out. What the source does not say is None, never a guess."""

    title: str = ""
    notes: list[Note] = field(default_factory=list)  # sorted by onset
    key: Key | None = None  # at the start
    metre: tuple[int, int] | None = None  # at the start
    tempo: float | None = None  # quarter notes per minute at the start
    pickup: float = 0.0  # quarters before the first full bar
    instruments: list[str] = field(default_factory=list)  # one name a voice, General MIDI names where known
    abc: str | None = None  # the ABC text this was read from; None when it came from elsewhere or was changed
    bars: tuple[float, ...] = ()  # where the source's bar lines stand, in quarters; empty: by the metre
    signature: int | None = None  # sharps (negative: flats) at the clef where the source gives those but no mode
    # what comes after the start, each with its moment in quarters
    keys: tuple[tuple[float, Key | int], ...] = ()  # a new key; sharps at the clef where the source gives no mode
    metres: tuple[tuple[float, tuple[int, int] | None], ...] = ()  # None: free from here on
    tempos: tuple[tuple[float, float], ...] = ()
    repeats: tuple[tuple[float, str], ...] = ()  # "|:" ":|" and endings "[1" "[2", in order; none once played out
    jumps: tuple[tuple[float, str], ...] = ()  # see `score_jumps`, in order; none once played out
    chords: tuple[ChordSymbol, ...] = ()
    lyrics: tuple[Lyric, ...] = ()
    graces: tuple[Grace, ...] = ()

    @property
    def length(self) -> float:
        """Quarters from the start to the end of the last note."""
        return max((n.onset + n.duration for n in self.notes), default=0.0)

    @property
    def bar_length(self) -> float | None:
        """Quarters in a bar of the first metre, or None without a metre."""
        return self.metre[0] * 4 / self.metre[1] if self.metre else None

    @property
    def changes(self) -> frozenset[str]:
        """Which of "key", "metre", "tempo" change after the start."""
        kinds = {"key": self.keys, "metre": self.metres, "tempo": self.tempos}
        return frozenset(name for name, later in kinds.items() if later)

    def metre_at(self, moment: float) -> tuple[int, int] | None:
        """The metre in force at a moment in quarters."""
        place = bisect_right(self.metres, moment + 1e-9, key=itemgetter(0))
        return self.metres[place - 1][1] if place else self.metre

    def key_at(self, moment: float) -> Key | int | None:
        """The key in force at a moment in quarters; sharps at the clef where the source gives no mode."""
        place = bisect_right(self.keys, moment + 1e-9, key=itemgetter(0))
        return self.keys[place - 1][1] if place else self.key if self.key is not None else self.signature


def changes_after(first: Change | None, marks: Iterable[tuple[float, Change]]) -> tuple[tuple[float, Change], ...]:
    """Those of some marks, in order of time, that change what is in force, which is `first` at the start."""
    changes: list[tuple[float, Change]] = []
    for moment, value in marks:
        if value != (changes[-1][1] if changes else first):
            changes.append((moment, value))
    return tuple(changes)


def instrument_name(program: int) -> str:
    """General MIDI name of a program 0 to 127, such as "Flute" for 73."""
    from pretty_midi.constants import INSTRUMENT_MAP

    return str(INSTRUMENT_MAP[program])


def program_of(instrument: str) -> int:
    """General MIDI program 0 to 127 of an instrument name; "Violin II" is a Violin, an unknown name a piano (0)."""
    from pretty_midi.constants import INSTRUMENT_MAP

    inside = [name for name in INSTRUMENT_MAP if name.lower() in instrument.lower()]
    return INSTRUMENT_MAP.index(max(inside, key=len)) if inside else 0
