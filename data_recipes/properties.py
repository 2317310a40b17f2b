"""Properties of music that have one value a clip, and plausible wrong values of each: for choices, checks, examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllm.data_recipes.instruments import DRUMS, NAMES, PROGRAM_NAMES
from mllm.data_recipes.templates import Facts, affect, parse_key, pitch_name, round_tempo
from mllm.score_types import Key

Vocabulary = Mapping[str, Sequence[str]]
"""Property -> values that other items of the source have (for open sets of words, such as genres)."""

KINSHIP = (
    ("piano", "harpsichord", "electric piano", "organ", "accordion"),
    ("acoustic guitar", "electric guitar", "harp", "harpsichord", "mallets"),
    ("solo strings", "string ensemble", "choir", "organ"),
    ("flute", "orchestral reeds", "saxophone", "brass", "accordion"),
    ("violin", "viola", "cello", "double bass"),
    ("trumpet", "trombone", "French horn", "tuba"),
    ("oboe", "clarinet", "bassoon", "flute", "recorder"),
)
"""Instruments that are mistaken for one another."""
_SINGLE = (*PROGRAM_NAMES.values(), "double bass", "tuba", "mandolin", "banjo", "ukulele", "English horn", "timpani")
_NSYNTH = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallets", "organ", "reeds", "strings", "synthesizer lead", "voice",
)  # fmt: skip
INSTRUMENTS = (NAMES, _SINGLE, _NSYNTH)
"""Sets of names that do not overlap inside a set: a violin is one of the solo strings, so those never compete."""
METRES = ("2/4", "3/4", "4/4", "6/8")
RARE_METRES = ("5/4", "9/8", "12/8", "2/2", "3/8", "7/8")
GENRES = (
    ("rock", "metal", "punk"), ("electronic", "techno", "disco", "ambient"), ("soul", "funk", "gospel"),
    ("jazz", "blues"), ("classical",), ("country", "folk"), ("hip hop",), ("pop",), ("reggae",),
)  # fmt: skip
MOODS = (
    ("happy", "playful", "funny", "hopeful"), ("sad", "melancholic"), ("calm", "relaxing", "dreamy"),
    ("dark", "tense", "dramatic"), ("energetic", "epic"), ("romantic",), ("aggressive",),
)  # fmt: skip
"""Words of one group may be true together, so that none is a wrong answer for another."""
TEXTURES = ("solo", "duet", "voices", "accompanied")
CONTOURS = ("rising", "falling", "arch", "valley", "level")
_TEMPO_EDGES = ((0, 72, "slow"), (80, 103, "moderate"), (113, 138, "lively"), (150, 999, "fast"))
"""`templates.speed` without the tempi near its bounds, where two listeners would differ."""

Others = Callable[[Facts, str, int, np.random.Generator, Vocabulary], list[str]]
"""(facts, true value, how many, ...) -> that many values, all false of the clip, likeliest mistakes often."""


@dataclass(frozen=True)
class Property:
    """One property.

    `value` gives the true value as an answer says it, or None where the facts do not decide; `others` false ones.
    """

    needs: tuple[str, ...]
    value: Callable[[Facts, np.random.Generator], str | None]
    others: Others
    unit: str = "{}"
    """How an option says the value."""


def _draw(
    candidates: Sequence[str], count: int, rng: np.random.Generator, likely: Sequence[str] = (), weight: float = 4.0
) -> list[str]:
    """`count` (or as many as there are) of the candidates without repetition; `likely` ones `weight` times as often."""
    candidates = list(dict.fromkeys(candidates))
    if not candidates:
        return []
    chance = np.array([weight if c in likely else 1.0 for c in candidates])
    chosen = rng.choice(len(candidates), size=min(count, len(candidates)), replace=False, p=chance / chance.sum())
    return [candidates[int(i)] for i in chosen]


def _around(truth: int, low: int, high: int, steps: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """Numbers below and above `truth`, whose place among all is random, so that the middle one is no safe guess."""
    below = int(rng.integers(count + 1))
    out: list[int] = []
    for sign, wanted in ((-1, below), (1, count - below)):
        at = truth
        for _ in range(wanted):
            at += sign * int(steps[int(rng.integers(len(steps)))])
            out.append(at)
    return [n for n in out if low <= n <= high]


def _instrument(facts: Facts, rng: np.random.Generator) -> str | None:
    names = [n for n in facts["instruments"] if n != DRUMS]
    return names[int(rng.integers(len(names)))] if names else None


def _other_instruments(facts: Facts, truth: str, count: int, rng: np.random.Generator, words: Vocabulary) -> list[str]:
    playing = set(facts["instruments"]) - {DRUMS}
    for names in (*INSTRUMENTS, tuple(words.get("instrument", ()))):
        if playing <= set(names):
            kin = [n for group in KINSHIP if truth in group for n in group]
            return _draw([n for n in names if n not in playing], count, rng, kin)
    return []


def _key(facts: Facts, rng: np.random.Generator) -> str | None:
    key = parse_key(facts["key"])
    return key.name if key else None


def _other_keys(facts: Facts, truth: str, count: int, rng: np.random.Generator, words: Vocabulary) -> list[str]:
    key = parse_key(truth)
    assert key is not None
    major = key.mode in ("major", "lydian", "mixolydian")
    # Relative (or the mode of the same notes), parallel, dominant, subdominant, and the relatives of those two.
    relative = Key.of(key.signature * 7 + (9 if major else 0), "minor" if major else "major")
    near = [relative, Key.of(key.pitch_class, "minor" if major else "major")]
    near += [k.transpose(step) for k in (key, relative) for step in (7, 5)]
    far = [Key.of(pc, mode) for pc in range(12) for mode in ("major", "minor")]
    keys = [k.name for k in (*near, *far) if (k.pitch_class, k.mode) != (key.pitch_class, key.mode)]
    return _draw(keys, count, rng, [k.name for k in near], 6.0)


def _mode(facts: Facts, rng: np.random.Generator) -> str | None:
    key = parse_key(facts["key"])
    return key.mode if key and key.mode in ("major", "minor") else None


def _tempo_class(facts: Facts, rng: np.random.Generator) -> str | None:
    return next((word for low, high, word in _TEMPO_EDGES if low <= facts["tempo"] <= high), None)


def _other_tempi(facts: Facts, truth: str, count: int, rng: np.random.Generator, words: Vocabulary) -> list[str]:
    bpm, below, ratio = int(truth), int(rng.integers(count + 1)), float(rng.uniform(1.16, 1.3))
    powers = [-i for i in range(1, below + 1)] + list(range(1, count - below + 1))
    tempi = [bpm * ratio**p for p in powers]
    # Half and double are what listeners with another beat in mind would say, and not wrong enough.
    clear = [t for t in tempi if 24 < t < 330 and all(abs(t / bpm / r - 1) > 0.04 for r in (0.5, 2.0))]
    return [str(round_tempo(t)) for t in clear]


def _of_set(*known: str) -> Others:
    """Wrong values where there are only these."""
    return lambda facts, truth, count, rng, words: _draw([k for k in known if k != truth], count, rng)


def _of_words(name: str, groups: Sequence[Sequence[str]]) -> Others:
    """Wrong words, from the source's own vocabulary if it gives one; none shares a word or group with a fact."""

    def others(facts: Facts, truth: str, count: int, rng: np.random.Generator, words: Vocabulary) -> list[str]:
        said = {s.lower() for k in ("genre", "mood", "tags") for s in _words(facts.get(k))}
        said |= {w for g in groups if said & set(g) for w in g}
        parts = {w for s in said for w in s.replace("-", " ").split()}
        own = words.get(name, ())
        if not own and not any(truth.lower() in g for g in groups):
            return []
        free = [
            w for w in own or [w for g in groups for w in g] if not parts & set(w.lower().replace("-", " ").split())
        ]
        return _draw(free, count, rng)

    return others


