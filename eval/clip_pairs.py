"""Pairs of a build's clips of which something is true, or is not."""

from __future__ import annotations

import numpy as np

from mllm.eval.data import EvalClip

FASTER = 1.25
"""Of two tempi that are compared one is at least so many times the other."""


def pair_of(clips: list[EvalClip], of: str, yes: bool, rng: np.random.Generator) -> tuple[EvalClip, EvalClip] | None:
    """Two clips of different works of which `of` is true (yes) or not: "faster", or the fact that they share."""
    for _ in range(200 if len(clips) > 1 else 0):
        one, two = (clips[int(i)] for i in rng.choice(len(clips), 2, replace=False))
        if one.facts.get("tune_id", one.name) == two.facts.get("tune_id", two.name):
            continue
        if of == "faster":
            fits = one.facts["tempo"] / two.facts["tempo"] >= FASTER
            if fits or two.facts["tempo"] / one.facts["tempo"] >= FASTER:
                return (one, two) if fits == yes else (two, one)
        elif one.facts.get(of) and two.facts.get(of) and (one.facts[of] == two.facts[of]) == yes:
            return one, two
    return None
