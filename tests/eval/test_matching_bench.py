"""Matching measured: thresholds come from validation, Basic Pitch finds the melody that is played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from mllm.eval.matching_bench import Weighed, by_basic_pitch, evaluate_matching, markdown, threshold
from mllm.eval.task import EvalError
from mllm.score import read_abc, to_midi
from mllm.synthesis import render

PLAYED = "X:1\nM:4/4\nL:1/4\nK:C\nC D E G | A G E C |]\n"
OTHER = "X:1\nM:4/4\nL:1/4\nK:C\nc B A F | D F A c |]\n"
CHANGED = "X:1\nM:4/4\nL:1/4\nK:C\nC D E G | B D c F |]\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("match")
    soundfile.write(folder / "a.wav", render(to_midi(read_abc(PLAYED)), sampling_rate=22050).mean(axis=1), 22050)
    rows: list[dict[str, Any]] = []

    def row(split: str, task: str, texts: list[str], answer: str, wrong: str) -> None:
        parts = [{"type": "audio", "audio": "a.wav"}, *({"type": "text", "text": text} for text in texts)]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        facts = {"answer": answer, "wrong": wrong, "tune_id": f"tune {len(rows)}"}
        rows.append({"id": f"r{len(rows)}", "split": split, "task": task, "messages": messages, "facts": facts})

    for split in ("validation", "test"):
        for _ in range(2):
            row(split, "match", [PLAYED], "yes", "versions")
            row(split, "match", [OTHER], "no", "other tunes")
            row(split, "match", [CHANGED], "no", "versions")
    row("test", "which_of_three", [OTHER, PLAYED, CHANGED], "Score B", "versions")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


def test_basic_pitch_tells_the_tune_that_is_played(data):
    played, other, changed = by_basic_pitch(str(data.parent / "a.wav"), [PLAYED, OTHER, CHANGED])
    assert played > changed > other and played > 0.8


def test_the_table_counts_what_each_tool_gets_right(data):
    tools = {"always": lambda recording, texts: [1.0] * len(texts), "Basic Pitch": by_basic_pitch}
    result = evaluate_matching(data, tools, limit=10)
    assert result["match"]["all"]["Basic Pitch"][0] == 1 and result["which_of_three"]["all"]["Basic Pitch"][0] == 1
    # a constant says "no" to all, as most validation rows want, and takes the first of three
    assert result["match"]["all"]["always"][0] == pytest.approx(4 / 6)
    assert result["which_of_three"]["all"]["always"][0] == 0
    assert result["match"]["other tunes"]["rows"] == 2
    table = markdown(result)
    assert "| match | all | 6 | 66.7" in table and "100.0" in table


def test_a_threshold_lies_between_what_it_parts():
    rows = [Weighed({"facts": {"answer": "yes" if w > 0.45 else "no"}}, [w]) for w in (0.1, 0.2, 0.3, 0.6, 0.7)]
    assert threshold(rows) == pytest.approx(0.45)


def test_data_without_such_rows_is_refused(data, tmp_path):
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "task": "key"}
    lines = [json.dumps(row | {"split": split}) for split in ("validation", "test")]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(EvalError, match="no rows of 'match'"):
        evaluate_matching(tmp_path / "rows.jsonl", {}, 3)
