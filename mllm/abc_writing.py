"""`Score` to compact ABC text: what a language model reads, and what `mllm score convert` writes.

Every accidental outside of the key is written at each note, so readers that carry accidentals through the bar, through
all octaves or not at all hear the same notes.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from mllm.abc_lyrics import written
from mllm.measures import QUARTER, Event, bars_of, end_of, layers_of, moment_of
from mllm.score_jumps import AT_START, CODA, DA_CAPO, DAL_SEGNO, FINE, SEGNO, TO_CODA
from mllm.score_types import Key, Score

_UNITS = (QUARTER // 2, QUARTER // 4, QUARTER)  # L:1/8, 1/16, 1/4: at equal length of text the first one
_SHORTEST = QUARTER // 64  # of the common note values
_BARS_A_LINE = 4
_SIGNS = {
    FINE: "fine", SEGNO: "segno", CODA: "coda", TO_CODA: "dacoda", DA_CAPO: "D.C.", DAL_SEGNO: "D.S.",
}  # fmt: skip
_MODE = {"major": "", "minor": "m"}  # other modes: their first three letters


def to_abc(score: Score, *, title: bool = True) -> str:
    """One ABC tune, headers X T M L Q K and a `V:` for each voice where there are several or one has a name.

    A voice whose notes overlap is written as several. Moments that no note value reaches (a played MIDI file) go to
    the nearest 24th of a quarter; notated music is exact. Reading the text again gives every sounding note with all
    that `Score` holds beside them; of a score with a bare key signature it gives that signature's major key.

    Args:
        score: what to write.
        title: write its T: field.
    """
    key = score.key or (Key.from_signature(score.signature) if score.signature is not None else None)
    parts = _parts(score)
    lengths = [e.end - e.start for part in parts for bar in part.bars for e in bar]
    lengths = [ticks * 3 // 2 if _third(ticks) else ticks for ticks in lengths]
    unit = min(_UNITS, key=lambda u: sum(len(_length(length, u)) for length in lengths))
    lines = ["X:1"]
    if title and score.title:
        lines.append(f"T:{_text(score.title)}")
    lines += [f"M:{_metre(score.metre)}", f"L:1/{4 * QUARTER // unit}"]
    if score.tempo:
        lines.append(f"Q:{_tempo(score.tempo)}")
    lines.append(f"K:{_key(key)}")
    named = any(score.instruments[part.voice] for part in parts if part.voice < len(score.instruments))
    for number, part in enumerate(parts, 1):
        if len(parts) > 1 or named:
            name = score.instruments[part.voice] if part.voice < len(score.instruments) else ""
            name = _text(name.replace('"', "'"))
            lines.append(f'V:{number} nm="{name}"' if name else f"V:{number}")
        lines += _rows(part, unit, key)
    return "\n".join(lines) + "\n"


@dataclass
class _Part:
    """What one V: of the tune holds."""

    voice: int
    bars: list[list[Event]]
    before: dict[int, str] = field(default_factory=dict)  # tick -> chord symbol
    fields: dict[int, str] = field(default_factory=dict)  # tick -> inline fields
    graces: dict[int, list[int]] = field(default_factory=dict)  # tick -> pitches
    keys: dict[int, Key] = field(default_factory=dict)  # tick -> the key from there on
    lyrics: dict[int, dict[int, str]] = field(default_factory=dict)  # verse -> tick -> syllable
    marks: dict[int, set[str]] = field(default_factory=dict)  # tick -> repeats and endings
    jumps: list[tuple[int, str]] = field(default_factory=list)  # ticks


def _parts(score: Score) -> list[_Part]:
    parts: list[_Part] = []
    marks: dict[int, set[str]] = {}
    for moment, mark in score.repeats:
        marks.setdefault(moment_of(moment), set()).add(mark)
    keys = {moment_of(m): k if isinstance(k, Key) else Key.from_signature(k) for m, k in score.keys}
    fields = {tick: f"[K:{_key(key)}]" for tick, key in keys.items()}
    for moment, metre in score.metres:
        fields[moment_of(moment)] = f"[M:{_metre(metre)}]" + fields.get(moment_of(moment), "")
    for voice in sorted({n.voice for n in score.notes}):
        layers = layers_of(score.notes, voice)
        starts = [{event.start for event in layer} for layer in layers]

        def place(moment: float, starts: list[set[int]] = starts) -> int:
            return next((i for i, ticks in enumerate(starts) if moment_of(moment) in ticks), 0)

        made = [_Part(voice, [], {}, dict(fields), keys=keys, marks=marks) for _ in layers]
        for grace in score.graces:
            if grace.voice == voice:
                made[place(grace.onset)].graces.setdefault(moment_of(grace.onset), []).append(grace.pitch)
        for lyric in score.lyrics:
            if lyric.voice == voice:
                made[place(lyric.onset)].lyrics.setdefault(lyric.verse, {})[moment_of(lyric.onset)] = lyric.text
        if not parts:
            made[0].jumps = [(moment_of(moment), mark) for moment, mark in score.jumps]
            made[0].before = {moment_of(c.onset): f'"{c.text}"' for c in score.chords}
            for moment, tempo in score.tempos:
                made[0].fields[moment_of(moment)] = f"[Q:{_tempo(tempo)}]" + made[0].fields.get(moment_of(moment), "")
        for number, (part, layer) in enumerate(zip(made, layers, strict=True)):
            cuts = {*part.before, *part.fields, *part.graces}
            part.bars = bars_of(layer, score, until=0 if number else end_of(score), cuts=cuts)
        parts += made
    return parts


def _rows(part: _Part, unit: int, key: Key | None) -> list[str]:
    """The lines of notation of one voice, each with its w: lines."""
    lines: list[str] = []
    for first in range(0, len(part.bars), _BARS_A_LINE):
        row = part.bars[first : first + _BARS_A_LINE]
        line = ""
        for number, bar in enumerate(row, first):
            marks = part.marks.get(bar[0].start, set())
            ending = next((mark[1:] for mark in sorted(marks) if mark[0] == "["), "")
            opens = "|:" in marks
            if number == first:
                line += "|:" if opens else ""
                line += (ending if opens else f"[{ending}") + " " if ending else " " if opens else ""
            elif ":|" in marks:
                line += f" :{'|:' if opens else '|'}{ending} "
            else:
                line += f" {'|:' if opens else '|'}{ending} "
            text, key = _bar(bar, unit, key, part)
            begin, end = bar[0].start, bar[-1].end
            line += "".join(f"!{_SIGNS[m]}!" for tick, m in part.jumps if m in AT_START and begin <= tick < end) + text
            line += "".join(f" !{_SIGNS[m]}!" for tick, m in part.jumps if m not in AT_START and begin < tick <= end)
            if number + 1 == len(part.bars):  # chords behind the last note
                line += "".join(f" {chord}" for tick, chord in sorted(part.before.items()) if tick >= end)
        after = part.marks.get(row[-1][-1].end, set())
        last = first + len(row) == len(part.bars)
        lines.append(line + (" :|" if ":|" in after else " |]" if last else " |"))
        lines += _words(part, [event for bar in row for event in bar if event.pitches])
    return lines


def _words(part: _Part, events: list[Event]) -> list[str]:
    """The w: lines under a line of notation; a verse without words here is left out if none comes after it."""
    verses = [v for v, lyrics in part.lyrics.items() if any(event.start in lyrics for event in events)]
    lines = []
    for verse in range(1, max(verses, default=0) + 1):
        lyrics = part.lyrics.get(verse, {})
        lines.append(f"w: {written([lyrics.get(event.start, '') for event in events]) or '*'}")
    return lines


def _text(words: str) -> str:
    """On one line, and without what would begin a comment."""
    return " ".join(words.split()).replace("%", "\\%")


def _metre(metre: tuple[int, int] | None) -> str:
    return f"{metre[0]}/{metre[1]}" if metre else "none"


def _tempo(tempo: float) -> str:
    return f"1/4={tempo:g}"


def _key(key: Key | None) -> str:
    return f"{key.tonic}{_MODE.get(key.mode, key.mode[:3])}" if key else "none"


@lru_cache(maxsize=4096)
def _length(ticks: int, unit: int) -> str:
    return note_length(Fraction(ticks, unit))


def note_length(units: Fraction) -> str:
    """How a note of so many units is written behind its name: "" for one, "3/" for one and a half."""
    above, below = units.numerator, units.denominator
    return f"{'' if above == 1 else above}{'' if below == 1 else '/' if below == 2 else f'/{below}'}"


def _third(ticks: int) -> bool:
    """Whether three of this length stand in the time of two common note values."""
    return ticks % _SHORTEST != 0 and ticks * 3 % (2 * _SHORTEST) == 0


def _bar(events: list[Event], unit: int, key: Key | None, part: _Part) -> tuple[str, Key | None]:
    """A bar's notation, and the key that is in force at its end."""
    words: list[str] = []
    foreign: set[str] = set()  # letters that carried an accidental in this bar: their next plain use says so
    i = 0
    while i < len(events):
        ticks = events[i].end - events[i].start
        same = sum(e.end - e.start == ticks and not e.held for e in events[i : i + 3])
        triplet = same == 3 and _third(ticks) and not any(e.start in part.fields for e in events[i + 1 : i + 3])
        group = events[i : i + 3] if triplet else events[i : i + 1]
        key = part.keys.get(group[0].start, key)
        sounds = []
        for event in group:
            graces = "".join(_name(pitch, key, foreign) for pitch in part.graces.get(event.start, ()))
            length = event.end - event.start
            sound = _sound(event, length * 3 // 2 if triplet else length, unit, key, foreign)
            sounds.append(part.before.get(event.start, "") + (f"{{{graces}}}" if graces else "") + sound)
        words.append(part.fields.get(group[0].start, "") + ("(3" if triplet else "") + "".join(sounds))
        i += len(group)
    return " ".join(words), key


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
