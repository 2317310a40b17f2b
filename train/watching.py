"""What is seen of a run while it goes on: progress in the terminal, a local tracker, sample answers, richer logs.

Callbacks of transformers' Trainer. The local tracker needs no account: `metrics.jsonl` and `samples.jsonl` in the run's
folder, one JSON object a line, which `mllm.train.report` turns into pages.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from mllm.errors import MllmError
from mllm.processing import read_conversation
from mllm.train.counts import Counts
from mllm.train.ledger import CostLedger
from mllm.train.report import METRICS, SAMPLES, read_lines
from mllm.whole_files import write_whole

SUMMARY = "train_runtime"  # the Trainer logs it once, at the end of `train`


def enrich(logs: dict[str, Any], counts: Counts, ledger: CostLedger, evaluated: Counts | None = None) -> dict[str, Any]:
    """Add tokens a second and the loss of each task to `logs`, in place; returns it.

    For an override of `Trainer.log`, before the callbacks see the logs: so every tracker gets them, `state.log_history`
    and the metrics that `evaluate` returns too. The Trainer logs on all processes at the same points, and all have to
    come here: losses are summed over them. A task's loss is the mean (nats a supervised token) since the last log.

        def log(self, logs, start_time=None):
            super().log(enrich(logs, self.counts, self.ledger, self.evaluated), start_time)

    Args:
        logs: what the Trainer logs.
        counts: of this process, of training steps alone.
        ledger: over `counts`.
        evaluated: of evaluation steps, if they are counted; gives `eval_loss_task/NAME`, and `eval_loss` as the mean
            over tokens, where the Trainer's is one over batches. One object for both would mix validation into the
            training losses: choose by `model.training`.
    """
    if any(key.startswith("eval_") for key in logs):
        if evaluated is not None and (sums := _task_sums(evaluated, ledger)):
            tasks = {f"eval_loss_task/{name}": total / tokens for name, (total, tokens) in sums.items()}
            total, tokens = (sum(column) for column in zip(*sums.values(), strict=True))
            logs |= {"eval_loss": total / tokens} | tasks
        return logs
    logs |= {f"loss_task/{name}": total / tokens for name, (total, tokens) in _task_sums(counts, ledger).items()}
    if "loss" in logs and (speed := ledger.speed()) is not None:
        logs["tokens_a_second"] = speed
    return logs


def _task_sums(counts: Counts, ledger: CostLedger) -> dict[str, tuple[float, int]]:
    """Losses by task since they were last taken, summed over all processes: nats and tokens, sorted by name."""
    own = {name: (task.total, task.tokens) for name, task in counts.take_tasks().items()}
    sums: dict[str, tuple[float, int]] = {}
    for record in ledger.gather(own):
        for name, (total, tokens) in record["tasks"].items():
            before = sums.get(name, (0.0, 0))
            sums[name] = (before[0] + total, before[1] + tokens)
    return {name: pair for name, pair in sorted(sums.items()) if pair[1]}


def replace_progress(trainer: Any, console: Console | None = None) -> None:
    """Put `RichProgress` in the place of transformers' own progress bar and printer."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RichProgress(console))


