"""What watches a run: ledger, logs, tracker, samples, report, driven by a real Trainer on a tiny random model."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from tiny import TEXT_CONFIGS, tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainerCallback, TrainingArguments

from mllm.train.counts import Counts, TaskLoss
from mllm.train.flops import estimate_flops, gemm_peak
from mllm.train.ledger import CostLedger, Rapl
from mllm.train.report import main, read_lines, show, write_report
from mllm.train.watching import LocalTracker, RichProgress, SampleAnswers, describe_row, enrich, replace_progress

LENGTH = 16
TASKS = ("key", "<script>alert(1)</script>")
ROW = {
    "task": "key",
    "messages": [
        {"role": "user", "content": [{"type": "audio", "audio": "/clips/a.wav"}, {"type": "text", "text": "Key?"}]},
        {"role": "assistant", "content": "C | <b>major</b>"},
    ],
}
ROOT = Path(__file__).parents[2]


def tiny_llama() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, vocab_size=512, tie_word_embeddings=False))


class Seen(TrainerCallback):
    """Any tracker: keeps what it is given."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self.tb_writer = SimpleNamespace(add_text=lambda *given: self.texts.append(given))
        self.texts: list[tuple] = []

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.logs.append(dict(logs))


class CountingTrainer(Trainer):
    """As the training room's Trainer: counts in `compute_loss`, enriches in `log`."""

    counts: Counts
    evaluated: Counts
    ledger: CostLedger

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        counts, (rows, length) = (self.counts if model.training else self.evaluated), inputs["input_ids"].shape
        counts.rows += rows
        counts.tokens += rows * length
        counts.supervised += rows * (length - 1)
        mean = (loss[0] if return_outputs else loss).item()
        for task in TASKS:
            so_far = counts.tasks.setdefault(task, TaskLoss())
            so_far.total += mean * rows * (length - 1) / 2
            so_far.tokens += rows * (length - 1) // 2
        return loss

    def log(self, logs, start_time=None):
        super().log(enrich(logs, self.counts, self.ledger, self.evaluated), start_time)


def run(folder: Path, console: Console | None = None, resume: str | None = None, **options: Any) -> CountingTrainer:
    """A run of 8 steps, a checkpoint every 4; `cost.json` beside each, as the training room's provenance has it."""
    settings = {
        "max_steps": 8,
        "save_steps": 4,
        "logging_steps": 2,
        "per_device_train_batch_size": 2,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "report_to": "none",
        "use_cpu": True,
        "seed": 0,
    }
    generator = torch.Generator().manual_seed(0)
    data = [{"input_ids": row, "labels": row} for row in torch.randint(0, 512, (32, LENGTH), generator=generator)]
    trainer = CountingTrainer(
        model=tiny_llama(),
        args=TrainingArguments(output_dir=str(folder), **{**settings, **options}),
        train_dataset=data,
        eval_dataset=data[:4],
    )
    trainer.counts, trainer.evaluated = Counts(), Counts()
    ledger = trainer.ledger = CostLedger(trainer.counts, trainer.model, peak_seconds=0.05)
    if resume:
        ledger.restore(json.loads(Path(resume, "cost.json").read_text()))
    seen = Seen()

    class Record(TrainerCallback):
        def on_save(self, args, state, control, **kwargs) -> None:
            (folder / f"checkpoint-{state.global_step}" / "cost.json").write_text(json.dumps(ledger.cost()))

    answers = SampleAnswers(
        [ROW], lambda row: f"said {trainer.model.training}", ledger=ledger, trackers=trainer.callback_handler.callbacks
    )
    for callback in (ledger, Record(), LocalTracker(), answers, seen):
        trainer.add_callback(callback)
    replace_progress(trainer, console or Console(file=io.StringIO()))
    trainer.seen = seen
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> SimpleNamespace:
    folder, console = tmp_path_factory.mktemp("run"), Console(file=io.StringIO())
    trainer = run(folder, console)
    return SimpleNamespace(folder=folder, trainer=trainer, printed=console.file.getvalue())


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


