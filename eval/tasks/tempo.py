"""How many beats a minute? Within 8 %; half and double tempo are wrong (and shown apart)."""

from __future__ import annotations

import re

from mllm.eval import classical
from mllm.eval.data import clip_task
from mllm.eval.task import Facts, refuses

TOLERANCE = 0.08
SLOWEST, FASTEST = 20, 400  # numbers outside are no tempo: voices, bars, years
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_TIME_SIGNATURE = re.compile(r"\b\d+ ?/ ?\d+\b")


def parse(answer: str) -> float | None:
    """The one number that can be a tempo; None for none, for two, for a range."""
    if refuses(answer):
        return None
    numbers = {float(n) for n in _NUMBER.findall(_TIME_SIGNATURE.sub(" ", answer))}
    tempi = [n for n in numbers if SLOWEST <= n <= FASTEST]
    return tempi[0] if len(tempi) == 1 else None


def near(answer: float, truth: float) -> bool:
    """Within the tolerance of the true tempo."""
    return abs(answer / truth - 1) <= TOLERANCE


def near_or_octave(answer: float, truth: float) -> bool:
    """Accuracy 2 of the literature: a third, half, double or triple of it is also accepted."""
    return any(near(answer, truth * factor) for factor in (1 / 3, 1 / 2, 1, 2, 3))


def truth(facts: Facts) -> float | None:
    """Felt beats a minute: dotted quarters in 6/8, else quarters."""
    return float(facts["tempo"]) if facts.get("tempo") else None


TASK = clip_task(
    name="tempo",
    title="tempo (within 8 %)",
    question="What is the tempo?",
    truth=truth,
    parse=parse,
    right=near,
    guess=lambda item: str(round(item.truth)),
    extras={"acc2 (octaves allowed)": near_or_octave},
    tools=(classical.Classical("librosa tempo", classical.tempo, classical.read_off, fitted=False),),
)
