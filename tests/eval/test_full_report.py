"""The whole report in one command: tasks, tools, controls and examples in the prompt; a second run asks nothing."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mllm.eval.full_report import SHOWN, measure
from mllm.eval.task import EvalError

RATE = 8000
PITCH = {"flute": 500.0, "harp": 250.0}


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Path:
    """A JSONL of TRAIN and test clips of a second: flutes are high, harps low."""
    folder = tmp_path_factory.mktemp("tones")
    rows = []
    for i in range(32):
        family, split = ("flute", "harp")[i % 2], "train" if i < 8 else "test"
        tone = 0.3 * np.sin(2 * np.pi * (PITCH[family] + i) * np.arange(RATE) / RATE)
        soundfile.write(folder / f"{i}.wav", tone, RATE)
        content = [{"type": "audio", "audio": f"{i}.wav"}, {"type": "text", "text": "Which instrument?"}]
        rows.append({
            "id": str(i), "task": "instrument", "split": split,
            "facts": {"instruments": [family], "tune_id": f"tune {i}"},
            "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": family}],
        })  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def test_everything_stands_in_one_report_and_is_asked_once(tones, tmp_path):
    settings = {"queries": 2, "shots": (0, 2), "tasks": ["instrument"], "beside": (), "tower": "tempogram"}
    found = measure("constant:flute", tones, tmp_path, 4, **settings)
    conditions = found["tasks"]["tasks"]["instrument"]
    assert {"model", "silence", "majority", "tool: MFCC + logistic regression"} <= conditions.keys()
    assert any("tempogram" in name for name in conditions) and conditions["model"]["accuracy"] == 0.5
    assert set(found["in_context"]["curves"]) == {"ordinary", "made-up", "changing"}
    report = (tmp_path / "report.md").read_text()
    assert "instrument (16 families)" in report and "## Examples in the prompt" in report
    (linked,) = re.findall(r"!\[.*?\]\((.*?)\)", report)
    curves = (tmp_path / linked).read_text()
    assert curves == (tmp_path / "in_context" / "in_context.svg").read_text()
    page = (tmp_path / "report.html").read_text()
    shown = page[page.index(f'aria-label="{SHOWN}"') :]
    assert curves[curves.index("<defs>") :].strip() in shown and "“Says the last label”" in shown
    assert "<?xml" not in page and 'id="instrument"' in page
    command = shlex.split(found["tasks"]["run"]["command"])
    assert command[:3] == ["python", "-m", "mllm.eval.full_report"] and "--beside" in command and "" in command
    answers = [tmp_path / "tasks" / "answers.jsonl", tmp_path / "in_context" / "plain" / "answers.jsonl"]
    before = [file.read_bytes() for file in answers]
    again = measure("constant:flute", tones, tmp_path, 4, **settings)
    assert [file.read_bytes() for file in answers] == before and again["tasks"] == found["tasks"]
    assert all(again["seconds"][part] > found["seconds"][part] for part in ("tasks", "in_context"))


def test_another_data_set_is_refused(tones, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "results.jsonl").write_text("")
    with pytest.raises(EvalError, match="choose another --output"):
        measure("constant:flute", tones, tmp_path, 1, tasks=["instrument"], tower="tempogram")
