"""Key, metre, tempo and instruments that a text states, each read and judged as in the task of its name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

FACTS = ("key", "metre", "tempo", "instruments")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
Rule = tuple[Callable[[str], Any], Callable[[Any, Any], bool]]


@functools.cache
def _rules() -> dict[str, Rule]:
    """Fact -> what reads it, and whether a value that was read is the true one."""
    from mllm.eval.tasks import instrument, key, metre, tempo  # one of the tasks imports this module

    return {
        "key": (key.parse, lambda said, true: key.split(said) == key.split(true)),
        "metre": (metre.parse, lambda said, true: bool(said == true)),
        "tempo": (tempo.parse, tempo.near),
        "instruments": (instrument.parse, lambda said, true: said in true),
    }


@functools.lru_cache(4096)
def stated(text: str) -> frozenset[tuple[str, Any]]:
    """(fact, value) of what a description states, sentence by sentence; what one denies is not stated."""
    found: set[tuple[str, Any]] = set()
    for sentence in _SENTENCE.split(text):
        for name, (read, _) in _rules().items():
            value = read(sentence)
            values = (value or "").split(", ") if name == "instruments" else [value]
            found |= {(name, one) for one in values if one not in (None, "")}
    return frozenset(found)


def holds(name: str, value: Any, true: dict[str, Any]) -> bool:
    """Whether a stated value is true, by the rule of the task of that name."""
    return _rules()[name][1](value, true[name])
