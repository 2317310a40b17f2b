"""What watches a run: ledger, logs, tracker, samples, driven by a real Trainer on a tiny random model."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pty
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small_run import LENGTH, ROW, run

from mllm.provenance import read_provenance
from mllm.train.collator import Collator
from mllm.train.config import TrainConfig
from mllm.train.counts import Counts
from mllm.train.flops import estimate_flops
from mllm.train.ledger import MIB, CostLedger, Rapl
from mllm.train.report import read_lines
from mllm.train.sft import train
from mllm.train.watching import LocalTracker, RichProgress, SampleAnswers, describe_row

ROOT = Path(__file__).parents[2]


def test_every_log_entry_reaches_the_file_and_any_tracker(whole) -> None:
    lines = read_lines(whole.folder / "metrics.jsonl")
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [2, 4, 6, 8]
    for line in training:
        assert {"learning_rate", "grad_norm", "tokens_a_second", "seconds", "epoch"} <= line.keys()
        # all rows have the same length, so each task's mean is the mean of the batches
        assert line["loss_task/key"] == pytest.approx(line["loss"], rel=1e-4)
    assert [line["step"] for line in lines if "eval_loss" in line] == [4, 8]
    for line in lines:
        if "eval_loss" in line:
            assert line["eval_loss_task/key"] == pytest.approx(line["eval_loss"], rel=1e-4)
            assert "loss_task/key" not in line
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    told = [{key: value for key, value in line.items() if key not in ("step", "seconds")} for line in lines]
    assert told == whole.trainer.seen.logs
    assert "loss_task/key" in whole.trainer.state.log_history[0]


def test_without_a_terminal_each_log_is_one_line(whole) -> None:
    lines = whole.printed.splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"step 2/8  loss \d\.\d{4}  lr \S+  [\d,]+ tokens/s  0:00:\d\d left", lines[0]), lines[0]
    assert re.fullmatch(r"step 4/8  loss on validation \d\.\d{4}", lines[2]), lines[2]


def test_ledger_adds_up(whole) -> None:
    cost = whole.trainer.ledger.cost()
    tokens = 8 * 2 * LENGTH
    assert (cost["steps"], cost["rows"], cost["tokens"], cost["supervised"]) == (8, 16, tokens, 16 * (LENGTH - 1))
    assert cost["processes"] == 1 and cost["padding_share"] == 0
    active = cost["seconds"] - cost["seconds_evaluating_and_saving"]
    assert 0 < active < cost["seconds"]
    assert cost["tokens_a_second"] == pytest.approx(tokens / active, rel=0.05)  # seconds are rounded
    expected = estimate_flops(whole.trainer.model).total(tokens, 16 * (LENGTH - 1), 0, LENGTH)
    assert cost["flops_estimated"] == pytest.approx(expected)
    assert 0 < cost["share_of_gemm_peak"] < 1
    assert cost["peak_memory_mib"] > 100 and cost["peak_gpu_memory_mib"] is None
    assert (cost["energy_joules"] is None) == (cost["energy_source"] is None)
    json.dumps(cost)


def test_what_the_loop_waits_for_and_who_reads_its_batches_is_in_the_ledger(settings, tmp_path, monkeypatch) -> None:
    """Batches that take a quarter of a second, read by a process that holds 200 MiB of its own."""
    lay_out, ballast = Collator.__call__, []

    def slowly(self, items):
        time.sleep(0.25)
        if not ballast and multiprocessing.parent_process() is not None:
            ballast.append(np.ones(200 * MIB, np.uint8))
        return lay_out(self, items)

    def cost(name: str, **training: Any) -> dict[str, Any]:
        steps = settings["training"] | {"save_strategy": "no", "max_steps": 8} | training
        train(TrainConfig(**settings | {"training": steps}), tmp_path / name)
        return read_provenance(tmp_path / name)["cost"]

    at_once = cost("at once")
    monkeypatch.setattr(Collator, "__call__", slowly)
    here, elsewhere = cost("here"), cost("elsewhere", dataloader_num_workers=1)
    assert 0 < at_once["seconds_waiting_for_data"] < here["seconds_waiting_for_data"]
    # each of two epochs begins with two batches, of which the first epoch's are not counted, and ends without any
    assert 1.5 <= here["seconds_waiting_for_data"] < here["seconds"] - here["seconds_evaluating_and_saving"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 180 < elsewhere["peak_memory_mib"] - peak < 1000, "and not what it shares with this process"
    assert "waiting for data" in (tmp_path / "here" / "report.md").read_text()


def test_a_resumed_run_has_no_doubles_and_counts_on(tmp_path) -> None:
    before = run(tmp_path).ledger.cost()
    assert json.loads((tmp_path / "checkpoint-4" / "cost.json").read_text())["tokens"] == before["tokens"] / 2
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')  # a run that went further and was killed as it wrote
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["step"] == 9
    console = Console(file=io.StringIO())
    trainer = run(tmp_path, console, resume=str(tmp_path / "checkpoint-4"))
    assert console.file.getvalue().startswith("resumed at step 4 of 8\nstep 6/8 ")
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert [line["step"] for line in lines if "eval_loss" in line] == [4, 8]
    assert sum("train_runtime" in line for line in lines) == 1
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert [sample["step"] for sample in read_lines(tmp_path / "samples.jsonl")] == [4, 8]
    cost = trainer.ledger.cost()
    for key in ("steps", "rows", "tokens", "supervised", "flops_estimated"):
        assert cost[key] == before[key]
    assert cost["seconds"] > json.loads((tmp_path / "checkpoint-4" / "cost.json").read_text())["seconds"]


def test_an_ended_run_that_is_started_again_writes_nothing_twice(whole, tmp_path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_text((whole.folder / name).read_text())
    args, state = SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=8, is_world_process_zero=True)
    tracker, answers = LocalTracker(), SampleAnswers([ROW], lambda row: "again")
    for callback in (tracker, answers):
        callback.on_train_begin(args, state, None)
        callback.on_log(args, state, None, logs={"train_runtime": 0.0})
        callback.on_train_end(args, state, None)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["train_runtime"] for line in lines if "train_runtime" in line] == [0.0]
    assert len(lines) == len(read_lines(whole.folder / "metrics.jsonl"))
    assert (tmp_path / "samples.jsonl").read_text() == (whole.folder / "samples.jsonl").read_text()


def test_a_new_run_in_the_folder_begins_new_files(tmp_path) -> None:
    for _ in range(2):
        run(tmp_path, max_steps=2, save_strategy="no", eval_strategy="no")
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [2, 2]  # loss, and the end's summary
    assert len(read_lines(tmp_path / "samples.jsonl")) == 1


def test_samples_are_asked_in_evaluation_mode_and_written(whole) -> None:
    samples = read_lines(whole.folder / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [4, 8]
    assert samples[0] == {**describe_row(ROW), "step": 4, "answer": "said False"}
    assert samples[0] | {"question": "Key?", "truth": "C | <b>major</b>", "audios": ["a.wav"]} == samples[0]
    (name, table, step), *_ = whole.trainer.seen.texts
    assert (name, step) == ("samples", 4) and "| Key? | C \\| <b>major</b> | said False |" in table


def test_answering_leaves_the_model_in_training() -> None:
    model = torch.nn.Dropout()
    state = SimpleNamespace(global_step=3, is_world_process_zero=False)
    seen = []
    SampleAnswers([ROW], lambda row: seen.append(model.training)).sample(None, state, model)
    assert seen == [False] and model.training


def test_an_answer_that_fails_does_not_end_the_training(tmp_path) -> None:
    def fail(row: dict[str, Any]) -> str:
        raise RuntimeError("out of\nmemory")

    args, state = SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=3, is_world_process_zero=True)
    SampleAnswers([ROW], fail).sample(args, state, torch.nn.Linear(1, 1))
    (sample,) = read_lines(tmp_path / "samples.jsonl")
    assert sample["answer"] is None and sample["error"] == "out of memory"


def test_on_a_terminal_a_bar_is_drawn_and_taken_down() -> None:
    parent, child = pty.openpty()
    with open(child, "w") as terminal:
        bar = RichProgress(Console(file=terminal, force_terminal=True, width=100, _environ={"TERM": "xterm"}))
        state = SimpleNamespace(is_world_process_zero=True, global_step=2, max_steps=4)
        bar.on_train_begin(None, state, None)
        print("a table | from elsewhere")
        state.global_step = 3
        bar.on_log(None, state, None, logs={"loss": 1.5, "learning_rate": 1e-3, "tokens_a_second": 1234.0})
        bar.on_step_end(None, state, None)
        bar.on_prediction_step(None, state, None, eval_dataloader=[1, 2])
        bar.on_evaluate(None, state, None)
        bar.on_train_end(None, state, None)
        print("the end", file=terminal, flush=True)
        shown = ""
        while "the end" not in shown:
            shown += os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert "resumed at step 2 of 4" in shown and "loss 1.5000  lr 1.00e-03  1,234 tokens/s" in shown
    assert "left" in shown and "3/4" in shown
    assert "\x1b[2Ka table | from elsewhere\r\n" in shown  # on a line that the bar was taken from
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


def test_energy_is_read_over_a_wrap_around(tmp_path) -> None:
    for zone, name, start in (("0", "package-0", 900), ("0:0", "core", 5), ("0:1", "dram", 10), ("1", "psys", 0)):
        folder = tmp_path / f"intel-rapl:{zone}"
        folder.mkdir()
        for file, value in (("name", name), ("energy_uj", start), ("max_energy_range_uj", 1000)):
            (folder / file).write_text(f"{value}\n")
    meter = Rapl(tmp_path)
    assert meter.source == "RAPL (package-0, dram; the whole machine)"
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100\n")
    (tmp_path / "intel-rapl:0:1" / "energy_uj").write_text("30\n")
    assert meter.read() == pytest.approx((200 + 20) / 1e6)
    assert meter.read() == pytest.approx((200 + 20) / 1e6)
    ledger = CostLedger(Counts(), None, powercap=tmp_path)
    assert ledger.cost()["energy_joules"] is None
    ledger.meters = [meter]
    assert ledger.cost()["energy_joules"] == 0.0 and ledger.cost()["energy_source"] == meter.source
    ledger.restore({"steps": 3, "energy_joules": 5.0})
    assert ledger.cost()["energy_joules"] == 5.0
    ledger.restore({"steps": 3, "energy_joules": None})  # a part that is not known makes the sum unknown
    assert ledger.cost()["energy_joules"] is None


def test_tensorboard_gets_it_all(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, report_to="tensorboard", max_steps=4)
    events = EventAccumulator(str(next(tmp_path.glob("runs/*"))))
    events.Reload()
    assert {"train/loss", "train/tokens_a_second", "train/loss_task/key", "eval/loss_task/key"} <= {
        *events.Tags()["scalars"]
    }
    assert any("samples" in tag for tag in events.Tags()["tensors"])


@pytest.mark.slow
def test_two_processes_are_summed(tmp_path) -> None:
    program = f"""
import json, sys
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT / "tests" / "train")]!r}
from small_run import Path, run
trainer = run(Path({str(tmp_path)!r}), max_steps=4, save_steps=2, eval_steps=2)
Path({str(tmp_path)!r}, f"{{trainer.args.process_index}}.json").write_text(json.dumps(trainer.ledger.cost()))
"""
    (tmp_path / "program.py").write_text(program)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(tmp_path / "program.py")]
    subprocess.run(launch, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT)
    costs = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [cost["tokens"] for cost in costs] == [2 * 4 * 2 * LENGTH] * 2
    assert [cost["processes"] for cost in costs] == [2, 2]
    assert json.loads((tmp_path / "checkpoint-2" / "cost.json").read_text())["tokens"] == 2 * 2 * 2 * LENGTH
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [2, 4]
    assert lines[0]["loss_task/key"] == pytest.approx(lines[0]["loss"], rel=1e-4)
    assert [sample["step"] for sample in read_lines(tmp_path / "samples.jsonl")] == [2, 4]
