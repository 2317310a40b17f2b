"""The melody of a score, its contour and its intervals."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TypedDict

from mllm.score_bars import pitched, spelling_key
from mllm.score_types import Note, Score

_WIDEST_STEP = 2  # semitones
_STEP = 1.0  # semitones that two thirds of a melody must differ by to count as higher or lower


class Motion(TypedDict):
    """Shares of a melody's intervals, 0 to 1; see `motion`."""

    repeats: float
    steps: float
    leaps: float


def melody_of(notes: Sequence[Note]) -> list[Note]:
    """The highest note at each onset of the first voice among `notes`, in order of time."""
    first = min((n.voice for n in notes), default=0)
    highest: dict[float, Note] = {}
    for n in notes:
        if n.voice == first and (n.onset not in highest or n.pitch > highest[n.onset].pitch):
            highest[n.onset] = n
    return [highest[onset] for onset in sorted(highest)]


def contour(melody: list[Note]) -> str | None:
    """The shape of a melody by the mean pitch of its first, middle and last third of time.

    Each mean is weighted by duration; a note belongs to the third it starts in. From third to third the melody goes up
    or down when the means differ by a semitone or more, else it stays:
    "ascending" (up, or up and stay), "descending", "arch" (up, then down), "valley" (down, then up), "level".
    None for fewer than three notes or where a third holds no note's start.

    The definition is our own, after Huron ("The melodic arch in Western folksongs", Computing in Musicology 10, 1996),
    who holds the mean of all notes between against the first and the last one, and tells nine types apart. A third of
    the time says more of a tune than one note does, and a semitone is asked for so that an ornament is no ascent. His
    four types that are level in one half are "ascending" or "descending" here, by the other half.
    """
    if len(melody) < 3:
        return None
    start = melody[0].onset
    third = (max(n.onset + n.duration for n in melody) - start) / 3
    sums, weights = [0.0] * 3, [0.0] * 3
    for n in melody:
        part = min(int((n.onset - start) / third + 1e-9), 2)
        sums[part] += n.pitch * n.duration
        weights[part] += n.duration
    if not all(weights):
        return None
    first, middle, last = (s / w for s, w in zip(sums, weights, strict=True))
    steps = [(b - a >= _STEP) - (a - b >= _STEP) for a, b in ((first, middle), (middle, last))]
    if steps == [1, -1]:
        return "arch"
    if steps == [-1, 1]:
        return "valley"
    return {1: "ascending", -1: "descending", 0: "level"}[max(-1, min(1, sum(steps)))]


def intervals(score: Score) -> Counter[str]:
    """How often the melody makes each interval, up or down, the narrowest first: {"P1": 3, "m2": 10, "P4": 2}.

    An interval lies between a note of the melody (`melody_of`) and the next one, over rests too. Names are those of
    music theory as music21 writes them: P perfect, M major, m minor, A augmented, d diminished, with the number of
    staff places, so that "M9" is wider than an octave. A score holds pitches alone, so both notes are spelled by the
    key in force at the second.
    """
    melody = melody_of(pitched(score))
    found: Counter[tuple[int, str]] = Counter()
    for one, other in zip(melody, melody[1:], strict=False):
        found[abs(other.pitch - one.pitch), _between(score, one, other)] += 1
    named: Counter[str] = Counter()
    for (_, name), count in sorted(found.items()):
        named[name] += count
    return named


def motion(score: Score) -> Motion | None:
    """Which part of the melody's intervals are repeated notes, steps and leaps; None for fewer than two notes.

    As jSymbolic counts them (McKay, Cumming, Fujinaga, "jSymbolic 2.2", ISMIR 2018: repeated notes, stepwise motion):
    a repeat is no semitone, a step one or two, a leap three or more. Rounded to three decimals.
    """
    melody = melody_of(pitched(score))
    widths = [abs(b.pitch - a.pitch) for a, b in zip(melody, melody[1:], strict=False)]
    if not widths:
        return None
    repeats, steps = widths.count(0), widths.count(1) + widths.count(2)
    shares = (round(n / len(widths), 3) for n in (repeats, steps, len(widths) - repeats - steps))
    return Motion(repeats=next(shares), steps=next(shares), leaps=next(shares))


def largest_leap(score: Score) -> str | None:
    """The widest interval of the melody, "M9"; None where it makes no leap, that is no interval above two semitones."""
    melody = melody_of(pitched(score))
    pairs = zip(melody, melody[1:], strict=False)
    widest = max(pairs, key=lambda pair: abs(pair[1].pitch - pair[0].pitch), default=None)
    return _between(score, *widest) if widest and abs(widest[1].pitch - widest[0].pitch) > _WIDEST_STEP else None


def _between(score: Score, one: Note, other: Note) -> str:
    """The name of the interval between two notes that follow each other."""
    key = spelling_key(score, other.onset)
    return _name(*(key.spell(pitch) for pitch in sorted((one.pitch, other.pitch))))


@lru_cache(maxsize=4096)
def _name(low: str, high: str) -> str:
    """The interval between two spelled notes: "C4", "Eb4" is "m3"."""
    from music21.interval import Interval
    from music21.pitch import Pitch

    low, high = (name.replace("b", "-") for name in (low, high))  # music21's flat
    return str(Interval(pitchStart=Pitch(low), pitchEnd=Pitch(high)).name)
