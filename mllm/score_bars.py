"""The bars of a score: where each one starts and ends, its number, and what stands in it."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from mllm.score_types import DRUMS, Key, Note, Score

NEAR = 1e-4  # quarters: moments closer than this are the same; notated ones differ by far more
_SHORTEST = 0.25  # quarters of a bar: keeps a metre such as 1/999 from making millions of them
_MOST_PIECES = 8  # of one bar
Piece = tuple[float, float]  # from, to in quarters


@dataclass(frozen=True)
class Bar:
    """A bar. One that is broken up around a repeat or a double bar line has several pieces."""

    number: int  # as printed in scores: 0 is the pickup, 1 the first full bar
    pieces: tuple[Piece, ...]
    metre: tuple[int, int]

    @property
    def start(self) -> float:
        """Quarters from the start of the score."""
        return self.pieces[0][0]

    @property
    def end(self) -> float:
        """Quarters from the start of the score."""
        return self.pieces[-1][1]

    @property
    def full(self) -> bool:
        """Whether it is as long as its metre says."""
        return abs(self.end - self.start - bar_quarters(self.metre)) < NEAR

    def beat(self, moment: float) -> float:
        """The beat of a moment in this bar, from 1 on, in units of the metre's lower number: 6/8 has six.

        A pickup ends on the last beat of its bar: of one quarter in 4/4, it is beat 4.
        """
        before = bar_quarters(self.metre) - (self.end - self.start) if self.number == 0 else 0.0
        return round((moment - self.start + before) * self.metre[1] / 4 + 1, 3)


class BarContents(TypedDict):
    """What starts in a bar; see `bar_contents`."""

    bar: int
    start: float
    quarters: float
    metre: str
    full: bool
    notes: int
    names: list[str]


def bar_quarters(metre: tuple[int, int]) -> float:
    """Quarters in a bar of a metre: 3.0 of 6/8."""
    return metre[0] * 4 / metre[1]


def bars_of_score(score: Score) -> list[Bar]:
    """The bars as they are written, repeats not played out; [] without a metre.

    Where the source has bar lines they count, and what comes after the last of them is cut by the metre. From bar line
    to bar line is a bar, with three exceptions. The first is the pickup, number 0, where the score says that it has
    one. Two to eight pieces in succession that add up to one exactly are one bar, broken up around
    a repeat or a double bar line. A piece as long as two or more bars is that many: a rest of several bars.

    Without bar lines the score is cut by the metre in force, from the end of the pickup on; a new metre begins a bar.
    """
    if not score.metre:
        return []
    bars: list[Bar] = []
    written = _written(score)
    place = 0
    if score.pickup > 0:
        bars.append(Bar(0, (written[0] if written else (0.0, score.pickup),), score.metre))
        place = 1
    number = 1
    while place < len(written):
        metre = score.metre_at(written[place][0]) or score.metre
        pieces = _one_bar(written[place : place + _MOST_PIECES], bar_quarters(metre))
        place += len(pieces)
        for bar in [pieces] if len(pieces) > 1 else _cut(pieces[0], max(bar_quarters(metre), _SHORTEST)):
            bars.append(Bar(number, tuple(bar), metre))
            number += 1
    now, end = bars[-1].end if bars else 0.0, score.length
    changes = [moment for moment, _ in score.metres]
    while now < end - NEAR:
        metre = score.metre_at(now) or score.metre
        stop = min(now + max(bar_quarters(metre), _SHORTEST), end)
        change = bisect_right(changes, now + NEAR)
        if change < len(changes):
            stop = min(stop, changes[change])
        bars.append(Bar(number, ((now, stop),), metre))
        number, now = number + 1, stop
    return bars


def bar_at(bars: Sequence[Bar], moment: float) -> Bar | None:
    """The bar that a moment in quarters lies in; the last one for what comes after; None where there are no bars."""
    place = bisect_right(bars, moment + NEAR, key=lambda bar: bar.start) - 1
    return bars[max(place, 0)] if bars else None


def bar_contents(score: Score) -> list[BarContents]:
    """What starts in each bar of a score, as written; [] without a metre.

    - `bar`: the number, 0 for a pickup. `start`: quarters from the start. `quarters`: how long it is.
    - `metre`: in force, "6/8". `full`: whether the bar is as long as that.
    - `notes`: how many start in it; a note tied over from the bar before does not. Their sum is the score's `notes`.
    - `names`: of these notes with octave, spelled by the key in force, in the order of their onsets; of those that
      start together the first voice comes first, and in a voice the lower note. Drums and grace notes are not in it.
    """
    bars = bars_of_score(score)
    inside: dict[int, list[Note]] = {bar.number: [] for bar in bars}
    for note in sorted(pitched(score), key=lambda n: (n.onset, n.voice, n.pitch)):
        if bar := bar_at(bars, note.onset):
            inside[bar.number].append(note)
    return [
        BarContents(
            bar=bar.number,
            start=round(bar.start, 6),
            quarters=round(bar.end - bar.start, 6),
            metre=f"{bar.metre[0]}/{bar.metre[1]}",
            full=bar.full,
            notes=len(inside[bar.number]),
            names=[spelling_key(score, n.onset).spell(n.pitch) for n in inside[bar.number]],
        )
        for bar in bars
    ]


def pitched(score: Score) -> list[Note]:
    """The notes that are not drums."""
    drums = {voice for voice, name in enumerate(score.instruments) if name == DRUMS}
    return [n for n in score.notes if n.voice not in drums] if drums else score.notes


def spelling_key(score: Score, moment: float) -> Key:
    """The key that notes are spelled by at a moment: the one in force, major where only its signature is known."""
    key = score.key_at(moment)
    return key if isinstance(key, Key) else Key.from_signature(key or 0)


def _written(score: Score) -> list[Piece]:
    """From bar line to bar line, as far as the source has them."""
    lines = [0.0]
    for line in score.bars:
        if line > lines[-1] + NEAR:
            lines.append(line)
    return list(zip(lines, lines[1:], strict=False))


def _one_bar(pieces: Sequence[Piece], whole: float) -> list[Piece]:
    """The first piece, with those after it that fill it up to a whole bar."""
    for count, (_, end) in enumerate(pieces, 1):
        length = end - pieces[0][0]
        if abs(length - whole) < NEAR:
            return list(pieces[:count])
        if length > whole:
            break
    return list(pieces[:1])


def _cut(piece: Piece, whole: float) -> list[list[Piece]]:
    """A piece that is exactly several bars long as that many, any other as one."""
    start, end = piece
    count = round((end - start) / whole)
    if count < 2 or abs((end - start) - count * whole) > NEAR:
        return [[piece]]
    edges = [start + i * whole for i in range(count)] + [end]
    return [[edge] for edge in zip(edges, edges[1:], strict=False)]
