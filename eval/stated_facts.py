"""Key, metre, tempo and instruments that a text states, each read and judged as in the task of its name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from mllm.eval.tasks import instrument, key, metre, tempo

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
READERS: dict[str, Callable[[str], Any]] = {"key": key.parse, "metre": metre.parse, "tempo": tempo.parse}
_SAME: dict[str, Callable[[Any, Any], bool]] = {
    "key": lambda a, b: key.split(a) == key.split(b), "metre": lambda a, b: bool(a == b), "tempo": tempo.near,
}  # fmt: skip


@functools.lru_cache(4096)
def stated(text: str) -> frozenset[tuple[str, Any]]:
    """(fact, value) of what a description states, sentence by sentence; what one denies is not stated."""
    found: set[tuple[str, Any]] = set()
    for sentence in _SENTENCE.split(text):
        found |= {(name, value) for name, read in READERS.items() if (value := read(sentence)) is not None}
        found |= {("instruments", name) for name in (instrument.parse(sentence) or "").split(", ") if name}
    return frozenset(found)


def holds(name: str, value: Any, true: dict[str, Any]) -> bool:
    """Whether a stated value is true, by the rule of the task of that name."""
    if name == "instruments":
        return value in true["instruments"]
    return _SAME[name](value, true[name])
