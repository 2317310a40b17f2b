"""The whole path as README tells it, on the real weights and a handful of clips: build, train, resume, ask, measure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MLLM = [sys.executable, "-m", "mllm.cli"]
pytestmark = pytest.mark.slow


def run(*arguments) -> str:
    """Standard output of one `mllm` command that must succeed."""
    done = subprocess.run([*MLLM, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_build_train_resume_ask_measure(tmp_path):
    data, model = tmp_path / "data", tmp_path / "model"
    run("data", "build", "tiny", "--output", data, "--workers", 2)
    config = (ROOT / "train" / "configs" / "tiny_cpu.yaml").read_text().replace("runs/data/tiny", str(data))
    two, four = tmp_path / "two.yaml", tmp_path / "four.yaml"
    two.write_text(config.replace("max_steps: 4", "max_steps: 2"))
    four.write_text(config)
    run("train", two, "--output_dir", model)
    assert json.loads((model / "provenance.json").read_text())["cost"]["steps"] == 2
    run("train", four, "--output_dir", model)  # goes on where the two steps ended
    provenance = json.loads((model / "provenance.json").read_text())
    assert provenance["cost"]["steps"] == 4 and provenance["data"]["licences"]["tonal"]["licence"] == "apache-2.0"
    state = json.loads((model / "checkpoint-4" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3, 4]
    clip = sorted(data.glob("clips/*/test-*.flac"))[0]
    answer = json.loads(run("ask", "--model", model, "--json", clip, "What is the metre?"))
    assert answer["answer"].strip() and answer["audio_seconds"] == pytest.approx(10, abs=0.1)
    run("eval", "--model", model, "--data", data, "--output", tmp_path / "eval", "--limit", 3)
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert set(summary["tasks"]) == {"instrument", "key", "tempo", "metre"}
    assert all({"model", "silence", "text", "chance", "majority"} <= set(t) for t in summary["tasks"].values())
