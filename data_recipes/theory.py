"""Music theory in words: a question is made from a number, its answer follows from spelling arithmetic.

Notes are spelled on the line of fifths (D. Temperley, The Cognition of Basic Musical Structures, 2001, chapter 5): F C
G D A E B, then the same seven sharp, and the other way flat. So a scale or interval has one right spelling, no table.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from mllm.data_recipes.row import Turn
from mllm.score import Key, Note, Score, to_abc

LETTERS = "FCGDAEB"
QUALITIES = {
    -6: "diminished fifth", -5: "minor second", -4: "minor sixth", -3: "minor third", -2: "minor seventh",
    -1: "perfect fourth", 0: "perfect unison", 1: "perfect fifth", 2: "major second", 3: "major sixth",
    4: "major third", 5: "major seventh", 6: "augmented fourth",
}  # fmt: skip
"""Fifths up from the lower note -> interval inside one octave."""
_SCALES = {
    "major": (0, 2, 4, -1, 1, 3, 5),
    "natural minor": (0, 2, -3, -1, 1, -4, -2),
    "harmonic minor": (0, 2, -3, -1, 1, -4, 5),
    "dorian": (0, 2, -3, -1, 1, 3, -2),
    "mixolydian": (0, 2, 4, -1, 1, 3, -2),
}
_CHORDS = {
    "major triad": (0, 4, 1), "minor triad": (0, -3, 1), "diminished triad": (0, -3, -6), "augmented triad": (0, 4, 8),
    "dominant seventh chord": (0, 4, 1, -2), "major seventh chord": (0, 4, 1, 5), "minor seventh chord": (0, -3, 1, -2),
}  # fmt: skip
_DEGREES = ("I", "ii", "iii", "IV", "V", "vi", "vii°")
_LENGTHS = {
    "whole note": Fraction(4), "half note": Fraction(2), "dotted half note": Fraction(3), "quarter note": Fraction(1),
    "dotted quarter note": Fraction(3, 2), "eighth note": Fraction(1, 2), "dotted eighth note": Fraction(3, 4),
    "sixteenth note": Fraction(1, 4),
}  # fmt: skip
_METRES = ((2, 4), (3, 4), (4, 4), (5, 4), (6, 8), (7, 8), (9, 8), (12, 8), (2, 2), (3, 2))


def spell(fifths: int) -> str:
    """Name of a note by its place on the line of fifths, 0 = F: 1 -> C, 7 -> F#, -1 -> Bb."""
    accidental, letter = divmod(fifths, 7)
    return LETTERS[letter] + ("#" * accidental if accidental > 0 else "b" * -accidental)


def semitone(fifths: int) -> int:
    """Pitch class of the same, 0 = C."""
    return (fifths * 7 + 5) % 12


def interval(low: int, high: int) -> str:
    """Interval from one note of the line of fifths up to the next `high` above it."""
    return QUALITIES[high - low]


def _pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def _tonic(rng: np.random.Generator, mode: str = "major") -> int:
    """A tonic whose key signature has at most six sharps or flats; C is 1."""
    return int(rng.integers(-5, 8)) + {"major": 0, "mixolydian": 1, "dorian": 2}.get(mode, 3)