class RichProgress(TrainerCallback):
    """A bar with loss, learning rate, tokens/s and time left; without a terminal one line for each log entry.

    While the bar stands, what is printed appears above it. Only the main process shows anything, on stderr.
    """

    def __init__(self, console: Console | None = None):
        self.console = console
        self.progress: Progress | None = None
        self.numbers, self.first, self.began = "", 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the bar, or say where a run goes on."""
        if not state.is_world_process_zero:
            return
        console = self.console = self.console or Console(stderr=True)
        self.first, self.began, self.numbers = state.global_step, time.monotonic(), ""
        if console.file.isatty() and not console.is_dumb_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                console=console,
                expand=True,
            )
            self.progress.start()
            atexit.register(self.progress.stop)  # a run that breaks off must not leave the terminal without a cursor
            self.training = self.progress.add_task(
                "training", total=state.max_steps, completed=self.first, numbers="first step"
            )
            self.checking = self.progress.add_task("evaluating", total=None, visible=False, numbers="")
        if self.first:
            self._print(f"resumed at step {self.first} of {state.max_steps}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.progress:
            numbers = "  ".join(filter(None, [self.numbers, self._time_left(state)]))
            self.progress.update(self.training, completed=state.global_step, numbers=numbers)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Move the bar of an evaluation."""
        if self.progress:
            total = len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else None
            self.progress.update(self.checking, total=total, visible=True, advance=1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the newest numbers."""
        if not state.is_world_process_zero or self.console is None or not logs:
            return
        if "loss" in logs:
            self.numbers = describe_logs(logs)
            if not self.progress:
                self._print(f"step {state.global_step}/{state.max_steps}  {self.numbers}  {self._time_left(state)}")
        elif SUMMARY not in logs:
            self._print(f"step {state.global_step}/{state.max_steps}  {describe_logs(logs)}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the evaluation's bar away."""
        if self.progress:
            self.progress.reset(self.checking, visible=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the bar down."""
        if self.progress:
            self.progress.stop()
            atexit.unregister(self.progress.stop)
            self.progress = None

    def _time_left(self, state: Any) -> str:
        done = state.global_step - self.first
        if done < 1:
            return ""
        seconds = (time.monotonic() - self.began) / done * max(0, state.max_steps - state.global_step)
        return f"{timedelta(seconds=round(seconds))} left"

    def _print(self, line: str) -> None:
        if self.progress:
            self.progress.console.print(line, markup=False, highlight=False)
        elif self.console:  # not through rich, which would break the line at 80 columns
            print(line, file=self.console.file, flush=True)


def describe_logs(logs: dict[str, Any]) -> str:
    """The numbers of a log entry that fit on a line, without the losses by task."""
    shown = {"loss": "loss {:.4f}", "learning_rate": "lr {:.2e}", "tokens_a_second": "{:,.0f} tokens/s"}
    parts = [form.format(logs[key]) for key, form in shown.items() if isinstance(logs.get(key), int | float)]
    timing = ("_runtime", "_per_second")
    for key, value in logs.items():
        if key.startswith("eval_") and "/" not in key and not key.endswith(timing) and isinstance(value, int | float):
            parts.append(f"{key.removeprefix('eval_')} on validation {value:.4f}")
    return "  ".join(parts)


class LocalTracker(TrainerCallback):
    """Appends every log entry to `<output_dir>/metrics.jsonl`: its numbers and texts, `step` and `seconds` of training.

    Numbers that are not finite become null, which JSON has. A run that goes on from an earlier step first drops the
    lines beyond it; a new one in the same folder begins an empty file.
    """

    def __init__(self) -> None:
        self.file: Path | None = None
        self.began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the file, or drop what a run that goes on will write again."""
        if not state.is_world_process_zero:
            return
        self.file = Path(args.output_dir) / METRICS
        kept = drop_after(self.file, state.global_step)
        self.began = time.monotonic() - (kept[-1].get("seconds", 0) if kept else 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append a line."""
        if self.file is None or not logs:
            return
        told = {key: value for key, value in logs.items() if isinstance(value, bool | int | float | str)}
        values = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in told.items()}
        append_line(
            self.file, {"step": state.global_step, "seconds": round(time.monotonic() - self.began, 3), **values}
        )


def append_line(file: Path, values: dict[str, Any]) -> None:
    """Add one JSON object to a file of lines; whoever reads along sees it at once."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(values, ensure_ascii=False) + "\n")


def drop_after(file: Path, step: int) -> list[dict[str, Any]]:
    """Keep the lines of `file` that led to `step`, whole or not at all; returns them."""
    lines = read_lines(file)
    # the summary at `step` is of a run that ended there; this one goes on and will have its own
    kept = [line for line in lines if line["step"] <= step and not (SUMMARY in line and line["step"] == step)]
    kept = kept if step else []
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    return kept


class SampleAnswers(TrainerCallback):
    """Lets the model answer a few fixed questions as it learns; what it says goes to `<output_dir>/samples.jsonl`.

    Every process answers, since a model that is spread over several needs all of them; the main one writes.

    Args:
        rows: instruction rows (`messages`, `task`), the last message being the true answer to the turn before it.
        answer: gives the model's greedy answer to that turn; called in evaluation mode and without gradients.
        every: steps between samples; default: whenever the run is evaluated. Always at the end.
        ledger: leaves the time that answering takes out of the training speed.
        trackers: the Trainer's callbacks (`trainer.callback_handler.callbacks`); TensorBoard among them gets the table.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        answer: Callable[[dict[str, Any]], str],
        every: int | None = None,
        ledger: CostLedger | None = None,
        trackers: Sequence[TrainerCallback] = (),
    ):
        self.rows = [(row, describe_row(row)) for row in rows]
        self.answer, self.every, self.ledger, self.trackers = answer, every, ledger, trackers
        self.last_step = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the file, or drop what a run that goes on will write again."""
        file, step = Path(args.output_dir) / SAMPLES, state.global_step
        # where an ended run is started again nothing is left to ask; every process has to see that
        self.last_step = step if step and any(line["step"] == step for line in read_lines(file)) else -1
        if state.is_world_process_zero:
            drop_after(file, step)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Sample at the steps that were asked for, and at the last."""
        # the last step here and not in on_train_end, where TensorBoard's writer is closed already
        if state.global_step >= state.max_steps or (self.every and state.global_step % self.every == 0):
            self.sample(args, state, model)

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Sample beside the evaluation, unless steps were asked for."""
        if not self.every:
            self.sample(args, state, model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Sample where the run stopped early."""
        self.sample(args, state, model)

    def sample(self, args: Any, state: Any, model: Any) -> None:
        """Answer all questions and write them down, unless that was done at this step."""
        if self.last_step == state.global_step:
            return
        self.last_step, training = state.global_step, model.training
        model.eval()
        with torch.no_grad(), self.ledger.aside() if self.ledger else nullcontext():
            samples = [{"step": state.global_step, **known, **self._ask(row)} for row, known in self.rows]
        model.train(training)
        if not state.is_world_process_zero:
            return
        for sample in samples:
            append_line(Path(args.output_dir) / SAMPLES, sample)
        for tracker in self.trackers:
            if (writer := getattr(tracker, "tb_writer", None)) is not None:
                writer.add_text("samples", text_table(samples), state.global_step)

    def _ask(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"answer": self.answer(row)}
        except (MllmError, OSError, RuntimeError) as error:  # no memory, a recording gone: the training goes on
            return {"answer": None, "error": " ".join(str(error).split())}


def describe_row(row: dict[str, Any]) -> dict[str, Any]:
    """Question, true answer, task and names of the audios of an instruction row."""
    conversation = read_conversation(row["messages"])
    said: dict[str, str] = {}  # the last of each role
    for message in conversation.messages:
        said[message["role"]] = " ".join(part["text"] for part in message["content"] if part["type"] == "text").strip()
    audios = [os.path.basename(audio) if isinstance(audio, str) else "" for audio in conversation.audios]
    texts = {"question": said.get("user", ""), "truth": said.get("assistant", "")}
    return {**texts, "task": row.get("task") or "", "audios": audios}


def text_table(samples: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of sample answers."""
    rows = [["question", "truth", "answer"], ["---"] * 3]
    rows += [[sample["question"], sample["truth"], sample["answer"] or sample.get("error", "")] for sample in samples]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
