"""Nothing is lost: a run that is killed, at any moment, goes on along the curve of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click_rows import losses

from mllm import load
from mllm.train.config import TrainConfig, load_config
from mllm.train.faults import TrainingError, clear_partial_checkpoints, failed_save, last_whole_checkpoint
from mllm.train.sft import train
from mllm.train.trainer import Trainer

ROOT = Path(__file__).parents[2]
STEPS = 12
DYING = """
import os, sys
from mllm.train import sft
from mllm.train.trainer import MusicTrainer, Trainer

def die(self, *given, **others):
    if self.state.global_step == {step}:
        os._exit(9)
    former(self, *given, **others)

former = Trainer.{method}
Trainer.{method} = die
sft.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def config_file(settings, tmp_path_factory) -> Path:
    """Seven packs of different rows, mixed anew in each epoch of four steps, and dropout: random numbers count.

    The rate is high, so that a step that is done otherwise is seen in the next.
    """
    steps = {"max_steps": STEPS, "save_steps": 2, "learning_rate": 5e-3, "dataloader_num_workers": 1, "seed": 3}
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    changed = {"lora": settings["lora"] | {"dropout": 0.1}, "training": settings["training"] | steps}
    path.write_text(yaml.safe_dump(settings | changed))
    return path


@pytest.fixture(scope="module")
def undisturbed(config_file, tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(load_config(config_file), run)
    told = losses(run)
    steps = [abs(later - before) for before, later in zip(told, told[1:], strict=False)]
    assert len(told) == STEPS and min(steps) > 1e-3, "or a step in another's place would not be seen"
    return run


def start(config_file: Path, run: Path, program: list[str]) -> subprocess.Popen:
    command = [sys.executable, *program, str(config_file), "--output_dir", str(run)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_random_numbers_that_are_not_restored_are_seen(config_file, undisturbed, tmp_path, monkeypatch):
    """What the tests below rest on: the same batches, weights and optimizer alone are another curve."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / f"checkpoint-{STEPS}")
    monkeypatch.setattr(Trainer, "_load_rng_state", lambda self, checkpoint: None)
    train(load_config(config_file), tmp_path)
    resumed, expected = losses(tmp_path), losses(undisturbed)
    assert resumed[: STEPS - 2] == expected[: STEPS - 2] and abs(resumed[STEPS - 2] - expected[STEPS - 2]) > 1e-3


def test_a_killed_run_goes_on_along_the_same_curve(config_file, undisturbed, tmp_path):
    run = tmp_path / "run"
    process = start(config_file, run, ["-m", "mllm.train.sft"])
    deadline = time.monotonic() + 240
    while not (run / "checkpoint-6" / "trainer_state.json").is_file() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "provenance.json").exists(), "killed before its end"
    assert load(last_whole_checkpoint(run)).provenance["cost"]["steps"] >= 6, "each checkpoint can be asked"
    train(load_config(config_file), run)
    assert losses(run) == pytest.approx(losses(undisturbed), abs=1e-4)
    assert not list(run.glob("*.bin")), "no pickles in the result"
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["cost"]["steps"] == STEPS and provenance["data"]["sha256"]


@pytest.mark.parametrize(
    "method", ["_save_optimizer_and_scheduler", pytest.param("_save_rng_state", marks=pytest.mark.slow)]
)
def test_a_death_within_a_save_leaves_the_checkpoint_before(config_file, undisturbed, tmp_path, method):
    run, program = tmp_path / "run", tmp_path / "dying.py"
    program.write_text(DYING.format(method=method, step=6))
    assert start(config_file, run, [str(program)]).wait() == 9
    half = run / "checkpoint-6"
    assert (half / "adapter_model.safetensors").is_file() and not (half / "trainer_state.json").exists()
    assert (half / "optimizer.pt").exists() == (method == "_save_rng_state")
    assert last_whole_checkpoint(run) == str(run / "checkpoint-4")
    train(load_config(config_file), run)
    assert losses(run) == pytest.approx(losses(undisturbed), abs=1e-4)


def test_a_state_that_was_cut_off_is_no_checkpoint(config_file, tmp_path):
    run, config = tmp_path / "run", load_config(config_file)
    config.training = config.training | {"max_steps": 6}
    train(config, run)
    expected = losses(run)
    state = run / "checkpoint-6" / "trainer_state.json"
    text = state.read_text()
    state.write_text(text[: len(text) // 2])
    assert last_whole_checkpoint(run) == str(run / "checkpoint-4")
    train(config, run)
    assert losses(run) == pytest.approx(expected, abs=1e-4) and json.loads(state.read_text())["global_step"] == 6


@pytest.mark.parametrize("kept", [None, "", "{", '{"global_step": 3}', "[]"])
def test_what_a_kill_left_half_written_is_cleared_away(tmp_path, kept):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2}')
    if kept is not None:
        (tmp_path / "checkpoint-4" / "trainer_state.json").write_text(kept)
    clear_partial_checkpoints(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_that_is_whole_stays_whatever_comes_after(settings, tmp_path, monkeypatch):
    """The oldest cannot be removed: the newest is what to go on from."""
    remove = shutil.rmtree

    def refused(path: Any, *given: Any, **others: Any) -> None:
        if Path(path).name == "checkpoint-1":
            raise PermissionError(1, "Operation not permitted")
        remove(path, *given, **others)

    monkeypatch.setattr(shutil, "rmtree", refused)
    steps = {"save_steps": 1, "save_total_limit": 1}
    with pytest.raises(TrainingError, match=r"checkpoint-2 was saved, .*not permitted.*checkpoint-2 is whole, and the"):
        train(TrainConfig(**settings | {"training": settings["training"] | steps}), tmp_path)
    monkeypatch.undo()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    half = tmp_path / "checkpoint-3"
    half.mkdir()
    failed_save(half, OSError(5, "Input/output error"))
    assert not half.exists()
