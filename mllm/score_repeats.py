"""Repeats, endings and jumps of a score, played out."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from mllm.errors import ScoreError
from mllm.score_jumps import with_jumps
from mllm.score_types import MAX_NOTES, ChordSymbol, Grace, Lyric, Note, Score

_NEAR = 1e-6  # quarters: what lies closer is the same moment
Timed = TypeVar("Timed", Note, ChordSymbol, Lyric, Grace)
Change = TypeVar("Change")
Stretch = tuple[float, float]  # from, to: written quarters


def unfold(score: Score) -> Score:
    """The score as it sounds: what stands between repeat marks comes twice, each ending once.

    A repeat goes back to the last "|:", or to the end of the last repeat, or to the start. A D.C. or D.S. is followed
    as `score_jumps.with_jumps` says. Keys, metres and tempos that a repeat takes back are stated again.

    Raises ScoreError where more than 200,000 notes would sound.
    """
    if not score.repeats and not score.jumps:
        return score
    end = max(score.length, score.bars[-1] if score.bars else 0.0)
    order = with_jumps(play_order(score.repeats, end), score.jumps)
    onsets = sorted(note.onset for note in score.notes)
    if sum(bisect_left(onsets, end - _NEAR) - bisect_left(onsets, start - _NEAR) for start, end in order) > MAX_NOTES:
        raise ScoreError(f"more than {MAX_NOTES:,} notes when the repeats are played out")
    return replace(
        score,
        notes=sorted(_played(score.notes, order)),
        bars=_bars(score.bars, order),
        keys=_restated(score.key if score.key is not None else score.signature, score.keys, order),
        metres=_restated(score.metre, score.metres, order),
        tempos=_restated(score.tempo, score.tempos, order),
        repeats=(),
        jumps=(),
        chords=tuple(_played(score.chords, order)),
        lyrics=tuple(_played(score.lyrics, order)),
        graces=tuple(_played(score.graces, order)),
    )


def play_order(repeats: Iterable[tuple[float, str]], end: float) -> list[Stretch]:
    """Stretches of written time in the order of their playing.

    A repeat with endings is played as often as its endings count, "[1,2" and "[3" three times; the last one goes on.
    """
    marks = [*repeats, (end, "")]
    order: list[Stretch] = []
    start = 0.0
    endings: list[tuple[set[int], float]] = []  # of the repeat being read: times through, and where each begins
    closed = 0.0  # where the last ending was closed by a repeat sign

    def play(until: float) -> None:
        """What was written up to here, with its endings."""
        if not endings:
            order.append((start, until))
            return
        stops = [begin for _, begin in endings[1:]] + [until]
        times = max(n for numbers, _ in endings for n in numbers)
        for time in range(1, times + 1):
            for (numbers, begin), stop in zip(endings, stops, strict=True):
                if time in numbers:
                    order.extend([(start, endings[0][1]), (begin, stop)])
        if closed == until and times == 1:  # a repeat sign, and no ending for the next time
            order.append((start, endings[0][1]))
        elif closed == until and len(stops) > 1 and stops[-1] - endings[-1][1] > stops[-2] - endings[-2][1] + _NEAR:
            order.append((endings[-1][1], until))  # it closes a part of its own behind the last ending

    for (moment, mark), (later, after) in zip(marks, [*marks[1:], (end, "")], strict=True):
        if mark.startswith("["):
            endings.append((_numbers(mark), moment))
        elif mark == ":|" and moment > start:
            closed = moment if endings else closed
            if endings and after.startswith("[") and later - moment < _NEAR:
                continue
            if not endings:
                order.append((start, moment))
            play(moment)
            start, endings = moment, []
        elif mark in ("|:", "") and moment > start:
            play(moment)
            start, endings = moment, []
    return [(a, b) for a, b in order if b > a]


def _numbers(mark: str) -> set[int]:
    """Which times through an ending is for: 1 and 2 of "[1,2"; at most nine."""
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", mark):
        numbers |= set(range(int(first), int(last or first) + 1)) if int(last or first) <= 9 else set()
    return numbers or {1}


def _placed(order: list[Stretch]) -> list[tuple[float, float, float]]:
    """When each stretch begins to sound, and its written start and end."""
    placed, now = [], 0.0
    for start, end in order:
        placed.append((now, start, end))
        now += end - start
    return placed


def _bars(bars: tuple[float, ...], order: list[Stretch]) -> tuple[float, ...]:
    played = set()
    for now, start, end in _placed(order):
        inside = bars[bisect_right(bars, start) : bisect_right(bars, end + _NEAR)]
        played |= {now + bar - start for bar in inside}
    return tuple(sorted(played))


def _played(marks: Iterable[Timed], order: list[Stretch]) -> list[Timed]:
    marks = sorted(marks, key=lambda mark: mark.onset)
    onsets = [mark.onset for mark in marks]
    return [
        replace(mark, onset=now + mark.onset - start)
        for now, start, end in _placed(order)
        for mark in marks[bisect_left(onsets, start - _NEAR) : bisect_left(onsets, end - _NEAR)]
    ]


def _restated(
    first: Change | None, changes: tuple[tuple[float, Change], ...], order: list[Stretch]
) -> tuple[tuple[float, Change], ...]:
    """The changes as they sound; where a repeat goes back behind one, what was in force there comes again."""
    played: list[tuple[float, Change]] = []
    in_force = first
    moments = [moment for moment, _ in changes]
    for now, start, end in _placed(order):
        known = bisect_right(moments, start + _NEAR)
        back = changes[known - 1][1] if known else first
        for moment, value in [(start, back), *changes[known : bisect_left(moments, end - _NEAR)]]:
            if value is not None and value != in_force:
                played.append((now + moment - start, value))
                in_force = value
    return tuple(played)