def _interval(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    low, step = int(rng.integers(-4, 12)), _pick(rng, [f for f in QUALITIES if f])
    name, a, b = QUALITIES[step], spell(low), spell(low + step)
    size = (semitone(low + step) - semitone(low)) % 12
    forms = [
        (f"What interval is it from {a} up to the next {b}?", f"A {name}." if name[0] != "a" else f"An {name}."),
        (f"Which note lies a{'n' if name[0] == 'a' else ''} {name} above {a}?", b),
        (f"How many semitones are there from {a} up to the next {b}?", str(size)),
        (f"Name the interval {a}–{b}, the lower note first.", name),
    ]
    return _pick(rng, forms), {"low": a, "high": b, "interval": name, "semitones": size}


def _scale(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    kind = _pick(rng, list(_SCALES))
    tonic = _tonic(rng, "minor" if "minor" in kind else kind)
    notes = [spell(tonic + f) for f in _SCALES[kind]]
    degree = int(rng.integers(2, 8))
    ordinal = {2: "second", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh"}[degree]
    forms = [
        (f"Spell the {notes[0]} {kind} scale, ascending.", " ".join(notes)),
        (f"Which notes does the scale of {notes[0]} {kind} have?", ", ".join(notes)),
        (f"What is the {ordinal} degree of {notes[0]} {kind}?", notes[degree - 1]),
    ]
    return _pick(rng, forms), {"scale": f"{notes[0]} {kind}", "spelled": notes}


def _signature(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    mode = _pick(rng, ("major", "minor"))
    tonic = _tonic(rng, mode)
    count = tonic - (1 if mode == "major" else 4)
    key, other = (
        f"{spell(tonic)} {mode}",
        f"{spell(tonic + (3 if mode == 'major' else -3))} {'minor' if mode == 'major' else 'major'}",
    )
    words = (
        "no sharps or flats"
        if not count
        else f"{abs(count)} {'sharp' if count > 0 else 'flat'}{'s' * (abs(count) > 1)}"
    )
    forms = [
        (f"What is the key signature of {key}?", f"It has {words}."),
        (f"Which {'minor' if mode == 'major' else 'major'} key shares its key signature with {key}?", other),
        (f"Which {mode} key has {words} in its key signature?", key),
        (f"What is the {'relative minor' if mode == 'major' else 'relative major'} of {key}?", other),
        (f"What is the dominant of {key}?", spell(tonic + 1)),
    ]
    return _pick(rng, forms), {"key": key, "sharps": count, "relative": other}


def _chord(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    kind, root = _pick(rng, list(_CHORDS)), int(rng.integers(-3, 10))
    notes = [spell(root + f) for f in _CHORDS[kind]]
    shown = [notes[i] for i in rng.permutation(len(notes))]
    forms = [
        (f"Spell the {kind} on {notes[0]}.", " ".join(notes)),
        (f"Which chord is made of {', '.join(notes)}, from the bottom up?", f"{notes[0]} {kind}"),
        (f"Name the root of this {kind}: {', '.join(shown)}.", notes[0]),
    ]
    if kind == "augmented triad":
        forms.pop()  # every note of it divides the octave alike; only its spelling tells
    return _pick(rng, forms), {"chord": f"{notes[0]} {kind}", "spelled": notes}


def _roman(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    tonic, degree = _tonic(rng), int(rng.integers(7))
    scale = [spell(tonic + f) for f in _SCALES["major"]]
    notes = [scale[(degree + i) % 7] for i in (0, 2, 4)]
    numeral = _DEGREES[degree]
    forms = [
        (f"In {scale[0]} major, which notes make the chord {numeral}?", " ".join(notes)),
        (f"Which Roman numeral is the triad {' '.join(notes)} in {scale[0]} major?", numeral),
        (f"What is the root of {numeral} in {scale[0]} major?", notes[0]),
    ]
    return _pick(rng, forms), {"key": f"{scale[0]} major", "numeral": numeral, "spelled": notes}


def _metre(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    beats, unit = _pick(rng, _METRES)
    name, metre, whole = _pick(rng, list(_LENGTHS)), f"{beats}/{unit}", Fraction(4 * beats, unit)
    fit = whole / _LENGTHS[name]
    names = [_pick(rng, list(_LENGTHS)) for _ in range(int(rng.integers(2, 6)))]
    total = sum((_LENGTHS[n] for n in names), Fraction(0))
    verdict = (
        "They fill it exactly." if total == whole else "They are too long." if total > whole else "They are too short."
    )
    asked = f"A bar of {metre} should hold these notes: {', '.join(names)}. "
    asked += "Do they fill it exactly, or are they too long or too short?"
    forms = [
        (asked, verdict),
        (f"How many quarter notes long is a bar of {metre}?", _number(whole)),
    ]
    if fit.denominator == 1:
        forms.append((f"How many {name}s fill a bar of {metre}?", str(fit.numerator)))
    return _pick(rng, forms), {"metre": metre, "quarters": str(whole), "lengths": names}


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"


def _transposition(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    notes = [int(rng.integers(-1, 9)) for _ in range(int(rng.integers(3, 6)))]
    step = _pick(rng, [f for f in QUALITIES if f and abs(f) < 6])
    before, after = [spell(n) for n in notes], [spell(n + step) for n in notes]
    name = QUALITIES[step]
    forms = [
        (f"Transpose up a {name}: {' '.join(before)}", " ".join(after)),
        (f"{' '.join(before)} becomes {' '.join(after)}. By which interval up was it transposed?", f"A {name}."),
    ]
    return _pick(rng, forms), {"spelled": before, "transposed": after, "interval": name}


_TRIADS: dict[str, dict[str, tuple[int, ...]]] = {
    "major": {
        "I": (0, 4, 1), "ii": (2, -1, 3), "iii": (4, 1, 5), "IV": (-1, 3, 0), "V": (1, 5, 2), "vi": (3, 0, 4),
        "vii°": (5, 2, -1), "V7": (1, 5, 2, -1),
    },
    "minor": {
        "i": (0, -3, 1), "ii°": (2, -1, -4), "III": (-3, 1, -2), "iv": (-1, -4, 0), "V": (1, 5, 2), "VI": (-4, 0, -3),
        "vii°": (5, 2, -1), "V7": (1, 5, 2, -1),
    },
}  # fmt: skip
"""Mode -> numeral -> fifths from the tonic, root first; minor with the raised seventh in V and vii°."""
_POSITIONS = ("root position", "first inversion", "second inversion", "third inversion")


def chord_kind(fifths: tuple[int, ...]) -> str:
    """What a chord is, from its notes on the line of fifths, root first: `minor triad`."""
    return next(kind for kind, of in _CHORDS.items() if of == tuple(f - fifths[0] for f in fifths))


def _written_chords(rng: np.random.Generator) -> tuple[str, str, list[tuple[str, tuple[int, ...], int]]]:
    """(ABC, key, (numeral, fifths, inversion) of each bar) of four block chords in a key."""
    mode = _pick(rng, ("major", "minor"))
    tonic = _tonic(rng, mode)
    chords, notes = [], []
    for bar in range(4):
        numeral = _pick(rng, list(_TRIADS[mode]))
        fifths = tuple(tonic + f for f in _TRIADS[mode][numeral])
        inversion = int(rng.integers(len(fifths)))
        low = 59
        for f in (*fifths[inversion:], *fifths[:inversion]):
            low += 1 + (semitone(f) - low - 1) % 12
            notes.append(Note(4.0 * bar, 4.0, low))
        chords.append((numeral, fifths, inversion))
    key = Key(spell(tonic), mode)
    text = to_abc(Score(notes=sorted(notes), key=key, metre=(4, 4), instruments=[""]))
    return text, key.name, chords


def _score_chord(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    text, key, chords = _written_chords(rng)
    bar = int(rng.integers(4))
    _, fifths, inversion = chords[bar]
    root, kind = spell(fifths[0]), chord_kind(fifths)
    spelled = [spell(f) for f in fifths]
    name = f"{root} {kind}"
    forms = [
        (f"Name the chord in bar {bar + 1} by root and kind.", name),
        (f"Which chord stands in bar {bar + 1}?", name),
        (f"Bar {bar + 1}: root and kind of the chord?", name),
        (f"Which chord do the notes of bar {bar + 1} make? Give root and kind.", name),
        (f"What is the root of the chord in bar {bar + 1}?", root),
        (f"Is the chord in bar {bar + 1} in root position or in which inversion?", _POSITIONS[inversion]),
        (f"Spell the chord in bar {bar + 1} from its root.", " ".join(spelled)),
    ]
    question, answer = _pick(rng, forms)
    facts = {"chord": name, "inversion": _POSITIONS[inversion], "bar": bar + 1, "key": key, "spelled": spelled}
    return (f"{question}\n{text}", answer), facts


def _score_roman(rng: np.random.Generator) -> tuple[Turn, dict[str, Any]]:
    text, key, chords = _written_chords(rng)
    bar, numerals = int(rng.integers(4)), [numeral for numeral, _, _ in chords]
    line = " ".join(numerals)
    forms = [
        (f"The key is {key}. Which Roman numeral is the chord in bar {bar + 1}? Leave inversions out.", numerals[bar]),
        (f"In {key}, name the chord of bar {bar + 1} as a Roman numeral, without its inversion.", numerals[bar]),
        (f"Analyse these four chords in {key} with Roman numerals, without inversions.", line),
        (f"Give the Roman numerals of the bars in {key}; inversions do not matter.", line),
    ]
    question, answer = _pick(rng, forms)
    return (f"{question}\n{text}", answer), {"key": key, "numerals": numerals, "bar": bar + 1}


TOPICS: dict[str, Callable[[np.random.Generator], tuple[Turn, dict[str, Any]]]] = {
    "theory_interval": _interval,
    "theory_scale": _scale,
    "theory_signature": _signature,
    "theory_chord": _chord,
    "theory_roman": _roman,
    "theory_metre": _metre,
    "theory_transposition": _transposition,
    "theory_score_chord": _score_chord,
    "theory_score_roman": _score_roman,
}
"""Task -> what makes a question, its answer and the facts behind both."""


def theory_question(rng: np.random.Generator) -> tuple[str, Turn, dict[str, Any]]:
    """(task, (question, answer), facts) of one question, all drawn from `rng`."""
    task = _pick(rng, list(TOPICS))
    turn, facts = TOPICS[task](rng)
    return task, turn, facts
