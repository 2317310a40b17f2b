"""`mllm eval` on the command line: the table, gates, comparisons, and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllm.cli import app
from mllm.eval.gate import failures, read_gate
from mllm.eval.run import evaluate
from mllm.eval.task import EvalError


def mllm(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def two_runs(data, tmp_path_factory) -> tuple[Path, Path]:
    """ "C major" is right on two clips of four, "A minor" on one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, answer in (("a", "A minor"), ("b", "C major")):
        evaluate(f"constant:{answer}", ["key"], data, folder / name, tools=False)
    return folder / "a", folder / "b"


def test_the_table_is_printed_and_a_gate_fails(data, tmp_path):
    words = (
        "eval",
        "--model",
        "constant:C major",
        "--tasks",
        "key",
        "--data",
        data,
        "--output",
        tmp_path,
        "--no-controls",
    )
    done = mllm(*words)
    assert done.exit_code == 0 and "key (tonic and mode)" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["condition"] for row in rows} == {"model", "majority", "chance"}
    done = mllm(*words, "--gate", "listening=0.2")
    assert done.exit_code == 1 and "gate: key: gain 0.000" in done.stderr
    assert mllm(*words, "--gate", "listening=-1").exit_code == 0


SETTINGS = [
    {},
    {"limit": 3, "seed": 2, "split": "train", "fit_clips": 3, "beside": ["constant:A minor", "constant:it's G#"]},
    {"conditions": ("model",), "tools": False},
    {"conditions": ("model", "text", "silence")},
    {"tools": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(settings) or "defaults")
def test_the_command_of_a_report_makes_it_again(settings, data, tmp_path):
    output = tmp_path / "a folder; $(with signs)"
    first = evaluate("constant:C major & more", ["metre", "tempo"], data, output, **settings)
    rows = (output / "results.jsonl").read_bytes()
    for name in ("results.jsonl", "summary.json", "run.json"):
        (output / name).unlink()
    program, *words = shlex.split(first["run"]["command"])
    done = mllm(*words)
    assert program == "mllm" and done.exit_code == 0, done.output
    assert json.loads((output / "summary.json").read_text()) == first
    assert (output / "results.jsonl").read_bytes() == rows


def test_two_runs_are_compared(two_runs):
    first, second = two_runs
    done = mllm("eval", "--compare", first, second)
    assert done.exit_code == 0 and "| key | 4 | 25.0 | 50.0 | +25.0 [" in done.stdout
    assert "McNemar, exact" in done.stdout and "| 2, 1 |" in done.stdout
    again = mllm("eval", "--compare", first, first)
    assert "+0.0 [0.0–0.0]" in again.stdout and "| 1 (" in again.stdout


def test_runs_that_share_nothing_are_refused(two_runs, tmp_path):
    first, _ = two_runs
    done = mllm("eval", "--compare", first, tmp_path)
    assert done.exit_code == 1 and "holds no evaluation" in done.stderr
    rows = [json.loads(line) for line in (first / "results.jsonl").read_text().splitlines()]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row | {"version": "2"}) + "\n" for row in rows))
    done = mllm("eval", "--compare", first, tmp_path)
    assert done.exit_code == 1 and "share no item of the same task and version" in done.stderr
    (tmp_path / "results.jsonl").write_text("{}\n")
    assert "line 1: not a record" in mllm("eval", "--compare", first, tmp_path).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "nothing"), "no model 'nothing'"),
        (("--model", "constant:x", "--gate", "listening"), "--gate 'listening': write NAME=GAIN"),
        (("--model", "constant:x", "--tasks", "kee"), "did you mean 'key'?"),
        (("--model", "constant:x", "--conditions", "model,silense"), "did you mean 'silence'?"),
        (("--model", "http://127.0.0.1:9/v1"), "--model-name"),
    ],
)
def test_what_cannot_start_is_one_line(words, message, data, tmp_path):
    done = mllm("eval", "--data", data, "--output", tmp_path / "out", *words)
    assert done.exit_code == 1 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_run_needs_a_folder():
    assert mllm("eval", "--model", "constant:x").exit_code == 2


def test_gates_are_read_and_answer_for_every_task():
    assert read_gate("listening=0.2, key=0.5") == {"listening": 0.2, "key": 0.5}
    with pytest.raises(EvalError):
        read_gate("listening")
    gain = {"points": 0.3, "low": 0.1, "high": 0.5, "against": "silence"}
    summary = {
        "tasks": {
            "key": {"model": {"medium": "audio", "gain": gain}},
            "theory": {"model": {"medium": "", "gain": gain}},
        }
    }
    assert failures(summary, {"listening": 0.1}) == []
    assert len(failures(summary, {"listening": 0.11})) == 1 and len(failures(summary, {"theory": 0.2})) == 1
    assert failures(summary, {"tempo": 0.1}) == ["tempo: no task of this run has such a gain"]
    assert failures({"tasks": {}}, {"listening": 0.1})  # a gate with nothing to hold is no pass
