"""A run that goes on: the same rows in the same order, its own settings, nothing written twice."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from click_rows import losses

from mllm.errors import AudioError, MllmError, PromptError
from mllm.train.command_line import run as command_line
from mllm.train.config import ConfigError, TrainConfig
from mllm.train.counts import Counts
from mllm.train.faults import Stop
from mllm.train.ledger import CostLedger
from mllm.train.sft import train
from mllm.train.watching import LocalTracker


def with_training(settings, **training):
    return settings | {"training": settings["training"] | training}


def test_padded_batches_come_in_the_same_order_after_an_epoch(settings, tmp_path):
    # 18 rows are nine batches: step 12 lies within the second epoch
    config = TrainConfig(**with_training(settings | {"packing": None}, max_steps=20, save_steps=12))
    train(config, tmp_path)
    undisturbed = losses(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-20")
    train(config, tmp_path)
    assert losses(tmp_path) == pytest.approx(undisturbed, abs=1e-4) and len(undisturbed) == 20


def test_another_run_is_not_mixed_in(settings, tmp_path, caplog):
    train(TrainConfig(**with_training(settings, max_steps=2)), tmp_path)
    for other in ({"lora": {"rank": 4}}, {"method": "dora"}):
        with pytest.raises(ConfigError, match=r"checkpoint-2 is of another run .*give another --output_dir"):
            train(TrainConfig(**settings | other), tmp_path)
    train(TrainConfig(**with_training(settings, max_steps=3, learning_rate=1e-5)), tmp_path)
    assert "training.learning_rate was None, is 1e-05" in caplog.text and len(losses(tmp_path)) == 3


def test_a_run_that_ended_keeps_what_it_left(settings, tmp_path, caplog):
    train(TrainConfig(**settings), tmp_path)
    left = {name: (tmp_path / name).read_bytes() for name in ("provenance.json", "adapter_model.safetensors")}
    train(TrainConfig(**settings), tmp_path)
    assert "has ended already" in caplog.text
    assert left == {name: (tmp_path / name).read_bytes() for name in left}, "its cost too"
    for name in left:  # killed before they were written
        (tmp_path / name).unlink()
    train(TrainConfig(**settings), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == left["adapter_model.safetensors"]
    assert json.loads((tmp_path / "provenance.json").read_text())["cost"]["steps"] == 4
    assert not [file.name for file in tmp_path.iterdir() if file.suffix in (".pt", ".pth", ".bin")]


def test_a_run_by_part_of_an_epoch_ends_where_it_ended(settings, tmp_path, caplog):
    half = TrainConfig(**with_training(settings, max_steps=-1, num_train_epochs=0.5, save_steps=1))
    train(half, tmp_path)
    undisturbed = losses(tmp_path)
    train(half, tmp_path)
    assert losses(tmp_path) == undisturbed and "raise training.num_train_epochs" in caplog.text
    shutil.rmtree(tmp_path / f"checkpoint-{len(undisturbed)}")
    train(half, tmp_path)
    assert losses(tmp_path) == pytest.approx(undisturbed, abs=1e-4)
    train(TrainConfig(**with_training(settings, max_steps=-1, num_train_epochs=1, save_steps=1)), tmp_path)
    assert len(losses(tmp_path)) > len(undisturbed)


def test_a_folder_that_cannot_be_written_is_refused_at_once(settings, tmp_path):
    (tmp_path / "file").write_text("mine")
    nowhere = settings | {"data": {"path": str(tmp_path / "nowhere.jsonl")}}
    for folder, why in ((tmp_path / "file", "it is a file"), (tmp_path / "file" / "run", "Not a directory")):
        with pytest.raises(ConfigError, match=rf"--output_dir .* cannot be written \({why}\): give another"):
            train(TrainConfig(**nowhere), folder)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"longest": 16}, r"each of 18 rows is longer than data.longest \(16 tokens\): raise it, the shortest has \d+"),
        ({"longest": 16, "streaming": True}, r"every row is longer than data.longest \(16 tokens\)"),
        ({"shares": {"*": 0.0}}, "data.shares lets no train row"),
    ],
    ids=["too long", "too long in a stream", "no share"],
)
def test_rows_of_which_none_is_left_are_refused(settings, tmp_path, data, words):
    with pytest.raises(MllmError, match=words):
        train(TrainConfig(**settings | {"data": settings["data"] | data}), tmp_path)


def test_a_stream_cannot_go_on_from_what_was_none(settings, tmp_path):
    train(TrainConfig(**with_training(settings, max_steps=2)), tmp_path)
    stream = settings | {"data": settings["data"] | {"streaming": True}}
    with pytest.raises(ConfigError, match="does not say where in the stream process 0 was"):
        train(TrainConfig(**stream), tmp_path)


def test_a_scheduler_may_ask_twice():
    stop, args = Stop(), SimpleNamespace(world_size=1)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_train_begin(args, None, None)
    try:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        stop.on_step_end(args, None, control)
    finally:
        stop.on_train_end(args, None, None)
    assert control.should_save and control.should_training_stop


def test_processes_are_summed_up_before_the_save_of_an_epoch(monkeypatch):
    ledger, gathered = CostLedger(Counts(), None), []
    monkeypatch.setattr(ledger, "gather", lambda: gathered.append(True))
    for should_save in (False, True):
        ledger.on_epoch_end(None, None, SimpleNamespace(should_save=should_save))
    assert len(gathered) == 1


@pytest.mark.parametrize("cache", [True, False])
def test_rows_without_audio_train_a_projector_too(settings, tmp_path, cache):
    talk = [{"role": "user", "content": "How fast?"}, {"role": "assistant", "content": "60"}]
    own = tmp_path / "rows.jsonl"
    own.write_text("\n".join(json.dumps({"messages": talk}) for _ in range(4)))
    data = {"path": str(own), "feature_cache": str(tmp_path / "features") if cache else False}
    train(TrainConfig(**settings | {"data": data}, method="projector"), tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 4


@pytest.mark.parametrize("content", [None, b"", b"no sound"])
def test_a_recording_that_cannot_be_read_is_named_without_a_cache(settings, tmp_path, content):
    parts = [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "How fast?"}]
    talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": "60"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": talk}))
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    data = {"path": str(tmp_path / "rows.jsonl"), "feature_cache": False}
    with pytest.raises(AudioError, match=r"a\.wav"):
        train(TrainConfig(**settings | {"data": data}), tmp_path / "run")


def test_what_the_system_refuses_and_ctrl_c_are_one_line(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("method: lora\n")

    def refused(config: TrainConfig, output_dir: str) -> None:
        Path(output_dir, "checkpoint-1").mkdir(parents=True)

    def stopped(config: TrainConfig, output_dir: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match=r"error: .*: Not a directory"):
        command_line(refused, None, [str(config), "--output_dir", str(config / "run")])
    with pytest.raises(SystemExit, match="130"):
        command_line(stopped, None, [str(config), "--output_dir", str(tmp_path)])
    assert capsys.readouterr().err == "stopped\n"


def test_a_stop_behind_the_last_step_leaves_the_result(settings, tmp_path, monkeypatch):
    tell = LocalTracker.on_log

    def asked(self, args, state, control, logs=None, **kwargs):
        tell(self, args, state, control, logs, **kwargs)
        if "train_runtime" in logs:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(LocalTracker, "on_log", asked)
    train(TrainConfig(**with_training(settings, max_steps=1)), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_warnings_are_told_where_only_errors_were_asked_for(settings, tmp_path, caplog, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(logging.getLogger("mllm.train"), "level", logging.NOTSET)
    before = root.level
    root.setLevel(logging.ERROR)  # as the command line does
    try:
        for _ in range(2):
            train(TrainConfig(**with_training(settings, max_steps=1)), tmp_path)
    finally:
        root.setLevel(before)
    assert "has ended already" in caplog.text


def test_a_recording_that_nothing_is_learned_after_is_named(settings, tmp_path):
    source = Path(settings["data"]["path"])
    row = json.loads(source.read_text().splitlines()[-1])
    row["messages"].append({"role": "user", "content": [{"type": "audio", "audio": "0.wav"}]})
    own = source.with_name("trailing.jsonl")
    own.write_text(json.dumps(row))
    with pytest.raises(PromptError, match=r"row 11-1: .*after the last answer"):
        train(TrainConfig(**settings | {"data": settings["data"] | {"path": str(own)}}), tmp_path)
