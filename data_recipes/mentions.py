"""What a text says about music: keys, tempi, metres, instruments, notes, chords, counts; and whether it is true."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mllm.data_recipes.properties import midi_number
from mllm.data_recipes.templates import known, parse_key, speed

_MODES = "major|minor|dorian|mixolydian|lydian|phrygian|locrian"
_KEY = re.compile(rf"\b([A-G])(?:\s?(#|b|♯|♭)|[\s-](sharp|flat))?[\s-]({_MODES}|maj|min)\b")
_BARE_MODE = re.compile(r"\b(major|minor)\b")
_NUMBER = r"(\d+(?:\.\d+)?)"
_TEMPO = re.compile(
    rf"{_NUMBER}\s*(?:bpm\b|beats?\s+(?:per|a|each|every)\s+minute)|"
    rf"(?:tempo|bpm)\s*(?:is|of|:|=|at|about|around|roughly|near|\s|\")*{_NUMBER}(?![\d/])|♩\s*=\s*{_NUMBER}",
    re.I,
)
_METRE = re.compile(r"(?<![\d/])(\d{1,2})\s?/\s?(2|4|8|16)(?![\d/])")
_SPOKEN = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "nine": 9, "twelve": 12}
_SPOKEN_METRE = re.compile(
    r"\b(two|three|four|five|six|seven|nine|twelve)[- ](two|four|eight)\b(?!\s*(?:bars|beats))", re.I
)
_NOTE = re.compile(r"(?<![A-Za-z])([A-G][#b♯♭]{0,2}-?\d)(?![\d/])")
_LETTERS = re.compile(r"(?<![A-Za-z])[A-G][#b♯♭]{0,2}(?:\s*,\s*(?:and\s+)?[A-G][#b♯♭]{0,2}(?![A-Za-z#\d:]))+")
_CHORD = re.compile(r"(?<![A-Za-z])([A-G][#b]?:[a-z0-9()#,]*[a-z0-9)](?:/[#b]?\d+)?)")
_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}:\d{2})(?![\d:])")
_COUNT = re.compile(r"(?<![\w./:#-])(\d+(?:\.\d+)?)(?![\w/:]|\.\d)")
_WORD = re.compile(r"[a-z]+", re.I)
_COUNT_WORDS = {
    w: n for n, w in enumerate("two three four five six seven eight nine ten eleven twelve".split(), start=2)
}  # fmt: skip
_NEGATIONS = re.compile(r"\b(?:not|no|never|nobody|none|nothing|without|cannot|neither|nor)\b|n['’]t\b", re.I)
_YES = re.compile(r"^\s*(yes|no)\b", re.I)
_SHAPES = {
    "rising": ("rising", "rises", "ascending", "ascends", "climbs", "climbing", "upward", "upwards"),
    "falling": ("falling", "falls", "descending", "descends", "downward", "downwards"),
    "arch": ("arch", "arched", "arching"),
    "valley": ("valley",),
}
_SPEEDS = {
    "slow": ("slow", "slowly", "leisurely", "unhurried", "sluggish"),
    "moderate": ("moderate", "moderately", "medium"),
    "lively": ("lively", "animated"),
    "fast": ("fast", "quick", "quickly", "rapid", "rapidly", "brisk"),
}
INSTRUMENT_WORDS: dict[str, tuple[str, ...]] = {
    "electric piano": ("electric piano", "rhodes", "wurlitzer"),
    "piano": ("piano", "grand piano", "pianist"),
    "harpsichord": ("harpsichord", "cembalo"),
    "mallets": ("mallets", "mallet percussion", "mallet"),
    "organ": ("organ", "pipe organ"),
    "accordion": ("accordion",),
    "acoustic guitar": ("acoustic guitar", "nylon guitar", "classical guitar"),
    "electric guitar": ("electric guitar",),
    "guitar": ("guitar",),
    "harp": ("harp",),
    "solo strings": ("solo strings", "solo string"),
    "string ensemble": ("string ensemble", "string section", "string orchestra", "ensemble of strings"),
    "choir": ("choir", "chorus", "choral"),
    "brass": ("brass",),
    "saxophone": ("saxophone", "sax"),
    "orchestral reeds": ("orchestral reeds", "orchestral reed"),
    "flute": ("flute", "flautist", "flutist"),
    "drums": ("drums", "drum", "drum kit", "percussion"),
    "violin": ("violin", "fiddle"),
    "viola": ("viola",),
    "cello": ("cello", "violoncello"),
    "trumpet": ("trumpet",),
    "trombone": ("trombone",),
    "horn": ("french horn", "horn"),
    "tuba": ("tuba",),
    "oboe": ("oboe",),
    "bassoon": ("bassoon",),
    "clarinet": ("clarinet",),
    "recorder": ("recorder",),
    "banjo": ("banjo",),
    "mandolin": ("mandolin",),
    "ukulele": ("ukulele",),
    "vibraphone": ("vibraphone", "vibes"),
    "marimba": ("marimba",),
    "xylophone": ("xylophone",),
    "synthesizer": ("synthesizer", "synth"),
}
"""Name -> words that mean it (their plurals too)."""
_INSTRUMENT = re.compile(
    r"\b("
    + "|".join(sorted((re.escape(w) for words in INSTRUMENT_WORDS.values() for w in words), key=len, reverse=True))
    + r")(?:s|es)?\b",
    re.I,
)
_DENIED = re.compile(r"\b(?:no|without|nor)\s+(?:any\s+)?" + _INSTRUMENT.pattern, re.I)
_NAME_OF = {word: name for name, words in INSTRUMENT_WORDS.items() for word in words}

Mentions = dict[str, set[Any]]
"""Kind -> values, in one spelling each."""


def _plain(name: str) -> str:
    return name.replace("♯", "#").replace("♭", "b")


def _keys(text: str) -> set[Any]:
    found = set()
    for tonic, sign, word, mode in _KEY.findall(text):
        alteration = {"sharp": "#", "flat": "b"}.get(word, _plain(sign))
        key = parse_key(f"{tonic}{alteration} {dict(maj='major', min='minor').get(mode, mode)}")
        if key:
            found.add((key.pitch_class, key.mode))
    return found


def _metres(text: str) -> set[Any]:
    found = {f"{int(a)}/{b}" for a, b in _METRE.findall(text)}
    spoken = {f"{_SPOKEN[a.lower()]}/{dict(two=2, four=4, eight=8)[b.lower()]}" for a, b in _SPOKEN_METRE.findall(text)}
    plain = text.lower()
    return found | spoken | ({"3/4"} if "waltz" in plain else set()) | ({"4/4"} if "common time" in plain else set())


def _tempi(text: str) -> set[Any]:
    return {float(next(g for g in groups if g)) for groups in _TEMPO.findall(text)}


def _instruments(text: str) -> set[Any]:
    return {_NAME_OF[word.lower()] for word in _INSTRUMENT.findall(_DENIED.sub(" ", text))}


def _absent(text: str) -> set[Any]:
    return {_NAME_OF[word.lower()] for word in _DENIED.findall(text)}


def _notes(text: str) -> set[Any]:
    return {midi_number(_plain(n)) for n in _NOTE.findall(text)}


def _letters(text: str) -> set[Any]:
    runs = (re.findall(r"[A-G][#b♯♭]{0,2}", run) for run in _LETTERS.findall(text))
    return {tuple((midi_number(_plain(n) + "4") or 0) % 12 for n in run) for run in runs}


def _groups(table: Mapping[str, tuple[str, ...]]) -> Callable[[str], set[Any]]:
    of = {word: name for name, words in table.items() for word in words}
    return lambda text: {of[w] for w in (w.lower() for w in _WORD.findall(text)) if w in of}


def _counts(text: str) -> set[Any]:
    # Numbers that belong to a tempo, metre, time or note are not counts, nor are the names of metres.
    for pattern in (_TEMPO, _METRE, _SPOKEN_METRE, _CLOCK, _CHORD, _NOTE):
        text = pattern.sub(" ", text)
    spoken = {float(_COUNT_WORDS[w]) for w in (w.lower() for w in _WORD.findall(text)) if w in _COUNT_WORDS}
    return {float(n) for n in _COUNT.findall(text)} | spoken


FINDERS: dict[str, Callable[[str], set[Any]]] = {
    "key": _keys,
    "mode": lambda text: set(_BARE_MODE.findall(text)),
    "tempo": _tempi,
    "metre": _metres,
    "instrument": _instruments,
    "absent": _absent,
    "note": _notes,
    "notes": _letters,
    "chord": lambda text: set(_CHORD.findall(text)),
    "time": lambda text: set(_CLOCK.findall(text)),
    "count": _counts,
    "contour": _groups(_SHAPES),
    "speed": _groups(_SPEEDS),
}
"""Kind of fact -> what a text says of that kind."""


def mentions(text: str) -> Mentions:
    """Everything of FINDERS that the text says."""
    return {kind: find(text) for kind, find in FINDERS.items()}


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _strings(v)


def truth(facts: Mapping[str, Any]) -> Mentions:
    """The mentions that facts (see `row.FACTS`) allow in a text about them."""
    facts = known(facts)
    out = mentions("\n".join(_strings(facts)))
    sections = [s for s in facts.get("sections", ()) if isinstance(s, Mapping)]
    tempi = [float(f["tempo"]) for f in (facts, *sections) if f.get("tempo")]
    out["tempo"] |= set(tempi)
    out["speed"] |= {speed(t) for t in tempi}
    if isinstance(facts.get("first_notes"), list):
        out["notes"] |= _letters(", ".join(n.rstrip("-0123456789") for n in facts["first_notes"]))
    for fact in ("bars", "notes", "pitch"):
        if isinstance(facts.get(fact), int):
            out["count"].add(float(facts[fact]))
    out["count"] |= {
        float(len(facts[f])) for f in ("notes", "sections", "instruments") if isinstance(facts.get(f), list)
    }
    for metre in _metres(str(facts.get("metre", ""))):
        # "three beats in a bar", "two beats in a bar, each divided into three"
        beats = int(metre.partition("/")[0])
        out["count"] |= {float(beats)} | ({beats / 3, 3.0} if beats % 3 == 0 else set())
    if facts.get("texture") == "duet":
        out["count"].add(2.0)
    out["instrument"] |= {"drums"} if facts.get("drums") else set()
    if "arousal" in facts:  # neither calm nor energetic
        out["speed"].add("moderate")
    if "instruments" in facts:
        out["absent"] |= set(INSTRUMENT_WORDS) - out["instrument"]
    elif facts.get("drums") is False:
        out["absent"].add("drums")
    if "pitch" in facts:
        out["note"].add(int(facts["pitch"]))
    return out


def _same(kind: str, a: Any, b: Any) -> bool:
    """Whether `a` says what `b` says, or less: an electric guitar may be called a guitar."""
    if kind == "tempo" and b:
        return abs(a / b - 1) <= 0.03
    return bool(a == b) or (kind == "instrument" and a == "guitar" and "guitar" in b)


def agrees(text: str, facts: Mapping[str, Any], original: str = "") -> list[str]:
    """Contradictions of a text, each with its kind first ("key: ...", "dropped tempo: ..."); empty if there are none.

    Args:
        text: what is checked.
        facts: what is true; a text may say any of it.
        original: what the text was rewritten from. All that it says may be said again, and must be: with a fact left
            out, or a yes turned to a no, the text answers another question. Tempi may differ by 3 %.
    """
    said, before, allowed = mentions(text), mentions(original), truth(facts)
    out = []
    for kind in FINDERS:
        for value in sorted(said[kind], key=str):
            if not any(_same(kind, value, true) for true in (*before[kind], *allowed[kind])):
                out.append(f"{kind}: the text says {value}")
        out += [
            f"dropped {kind}: {value}"
            for value in sorted(before[kind], key=str)
            if not any(_same(kind, value, new) for new in said[kind])
        ]
    if original:
        answers = [m[1].lower() if m else "" for m in (_YES.match(original), _YES.match(text))]
        if answers[0] != answers[1]:
            out.append(f"yes or no: {answers[1] or 'neither'} for {answers[0] or 'neither'}")
        elif bool(_NEGATIONS.search(original)) != bool(_NEGATIONS.search(text)):
            out.append("negation: one text denies what the other says")
    return out
