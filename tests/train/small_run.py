"""A real Trainer on a tiny random model with all that watches it: seconds long."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainerCallback, TrainingArguments

from mllm.train.counts import Counts, TaskLoss
from mllm.train.ledger import CostLedger
from mllm.train.watching import LocalTracker, SampleAnswers, enrich, replace_progress

LENGTH = 16
TASKS = ("key", "<script>alert(1)</script>")
ROW = {
    "task": "key",
    "messages": [
        {"role": "user", "content": [{"type": "audio", "audio": "/clips/a.wav"}, {"type": "text", "text": "Key?"}]},
        {"role": "assistant", "content": "C | <b>major</b>"},
    ],
}


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
