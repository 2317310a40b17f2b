"""Which key is it in? Tonic and mode must both be right; enharmonic spellings are the same key."""

from __future__ import annotations

import functools
import re

from mllm.eval import classical, note_tools
from mllm.eval.data import clip_task
from mllm.eval.task import refuses

_MODES = "major|minor|dorian|mixolydian|phrygian|lydian|locrian|aeolian|ionian"
_SIGNS = {"#": "#", "♯": "#", "sharp": "#", "b": "b", "♭": "b", "flat": "b", None: ""}
_SIGN = r"(?:[ -]?(#|♯|♭|sharp|flat|b(?![a-z])))?"
# Not "A minor third" nor "A minor key", where "a" is the article.
_KEY = re.compile(rf"(?<![A-Za-z#])([A-G]){_SIGN}[ -]*({_MODES})\b(?! (?:key|second|third|sixth|seventh|chord|triad))")
_WHOLE = re.compile(rf"\s*([a-g])(?:[ -]?(#|♯|♭|sharp|flat|b))?[ -]?({_MODES}|m)\s*\.?\s*")
_SAME = {"aeolian": "minor", "ionian": "major", "m": "minor"}


def parse(answer: str) -> str | None:
    """ "F# minor" out of a sentence; None where no key or more than one is named."""
    if refuses(answer):
        return None
    answer = re.sub(rf"\b({_MODES}|sharp|flat)\b", lambda m: m.group().lower(), answer, flags=re.IGNORECASE)
    if whole := re.fullmatch(r"\s*([A-Ga-g])(.*)", answer, re.DOTALL):
        if match := _WHOLE.fullmatch(whole[1].lower() + whole[2]):
            return _name(match)
    found = {split(name): name for name in map(_name, _KEY.finditer(answer))}
    return next(iter(found.values())) if len(found) == 1 else None


def _name(match: re.Match[str]) -> str:
    return f"{match[1].upper()}{_SIGNS[match[2]]} {_SAME.get(match[3], match[3])}"


@functools.lru_cache(1024)
def split(key: str) -> tuple[int, str]:
    """Pitch class of the tonic, and the mode: "A# major" and "Bb major" are equal."""
    tonic, mode = key.split()
    return classical.pitch_class(tonic), mode


TASK = clip_task(
    name="key",
    title="key (tonic and mode)",
    question="What key is this in?",
    truth=lambda facts: f"{facts['tonic']} {facts['mode']}" if facts.get("tonic") else None,
    parse=parse,
    right=lambda answer, truth: split(answer) == split(truth),
    extras={"tonic alone": lambda answer, truth: split(answer)[0] == split(truth)[0]},
    tools=(
        classical.Classical("CQT chroma + Krumhansl profiles", classical.chroma, classical.krumhansl, fitted=False),
        classical.Classical("CQT chroma + profiles of TRAIN", classical.chroma, classical.fitted_profiles),
        note_tools.KEY,
    ),
)
