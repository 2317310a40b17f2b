"""A score as it is written down: voices without overlaps, filled up with rests and cut at the bar lines.

What `abc_writing` and `musicxml_writing` write out. Times are whole numbers of ticks.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import gcd

from mllm.score_types import Note, Score

QUARTER = 20160  # ticks: 2^6 * 3^2 * 5 * 7, so that all times here are whole numbers
_GRID = QUARTER // 24  # where moments off every notated value are moved to
_NOTATED = {d for d in range(1, 97) if QUARTER % d == 0}  # denominators of notated moments


@dataclass(frozen=True)
class Event:
    """Notes that start and stop together; none is a rest."""

    start: int
    end: int
    pitches: tuple[int, ...]
    held: bool = False  # goes on after this bar: a tie


def moment_of(quarters: float) -> int:
    """Ticks of a moment in quarters; one off every notated value goes to the grid."""
    ticks = round(quarters * QUARTER)
    if QUARTER // gcd(ticks, QUARTER) in _NOTATED and abs(ticks / QUARTER - quarters) < 1e-6:
        return ticks
    return round(quarters * QUARTER / _GRID) * _GRID


def _span(note: Note) -> tuple[int, int]:
    """Start and end in ticks; a note too short for the grid lasts one step of it."""
    start, end = moment_of(note.onset), moment_of(note.onset + note.duration)
    return start, end if end > start else start + _GRID


def layers_of(notes: Iterable[Note], voice: int) -> list[list[Event]]:
    """The notes of a voice as few sequences without overlaps; notes of equal start and length are one chord."""
    spans: dict[tuple[int, int], list[int]] = {}
    for n in notes:
        if n.voice == voice:
            spans.setdefault(_span(n), []).append(n.pitch)
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


def bars_of(
    layer: list[Event], score: Score, *, until: int = 0, cuts: Collection[int] = frozenset()
) -> list[list[Event]]:
    """Rests filled in, cut at the bar lines, a list for each bar.

    Args:
        layer: one of `layers_of`.
        score: whose bar lines count.
        until: also fill up to this tick.
        cuts: ticks at which an event must start, such as those of chord symbols: what goes on over one is tied.
    """
    events: list[Event] = []
    now = 0
    for event in layer:
        if event.start > now:
            events.append(Event(now, event.start, ()))
        events.append(event)
        now = event.end
    if until > now:
        events.append(Event(now, until, ()))
        now = until
    lines = bar_lines(score, now)
    stops = sorted({*lines, *(tick for tick in cuts if 0 < tick < now)})
    at_line = set(lines)
    bars: list[list[Event]] = [[]]
    nearest = 0
    for event in events:
        while nearest < len(stops) and stops[nearest] <= event.start:
            if stops[nearest] in at_line:
                bars.append([])
            nearest += 1
        while nearest < len(stops) and stops[nearest] < event.end:
            stop = stops[nearest]
            bars[-1].append(Event(event.start, stop, event.pitches, bool(event.pitches)))
            event = Event(stop, event.end, event.pitches)
            if stop in at_line:
                bars.append([])
            nearest += 1
        bars[-1].append(event)
    return bars


def end_of(score: Score) -> int:
    """The tick at which the last note, bar line or repeat of a score stands."""
    return moment_of(max([score.length, *score.bars[-1:], *(moment for moment, _ in score.repeats)]))


def bar_lines(score: Score, end: int) -> list[int]:
    """Where the bar lines between 0 and `end` stand: as written, and where nothing is written by the metres."""
    lines = sorted({moment_of(b) for b in (*score.bars, *(moment for moment, _ in score.repeats))} - {0})
    now = lines[-1] if lines else 0
    changes = [moment_of(moment) for moment, _ in score.metres if moment_of(moment) > now]
    if not lines and score.bar_length and 0 < score.pickup < score.bar_length:
        now = moment_of(score.pickup)
        lines.append(now)
    while now < end:
        change = next((moment for moment in changes if moment > now), end)
        metre = score.metre_at(now / QUARTER)
        now = min(change, now + max(QUARTER * 4 * metre[0] // metre[1], _GRID)) if metre else change
        lines.append(now)
    return lines[: bisect_right(lines, end - 1)]


def sounding(notes: Iterable[Note]) -> list[tuple[float, float, int]]:
    """Onset, end (quarters) and pitch of each note on the grid of `to_abc`, sorted: what two scores share."""
    heard = {(*_span(n), n.pitch) for n in notes}
    return [(start / QUARTER, end / QUARTER, pitch) for start, end, pitch in sorted(heard)]
