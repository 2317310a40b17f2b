"""Note values of a score, and how many notes sound at once."""

from collections import Counter
from fractions import Fraction

from mllm.score_bars import pitched
from mllm.score_types import Score

_FINEST = 96  # denominator of a note value in quarters: holds 128ths, triplets and their like
_GAP = 1e-4  # quarters that a note counts as shorter by, so that it does not overlap with the next one


def note_values(score: Score) -> Counter[str]:
    """How many notes there are of each length in quarters, the shortest first: {"1/2": 20, "1": 7, "3/2": 4}.

    All voices count, each note of a chord as one; tied notes are one with their lengths added up; drums and grace notes
    are not in it. A length off every notated value, as in played MIDI, is the nearest fraction with a denominator of at
    most 96.
    """
    found: Counter[Fraction] = Counter()
    for quarters, count in Counter(n.duration for n in pitched(score)).items():
        found[max(Fraction(quarters).limit_denominator(_FINEST), Fraction(1, _FINEST))] += count
    return Counter({str(value): found[value] for value in sorted(found)})


def commonest_value(score: Score) -> str | None:
    """The note value that occurs most often; of several the shortest; None without notes."""
    return max(values, key=values.__getitem__) if (values := note_values(score)) else None


def polyphony(score: Score) -> tuple[int, float | None]:
    """The most notes that sound at once, and how many do on average over the time in which any does.

    Drums and grace notes are not in it. (0, None) without notes. A melody of one voice without chords has (1, 1.0).

    The definition is our own. jSymbolic's average number of simultaneous pitches (see `score_melody.motion`) leaves out
    rests as this mean does, but counts two voices in unison as one pitch; here they are two notes.
    """
    edges: list[tuple[float, int]] = []
    for n in pitched(score):
        edges += [(n.onset, 1), (max(n.onset + n.duration - _GAP, n.onset + _GAP / 2), -1)]
    most, now, since, total, covered = 0, 0, 0.0, 0.0, 0.0
    for moment, change in sorted(edges):
        if now:
            total += now * (moment - since)
            covered += moment - since
        now, since = now + change, moment
        most = max(most, now)
    return most, round(total / covered, 3) if covered else None