def _words(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else [str(v) for v in value]


def _member(fact: str, known: Sequence[str]) -> Callable[[Facts, np.random.Generator], str | None]:
    return lambda facts, rng: facts[fact] if facts[fact] in known else None


def midi_number(name: str) -> int | None:
    """60 for `C4`; None where it is no note name with octave."""
    letter, rest = name[:1], name[1:]
    sharp = rest.count("#") - rest.count("b")
    try:
        return (
            {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[letter]
            + sharp
            + 12 * (int(rest.lstrip("#b")) + 1)
        )
    except (KeyError, ValueError):
        return None


def _note(fact: str) -> Callable[[Facts, np.random.Generator], str | None]:
    """The note, where the source spells it as the wrong ones will be, else its spelling would tell it from them."""

    def value(facts: Facts, rng: np.random.Generator) -> str | None:
        pitch = midi_number(facts[fact])
        known = pitch is not None and pitch in range(128) and pitch_name(pitch, facts.get("key")) == facts[fact]
        return facts[fact] if known else None

    return value


def _other_notes(facts: Facts, truth: str, count: int, rng: np.random.Generator, words: Vocabulary) -> list[str]:
    """Notes of the scale for one of the scale, others for another: neither sharps nor flats tell the true one."""
    pitch, name = midi_number(truth), facts.get("key")
    key = parse_key(name or "")
    assert pitch is not None
    alike = list(range(128))
    if key:
        # The scale is seven neighbours on the line of fifths.
        scale = {(key.signature + i) * 7 % 12 for i in range(-1, 6)}
        alike = [p for p in alike if (p % 12 in scale) == (pitch % 12 in scale)]
    places = _around(alike.index(pitch), 0, len(alike) - 1, (1, 1, 2) if key else (1, 2, 2, 3, 4), count, rng)
    return [pitch_name(alike[place], name) for place in places]


def _other_counts(facts: Facts, truth: str, count: int, rng: np.random.Generator, words: Vocabulary) -> list[str]:
    return [str(n) for n in _around(int(truth), 1, 10**6, (1, 1, 2, 3), count, rng)]


def _count(fact: str) -> Callable[[Facts, np.random.Generator], str | None]:
    return lambda facts, rng: str(facts[fact]) if isinstance(facts[fact], int) else str(len(facts[fact]))


def _metre(facts: Facts, rng: np.random.Generator) -> str | None:
    return facts["metre"] if facts["metre"] in (*METRES, *RARE_METRES) else None


def _other_metres(facts: Facts, truth: str, count: int, rng: np.random.Generator, words: Vocabulary) -> list[str]:
    # 2/4 against 4/4 or 2/2, and 3/4 against 3/8, are a matter of notation: sound alone does not decide them.
    same = next((g for g in (("2/4", "4/4", "2/2"), ("3/4", "3/8"), ("6/8", "12/8")) if truth in g), (truth,))
    # A rare metre among the options would be the right one too often.
    known = words.get("metre") or (METRES if truth in METRES else (*METRES, *RARE_METRES))
    return _draw([m for m in known if m not in same], count, rng)


def _mood(facts: Facts, rng: np.random.Generator) -> str | None:
    moods = _words(facts["mood"])
    return moods[int(rng.integers(len(moods)))] if moods else None


PROPERTIES: dict[str, Property] = {
    "instrument": Property(("instruments",), _instrument, _other_instruments),
    "key": Property(("key",), _key, _other_keys),
    "mode": Property(("key",), _mode, _of_set("major", "minor")),
    "tempo": Property(("tempo",), lambda f, rng: str(round_tempo(f["tempo"])), _other_tempi, "{} BPM"),
    "tempo_class": Property(("tempo",), _tempo_class, _of_set("slow", "moderate", "lively", "fast")),
    "metre": Property(("metre",), _metre, _other_metres),
    "texture": Property(("texture",), _member("texture", TEXTURES), _of_set(*TEXTURES)),
    "melody_contour": Property(("contour",), _member("contour", CONTOURS), _of_set(*CONTOURS)),
    "melody_lowest": Property(("lowest",), _note("lowest"), _other_notes),
    "melody_highest": Property(("highest",), _note("highest"), _other_notes),
    "genre": Property(("genre",), lambda f, rng: f["genre"], _of_words("genre", GENRES)),
    "mood": Property(("mood",), _mood, _of_words("mood", MOODS)),
    "pitch": Property(("pitch",), lambda f, rng: pitch_name(int(f["pitch"]), f.get("key")), _other_notes),
    "bars": Property(("bars",), _count("bars"), _other_counts, "{} bars"),
    "valence": Property(
        ("valence",),
        lambda f, rng: affect(f["valence"], "negative", "neutral", "positive"),
        _of_set("negative", "neutral", "positive"),
    ),
    "arousal": Property(
        ("arousal",),
        lambda f, rng: affect(f["arousal"], "calm", "moderate", "energetic"),
        _of_set("calm", "moderate", "energetic"),
    ),
    "drums": Property(("drums",), lambda f, rng: "yes" if f["drums"] else "no", _of_set("yes", "no")),
}
"""Property -> how to say and how to miss it."""
