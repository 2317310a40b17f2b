"""Write a tune in ABC with a given key, metre and number of bars. Right where it is whole and keeps to all three.

Whole: `mllm.abc_validation` finds nothing wrong. What it cannot say is whether the tune is any good.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from mllm.abc_validation import validate_abc
from mllm.errors import ScoreError
from mllm.eval.item import Item
from mllm.eval.task import Task, Verdict
from mllm.score import read_abc
from mllm.score_types import Key

KEYS = ("C major", "G major", "D major", "F major", "A minor", "E minor", "D dorian", "Bb major")
METRES = ("4/4", "3/4", "6/8")
BARS = (4, 8)
_HEAD = re.compile(r"^X: ?\d", re.MULTILINE)


def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
    """Every key with every metre and length; of the split "train" nothing, for there is no one answer."""
    if split == "train":
        return []
    asked = [
        Item(
            f"{key.replace(' ', '-')}-{metre.replace('/', '-')}-{bars}",
            f"Write a tune in ABC notation: {key}, {metre}, {bars} bars. Give the ABC only, with its header.",
            f"{key}, {metre}, {bars} bars", meta={"key": key, "metre": metre, "bars": bars},
        )
        for bars, key, metre in product(BARS, KEYS, METRES)
    ]  # fmt: skip
    return asked[:limit]


def score(answer: str, item: Item) -> Verdict:
    """Strict: ABC from its X: on; words before and behind it make it no ABC."""
    start = _HEAD.search(answer)
    if start is None:
        return Verdict(None, 0.0, {"whole tune": 0.0})
    beats, unit = map(int, item.meta["metre"].split("/"))
    whole = not validate_abc(answer) and start.start() == 0
    asked = whole and not validate_abc(answer, metre=(beats, unit), bars=item.meta["bars"])
    try:
        asked = asked and read_abc(answer).key == Key(*item.meta["key"].split())
    except ScoreError:
        asked = False
    return Verdict(answer, float(asked), {"whole tune": float(whole)})


TASK = Task("abc_writing", "writes whole ABC as asked", items, score, max_new_tokens=256, guess=lambda item: None)
