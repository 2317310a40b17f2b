"""Played notes to notated moments: which division of its quarter each note meant, and how far it was moved.

symusic's `resample` has one even grid for the whole piece, and music21's `Stream.quantize` decides for each note alone:
triplets and sixteenths mix within a beat, and repeated fast notes fall on one moment. Here each quarter has one
division, and no note vanishes.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, sqrt
from typing import TypeVar

from mllm.errors import ScoreError
from mllm.score_types import Key, Note, Score

T = TypeVar("T")
GRID = (4, 3, 8, 6, 12, 24)
_NOTATED = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24)  # divisions of a quarter that notation programs write exactly
_ENDS = (1, 2, 3, 4, 6, 8, 12)  # on others an end lies by chance, where notes are played short
_EXACT = 1.1 / 480  # quarters: a tick of MIDI as most programs write it
_CLEARLY = 2.0  # how much better a later division of the grid has to fit
_STEADY = 0.05  # quarters, root mean square: what a good player is off the beat (25 ms at 120 quarters a minute)
_MIDI_TEMPO = 120.0  # quarters a minute where a MIDI file states none


@dataclass(frozen=True)
class Moved:
    """How far `quantize` moved the onsets of the notes."""

    notes: int
    mean: float  # quarters
    largest: float  # quarters
    mean_ms: float  # milliseconds at the tempo in force, 120 quarters a minute where none is stated
    largest_ms: float
    share: float  # 0 to 1, of the notes that moved by more than `limit`
    limit: float  # quarters
    tempo_stated: bool
    metre_stated: bool

    def __str__(self) -> str:
        """One line for a person."""
        words = f"{self.notes:,} notes are where they were" if not self.largest else (
            f"{self.notes:,} notes moved by {self.mean:.3f} quarters ({self.mean_ms:.0f} ms) on average, at most "
            f"{self.largest:.3f} ({self.largest_ms:.0f} ms); {100 * self.share:.1f} % by more than {self.limit:g}"
        )  # fmt: skip
        missing = [w for w, stated in (("tempo", self.tempo_stated), ("metre", self.metre_stated)) if not stated]
        if not missing:
            return words
        return f"{words}; the file states no {' and no '.join(missing)}, so its beats may not be those that were played"


def quantize(score: Score, grid: Sequence[int] = GRID, *, limit: float = 1 / 16) -> tuple[Score, Moved]:
    """The score with its notes on notated moments, by the beats that it states itself; no beat is searched for.

    Every quarter gets one division: the first of `grid`, where that moves its onsets by 0.05 quarters or less (root
    mean square); else a later one where it fits clearly better, that is where the moves as a share of its step are
    less than half as large. A later one is also taken where the earlier ones would put two notes of the same pitch and
    voice on one moment. Ends of notes go to the division of the quarter in which they lie. Notes keep their pitch,
    voice, number and order; two of the same pitch and voice never fall on one moment, if need be by moving the later
    one on; each lasts a step of the finest division or more.

    A score whose onsets all lie on notated moments (to a tick of 480) was written, not played: its onsets stay, on
    any division up to 24, and only ends that are no notated moment (many programs end notes early) are moved.

    Args:
        score: what was played, as `read_midi` gives it.
        grid: divisions of a quarter, 1 to 96, the preferred ones first: 4 is sixteenths, 3 is triplets of eighths.
        limit: quarters, for `Moved.share`.

    Raises:
        ScoreError: a grid without divisions, or with one that is none.
    """
    if not grid or any(not isinstance(d, int) or not 1 <= d <= 96 for d in grid):
        raise ScoreError(f"grid {tuple(grid)}: divisions of a quarter are whole numbers from 1 to 96, such as (4, 3)")
    onsets = sorted({n.onset for n in score.notes})
    written = all(_division_of(onset) for onset in onsets)
    quarters: dict[int, list[float]] = defaultdict(list)
    for onset in onsets:
        quarters[floor(onset + _EXACT)].append(onset)
    starting: dict[float, set[tuple[int, int]]] = defaultdict(set)
    for n in score.notes:
        starting[n.onset].add((n.voice, n.pitch))
    divisions = {q: _division(inside, (*grid, *_NOTATED) if written else grid, starting, written)
                 for q, inside in quarters.items()}  # fmt: skip

    def division_at(moment: float) -> int:
        return divisions.get(floor(moment + _EXACT), grid[0])

    where = _placed(onsets, (lambda onset: _division_of(onset) or 1) if written else division_at, starting)

    def nearest(moment: float) -> float:
        if moment in where:
            return where[moment]
        exact = _division_of(moment, _ENDS) if written else None
        return _snap(moment, exact or division_at(moment))

    notes = _with_ends(score.notes, where, divisions, nearest)
    moves = [(abs(where[n.onset] - n.onset), n.onset) for n in score.notes]
    starts, quarters_a_minute = zip(*[(0.0, score.tempo or _MIDI_TEMPO), *score.tempos], strict=True)
    in_ms = [move * 60_000 / quarters_a_minute[bisect_right(starts, onset) - 1] for move, onset in moves]
    count = max(len(moves), 1)
    moved = Moved(
        notes=len(moves),
        mean=sum(move for move, _ in moves) / count,
        largest=max((move for move, _ in moves), default=0.0),
        mean_ms=sum(in_ms) / count,
        largest_ms=max(in_ms, default=0.0),
        share=sum(move > limit for move, _ in moves) / count,
        limit=limit,
        tempo_stated=score.tempo is not None,
        metre_stated=score.metre is not None,
    )
    key, keys = _moved_changes(score.key, score.keys, nearest)
    metre, metres = _moved_changes(score.metre, score.metres, nearest)
    tempo, tempos = _moved_changes(score.tempo, score.tempos, nearest)
    result = replace(
        score,
        notes=sorted(notes),
        abc=None,
        key=key if isinstance(key, Key) else None,
        keys=keys,
        metre=metre,
        metres=metres,
        tempo=tempo,
        tempos=tempos,
        pickup=nearest(score.pickup),
        bars=tuple(sorted({nearest(bar) for bar in score.bars})),
        repeats=tuple((nearest(moment), sign) for moment, sign in score.repeats),
        jumps=tuple((nearest(moment), mark) for moment, mark in score.jumps),
        chords=tuple(replace(chord, onset=nearest(chord.onset)) for chord in score.chords),
        lyrics=tuple(replace(word, onset=nearest(word.onset)) for word in score.lyrics),
        graces=tuple(replace(grace, onset=nearest(grace.onset)) for grace in score.graces),
    )
    return result, moved


def _snap(moment: float, division: int) -> float:
    return round(moment * division) / division


def _division_of(moment: float, divisions: Iterable[int] = _NOTATED) -> int | None:
    """The coarsest division on which a moment lies, to a tick."""
    return next((d for d in divisions if abs(_snap(moment, d) - moment) < _EXACT), None)


def _division(
    onsets: list[float], grid: Sequence[int], starting: dict[float, set[tuple[int, int]]], written: bool
) -> int:
    """The division of a quarter, as `quantize` says; of written music the first on which all onsets lie."""
    if written:
        fits = (d for d in grid if all(abs(_snap(t, d) - t) < _EXACT for t in onsets))
        return next(fits, max(grid))
    best, best_cost, best_clash, steady = grid[0], 0.0, True, False
    for place, division in enumerate(grid):
        off = sqrt(sum((_snap(t, division) - t) ** 2 for t in onsets) / len(onsets))
        clash = False
        seen: dict[float, set[tuple[int, int]]] = defaultdict(set)
        for t in onsets:
            there = seen[_snap(t, division)]
            clash |= bool(starting[t] & there)
            there |= starting[t]
        better = clash == best_clash and not steady and off * division * _CLEARLY < best_cost
        if place == 0 or (best_clash and not clash) or better:
            best, best_cost, best_clash, steady = division, off * division, clash, off <= _STEADY
    return best


def _placed(
    onsets: list[float], division_at: Callable[[float], int], starting: dict[float, set[tuple[int, int]]]
) -> dict[float, float]:
    """Where each onset goes: to its nearest moment, or the next free one where the same note starts there already."""
    where: dict[float, float] = {}
    last, taken = -1.0, set[tuple[int, int]]()
    for onset in onsets:
        division = division_at(onset)
        target = max(_snap(onset, division), last)
        if target == last and starting[onset] & taken:
            target = ceil(last * division + 1 - 1e-6) / division
        if target > last:
            last, taken = target, set()
        taken |= starting[onset]
        where[onset] = target
    return where


def _with_ends(
    notes: Iterable[Note], where: dict[float, float], divisions: dict[int, int], nearest: Callable[[float], float]
) -> Iterator[Note]:
    """The notes at their new onsets, each one step long or more, and not into the next of its pitch and voice."""
    onsets: dict[tuple[int, int], list[float]] = defaultdict(list)
    for n in sorted(notes):
        onsets[n.voice, n.pitch].append(n.onset)
    for n in notes:
        onset, end = where[n.onset], n.onset + n.duration
        new = max(nearest(end), onset + 1 / divisions[floor(n.onset + _EXACT)])
        same = onsets[n.voice, n.pitch]
        after = bisect_right(same, n.onset)
        if after < len(same) and end <= same[after] + _EXACT:
            new = min(new, where[same[after]])
        yield Note(onset, new - onset, n.pitch, n.voice)


def _moved_changes(
    first: T | None, later: Iterable[tuple[float, T]], nearest: Callable[[float], float]
) -> tuple[T | None, tuple[tuple[float, T], ...]]:
    """The value at the start and its changes: of several that come to one moment the last."""
    moved = {nearest(moment): value for moment, value in later}
    return moved.pop(0.0, first), tuple(moved.items())
