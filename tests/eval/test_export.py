"""Exported questions load with `datasets` alone, hold everything, and run in lm-evaluation-harness."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
import typer
import yaml
from typer.testing import CliRunner

from mllm.eval.export import export, main
from mllm.eval.task import EvalError
from mllm.eval.tasks import TASKS

QUESTIONS = [
    ("theory_interval", "Which interval lies between C and G?", "a perfect fifth"),
    ("theory_signature", "How many sharps has D major?", "2 sharps"),
    ("theory_signature", "How many flats has F major?", "1 flat"),
]


@pytest.fixture(scope="module")
def theory(tmp_path_factory) -> Path:
    """Three questions about theory in words, of two licences."""
    file = tmp_path_factory.mktemp("theory") / "rows.jsonl"
    rows = [
        {"id": f"t{i}", "task": task, "split": "test", "licence": ("apache-2.0", "cc0-1.0")[i % 2], "facts": {},
         "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for i, (task, question, answer) in enumerate(QUESTIONS)
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def loaded(folder: Path, cache: Path):
    from datasets import load_dataset

    return load_dataset(str(folder), cache_dir=str(cache))


def test_words_and_truths_come_back_with_licences(theory, tmp_path):
    assert export("theory", theory, tmp_path / "out") == 3
    rows = loaded(tmp_path / "out", tmp_path / "cache")["test"]
    assert [(row["prompt"], row["answer"]) for row in rows] == [(q, a) for _, q, a in QUESTIONS]
    assert [row["licence"] for row in rows] == ["apache-2.0", "cc0-1.0", "apache-2.0"]
    # what is loaded is scored like what was exported
    items = {item.id: item for item in TASKS["theory"].items(theory, "test", None, 0)}
    assert all(TASKS["theory"].score(row["answer"], items[row["id"]]).score == 1 for row in rows)
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "apache-2.0 (2), cc0-1.0 (1)" in readme and yaml.safe_load(readme.split("---")[1])["license"] == "other"
    described = yaml.safe_load((tmp_path / "out" / "lm_eval" / "mllm_theory.yaml").read_text())
    assert Path(described["dataset_kwargs"]["data_files"]["test"]).is_file()


def test_recordings_travel_without_their_names(data, tmp_path):
    assert export("key", data, tmp_path / "out", limit=2) == 2
    rows = loaded(tmp_path / "out", tmp_path / "cache")["test"]
    assert [row["answer"] for row in rows] == ["C major", "A minor"]
    for i, row in enumerate(rows):
        (sound,) = row["audio"]
        original = (data / "clips" / f"test-{i}.flac").read_bytes()
        assert sound["bytes"] == original and sound["path"] == f"{hashlib.sha256(original).hexdigest()[:16]}.flac"
        assert soundfile.info(io.BytesIO(sound["bytes"])).duration == pytest.approx(3.0 + i / 3, abs=0.01)
        (message,) = json.loads(row["messages"])
        assert message["content"] == [{"type": "audio"}, {"type": "text", "text": row["question"]}]
        assert row["licence"] == "Apache-2.0"
    assert not (tmp_path / "out" / "lm_eval").exists()  # lm-evaluation-harness does not hear
    copied = runpy.run_path(str(tmp_path / "out" / "lmms_eval" / "lmms_questions.py"))
    (asked,) = copied["messages"](rows[1])
    kind, url = asked["content"][0]["type"], asked["content"][0]["url"]
    assert (
        kind == "audio"
        and base64.b64decode(url.removeprefix("data:audio/flac;base64,")) == copied["sounds"](rows[1])[0]
    )
    assert copied["judge"](rows[1], [" A minor. "]) == {"right": 1.0}
    assert copied["judge"](rows[1], ["A minor or C major"]) == copied["judge"](rows[1], [""]) == {"right": 0.0}


def test_what_cannot_be_exported_is_refused(theory, data, tmp_path):
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["theroy", "--data", str(theory), "--output", str(tmp_path / "a")])
    assert done.exit_code == 1 and "unknown task theroy" in done.output and "theory" in done.output
    with pytest.raises(EvalError, match="no questions of the split 'test' for theory"):
        export("theory", data, tmp_path / "b")
    other = tmp_path / "c"
    other.mkdir()
    (other / "README.md").write_text("mine")
    with pytest.raises(EvalError, match="holds something else"):
        export("theory", theory, other)
    assert [file.name for file in other.iterdir()] == ["README.md"]
    assert export("theory", theory, tmp_path / "d", limit=1) == 1
    assert export("theory", theory, tmp_path / "d") == 3  # an export is made anew in its place


@pytest.mark.slow
def test_lm_evaluation_harness_asks_our_server(theory, tmp_path):
    """`lm-eval` of another environment (its path in LM_EVAL, or on PATH) against a server on the tiny random model."""
    command = os.environ.get("LM_EVAL") or shutil.which("lm-eval")
    if not command:
        pytest.skip("lm-eval is not installed: put it into an environment of its own and its path into LM_EVAL")
    from live import MODEL, LiveServer

    export("theory", theory, tmp_path / "out")
    server = LiveServer()
    try:
        arguments = f"model={MODEL},base_url={server.url}/v1/chat/completions,num_concurrent=2,max_retries=1"
        subprocess.run(
            [command, "run", "--model", "local-chat-completions", "--model_args", arguments, "--tasks", "mllm_theory",
             "--include_path", str(tmp_path / "out" / "lm_eval"), "--apply_chat_template", "--log_samples",
             "--output_path", str(tmp_path / "results")],
            check=True, timeout=600, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        )  # fmt: skip
    finally:
        server.close()
    (results,) = (tmp_path / "results").rglob("results_*.json")
    found = json.loads(results.read_text())
    assert found["n-samples"]["mllm_theory"]["effective"] == 3
    assert 0 <= found["results"]["mllm_theory"]["exact_match,none"] <= 1
    (samples,) = (tmp_path / "results").rglob("samples_*.jsonl")
    answers = [json.loads(line) for line in samples.read_text().splitlines()]
    assert {answer["target"] for answer in answers} == {answer for _, _, answer in QUESTIONS}
    assert all(isinstance(answer["resps"][0][0], str) for answer in answers)


@pytest.mark.slow
def test_lmms_eval_sends_recordings_to_our_server(data, tmp_path):
    """lmms-eval of another environment (its Python in LMMS_EVAL_PYTHON) against a server on the tiny random model."""
    python = os.environ.get("LMMS_EVAL_PYTHON")
    if not python:
        pytest.skip("no lmms-eval: put it into an environment of its own and that one's Python into LMMS_EVAL_PYTHON")
    from live import MODEL, LiveServer

    export("key", data, tmp_path / "out")
    server = LiveServer()
    try:
        arguments = f"model_version={MODEL},base_url={server.url}/v1,num_concurrent=2,max_retries=1"
        subprocess.run(
            [python, "-m", "lmms_eval", "--model", "openai", "--model_args", arguments, "--tasks", "mllm_key",
             "--include_path", str(tmp_path / "out" / "lmms_eval"), "--batch_size", "1", "--log_samples",
             "--output_path", str(tmp_path / "results")],
            check=True, timeout=600, cwd=tmp_path,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OPENAI_API_KEY": "none"},
        )  # fmt: skip
    finally:
        server.close()
    (samples,) = (tmp_path / "results").rglob("*samples_mllm_key.jsonl")
    answers = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [answer["target"] for answer in answers] == ["C major", "A minor", "Eb dorian", "C major"]
    # a request that failed would stand there as an answer
    assert all("LMMS_EVAL_REQUEST_FAILED" not in json.dumps(answer) for answer in answers)
