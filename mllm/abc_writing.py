"""`Score` to compact ABC text: what a language model reads, and what `mllm score convert` writes.

Every accidental outside of the key is written at each note, so readers that carry accidentals through the bar, through
all octaves or not at all hear the same notes.
"""

from functools import lru_cache
from math import gcd

from mllm.measures import QUARTER, Event, bars_of, layers_of
from mllm.score_types import Key, Score

_UNITS = (QUARTER // 2, QUARTER // 4, QUARTER)  # L:1/8, 1/16, 1/4: at equal length of text the first one
_BARS_A_LINE = 4
_MODE = {"major": "", "minor": "m"}  # other modes: their first three letters


def to_abc(score: Score, *, title: bool = True) -> str:
    """One ABC tune, headers X T M L Q K and a `V:` for each voice where there are several or one has a name.

    A voice whose notes overlap is written as several. Moments that no note value reaches (a played MIDI file) go to
    the nearest 24th of a quarter; notated music is exact. Bars follow the first metre. Reading the text again gives
    every sounding note; of a score with a bare key signature it gives that signature's major key.

    Args:
        score: what to write.
        title: write its T: field.
    """
    layers = [(v, layer) for v in sorted({n.voice for n in score.notes}) for layer in layers_of(score.notes, v)]
    key = score.key or (Key.from_signature(score.signature) if score.signature is not None else None)
    bars = [bars_of(layer, score) for _, layer in layers]
    lengths = [e.end - e.start for part in bars for bar in part for e in bar]
    lengths = [ticks * 3 // 2 if _third(ticks) else ticks for ticks in lengths]
    unit = min(_UNITS, key=lambda u: sum(len(_length(length, u)) for length in lengths))
    lines = ["X:1"]
    if title and score.title:
        lines.append(f"T:{' '.join(score.title.split())}")
    lines.append(f"M:{score.metre[0]}/{score.metre[1]}" if score.metre else "M:none")
    lines.append(f"L:1/{4 * QUARTER // unit}")
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


@lru_cache(maxsize=4096)
def _length(ticks: int, unit: int) -> str:
    common = gcd(ticks, unit)
    above, below = ticks // common, unit // common
    return f"{'' if above == 1 else above}{'' if below == 1 else '/' if below == 2 else f'/{below}'}"


def _third(ticks: int) -> bool:
    """Whether three of this length stand in the time of two common note values."""
    return ticks % 3 != 0 and ticks * 3 // 2 % (QUARTER // 64) == 0


def _bar(events: list[Event], unit: int, key: Key | None) -> str:
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


def _sound(event: Event, ticks: int, unit: int, key: Key | None, foreign: set[str]) -> str:
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
