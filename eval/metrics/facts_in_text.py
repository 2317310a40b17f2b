"""How much of what a text claims about music is true, and how much of what is true it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllm.claims import Claim, find_claims
from mllm.score_checks import instrument_pattern, same_key, within_tempo
from mllm.score_types import Key

Facts = Mapping[str, Any]
"""What is true: of "key" ("Bb major"), "tempo" (felt beats a minute), "metre" ("6/8"), "instruments" (all their names),
those that are known."""
Holds = Callable[[dict[str, Any], Any], bool]


def _key(value: dict[str, Any], truth: str) -> bool:
    return same_key(value, Key(*truth.split()))


def _tempo(value: dict[str, Any], truth: float) -> bool:
    return within_tempo(value, float(truth))


def _metre(value: dict[str, Any], truth: str) -> bool:
    return f"{value['numerator']}/{value['denominator']}" == truth


def _instrument(value: dict[str, Any], truth: Sequence[str]) -> bool:
    return any(_is_a(value["name"], name) for name in truth) and (not value["alone"] or len(truth) == 1)


def _is_a(said: str, name: str) -> bool:
    return bool(instrument_pattern(said).search(name))


CHECKS: dict[str, tuple[str, Holds]] = {
    "key": ("key", _key), "tempo": ("tempo", _tempo), "metre": ("metre", _metre),
    "instrument": ("instruments", _instrument),
}  # fmt: skip
"""Kind of a claim (`mllm.claims`) -> the fact that it is held against, and how."""


@dataclass(frozen=True)
class FactCount:
    """Claims and facts of one text: `right` of `claims` hold, `said` of `facts` are said."""

    right: float
    claims: int
    said: int
    facts: int


def count_facts(text: str, truth: Facts, question: str = "") -> FactCount:
    """Hold the claims of a text against what is true.

    Claims about what `truth` does not tell are left out: precision is over what can be judged. A claim that leaves n
    values open is right by 1/n where one of them holds; a hedged claim is a claim; a denial counts only where it is
    wrong, for nobody could run out of true ones. Said is a fact that a claim states rightly, leaving nothing else open;
    every instrument is a fact.
    """
    claims = [c for c in find_claims(text, question) if c.kind in CHECKS and truth.get(CHECKS[c.kind][0])]
    claims = [c for c in claims if not (c.negated and _worth(c, truth))]
    right = sum(_worth(claim, truth) for claim in claims)
    sure = [c for c in claims if not c.negated and "any_of" not in c.value and _worth(c, truth) == 1]
    instruments = truth.get("instruments") or ()
    named = {name for name in instruments for c in sure if c.kind == "instrument" and _is_a(c.value["name"], name)}
    others = [kind for kind, (fact, _) in CHECKS.items() if kind != "instrument" and truth.get(fact)]
    said = len(named) + sum(any(c.kind == kind for c in sure) for kind in others)
    return FactCount(right, len(claims), said, len(set(instruments)) + len(others))


def _worth(claim: Claim, truth: Facts) -> float:
    fact, holds = CHECKS[claim.kind]
    values = claim.value.get("any_of", [claim.value])
    share = any(holds(value, truth[fact]) for value in values) / len(values)
    return float(share == 0) if claim.negated else share


def fact_scores(counts: Sequence[FactCount]) -> dict[str, float]:
    """{"fact_precision", "fact_recall", "fact_f1", "claims_each"} over many texts together.

    Precision is 0 where nothing is claimed at all: who says nothing tells nothing.
    """
    right, claims = sum(c.right for c in counts), sum(c.claims for c in counts)
    said, facts = sum(c.said for c in counts), sum(c.facts for c in counts)
    precision, recall = right / claims if claims else 0.0, said / facts if facts else 0.0
    both = precision + recall
    return {
        "fact_precision": precision, "fact_recall": recall, "fact_f1": 2 * precision * recall / both if both else 0.0,
        "claims_each": claims / max(len(counts), 1),
    }  # fmt: skip
