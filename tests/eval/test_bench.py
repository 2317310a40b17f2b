"""The bench measures in processes of its own and ends in one line of JSON a bench."""

import json

import numpy as np
from typer import Typer
from typer.testing import CliRunner

from mllm.eval import bench, bench_work


def run(*arguments: str):
    app = Typer()
    app.command()(bench.main)
    return CliRunner().invoke(app, list(arguments))


def test_answers_of_a_tiny_model_are_timed_and_a_failure_is_told(model):
    done = run("--model", model, "--only", "ask", "--repeats", "1")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["bench"] == "ask" and result["model"] == model
    assert 0 < result["follow_up_seconds"] and 0 < result["seconds"] and 0.1 < result["peak_rss_gib"] < 4
    assert result["answer_tokens"] <= bench_work.SHORT

    failed = run("--model", "no-such-model", "--only", "ask", "--repeats", "1")
    assert failed.exit_code == 1
    assert "no model 'no-such-model'" in json.loads(failed.stdout.splitlines()[-1])["error"]


def test_an_unknown_bench_is_refused():
    assert run("--only", "speed").exit_code == 2


def test_the_music_is_sound_and_differs_by_number():
    one, other = bench_work.music(1, 22_050), bench_work.music(2, 22_050)
    assert one.shape == other.shape == (220_500,) and one.dtype == np.float32
    assert 0.005 < np.abs(one).mean() and np.abs(one).max() <= 1
    assert not np.allclose(one, other) and np.array_equal(one, bench_work.music(1, 22_050))


def test_a_recording_is_written_as_mp3_a_second_short(tmp_path):
    written = bench_work.record(str(tmp_path / "a.mp3"), 0.5)
    assert written["audio_seconds"] == 29 and written["bytes"] > 10_000
