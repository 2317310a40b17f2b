"""Claims about music held against a score: exact, by what is written there.

A check takes the value of a claim (`mllm.claim_finders`) and a score and gives a `Finding`. What a score does not say,
no check guesses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mllm.chord_symbols import to_music21
from mllm.claim_reading import Value
from mllm.claim_words import INSTRUMENTS
from mllm.score_bars import Bar, bar_at, bars_of_score, pitched, spelling_key
from mllm.score_melody import melody_of
from mllm.score_types import Key, Note, Score

TEMPO_TOLERANCE = 0.04  # of the tempo found: accuracy 1 of Gouyon et al., "Audio tempo induction", 2006
EXACT = "exact"
MOST_NAMED = 12  # of the values found


@dataclass(frozen=True)
class Finding:
    """What a check has found. `holds`: whether the value is true; None where that cannot be told."""

    holds: bool | None
    found: str | None
    tolerance: str
    evidence: str


Check = Callable[[Value, Score], Finding]


def unknown(reason: str, found: str | None = None, tolerance: str = EXACT) -> Finding:
    """A finding of what cannot be told, with the reason."""
    return Finding(None, found, tolerance, reason)


def same_key(value: Value, key: Key) -> bool:
    """Whether what is claimed of tonic and mode is true of a key; enharmonic spellings are the same key."""
    tonic = value["tonic"] is None or Key(value["tonic"]).pitch_class == key.pitch_class
    return tonic and value["mode"] in (None, key.mode)


def inside(value: Value, found: float, tolerance: float = 0.0) -> bool:
    """Whether a number lies between "low" and "high", either of which may be open (None)."""
    low, high = value["low"], value["high"]
    above = low is None or found >= low * (1 - tolerance) - 1e-9
    return above and (high is None or found <= high * (1 + tolerance) + 1e-9)


def within_tempo(value: Value, found: float) -> bool:
    """Whether a claimed tempo is that of the music within `TEMPO_TOLERANCE` of the latter."""
    low, high = value["low"], value["high"]
    above = low is None or low <= found * (1 + TEMPO_TOLERANCE) + 1e-9
    return above and (high is None or high >= found * (1 - TEMPO_TOLERANCE) - 1e-9)


def check_key(value: Value, score: Score) -> Finding:
    """Against the key written at the start, or with "where": "later" against those that come after."""
    later = [key for _, key in score.keys if isinstance(key, Key)]
    if value["where"] == "later":
        if len(later) < len(score.keys):
            return unknown("a later key signature of the score does not say its mode")
        names = _named([key.name for key in later]) if later else "no change of key"
        return Finding(any(same_key(value, key) for key in later), names, EXACT, "changes of key written in the score")
    if score.key is None:
        signs = score.signature
        what = (
            "no key" if signs is None else f"a key signature of {abs(signs)} {'sharps' if signs > 0 else 'flats'} only"
        )
        return unknown(f"the score states {what}")
    found, evidence = score.key.name, "key written in the score"
    if same_key(value, score.key):
        return Finding(True, found, EXACT, evidence)
    if any(same_key(value, key) for key in later):
        return unknown("the score changes into this key later on", found)
    if value["tonic"] is None and score.key.mode not in ("major", "minor"):
        return unknown(f"{score.key.mode} is neither major nor minor", found)
    return Finding(False, found, EXACT, evidence + _kinship(value, score.key))


def _kinship(value: Value, key: Key) -> str:
    """How a claimed key is related to the true one, in words."""
    if value["tonic"] is None or value["mode"] is None:
        return ""
    claimed = Key(value["tonic"], value["mode"])
    if claimed.pitch_class == key.pitch_class:
        return f"; {claimed.name} has its tonic but another mode"
    if (claimed.signature - key.signature) % 12 == 0:
        return f"; {claimed.name} is relative to it, with the same signature"
    return ""


def check_tempo(value: Value, score: Score) -> Finding:
    """Against the tempo at the start, in quarters and in beats of the metre; within 4 %."""
    tolerance = f"± {TEMPO_TOLERANCE:.0%}"
    if not score.tempo:
        return unknown("the score states no tempo", tolerance=tolerance)
    beat = felt_beat(score.metre)
    units = [value["beat"]] if value["beat"] else sorted({1.0, beat})
    found = f"{score.tempo:g} quarters a minute"
    if score.metre and beat != 1.0:
        found += f", {score.tempo / beat:g} beats of {score.metre[0]}/{score.metre[1]}"
    evidence = "tempo written in the score"
    if any(within_tempo(value, score.tempo / unit) for unit in units):
        return Finding(True, found, tolerance, evidence)
    if any(within_tempo(value, tempo / unit) for _, tempo in score.tempos for unit in units):
        return unknown("the score changes to this tempo later on", found, tolerance)
    return Finding(False, found, tolerance, evidence)


def felt_beat(metre: tuple[int, int] | None) -> float:
    """Quarters in the beat of a metre: three of its units in compound metres such as 6/8, else one."""
    if metre is None:
        return 1.0
    compound = metre[1] >= 8 and metre[0] % 3 == 0 and metre[0] > 3
    return 4 / metre[1] * (3 if compound else 1)


def check_metre(value: Value, score: Score) -> Finding:
    """Against the time signature at the start, or with "where": "later" against those that come after."""
    claimed = (value["numerator"], value["denominator"])
    later = [metre for _, metre in score.metres if metre]
    if value["where"] == "later":
        names = _named([f"{a}/{b}" for a, b in later]) if later else "no change of metre"
        return Finding(claimed in later, names, EXACT, "changes of time signature written in the score")
    if score.metre is None:
        return unknown("the score states no time signature")
    found = f"{score.metre[0]}/{score.metre[1]}"
    if claimed != score.metre and claimed in later:
        return unknown("the score changes to this metre later on", found)
    return Finding(claimed == score.metre, found, EXACT, "time signature written in the score")


def pitches_of(names: Sequence[str]) -> list[tuple[int, bool]]:
    """What is claimed of notes: MIDI pitch and True of "D5", pitch class and False of "D"."""
    out = []
    for name in names:
        bare = name.rstrip("-0123456789")
        octave = name[len(bare) :]
        number = Key(bare).pitch_class
        if octave:  # B#3 is C4 and Cb4 is B3: the octave number turns at the letter C
            letter = Key(bare[0]).pitch_class
            number = letter + bare.count("#") - bare.count("b") + 12 * (int(octave) + 1)
        out.append((number, bool(octave)))
    return out


def same_pitches(claimed: Sequence[tuple[int, bool]], pitches: Sequence[int]) -> bool:
    """Whether these are the pitches, one by one; octaves count where they are claimed."""
    pairs = zip(claimed, pitches, strict=False)
    return len(claimed) <= len(pitches) and all(p == n if whole else p % 12 == n for (n, whole), p in pairs)


def _spell(score: Score, notes: Sequence[Note]) -> str:
    return _named([spelling_key(score, n.onset).spell(n.pitch) for n in notes])


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")


def check_note(value: Value, score: Score) -> Finding:
    """Against the notes: first and last of the melody, extremes, range, number, and which there are."""
    notes = pitched(score)
    if not notes:
        return unknown("the score has no pitched notes")
    return _NOTE_CHECKS[value["what"]](value, score, notes, melody_of(notes))


def _check_first(value: Value, score: Score, notes: list[Note], melody: list[Note]) -> Finding:
    claimed = pitches_of(value["notes"])
    found = _spell(score, melody[: len(claimed)])
    holds = same_pitches(claimed, [n.pitch for n in melody])
    return Finding(holds, found, EXACT, "first notes of the melody, the highest of the first voice")


def _check_last(value: Value, score: Score, notes: list[Note], melody: list[Note]) -> Finding:
    holds = same_pitches(pitches_of(value["notes"]), [melody[-1].pitch])
    return Finding(holds, _spell(score, melody[-1:]), EXACT, "last note of the melody, the highest of the first voice")


def _check_extreme(value: Value, score: Score, notes: list[Note], melody: list[Note]) -> Finding:
    pick: Callable[..., Note] = max if value["what"] == "highest" else min
    ends = [pick(part, key=lambda n: n.pitch) for part in (notes, melody)]
    ends = ends[:1] if ends[0].pitch == ends[1].pitch else ends
    claimed = pitches_of(value["notes"])
    holds = any(same_pitches(claimed, [n.pitch]) for n in ends)
    of = f"{value['what']} note" + (" of all voices, and of the melody" if len(ends) > 1 else "")
    return Finding(holds, _spell(score, ends), EXACT, f"{of} in the score")


def _check_range(value: Value, score: Score, notes: list[Note], melody: list[Note]) -> Finding:
    ranges = []
    for part in (notes, melody):
        low, high = min(part, key=lambda n: n.pitch), max(part, key=lambda n: n.pitch)
        ranges.append((low, high))
    low, high = ranges[0]
    width = high.pitch - low.pitch
    found = f"{_spell(score, [low])} to {_spell(score, [high])}, {width} semitones"
    if value["notes"]:
        claimed = (
            sorted(pitches_of(value["notes"]))
            if all(w for _, w in pitches_of(value["notes"]))
            else pitches_of(value["notes"])
        )
        holds = any(same_pitches(claimed, [a.pitch, b.pitch]) for a, b in ranges)
    else:
        holds = any(inside(value, b.pitch - a.pitch) for a, b in ranges)
    return Finding(holds, found, EXACT, "lowest and highest note of the score, or of its melody")


def _check_count(value: Value, score: Score, notes: list[Note], melody: list[Note]) -> Finding:
    return Finding(inside(value, len(notes)), str(len(notes)), EXACT, "sounding notes, tied ones as one, as written")


def _check_contains(value: Value, score: Score, notes: list[Note], melody: list[Note]) -> Finding:
    pitches = {n.pitch: n for n in notes}
    return Finding(
        _all_there(value["notes"], list(pitches)), _spell(score, [pitches[p] for p in sorted(pitches)]), EXACT,
        "pitches of the score",
    )  # fmt: skip


def _all_there(names: Sequence[str], pitches: Sequence[int]) -> bool:
    return all(any(same_pitches([one], [p]) for p in pitches) for one in pitches_of(names))


_NOTE_CHECKS: dict[str, Callable[[Value, Score, list[Note], list[Note]], Finding]] = {
    "first": _check_first,
    "last": _check_last,
    "highest": _check_extreme,
    "lowest": _check_extreme,
    "range": _check_range,
    "count": _check_count,
    "contains": _check_contains,
}


def check_bar(value: Value, score: Score) -> Finding:
    """Against the bars as written, numbered from the first full one on: how many, and what stands in one."""
    bars = bars_of_score(score)
    if not bars:
        return unknown("the score has no metre, so its bars cannot be counted")
    count = sum(bar.number > 0 for bar in bars)
    if value["what"] == "count":
        found, evidence = f"{count} bars", "bars as written, without the pickup"
        if not inside(value, count) and (score.repeats or score.jumps) and inside(value, 2 * count):
            return unknown("the score has repeats: the number of bars played differs from that written", found)
        return Finding(inside(value, count), found, EXACT, evidence)
    bar = next((b for b in bars if b.number == value["bar"]), None)
    if bar is None:
        return Finding(False, f"{count} bars", EXACT, f"there is no bar {value['bar']} in the score")
    if value["what"] == "number":
        return unknown(f"the score has a bar {bar.number}; what is said of it was not understood", f"{count} bars")
    return _BAR_CHECKS[value["what"]](value, score, bars, bar)


def _notes_of(score: Score, bars: list[Bar], bar: Bar, notes: list[Note]) -> list[Note]:
    return [n for n in notes if bar_at(bars, n.onset) is bar]


def _check_bar_first(value: Value, score: Score, bars: list[Bar], bar: Bar) -> Finding:
    melody = _notes_of(score, bars, bar, melody_of(pitched(score)))
    claimed = pitches_of(value["notes"])
    holds = same_pitches(claimed, [n.pitch for n in melody])
    found = _spell(score, melody[: len(claimed)]) or "no note begins there"
    return Finding(holds, found, EXACT, f"melody notes that begin in bar {bar.number}")


def _check_bar_contains(value: Value, score: Score, bars: list[Bar], bar: Bar) -> Finding:
    notes = _notes_of(score, bars, bar, pitched(score))
    holds = _all_there(value["notes"], [n.pitch for n in notes])
    return Finding(
        holds, _spell(score, notes) or "no note begins there", EXACT, f"notes that begin in bar {bar.number}"
    )


def _check_bar_extreme(value: Value, score: Score, bars: list[Bar], bar: Bar) -> Finding:
    notes = pitched(score)
    pick: Callable[..., int] = max if value["what"] == "highest" else min
    end = pick(n.pitch for n in notes)
    places = sorted({b.number for n in notes if n.pitch == end and (b := bar_at(bars, n.onset))})
    found = f"{_spell(score, [n for n in notes if n.pitch == end][:1])} in bar {_named([str(p) for p in places])}"
    return Finding(bar.number in places, found, EXACT, f"bars where the {value['what']} note begins")


_BAR_CHECKS: dict[str, Callable[[Value, Score, list[Bar], Bar], Finding]] = {
    "first": _check_bar_first,
    "contains": _check_bar_contains,
    "highest": _check_bar_extreme,
    "lowest": _check_bar_extreme,
}


@lru_cache(maxsize=256)
def instrument_pattern(name: str) -> re.Pattern[str]:
    """What names in a score an instrument of `claim_words.INSTRUMENTS` can have."""
    names = [name, *(alias.strip() for alias in INSTRUMENTS[name])]
    return re.compile("|".join(rf"(?<![a-z]){re.escape(n)}s?(?![a-z])" for n in names), re.IGNORECASE)


def check_instrument(value: Value, score: Score) -> Finding:
    """Against the names of the voices that have notes."""
    playing = sorted({n.voice for n in score.notes})
    names = [score.instruments[v] if v < len(score.instruments) else "" for v in playing]
    known = [name for name in names if any(instrument_pattern(i).search(name) for i in INSTRUMENTS)]
    if not known:
        return unknown("the score names no instruments")
    found = _named(list(dict.fromkeys(known)))
    fits = [bool(instrument_pattern(value["name"]).search(name)) for name in names]
    evidence = "instruments named in the score"
    if any(fits) and (not value["alone"] or all(fits)):
        return Finding(True, found, EXACT, evidence)
    if len(known) < len(names) and not (any(fits) and sum(fits) < len(known)):
        return unknown("not every voice of the score names its instrument", found)
    return Finding(False, found, EXACT, evidence)


@lru_cache(maxsize=2048)
def chord_pitches(symbol: str) -> tuple[int, frozenset[int], int] | None:
    """Root, pitch classes and bass of a chord symbol, by music21; None where it cannot be read."""
    try:
        chord = to_music21(symbol)
        read = chord.root().pitchClass, frozenset(chord.pitchClasses), chord.bass().pitchClass
    except Exception:  # music21 raises almost anything on symbols that it does not know
        return None
    return None if chord.chordKind == "other" else read


def same_chord(claimed: str, written: str) -> bool:
    """Whether a chord as claimed is the one written; "G" is also true of G7, not "G7" of G."""
    a, b = chord_pitches(claimed), chord_pitches(written)
    if a is None or b is None:
        return claimed == written
    return a[0] == b[0] and a[1] <= b[1] and ("/" not in claimed or a[2] == b[2])


def check_chord(value: Value, score: Score) -> Finding:
    """Against the chord symbols written above the notes."""
    if not score.chords:
        return unknown("the score has no chord symbols")
    if strange := [c for c in value["chords"] if chord_pitches(c) is None]:
        return unknown(f"{strange[0]} is no chord symbol that is understood here")
    chords = [c.text for c in score.chords]
    evidence = "chord symbols written in the score"
    if value["bar"] is not None:
        bars = bars_of_score(score)
        bar = next((b for b in bars if b.number == value["bar"]), None)
        if bar is None:
            return Finding(False, f"{sum(b.number > 0 for b in bars)} bars", EXACT, f"there is no bar {value['bar']}")
        inside_bar = [c.text for c in score.chords if bar_at(bars, c.onset) is bar]
        before = [c.text for c in score.chords if c.onset <= bar.start + 1e-6]
        chords = inside_bar if bar_at(bars, score.chords[0].onset) is bar or not before else [before[-1], *inside_bar]
        evidence = f"chord symbols in force in bar {bar.number}"
    runs = [c for i, c in enumerate(chords) if i == 0 or c != chords[i - 1]]
    return Finding(_CHORD_CHECKS[value["what"]](value["chords"], runs), _named(runs), EXACT, evidence)


def _run_of(claimed: list[str], written: list[str]) -> bool:
    """Whether the claimed chords follow each other somewhere in those written."""
    starts = range(len(written) - len(claimed) + 1)
    return any(all(map(same_chord, claimed, written[i : i + len(claimed)])) for i in starts)


_CHORD_CHECKS: dict[str, Callable[[list[str], list[str]], bool]] = {
    "first": lambda claimed, written: same_chord(claimed[0], written[0]),
    "last": lambda claimed, written: same_chord(claimed[0], written[-1]),
    "contains": lambda claimed, written: all(any(same_chord(c, w) for w in set(written)) for c in claimed),
    "sequence": _run_of,
}

SCORE_CHECKS: dict[str, Check] = {
    "key": check_key,
    "tempo": check_tempo,
    "metre": check_metre,
    "bar": check_bar,
    "note": check_note,
    "instrument": check_instrument,
    "chord": check_chord,
}