@pytest.mark.parametrize("trained", ["all", "lora"])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_flops_agree_with_what_torch_counts(kind, trained) -> None:
    rows, length = 3, 32
    model = AutoModelForCausalLM.from_config(TEXT_CONFIGS[kind], attn_implementation="eager")
    if trained == "lora":
        model = get_peft_model(model, LoraConfig(r=8, target_modules=r".*_proj"))
    ids = torch.randint(0, 512, (rows, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    # torch counts the masked half of attention too: a causal sequence of 2n - 1 has n pairs a position
    estimated = estimate_flops(model).total(rows * length, rows * length, 0, 2 * length - 1)
    assert estimated == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("projector", ["resampler", "mlp"])
def test_flops_of_a_window_of_audio(tmp_path, projector) -> None:
    model, _ = tiny_model(tmp_path, projector_type=projector)
    model.requires_grad_(False).model.projector.requires_grad_(True)
    random = torch.get_rng_state()
    flops = estimate_flops(model)
    assert torch.equal(random, torch.get_rng_state())
    frames = torch.zeros(3, model.config.window_frames, model.config.audio_config.hidden_size)
    # torch counts attention where it is plain products, which its kernel for the CPU is not
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.model.projector.train()(frames).sum().backward()
    assert 3 * (flops.window_forward + flops.window_backward) == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert flops.token_backward == flops.token_forward  # through the frozen language model, to the projector
    model.requires_grad_(False)
    flops = estimate_flops(model)
    assert (flops.token_backward, flops.supervised_backward, flops.window_backward) == (0, 0, 0)


def test_sliding_layers_see_their_window_alone() -> None:
    flops = estimate_flops(AutoModelForCausalLM.from_config(TEXT_CONFIGS["gemma3"]))
    assert flops.sliding_layers + flops.full_layers == 2 and flops.sliding_window == 512
    assert flops.attention(100)[0] == pytest.approx(2 * flops.pair_forward * 50.5)
    visible = sum(min(i + 1, 512) for i in range(2000)) / 2000
    both = flops.pair_forward * (flops.sliding_layers * visible + flops.full_layers * 1000.5)
    assert flops.attention(2000)[0] == pytest.approx(both)


def test_gemm_peak_is_measured_and_leaves_the_random_numbers() -> None:
    random = torch.get_rng_state()
    began = time.perf_counter()
    assert 1e8 < gemm_peak(torch.float32, torch.device("cpu"), 0.05, [(64, 64, 64), (256, 256, 256)]) < 1e15
    assert time.perf_counter() - began < 5
    assert torch.equal(random, torch.get_rng_state())


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


class Checked(HTMLParser):
    """Every element that is opened is closed; gathers text, tags and addresses."""

    VOID = {"meta", "br", "img"}

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text, self.addresses, self.ids = "", [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [given[key] for key in ("src", "href", "xlink:href", "data", "action") if key in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_report_says_what_happened_and_fetches_nothing(whole, tmp_path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_text((whole.folder / name).read_text())
    cost = whole.trainer.ledger.cost()
    provenance = {
        "bases": {
            "audio_tower": "stack",
            "weights": [{"name": "tower", "uri": "pypi:x==1/y", "sha256": "abc", "licence": "ISC"}],
        },
        "data": {"path": "mini", "licences": {"tunes": {"title": "<script>alert(2)</script>", "licence": "CC0-1.0"}}},
        "config": {"lora": {"rank": 12}, "training": {"learning_rate": 5e-4}},
        "cost": cost,
    }
    (tmp_path / "provenance.json").write_text(json.dumps(provenance))
    page = write_report(tmp_path)
    text = page.read_text()
    checked = Checked(text)
    assert "script" not in checked.tags and "<script>alert(1)</script>" in checked.text
    assert all(address.startswith("#") for address in checked.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(checked.ids) == len(set(checked.ids))
    assert checked.tags.count("svg") == 5  # loss, rate, speed, tasks in training and in validation
    lines = read_lines(tmp_path / "metrics.jsonl")
    first, last = (line["loss"] for line in (lines[0], [line for line in lines if "loss" in line][-1]))
    assert f"8 steps. Loss in training from {show(first)} to {show(last)}." in checked.text
    for said in ("CC0-1.0", "pypi:x==1/y", "lora.rank", "0.0005", "said False", "C | <b>major</b>", "tunes"):
        assert said in checked.text
    assert f"{cost['tokens']:,}" in checked.text and f"mllm ask --model {tmp_path} " in checked.text
    markdown = (tmp_path / "report.md").read_text()
    assert "<script" not in markdown and "C \\| &lt;b&gt;major" in markdown
    for image in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert "<svg" in (tmp_path / image).read_text()
    write_report(tmp_path)
    assert page.read_text() == text
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"step": 1, "loss": 2.0}],
        [{"step": 1, "loss": None, "loss_task/$x_": None}, {"step": 2, "loss": 1.0, "loss_task/$x_": 3.0}],
        [{"step": step, "loss": None, **{f"loss_task/_{i} 音": i for i in range(30)}} for step in range(40)],
    ],
)
def test_report_of_little(tmp_path, lines) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "los')
    if not lines:
        (tmp_path / "checkpoint-4").mkdir()
        (tmp_path / "checkpoint-4" / "provenance.json").write_text('{"cost": {"steps": 4}}')
    checked = Checked(write_report(tmp_path).read_text())
    assert "No sample answers were taken." in checked.text
    assert lines or "4 steps." in checked.text


def test_report_of_no_run_is_one_line_and_status_1(tmp_path) -> None:
    command = [sys.executable, "-m", "mllm.train.report"]
    done = subprocess.run([*command, tmp_path / "no"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: no folder ")
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "RUN" in done.stdout
    with pytest.raises(SystemExit, match="holds no training run"):
        main([str(tmp_path)])
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(SystemExit, match="cannot be read"):
        main([str(tmp_path)])


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
from test_watching import Path, run
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
