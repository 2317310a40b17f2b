"""Which phrases of a score come again: its form in letters."""

from bisect import bisect_left
from typing import TypedDict

from mllm.score_bars import NEAR, Bar, Piece, bar_quarters, bars_of_score, pitched
from mllm.score_jumps import with_jumps
from mllm.score_repeats import play_order
from mllm.score_types import Note, Score

UNITS = (4, 8)  # bars
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
Shape = tuple[tuple[float, float, int, int], ...]  # onset in the unit, duration, pitch, voice


class Transposed(TypedDict):
    """A unit that is another one moved: `unit` is `of`, `semitones` higher."""

    unit: str
    of: str
    semitones: int


class Form(TypedDict):
    """The form in units of `unit_bars` bars; see `form`."""

    unit_bars: int
    letters: str
    first_bars: list[int]
    transposed: list[Transposed]


def form(score: Score, unit_bars: int) -> Form | None:
    """The form of a score, in letters, one a unit of `unit_bars` bars.

    Two units have the same letter where they hold the same notes: onsets counted from the unit's first bar, durations,
    pitches and voices are all equal. Nothing less makes them the same, so a repeat with another ending is a new letter.
    Drums and grace notes are not compared.

    - `letters`: "AABB". Repeats are played out: a repeated section counts twice, each ending once.
    - `first_bars`: number of the bar, as written, in which each unit begins.
    - `transposed`: the units that are an earlier one moved in pitch, rhythm and voices being equal.

    Units are counted from the start of a section. A section starts where the score does, where a repeat goes back to,
    at a repeat sign (a second ending does not start one), and inside of a bar that is broken up, where the pickup of
    the new section stands. A unit takes in the pickup before it, and ends as much before its last bar does; the last
    unit of a section ends with it and is shorter where the bars do not suffice.

    None without bars, with less than two units, or with more than 52 different ones.

    Letters for sections are the custom of books on form (Gotham and others, "Open Music Theory", 2nd edition, 2021),
    which give them by ear to sections of any length, A' to one that differs a little. The rule here is our own, so
    that a program can decide it: units of one length, equal or not.
    """
    bars = bars_of_score(score)
    notes = sorted(pitched(score))
    shapes: list[Shape] = []
    first_bars: list[int] = []
    for section in _sections(score, bars):
        played = _played(section, notes)
        for number, downbeat, start, end in _units(section, unit_bars):
            first_bars.append(number)
            shapes.append(
                tuple(
                    (round(n.onset - downbeat, 4), round(n.duration, 4), n.pitch, n.voice)
                    for n in _between(played, start, end)
                )
            )
    different = list(dict.fromkeys(shapes))
    if len(shapes) < 2 or len(different) > len(_LETTERS):
        return None
    letter = dict(zip(different, _LETTERS, strict=False))
    return Form(
        unit_bars=unit_bars,
        letters="".join(letter[shape] for shape in shapes),
        first_bars=first_bars,
        transposed=_transposed(letter),
    )


def section_ends(score: Score) -> list[float]:
    """Where what the score marks as a section ends, in written quarters: at each ":|", and at the end."""
    end = max(score.length, score.bars[-1] if score.bars else 0.0)
    ends = [moment for moment, mark in score.repeats if mark == ":|" and moment < end - NEAR]
    return [*dict.fromkeys(ends), end]


_Part = tuple[Piece, Bar]  # a piece of written time, played now, and the bar that it is of


def _sections(score: Score, bars: list[Bar]) -> list[list[_Part]]:
    """The pieces of the bars in the order of their playing, a list a section."""
    parts = [(piece, bar) for bar in bars for piece in bar.pieces]
    endings = sorted(moment for moment, mark in score.repeats if mark[0] == "[")
    opens = [0.0, *(start for bar in bars for start, _ in bar.pieces[1:])]
    for moment, mark in score.repeats:
        if mark == "|:" or (mark == ":|" and not _holds(endings, moment)):
            opens.append(moment)
    opens.sort()
    starts = [piece[0] for piece, _ in parts]
    sections: list[list[_Part]] = []
    played_to = 0.0
    for start, end in with_jumps(play_order(score.repeats, parts[-1][0][1] if parts else 0.0), score.jumps):
        back, played_to = start < played_to - NEAR, end
        for piece, bar in parts[bisect_left(starts, start - NEAR) : bisect_left(starts, end - NEAR)]:
            if not sections or back or _holds(opens, piece[0]):
                sections.append([])
                back = False
            sections[-1].append(((piece[0], min(piece[1], end)), bar))
    return sections


def _holds(moments: list[float], moment: float) -> bool:
    """Whether one of `moments`, which are sorted, is this one."""
    place = bisect_left(moments, moment - NEAR)
    return place < len(moments) and moments[place] < moment + NEAR


def _between(notes: list[Note], start: float, end: float) -> list[Note]:
    """Of notes in order of time those that start from `start` on and before `end`."""
    first, last = (bisect_left(notes, moment - NEAR, key=lambda n: n.onset) for moment in (start, end))
    return notes[first:last]


def _played(section: list[_Part], notes: list[Note]) -> list[Note]:
    """The notes of a section, their onsets in quarters from its start."""
    out: list[Note] = []
    now = 0.0
    for (start, end), _ in section:
        out += [Note(now + n.onset - start, n.duration, n.pitch, n.voice) for n in _between(notes, start, end)]
        now += end - start
    return out


def _units(section: list[_Part], unit_bars: int) -> list[tuple[int, float, float, float]]:
    """Number of the first bar, its downbeat, start and end of each unit; quarters from the start of the section."""
    lengths = [end - start for (start, end), _ in section]
    pickup = lengths[0] if len(section) > 1 and lengths[0] < bar_quarters(section[0][1].metre) - NEAR else 0.0
    downbeats, now = [], pickup
    for length in lengths[1 if pickup else 0 :]:
        downbeats.append(now)
        now += length
    numbers = [bar.number for _, bar in section]
    heads = list(range(0, len(downbeats), unit_bars))
    starts = [downbeats[i] - pickup for i in heads]
    ends = [*starts[1:], now]
    return [
        (numbers[i + 1 if pickup else i], downbeats[i], start, end)
        for i, start, end in zip(heads, starts, ends, strict=True)
    ]


def _transposed(letter: dict[Shape, str]) -> list[Transposed]:
    """Which of the different shapes are an earlier one moved."""

    def moved(shape: Shape) -> Shape:
        return tuple((onset, length, pitch - shape[0][2], voice) for onset, length, pitch, voice in shape)

    sounding = [shape for shape in letter if shape]
    first: dict[Shape, Shape] = {}
    found: list[Transposed] = []
    for shape in sounding:
        origin = first.setdefault(moved(shape), shape)
        if origin is not shape:
            found.append(Transposed(unit=letter[shape], of=letter[origin], semitones=shape[0][2] - origin[0][2]))
    return found
