"""Every way to train, on a tiny model: what is saved, what a stream gives, what stops a run and what is safe then."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click_rows import losses
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny import save_tiny_text_model
from transformers.models.llama.modeling_llama import LlamaMLP

from mllm import load
from mllm.provenance import read_provenance
from mllm.rows import RowsError
from mllm.train.config import ConfigError, TrainConfig
from mllm.train.faults import TrainingError, failed_save, last_whole_checkpoint
from mllm.train.report import read_lines
from mllm.train.sft import train

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("method", ["lora", "dora", "full", "projector"])
def test_each_method_trains_saves_and_says_what_it_cost(settings, tmp_path, method):
    run = tmp_path / "run"
    train(TrainConfig(**settings, method=method), run)
    record = json.loads((run / "provenance.json").read_text())
    assert record["cost"]["steps"] == 4 and record["cost"]["rows"] > 0 and record["cost"]["supervised"] > 0
    assert record["config"]["method"] == method and record["rows"]["packing"]["saved"] > 0
    assert (run / "report.html").is_file() and len(losses(run)) == 4 and not list(run.glob("*.bin"))
    if method == "projector":
        stage_two = {**settings, "model": settings["model"] | {"projector_weights": str(run / "projector.safetensors")}}
        stage_two["training"] = settings["training"] | {"max_steps": 1}
        train(TrainConfig(**stage_two), tmp_path / "two")
        return
    clip = Path(settings["data"]["path"]).parent / "0.wav"
    assert load(str(run)).ask(clip, "How fast?", max_new_tokens=2).audio_tokens > 0


def test_without_rows_to_check_with_it_says_so_and_trains(settings, tmp_path, caplog):
    source = Path(settings["data"]["path"])
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    own = source.with_name("train_only.jsonl")
    own.write_text("\n\n".join(json.dumps(row) for row in rows if row["split"] == "train"), encoding="utf-8-sig")
    training = settings["training"] | {"eval_strategy": "epoch"}
    changed = {"data": settings["data"] | {"path": str(own)}, "training": training}
    train(TrainConfig(**settings | changed), tmp_path)
    assert len(losses(tmp_path)) == 4 and "no row of split 'validation'" in caplog.text
    with pytest.raises(RowsError, match="no such file"):
        train(TrainConfig(**settings | {"data": {"path": str(tmp_path / "away.jsonl")}}), tmp_path / "none")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_gradient_checkpointing_computes_again_and_changes_nothing(settings, tmp_path, monkeypatch, method):
    forward, calls = LlamaMLP.forward, {False: 0, True: 0}

    def counted(self, *args):
        calls[on] += 1
        return forward(self, *args)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    for on in calls:
        training = settings["training"] | {"gradient_checkpointing": on}
        train(TrainConfig(**settings | {"training": training}, method=method), tmp_path / str(on))
    assert calls[True] == 2 * calls[False]
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), abs=1e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_answers_and_task_losses_of_the_validation_rows_are_kept(settings, tmp_path, bf16):
    training = settings["training"] | {"eval_strategy": "steps", "eval_steps": 2, "bf16": bf16}
    train(TrainConfig(**settings | {"training": training, "samples": {"rows": 2, "max_new_tokens": 2}}), tmp_path)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    checked = [entry for entry in metrics if "eval_loss" in entry]
    assert len(checked) == 2 and all(e["eval_loss"] == pytest.approx(e["eval_loss_task/tempo"]) for e in checked)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {s["truth"] for s in samples} == {"60"} and not any(s.get("error") for s in samples)


@pytest.mark.parametrize("streaming", [False, True])
def test_samples_are_answered_though_nothing_is_evaluated(settings, tmp_path, caplog, streaming):
    data = settings["data"] | {"streaming": streaming}
    changed = {"samples": {"rows": 1, "every": 3, "max_new_tokens": 2}, "data": data}
    train(TrainConfig(**settings | changed), tmp_path)
    assert [(line["step"], line["truth"]) for line in read_lines(tmp_path / "samples.jsonl")] == [(3, "60"), (4, "60")]
    assert not any("eval_loss" in line for line in read_lines(tmp_path / "metrics.jsonl"))
    own = tmp_path / "rows.jsonl"
    talk = [{"role": "user", "content": "How fast?"}, {"role": "assistant", "content": "60"}]
    own.write_text(json.dumps({"messages": talk}))
    alone = {"samples": {"rows": 1}, "data": data | {"path": str(own)}}
    train(TrainConfig(**settings | alone), tmp_path / "alone")
    assert "no sample answers: " in caplog.text and "no row of split 'validation'" in caplog.text


def test_a_stream_goes_on_where_its_checkpoint_ends(settings, tmp_path):
    stream = {**settings, "data": settings["data"] | {"streaming": True, "shuffle_buffer": 8}}
    stream["training"] = settings["training"] | {"max_steps": 8, "lr_scheduler_type": "constant"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(TrainConfig(**stream), whole)
    half = {**stream, "training": stream["training"] | {"max_steps": 4}}
    train(TrainConfig(**half), parts)
    train(TrainConfig(**stream), parts)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-4) and len(losses(whole)) == 8


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rows(settings, tmp_path, monkeypatch):
    from mllm.train.feature_cache import FeatureCache

    good = FeatureCache.load
    broken = lambda self, audio: good(self, audio) * (float("nan") if "7.wav" in str(audio) else 1)  # noqa: E731
    monkeypatch.setattr(FeatureCache, "load", broken)
    with pytest.raises(TrainingError, match=r"not a number; rows: .*7-\d") as error:
        train(TrainConfig(**{**settings, "training": settings["training"] | {"max_steps": 30}}), tmp_path)
    assert "8-" not in str(error.value)


def test_a_full_disk_leaves_the_checkpoint_before(settings, tmp_path, monkeypatch):
    from mllm.train.trainer import Trainer

    save = Trainer._save_optimizer_and_scheduler

    def full(self, folder):
        if "checkpoint-4" in str(folder):
            raise OSError(28, "No space left on device")
        save(self, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(TrainingError, match="No space left on device; .*checkpoint-2 is whole"):
        train(TrainConfig(**settings), tmp_path)
    assert (
        last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2") and not (tmp_path / "checkpoint-4").exists()
    )


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, id="ctrl-c"), pytest.param(signal.SIGTERM, marks=pytest.mark.slow, id="scheduler")],
)
def test_a_stop_saves_and_the_same_command_goes_on(settings, tmp_path, number):
    """The signal comes to every process of the group, the one that reads batches too."""
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    steps = {"max_steps": 2000, "save_steps": 2000, "dataloader_num_workers": 1}
    config.write_text(yaml.safe_dump({**settings, "training": settings["training"] | steps}))
    command = [sys.executable, "-m", "mllm.train.sft", str(config), "--output_dir", str(run)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (run / "metrics.jsonl").is_file() or not losses(run):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 1 and "is saved, and the same command goes on" in said[-1]
    step = len(losses(run))
    assert last_whole_checkpoint(run) == str(run / f"checkpoint-{step}")
    train(TrainConfig(**{**settings, "training": settings["training"] | steps | {"max_steps": step + 1}}), run)
    assert len(losses(run)) == step + 1


@pytest.mark.parametrize("method", ["lora", "projector"])
def test_the_best_of_weights_alone_is_what_a_run_leaves(settings, tmp_path, caplog, method):
    """Best by a measure that falls, so that it is the first checkpoint and not the last."""
    rate = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    best = {**rate, "save_only_model": True, "load_best_model_at_end": True, "learning_rate": 1e-3}
    config = TrainConfig(**{**settings, "training": settings["training"] | best}, method=method)
    train(config, tmp_path)
    name = "projector.safetensors" if method == "projector" else "adapter_model.safetensors"
    left, first, last = (load_file(folder / name) for folder in (tmp_path, *sorted(tmp_path.glob("checkpoint-*"))))
    assert all(torch.equal(left[key], first[key]) for key in first)
    assert any(not torch.equal(left[key], last[key]) for key in last)
    rates = [line["learning_rate"] for line in read_lines(tmp_path / "metrics.jsonl") if "learning_rate" in line]
    shutil.rmtree(tmp_path / "checkpoint-4")
    train(config, tmp_path)
    again = [line["learning_rate"] for line in read_lines(tmp_path / "metrics.jsonl") if "learning_rate" in line]
    assert "the optimizer begins anew" in caplog.text and again == pytest.approx(rates), "not the schedule"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "full"),
            "cannot write .*: No space left on device; there is no earlier.* once there is",
        ),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "cannot write .*: No space left on device",
        ),
        (OSError(errno.EACCES, "Permission denied"), "cannot write .*: Permission denied; there is no earlier"),
        (RuntimeError("CUDA error: misaligned\nlong"), r"saving .* failed \(RuntimeError: CUDA error: misaligned\)"),
        (RuntimeError(), r"saving .* failed \(RuntimeError: \)"),
    ],
    ids=["full", "full for safetensors", "forbidden", "gpu", "silent"],
)
def test_a_save_that_fails_says_why(tmp_path, error, words):
    told = str(failed_save(tmp_path / "checkpoint-2", error))
    assert re.match(words, told) and ("once there is room" in told) == ("No space" in told)


def test_a_disk_that_torch_finds_full_is_called_full(tiny_disk):
    folder = tiny_disk / "checkpoint-2"
    folder.mkdir()
    told = ""
    try:
        torch.save(torch.zeros(2**20), folder / "optimizer.pt")
    except RuntimeError as error:  # kept no longer, for it keeps the file open
        told = str(failed_save(folder, error))
    assert "No space left on device" in told and not folder.exists()


def test_a_finished_run_is_not_trained_again(settings, tmp_path):
    train(TrainConfig(**settings), tmp_path)
    before = load_file(tmp_path / "adapter_model.safetensors")
    train(TrainConfig(**settings), tmp_path)
    after = load_file(tmp_path / "adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before) and len(losses(tmp_path)) == 4


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_language_model_is_adapted(settings, tmp_path, kind):
    quantized = {**settings, "model": settings["model"] | {"quantization": kind}}
    quantized["training"] = settings["training"] | {"bf16": True, "max_steps": 6, "learning_rate": 5e-3}
    train(TrainConfig(**quantized), tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    clip = Path(settings["data"]["path"]).parent / "0.wav"
    assert load(str(tmp_path)).ask(clip, "How fast?", max_new_tokens=2).audio_tokens > 0


def test_a_tower_that_cannot_learn_is_refused(settings, tmp_path):
    with pytest.raises(ConfigError, match="matches nothing in this tower"):
        train(TrainConfig(**settings, learning_rates={"tower": 1e-4}), tmp_path)


def test_kernels_of_attention_agree(settings, tmp_path):
    for kernel in ("sdpa", "eager", "grouped"):
        train(TrainConfig(**settings | {"model": settings["model"] | {"attention": kernel}}), tmp_path / kernel)
    assert losses(tmp_path / "eager") == pytest.approx(losses(tmp_path / "sdpa"), abs=1e-4)
    assert losses(tmp_path / "grouped") == pytest.approx(losses(tmp_path / "sdpa"), abs=1e-4)
    assert read_provenance(tmp_path / "grouped")["cost"]["padding_share"] == 0


def test_half_precision_learns_what_full_precision_does(settings, tmp_path):
    for bf16 in (False, True):
        training = settings["training"] | {"bf16": bf16, "max_steps": 8, "learning_rate": 1e-3}
        train(TrainConfig(**settings | {"training": training}), tmp_path / str(bf16))
    exact, half = losses(tmp_path / "False"), losses(tmp_path / "True")
    assert half == pytest.approx(exact, rel=0.02) and half != exact
    apart = max(abs(one - other) for one, other in zip(half, exact, strict=True))
    assert exact[0] - exact[-1] > 5 * apart, "far more is learned than the two differ by"


@pytest.mark.slow
def test_compiled_layers_compute_the_same(settings, tmp_path):
    for on in (False, True):
        train(TrainConfig(**settings, compile_layers=on), tmp_path / str(on))
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="these kernels run on a GPU")
@pytest.mark.parametrize(
    ("package", "changed"),
    [("liger_kernel", {"liger": True}), ("flash_attn", {"model": {"attention": "flash_attention_2"}})],
)
def test_kernels_of_gpus_learn_what_others_do(settings, tmp_path, package, changed):
    pytest.importorskip(package)
    plain = settings | {"model": settings["model"] | {"attention": "sdpa"}}
    plain["training"] = settings["training"] | {"bf16": True, "max_steps": 8}
    own = {name: plain["model"] | value if name == "model" else value for name, value in changed.items()}
    train(TrainConfig(**plain), tmp_path / "plain")
    train(TrainConfig(**plain | own), tmp_path / "own")
    assert losses(tmp_path / "own") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)


@pytest.mark.parametrize("why", ["it is for packed rows", "has sliding attention", "drops attention out"])
def test_a_kernel_that_cannot_be_used_is_refused(settings, tmp_path, why):
    changed: dict[str, Any] = {"model": settings["model"] | {"attention": "grouped"}}
    if "packed" in why:
        changed["packing"] = None
    else:
        changed["model"]["language_model"] = text = str(save_tiny_text_model(tmp_path / "text", "gemma3"))
        if "drops" in why:
            config = json.loads(Path(text, "config.json").read_text())
            config |= {"layer_types": ["full_attention"] * config["num_hidden_layers"], "attention_dropout": 0.1}
            Path(text, "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=why):
        train(TrainConfig(**settings | changed), tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"liger": True}, "liger: its kernels run on a GPU"),
        ({"model": {"attention": "flash_attention_2"}}, "FlashAttention2"),
    ],
)
def test_what_needs_a_gpu_says_so(settings, tmp_path, changed, words):
    changed = {name: settings["model"] | value if name == "model" else value for name, value in changed.items()}
    with pytest.raises(ConfigError, match=words):
        train(TrainConfig(**settings | changed), tmp_path)


def test_projector_weights_are_the_only_ones_that_change(settings, tmp_path):
    train(TrainConfig(**settings, method="projector"), tmp_path)
    first, last = (load_file(tmp_path / f"checkpoint-{step}" / "projector.safetensors") for step in (2, 4))
    assert any(not torch.equal(first[name], last[name]) for name in first)
