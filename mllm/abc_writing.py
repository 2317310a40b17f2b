"""`Score` to compact ABC text: what a language model reads, and what `mllm score convert` writes.

Every accidental outside of the key is written at each note, so readers that carry accidentals through the bar, through
all octaves or not at all hear the same notes.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import gcd

from mllm.score_types import Key, Note, Score

_QUARTER = 6720  # ticks: 2^6 * 3 * 5 * 7, so that all times here are whole numbers
_NOTATED = {d for d in range(1, 97) if _QUARTER % d == 0}  # denominators of notated moments
_GRID = _QUARTER // 24  # where moments off every notated value are moved to
_UNITS = (_QUARTER // 2, _QUARTER // 4, _QUARTER)  # L:1/8, 1/16, 1/4: at equal length of text the first one
_BARS_A_LINE = 4
_MODE = {"major": "", "minor": "m"}  # other modes: their first three letters


@dataclass(frozen=True)
class _Event:
    """Notes that start and stop together; none is a rest."""

    start: int
    end: int
    pitches: tuple[int, ...]
    held: bool = False  # goes on after this bar: a tie


def to_abc(score: Score, *, title: bool = True) -> str:
    """One ABC tune, headers X T M L Q K and a `V:` for each voice where there are several or one has a name.

    A voice whose notes overlap is written as several. Moments that no note value reaches (a played MIDI file) go to
    the nearest 24th of a quarter; notated music is exact. Bars follow the first metre. Reading the text again gives
    every sounding note; of a score with a bare key signature it gives that signature's major key.

    Args:
        score: what to write.
        title: write its T: field.
    """
    layers = [(v, layer) for v in sorted({n.voice for n in score.notes}) for layer in _layers(score.notes, v)]
    key = score.key or (Key.from_signature(score.signature) if score.signature is not None else None)
    bars = [_bars(layer, score) for _, layer in layers]
    lengths = [e.end - e.start for part in bars for bar in part for e in bar]
    lengths = [ticks * 3 // 2 if _third(ticks) else ticks for ticks in lengths]
    unit = min(_UNITS, key=lambda u: sum(len(_length(length, u)) for length in lengths))
    lines = ["X:1"]
    if title and score.title:
        lines.append(f"T:{' '.join(score.title.split())}")
    lines.append(f"M:{score.metre[0]}/{score.metre[1]}" if score.metre else "M:none")
    lines.append(f"L:1/{4 * _QUARTER // unit}")
    if score.tempo:
        lines.append(f"Q:1/4={score.tempo:g}")
    lines.append(f"K:{key.tonic}{_MODE.get(key.mode, key.mode[:3])}" if key else "K:none")
    named = any(score.instruments[v] for v, _ in layers if v < len(score.instruments))
    for number, ((voice, _), part) in enumerate(zip(layers, bars, strict=True), 1):
        if len(layers) > 1 or named:
            name = score.instruments[voice].replace('"', "'") if voice < len(score.instruments) else ""
            lines.append(f'V:{number} nm="{name}"' if name else f"V:{number}")
        written = [_bar(bar, unit, key) for bar in part]
        rows = [written[i : i + _BARS_A_LINE] for i in range(0, len(written), _BARS_A_LINE)]
        lines += [" | ".join(row) + (" |]" if row is rows[-1] else " |") for row in rows]
    return "\n".join(lines) + "\n"


def _moment(quarters: float) -> int:
    ticks = round(quarters * _QUARTER)
    if _QUARTER // gcd(ticks, _QUARTER) in _NOTATED and abs(ticks / _QUARTER - quarters) < 1e-6:
        return ticks
    return round(quarters * _QUARTER / _GRID) * _GRID


def _layers(notes: Iterable[Note], voice: int) -> list[list[_Event]]:
    """The notes of a voice as few sequences without overlaps; notes of equal start and length are one chord."""
    spans: dict[tuple[int, int], list[int]] = {}
    for n in notes:
        if n.voice == voice:
            start = _moment(n.onset)
            end = max(_moment(n.onset + n.duration), start + _GRID)
            spans.setdefault((start, end), []).append(n.pitch)
    layers: list[list[_Event]] = []
    for (start, end), pitches in sorted(spans.items(), key=lambda s: (s[0][0], -max(s[1]))):
        copies = [sorted(pitches)]
        while len(set(copies[-1])) < len(copies[-1]):  # the same note twice at once: a chord holds it once
            once = sorted(set(copies[-1]))
            rest = list(copies[-1])
            for pitch in once:
                rest.remove(pitch)
            copies[-1:] = [once, rest]
        for chord in copies:
            event = _Event(start, end, tuple(chord))
            free = next((layer for layer in layers if layer[-1].end <= start), None)
            if free is None:
                layers.append([event])
            else:
                free.append(event)
    return layers


def _bars(layer: list[_Event], score: Score) -> list[list[_Event]]:
    """Rests filled in, cut at the bar lines, a list for each bar."""
    events: list[_Event] = []
    now = 0
    for event in layer:
        if event.start > now:
            events.append(_Event(now, event.start, ()))
        events.append(event)
        now = event.end
    lines = _bar_lines(score, now)
    bars: list[list[_Event]] = [[]]
    nearest = 0
    for event in events:
        while nearest < len(lines) and lines[nearest] <= event.start:
            nearest += 1
            bars.append([])
        while nearest < len(lines) and lines[nearest] < event.end:
            bars[-1].append(_Event(event.start, lines[nearest], event.pitches, bool(event.pitches)))
            event = _Event(lines[nearest], event.end, event.pitches)
            nearest += 1
            bars.append([])
        bars[-1].append(event)
    return bars


def _bar_lines(score: Score, end: int) -> list[int]:
    """Where the bar lines between 0 and `end` stand: as written, and where nothing is written by the metre."""
    lines = sorted({_moment(b) for b in score.bars} - {0})
    if score.metre:
        length, pickup = _QUARTER * 4 * score.metre[0] // score.metre[1], _moment(score.pickup)
        first = lines[-1] + length if lines else pickup if 0 < pickup < length else length
        lines += range(first, end, max(length, _GRID))
    return lines[: bisect_right(lines, end - 1)]


@lru_cache(maxsize=4096)
def _length(ticks: int, unit: int) -> str:
    common = gcd(ticks, unit)
    above, below = ticks // common, unit // common
    return f"{'' if above == 1 else above}{'' if below == 1 else '/' if below == 2 else f'/{below}'}"


def _third(ticks: int) -> bool:
    """Whether three of this length stand in the time of two common note values."""
    return ticks % 3 != 0 and ticks * 3 // 2 % (_QUARTER // 64) == 0


def _bar(events: list[_Event], unit: int, key: Key | None) -> str:
    words: list[str] = []
    foreign: set[str] = set()  # letters that carried an accidental in this bar: their next plain use says so
    i = 0
    while i < len(events):
        ticks = events[i].end - events[i].start
        same = sum(e.end - e.start == ticks and not e.held for e in events[i : i + 3])
        triplet = same == 3 and _third(ticks)
        group = events[i : i + 3] if triplet else events[i : i + 1]
        sounds = [
            _sound(e, (e.end - e.start) * 3 // 2 if triplet else e.end - e.start, unit, key, foreign) for e in group
        ]
        words.append(("(3" if triplet else "") + "".join(sounds))
        i += len(group)
    return " ".join(words)


def _sound(event: _Event, ticks: int, unit: int, key: Key | None, foreign: set[str]) -> str:
    names = [_name(pitch, key, foreign) for pitch in event.pitches]
    text = "z" if not names else names[0] if len(names) == 1 else f"[{''.join(names)}]"
    return text + _length(ticks, unit) + ("-" if event.held else "")


def _name(pitch: int, key: Key | None, foreign: set[str]) -> str:
    spelled = (key or Key("C")).spell(pitch)
    letter, octave = spelled[0], int(spelled.lstrip("ABCDEFG#b"))
    alteration = spelled.count("#", 1) - spelled.count("b", 1)
    natural = alteration == (key.alteration(letter) if key else 0)
    accidental = ""
    if not natural or letter in foreign:
        accidental = "^" * alteration if alteration > 0 else "_" * -alteration if alteration else "="
    if not natural:
        foreign.add(letter)
    if octave >= 5:
        return accidental + letter.lower() + "'" * (octave - 5)
    return accidental + letter + "," * (4 - octave)


def sounding(notes: Iterable[Note]) -> list[tuple[float, float, int]]:
    """Onset, end (quarters) and pitch of each note on the grid of `to_abc`, sorted: what two scores share."""
    heard = {(_moment(n.onset), max(_moment(n.onset + n.duration), _moment(n.onset) + 1), n.pitch) for n in notes}
    return [(start / _QUARTER, end / _QUARTER, pitch) for start, end, pitch in sorted(heard)]
