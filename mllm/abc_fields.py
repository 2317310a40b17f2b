"""The information fields of ABC: what M: L: Q: and K: say. Each function raises ScoreError on what is not one."""

import re
from fractions import Fraction

from mllm.errors import ScoreError
from mllm.score_types import Key

ACCIDENTALS = {"": None, "^": 1, "^^": 2, "_": -1, "__": -2, "=": 0}
STRING = re.compile(r'"(?:\\"|[^"])*"')

_SHARPS = "FCGDAEB"
_MODES = {
    "": "major", "maj": "major", "ion": "major", "m": "minor", "min": "minor", "aeo": "minor", "mix": "mixolydian",
    "dor": "dorian", "phr": "phrygian", "lyd": "lydian", "loc": "locrian",
}  # fmt: skip
_NO_MODE = ("cle", "tre", "bas", "alt", "ten", "per", "oct", "tra", "exp", "non", "sta", "mid")  # clef and the like
_NO_KEY = re.compile(r"(?i)none\b|clef|treble|bass|alto|tenor|perc|octave|transpose|[_^=]|staff|middle")


def read_metre(value: str) -> tuple[int, int] | None:
    """M: as (beats, note value); C is 4/4, C| is 2/2, "2+3/8" is 5/8; none, free and nothing are None."""
    value = value.strip().strip('"')
    if value in ("", "none") or value.lower().startswith(("free", "frei")):  # as the Essen collection writes it
        return None
    if value in ("C", "C|"):
        return (4, 4) if value == "C" else (2, 2)
    match = re.match(r"\(?(\d{1,3}(?:\s*\+\s*\d{1,3})*)\)?\s*/\s*(\d{1,3})", value)
    beats = sum(int(n) for n in match[1].split("+")) if match else 0
    if not match or not beats or int(match[2]) == 0:
        raise ScoreError(f"M:{value} is not a metre such as M:4/4, M:C or M:none")
    return beats, int(match[2])


def read_unit(value: str) -> Fraction:
    """L: in quarters."""
    match = re.match(r"(\d{1,4})\s*(?:/\s*(\d{1,4}))?", value)
    if not match or int(match[1]) == 0 or int(match[2] or 1) == 0:
        raise ScoreError(f"L:{value} is not a note length such as L:1/8")
    return Fraction(4 * int(match[1]), int(match[2] or 1))


def default_unit(metre: tuple[int, int] | None) -> Fraction:
    """The unit in quarters where there is no L: field: a sixteenth in small metres, else an eighth."""
    return Fraction(1, 4) if metre is not None and Fraction(*metre) < Fraction(3, 4) else Fraction(1, 2)


def read_tempo(value: str, unit: Fraction) -> float | None:
    """Q: in quarters a minute; a bare number counts `unit`s. None for words only, or a tempo nobody could mean."""
    match = re.match(r"\s*((?:\d{1,3}/\d{1,3}\s*)+|C\d*)?\s*=?\s*(\d{1,4}(?:\.\d{1,6})?)", STRING.sub("", value)[:100])
    if not match:
        return None
    beat = unit
    if match[1] and match[1][0] != "C":
        beats = [fraction.split("/") for fraction in match[1].split()]
        if any(len(b) != 2 or int(b[1]) == 0 for b in beats):
            raise ScoreError(f"Q:{value} is not a tempo such as Q:1/4=120")
        beat = sum((Fraction(int(n), int(d)) for n, d in beats), Fraction(0)) * 4
    tempo = float(beat) * float(match[2])
    return tempo if 1 <= tempo <= 2000 else None


def read_key(value: str) -> tuple[Key | None, dict[str, int]]:
    """K: as the key (None for none) and what it does to letters, {"F": 1} for one sharp."""
    value = STRING.sub("", value).strip()
    if value.startswith(("HP", "Hp")):  # highland pipes: A mixolydian by its notes, whether the clef shows it or not
        return Key("A", "mixolydian"), {"F": 1, "C": 1}
    match = re.match(r"([A-G])([#b]?)\s*([A-Za-z]*)", value)
    if not match:
        if value and not _NO_KEY.match(value):
            raise ScoreError(f"K:{value} is not a key such as K:G, K:F#m, K:Ddor or K:none")
        return None, _explicit(value, {})
    word = match[3].lower()
    mode = _MODES.get(word if word == "m" else word[:3])
    if mode is None and word[:3] not in _NO_MODE:
        raise ScoreError(f"K:{value}: {match[3]!r} is not a mode; known are maj min dor phr lyd mix loc")
    key = Key(match[1] + match[2], mode or "major")
    sharps: dict[str, int] = {}
    for i in range(abs(key.signature)):
        letter = (_SHARPS if key.signature > 0 else _SHARPS[::-1])[i % 7]
        sharps[letter] = sharps.get(letter, 0) + (1 if key.signature > 0 else -1)
    if word == "exp" or " exp" in value:  # a signature of its own: no mode is stated
        return None, _explicit(value[match.end() :], {})
    return key, _explicit(value[match.end() :], sharps)


def _explicit(value: str, sharps: dict[str, int]) -> dict[str, int]:
    for accidental, letter in re.findall(r"(?<![\w=])(\^\^|\^|__|_|=)([A-Ga-g])\b", value):
        sharps[letter.upper()] = ACCIDENTALS[accidental] or 0
    return {k: v for k, v in sharps.items() if v}
