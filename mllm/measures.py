"""A score as it is written down: voices without overlaps, filled up with rests and cut at the bar lines.

What `abc_writing` and `musicxml_writing` write out. Times are whole numbers of ticks.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

from mllm.score_types import Note, Score

QUARTER = 6720  # ticks: 2^6 * 3 * 5 * 7, so that all times here are whole numbers
_GRID = QUARTER // 24  # where moments off every notated value are moved to
_NOTATED = {d for d in range(1, 97) if QUARTER % d == 0}  # denominators of notated moments


@dataclass(frozen=True)
class Event:
    """Notes that start and stop together; none is a rest."""

    start: int
    end: int
    pitches: tuple[int, ...]
    held: bool = False  # goes on after this bar: a tie


def _moment(quarters: float) -> int:
    """Ticks of a moment in quarters; one off every notated value goes to the grid."""
    ticks = round(quarters * QUARTER)
    if QUARTER // gcd(ticks, QUARTER) in _NOTATED and abs(ticks / QUARTER - quarters) < 1e-6:
        return ticks
    return round(quarters * QUARTER / _GRID) * _GRID


def layers_of(notes: Iterable[Note], voice: int) -> list[list[Event]]:
    """The notes of a voice as few sequences without overlaps; notes of equal start and length are one chord."""
    spans: dict[tuple[int, int], list[int]] = {}
    for n in notes:
        if n.voice == voice:
            start = _moment(n.onset)
            end = max(_moment(n.onset + n.duration), start + _GRID)
            spans.setdefault((start, end), []).append(n.pitch)
    layers: list[list[Event]] = []
    for (start, end), pitches in sorted(spans.items(), key=lambda s: (s[0][0], -max(s[1]))):
        copies = [sorted(pitches)]
        while len(set(copies[-1])) < len(copies[-1]):  # the same note twice at once: a chord holds it once
            once = sorted(set(copies[-1]))
            rest = list(copies[-1])
            for pitch in once:
                rest.remove(pitch)
            copies[-1:] = [once, rest]
        for chord in copies:
            event = Event(start, end, tuple(chord))
            free = next((layer for layer in layers if layer[-1].end <= start), None)
            if free is None:
                layers.append([event])
            else:
                free.append(event)
    return layers


def bars_of(layer: list[Event], score: Score) -> list[list[Event]]:
    """Rests filled in, cut at the bar lines, a list for each bar."""
    events: list[Event] = []
    now = 0
    for event in layer:
        if event.start > now:
            events.append(Event(now, event.start, ()))
        events.append(event)
        now = event.end
    lines = _bar_lines(score, now)
    bars: list[list[Event]] = [[]]
    nearest = 0
    for event in events:
        while nearest < len(lines) and lines[nearest] <= event.start:
            nearest += 1
            bars.append([])
        while nearest < len(lines) and lines[nearest] < event.end:
            bars[-1].append(Event(event.start, lines[nearest], event.pitches, bool(event.pitches)))
            event = Event(lines[nearest], event.end, event.pitches)
            nearest += 1
            bars.append([])
        bars[-1].append(event)
    return bars


def _bar_lines(score: Score, end: int) -> list[int]:
    """Where the bar lines between 0 and `end` stand: as written, and where nothing is written by the metre."""
    lines = sorted({_moment(b) for b in score.bars} - {0})
    if score.metre:
        length, pickup = QUARTER * 4 * score.metre[0] // score.metre[1], _moment(score.pickup)
        first = lines[-1] + length if lines else pickup if 0 < pickup < length else length
        lines += range(first, end, max(length, _GRID))
    return lines[: bisect_right(lines, end - 1)]


def sounding(notes: Iterable[Note]) -> list[tuple[float, float, int]]:
    """Onset, end (quarters) and pitch of each note on the grid of `to_abc`, sorted: what two scores share."""
    heard = {(_moment(n.onset), max(_moment(n.onset + n.duration), _moment(n.onset) + 1), n.pitch) for n in notes}
    return [(start / QUARTER, end / QUARTER, pitch) for start, end, pitch in sorted(heard)]
