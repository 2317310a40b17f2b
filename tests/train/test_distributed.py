"""Two processes learn what one learns, in every way that train/accelerate/ offers; what they save loads and resumes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from click_rows import losses
from safetensors.torch import load_file
from torch.testing import assert_close

from mllm import load
from mllm.provenance import read_provenance
from mllm.train.config import TrainConfig
from mllm.train.sft import train

ROOT = Path(__file__).parents[2]
WEIGHTS = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}


def of_batch(settings: dict[str, Any], size: int, **others: Any) -> dict[str, Any]:
    # the last batch of an epoch is left out where it is not full: two processes would fill it up with rows seen before
    steps = {"max_steps": 20, "save_steps": 10, "per_device_train_batch_size": size, "dataloader_drop_last": True}
    return settings | others | {"training": settings["training"] | steps | others.get("training", {})}


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory):
    """Runs of one process, made when they are asked for: method -> folder."""
    runs: dict[str, Path] = {}

    def run(method: str, **others: Any) -> Path:
        name = method + json.dumps(others)
        if name not in runs:
            runs[name] = tmp_path_factory.mktemp("alone")
            train(TrainConfig(**of_batch(settings, 4, method=method, **others)), runs[name])
        return runs[name]

    return run


def launch(kind: str, config: dict[str, Any], folder: Path, run: Path, program: str = "") -> str:
    """Two processes with one file of train/accelerate/; what they said. `program`: beside this file, in sft's place."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    own = program or ("fsdp_on_cpu.py" if kind == "fsdp" else "")
    command = [str(ROOT / "tests/train" / own)] if own else ["-m", "mllm.train.sft"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch"]
        + ["--config_file", str(ROOT / f"train/accelerate/{kind}.yaml")]
        + ["--num_processes", "2", "--main_process_port", "0"]
        + [*command, str(folder / "config.yaml"), "--output_dir", str(run)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "method"),
    [("ddp", "lora"), ("fsdp", "full"), ("zero2", "lora"), ("zero3", "full")],
)
def test_two_processes_learn_what_one_learns_and_it_loads(settings, alone, tmp_path, kind, method):
    if kind.startswith("zero"):
        pytest.importorskip("deepspeed")
    config, run = of_batch(settings, 2, method=method), tmp_path / "run"
    config["data"] = config["data"] | {"feature_cache": str(tmp_path / "features")}  # each encodes half of it
    launch(kind, config, tmp_path, run)
    expected = losses(alone(method))
    assert len(losses(run)) == 20 and losses(run) == pytest.approx(expected, abs=1e-4)
    cost = read_provenance(run)["cost"]
    assert cost["processes"] == 2 and cost["rows"] == read_provenance(alone(method))["cost"]["rows"]

    ours, theirs = load_file(run / WEIGHTS[method]), load_file(alone(method) / WEIGHTS[method])
    assert set(ours) - {"lm_head.weight"} == set(theirs) - {"lm_head.weight"}  # tied: stands there or not
    for name, tensor in ours.items():
        assert_close(tensor, theirs.get(name, tensor), atol=1e-4, rtol=1e-3)
    clip = Path(settings["data"]["path"]).parent / "0.wav"
    ours, theirs = (load(str(folder)).ask(clip, "How fast?", max_new_tokens=4) for folder in (run, alone(method)))
    assert str(ours) == str(theirs)


@pytest.mark.slow
def test_sharded_bfloat16_logs_losses_in_float32(settings, tmp_path):
    config = of_batch(settings, 2, method="full", training={"bf16": True, "max_steps": 2})
    launch("fsdp", config, tmp_path, tmp_path / "run")
    assert all(loss != torch.tensor(loss).bfloat16().item() for loss in losses(tmp_path / "run"))


def test_padded_batches_are_balanced_over_processes(settings, alone, tmp_path):
    """Of sixteen rows of 15 to 200 tokens each process gets as much work as the other, and they learn what one does."""
    random, rows = Random(0), []
    for _ in range(96):
        answer = "la " * round(5 * 36 ** random.random())
        talk = [{"role": "user", "content": "Sing!"}, {"role": "assistant", "content": answer}]
        rows.append(json.dumps({"messages": talk}))
    own, run = tmp_path / "songs.jsonl", tmp_path / "run"
    own.write_text("\n".join(rows))
    changes = {"packing": None, "data": settings["data"] | {"path": str(own)}}
    steps = {"max_steps": 6, "save_steps": 6}
    config = of_batch(settings, 8, method="lora", **changes, training=steps | {"per_device_train_batch_size": 8})
    launch("ddp", config, tmp_path, run, "costs_by_rank.py")
    together = steps | {"per_device_train_batch_size": 16, "train_sampling_strategy": "batch_rebalance"}
    expected = losses(alone("lora", **changes, training=together))
    assert losses(run) == pytest.approx(expected, abs=1e-4) and len(expected) == 6

    shapes = [[json.loads(line) for line in (run / f"shapes-{rank}.jsonl").open()] for rank in range(2)]
    assert {first + second for (first, _), (second, _) in zip(*shapes, strict=True)} == {16}
    # attention grows with the square of the length; the weight is that of transformers' sampler
    costs = [[size * length * (1 + 0.001 * length) for size, length in one] for one in shapes]
    apart = [abs(one - other) / (one + other) for one, other in zip(*costs, strict=True)]
    assert sum(apart) / len(apart) < 0.1, "shared out as they come: 0.2 and more"


@pytest.mark.parametrize(
    "kind", ["ddp", "fsdp", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("zero2", "zero3"))]
)
def test_two_processes_go_on_within_an_epoch_and_check_like_one(settings, alone, tmp_path, kind):
    """With rows that hear nothing, and validation rows that do not fill the last batch."""
    if kind.startswith("zero"):
        pytest.importorskip("deepspeed")
    source = Path(settings["data"]["path"])
    own = source.with_name("with_texts.jsonl")
    talk = [{"role": "user", "content": "How fast?"}, {"role": "assistant", "content": "fast"}]
    texts = [json.dumps({"messages": talk, "split": split}) for split in ["train"] * 6 + ["validation"]]
    own.write_text("\n".join([*source.read_text().splitlines(), *texts]))
    steps = {"max_steps": 8, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 4, "learning_rate": 1e-2}
    changes = {
        "method": "projector",
        "data": settings["data"] | {"path": str(own)},
        "packing": {"tokens": 60},
        "training": steps | {"per_device_eval_batch_size": 2},
        "learning_rates": {"projector": 1e-2},
    }
    one, config, run = alone(**changes), of_batch(settings, 2, **changes), tmp_path / "run"
    launch(kind, config, tmp_path, run)

    def checks(folder: Path) -> list[float]:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line["eval_loss"] for line in lines if "eval_loss" in line]

    assert losses(run) == pytest.approx(losses(one), abs=1e-4)
    assert len(checks(run)) == 2 and checks(run) == pytest.approx(checks(one), abs=1e-4)
    shutil.rmtree(run / "checkpoint-8")
    (run / "projector.safetensors").unlink()
    launch(kind, config, tmp_path, run)
    assert losses(run) == pytest.approx(losses(one), abs=1e-4), "step 8 is within an epoch, not the first"
    ours, theirs = (load_file(folder / "projector.safetensors") for folder in (run, one))
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert_close(tensor, theirs[name], atol=1e-3, rtol=1e-2)
