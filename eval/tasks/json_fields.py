"""Facts of a clip as JSON of a given form: right where every field is; beside it the share of fields."""

from __future__ import annotations

import json
from typing import Any

from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of, row_task
from mllm.eval.task import Verdict

TEMPO = 0.08


def same(field: str, said: Any, true: Any) -> bool:
    """Whether a field is right: lists in any order, a tempo within 8 %, anything else exactly."""
    if type(said) is not type(true):
        return False
    if isinstance(true, list):
        return all(isinstance(s, str) for s in said) and sorted(said) == sorted(true)
    if field == "tempo":
        return bool(true) and abs(said / true - 1) <= TEMPO
    return bool(said == true)


def score(answer: str, item: Item) -> Verdict:
    """Strict: the answer is one JSON object with exactly the fields asked for."""
    true = json.loads(item.truth)
    try:
        said = json.loads(answer)
    except ValueError:
        return Verdict(None, 0.0, {"fields": 0.0})
    if not isinstance(said, dict) or said.keys() != true.keys():
        return Verdict(None, 0.0, {"fields": 0.0})
    right = [same(name, said[name], true[name]) for name in true]
    return Verdict(said, float(all(right)), {"fields": sum(right) / len(right)})


TASK = row_task(
    "json",
    "facts as JSON (all fields right)",
    "json".__eq__,
    answer_of,
    score,
    max_new_tokens=128,
    most=100,
    guess=lambda item: None,
)
