"""Questions that this clip cannot answer, honest answers, and answerable questions that look like them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mllm.data_recipes.choices import Pool
from mllm.data_recipes.instruments import DRUMS
from mllm.data_recipes.row import Turn
from mllm.data_recipes.templates import Facts, fill, needs, pick, wordings

_VOICES = ("choir", "voice", "vocal", "sing", "sung", "soprano", "tenor", "rap")


@lru_cache(maxsize=1)
def _words() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parent / "unanswerable.yaml").read_text(encoding="utf-8"))


def _recording(facts: Facts) -> bool:
    """Whether the item is sound: a score may name its composer, a recording does not."""
    return "seconds" in facts


def _wordless(facts: Facts) -> bool:
    """Whether surely nobody sings: only clips whose every part we know have a texture."""
    said = " ".join(map(str, [*facts.get("instruments", ()), *facts.get("tags", ()), facts.get("caption", "")])).lower()
    return _recording(facts) and "texture" in facts and "instruments" in facts and not any(v in said for v in _VOICES)


def _one_note(facts: Facts) -> bool:
    return "pitch" in facts


CANNOT_TELL: dict[str, Callable[[Facts], bool]] = {
    "composer": _recording,
    "performer": _recording,
    "year": _recording,
    "edition": _recording,
    "lyrics": _wordless,
    "singer": _wordless,
    "key_of_drums": lambda f: set(f.get("instruments", ())) == {DRUMS} and "key" not in f,
    "metre_of_note": lambda f: _one_note(f) and "metre" not in f,
    "tempo_of_note": lambda f: _one_note(f) and "tempo" not in f,
    "key_of_note": lambda f: _one_note(f) and "key" not in f,
}
"""Kind of question -> whether this clip cannot answer it."""
LOOK_ALIKES = ("key", "metre", "tempo", "instrument", "pitch", "melody_lowest", "genre")
"""Tasks whose questions stand with the same endings, and are answered."""
VOICES = ("voices",)
"""Whether somebody sings is no fact of its own, but questions that cannot be answered may tell it."""


def cannot_tell(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    """A question that the clip does not answer, and an answer that says so."""
    kinds = [kind for kind, applies in CANNOT_TELL.items() if applies(facts)]
    # What depends on the clip is rarer than what no clip answers, and teaches more: it comes first half of the time.
    own = [kind for kind in kinds if CANNOT_TELL[kind] is not _recording]
    if not kinds:
        return None
    words = _words()[pick(own if own and rng.random() < 0.5 else kinds, rng)]
    return [(pick(words["questions"], rng) + pick(_words()["endings"], rng), pick(words["answers"], rng))]


def _look_alike(task: str, facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    words = wordings()[task]["short"]
    answer = fill(pick(words["answers"], rng), facts)
    return None if answer is None else [(pick(words["questions"], rng) + pick(_words()["endings"], rng), answer)]


def _voices(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    sings = "choir" in facts["instruments"]
    if not _recording(facts) or "texture" not in facts or not (sings or _wordless(facts)):
        return None
    words = _words()["voices"]
    question = pick(words["questions"], rng) + pick(_words()["endings"], rng)
    return [(question, pick(words["yes" if sings else "no"], rng))]


CAN_TELL: dict[
    str, tuple[tuple[str, ...], Callable[[Facts, np.random.Generator, Pool], list[Turn] | None], tuple[str, ...]]
] = {
    **{task: (needs(wordings()[task]["short"]["answers"]), partial(_look_alike, task), ()) for task in LOOK_ALIKES},
    "voices": (("instruments",), _voices, VOICES),
}
"""Kind of question that the clip does answer, worded like those of `cannot_tell` -> the facts it needs, how it makes
its turns, and what they are about beside those facts."""
