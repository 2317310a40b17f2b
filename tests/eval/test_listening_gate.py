"""The listening gate of CI: on tunes that are built here, `mini` must stay well above what it says without hearing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mllm.eval.gate import failures, read_gate
from mllm.eval.local_models import MusicModel
from mllm.eval.respondents import Failure, respondent
from mllm.eval.run import evaluate
from mllm.eval.sounds import silence
from mllm.eval.task import Messages

GATE = read_gate("listening=0.1")


@pytest.fixture(scope="module")
def mini() -> MusicModel:
    found = respondent("mini")
    assert isinstance(found, MusicModel)
    return found


class Deaf:
    """The same model with its ears shut: whatever it is given to hear is silence to it."""

    def __init__(self, model: MusicModel):
        self.name, self.at_once, self.model = "deaf", model.at_once, model
        self.sha256 = hashlib.sha256(b"deaf" + model.sha256.encode()).hexdigest()
        self.said: dict[str, str | Failure] = {}

    def answer(self, messages: Sequence[Messages], max_new_tokens: int) -> list[str | Failure]:
        quiet = [[m | {"content": [self._shut(part) for part in m["content"]]} for m in one] for one in messages]
        asked = {one[-1]["content"][-1]["text"] + str(len(one[-1]["content"])): one for one in quiet}
        new = {words: one for words, one in asked.items() if words not in self.said}
        self.said |= dict(zip(new, self.model.answer(list(new.values()), max_new_tokens), strict=True))
        return [self.said[one[-1]["content"][-1]["text"] + str(len(one[-1]["content"]))] for one in quiet]

    @staticmethod
    def _shut(part: dict[str, Any]) -> dict[str, Any]:
        return part | {"audio": silence(10.0)} if part["type"] == "audio" else part


def run(model: Any, tunes: Path, output: Path) -> dict[str, Any]:
    conditions = ("model", "silence", "noise", "swapped", "text")
    tasks = ["instrument", "key", "tempo"]
    return evaluate(model, tasks, tunes, output, conditions=conditions, split="validation", tools=False)


def test_mini_hears_and_passes(mini, tunes, tmp_path):
    summary = run(mini, tunes, tmp_path)
    assert failures(summary, GATE) == []
    for task in summary["tasks"].values():
        assert task["model"]["n"] == 28 and task["model"]["gain"]["low"] > 0.1
        assert {"silence", "noise", "swapped", "text", "majority", "chance"} <= task.keys()


def test_the_same_model_without_ears_does_not(mini, tunes, tmp_path):
    summary = run(Deaf(mini), tunes, tmp_path)
    assert {line.split(":")[0] for line in failures(summary, GATE)} == {"instrument", "key", "tempo"}
