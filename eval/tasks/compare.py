"""Two recordings at once: do they share key, metre or instrument; which one is faster?

Pairs are drawn from a build's clips; yes and no, first and second, are as frequent as each other.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mllm.eval.clip_pairs import pair_of
from mllm.eval.data import read_clips
from mllm.eval.item import Item
from mllm.eval.task import EvalError, Task, Verdict, exact, refuses
from mllm.eval.tasks import verify

COUNT = 120
SAME = {"metre": "Do both recordings have the same metre? Answer yes or no.",
        "key": "Are both recordings in the same key? Answer yes or no.",
        "instruments": "Are both recordings played by the same instrument? Answer yes or no."}  # fmt: skip
_FASTER = "Which recording is faster: the first or the second?"
_PLACE = re.compile(r"\b(first|second)\b", re.IGNORECASE)


def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
    """Pairs, the kinds by turns; drawn from a generator that the seed starts."""
    try:
        clips = read_clips(data, split)
    except EvalError:
        return []
    clips = [clip for clip in clips if len(clip.facts.get("instruments", ())) == 1 and clip.facts.get("tempo")]
    rng = np.random.default_rng(seed)
    found: list[Item] = []
    kinds = [*SAME, "faster"]
    for number in range(COUNT):
        of, yes = kinds[number % len(kinds)], bool(number // len(kinds) % 2)
        if pair := pair_of(clips, of, yes, rng):
            first, second = pair
            truth = ("first" if yes else "second") if of == "faster" else "yes" if yes else "no"
            found.append(
                Item(
                    f"{number:03d}-{of}", SAME.get(of, _FASTER), truth, (first.path, second.path), strata={"of": of},
                )
            )  # fmt: skip
    return found[:limit]


def score(answer: str, item: Item) -> Verdict:
    """yes or no, first or second; two of them are none."""
    if item.strata["of"] != "faster":
        return verify.score(answer, item)
    named = {word.lower() for word in _PLACE.findall(answer)}
    return exact(named.pop() if len(named) == 1 and not refuses(answer) else None, item)


TASK = Task("compare", "two recordings compared", items, score, version="2")
