"""Short questions with a handful of answers: mode, tonic, tempo in a word, texture, drums, count of instruments."""

from __future__ import annotations

import re

from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.task import Verdict, refuses

WORDS: dict[str, tuple[str, ...]] = {
    "mode": ("major", "minor", "dorian", "mixolydian", "phrygian", "lydian", "locrian"),
    "tempo_class": ("slow", "moderate", "lively", "fast"),
    "texture": ("solo", "duet", "voices", "accompanied"),
    "drums": ("yes", "no"),
    "instrument_count": tuple(map(str, range(1, 13))),
}
"""Property -> what may be answered."""
_TONIC = re.compile(r"(?<![A-Za-z#])([A-G])([#♯b♭]?)(?![A-Za-z#♯♭])")


def score(answer: str, item: Item) -> Verdict:
    """Right where the true word is named, and no other of them."""
    of = item.strata["of"].removesuffix("_short")
    if of == "tonic":
        named = {letter + {"♯": "#", "♭": "b"}.get(sign, sign) for letter, sign in _TONIC.findall(answer)}
    else:
        named = {word for word in WORDS[of] if re.search(rf"\b{word}\b", answer, re.IGNORECASE)}
    if not named or (of != "drums" and refuses(answer)):
        return Verdict(None, 0.0)
    return Verdict(", ".join(sorted(named)), float(named == {item.truth.rstrip(".")}))


TASK = row_task(
    "properties",
    "mode, tonic, speed, texture, drums, count",
    lambda kind: kind.endswith("_short") and kind.removesuffix("_short") in {*WORDS, "tonic"},
    answer_of,
    score,
    strata=("of",),
    most=240,
)
