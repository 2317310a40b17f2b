"""What can go wrong while training, so that nothing is lost: Ctrl-C, numbers that are none, no memory, a full disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mllm.errors import MllmError
from mllm.train.config import ConfigError
from mllm.train.feature_files import FULL_DISK

STOPS = (signal.SIGINT, signal.SIGTERM)
_NAMED = 8
_FULL = "No space left on device"
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container")  # how torch.save says that it could not write
_NO_ROOM = 2**20
"""Bytes left on a disk, below which a file that torch could not write did not fit."""


class TrainingError(MllmError):
    """Training had to stop; the message says why, with which rows, and what is safe."""


class Stop(TrainerCallback):
    """On Ctrl-C (or SIGTERM, of schedulers) the step under way is finished and saved; a second Ctrl-C stops at once.

    `asked` says afterwards that the run ended so. Of several processes all stop at the same step.
    """

    def __init__(self) -> None:
        self.asked = False
        self._former: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen for the signals."""
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._ask) for number in STOPS}

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        if number == signal.SIGINT:  # schedulers and launchers may both send SIGTERM
            signal.signal(number, self._former.get(number) or signal.SIG_DFL)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop if one came, to any process."""
        asked = self.asked
        if args.world_size > 1:
            flag = torch.tensor([float(asked)], device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            asked = bool(flag.item())
        if asked:
            self.asked = control.should_save = control.should_training_stop = True
            # schedulers wait half a minute, and under `save_strategy: best` an evaluation decides about the save
            control.should_evaluate = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the signals back."""
        for number, former in self._former.items():
            signal.signal(number, former)


def leave_stops_to_the_trainer(before: Callable[[int], None] | None, worker: int) -> None:
    """For a process that reads batches (`worker_init_fn`, after `before`): stops that others send are not meant for it.

    Terminals and schedulers send them to every process of a group, and with its reader gone the trainer could not end
    the step under way. What the trainer itself sends ends the reader.
    """
    if before:
        before(worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS: no way to tell who sent it
        return
    trainer = os.getppid()

    def end_with_the_trainer() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=end_with_the_trainer, daemon=True).start()


def make_output_folder(output_dir: Path) -> None:
    """See that there is a folder that can be written, before hours of work go into what should lie in it.

    Raises:
        ConfigError: it is a file, or may not be written.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        reason = "it is a file" if output_dir.is_file() else error.strerror
        raise ConfigError(f"--output_dir {output_dir} cannot be written ({reason}): give another folder") from error


def not_a_number(what: str, rows: Sequence[str], step: int) -> TrainingError:
    """The error for a loss or gradient that is no number, naming the rows that it comes from."""
    named = ", ".join(rows[:_NAMED]) + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
    return TrainingError(
        f"{what} of step {step + 1} is not a number; rows: {named}. Look at them and leave out what is broken, or "
        "lower the learning rate; the last checkpoint is whole, and the same command goes on from it"
    )


def failed_save(folder: Path, error: Exception) -> TrainingError:
    """Removes a checkpoint that could not be saved and says why, and what is left.

    Behind its last file the oldest one is removed and a hub is told: a checkpoint that was whole by then stays.
    """
    if _is_whole(folder):
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return TrainingError(f"{folder} was saved, but not what follows ({reason}); {what_is_left(folder.parent)}")
    why = why_not_written(folder, error)
    shutil.rmtree(folder, ignore_errors=True)
    return TrainingError(f"{why}; {what_is_left(folder.parent)}{' once there is room' if _FULL in why else ''}")


def why_not_written(folder: Path, error: Exception) -> str:
    """What went wrong as something was written to `folder`; a full disk is told as the system tells it.

    Libraries hide that in errors of their own, and not every RuntimeError of a save is about a disk: weights are
    gathered from other processes and GPUs before.
    """
    reason = next(iter(str(error).splitlines()), "")
    if isinstance(error, OSError):
        return f"cannot write {folder}: {_FULL if error.errno in FULL_DISK else error.strerror or reason}"
    if isinstance(error, SafetensorError):
        return f"cannot write {folder}: {_FULL if '(os error 28)' in reason else reason}"
    if any(mark in str(error) for mark in _TORCH_WRITER):
        full = folder.exists() and shutil.disk_usage(folder).free < _NO_ROOM
        return f"cannot write {folder}: {_FULL if full else reason}"
    return f"saving {folder} failed ({type(error).__name__}: {reason})"


def what_is_left(output_dir: Path) -> str:
    """From where a run that broke off goes on, as the end of a message."""
    whole = last_whole_checkpoint(output_dir)
    return f"{whole} is whole, and the same command goes on from it" if whole else "there is no earlier checkpoint"


def out_of_memory(output_dir: Path, error: Exception) -> TrainingError:
    """The error for a GPU that the run does not fit into."""
    return TrainingError(
        f"the GPU's memory is full ({next(iter(str(error).splitlines()), '')}): lower packing.tokens or "
        "training.per_device_train_batch_size (and raise training.gradient_accumulation_steps), or set "
        f"training.gradient_checkpointing: true; {what_is_left(output_dir)}"
    )


def holds_weights_alone(checkpoint: str | Path) -> bool:
    """Whether a checkpoint was made with `save_only_model`: nothing of the optimizer is in it."""
    return not any(Path(checkpoint).glob("rng_state*.pth"))


def last_whole_checkpoint(output_dir: Path) -> str | None:
    """The newest checkpoint in `output_dir` that was written to its end, or None.

    The Trainer writes `trainer_state.json` last, so a save that was killed half-way has none, or half of one.
    """
    whole = [folder for folder in _checkpoints(output_dir) if _is_whole(folder)]
    return str(max(whole, key=step_of)) if whole else None


def clear_partial_checkpoints(output_dir: Path) -> None:
    """Remove what a kill left half-written, so that it is not counted among those to keep."""
    for folder in _checkpoints(output_dir):
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _checkpoints(output_dir: Path) -> list[Path]:
    return [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def step_of(checkpoint: str | Path) -> int:
    """The step after which a checkpoint was saved, by its name."""
    return int(Path(checkpoint).name.split("-")[1])


def _is_whole(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "trainer_state.json").read_text())["global_step"] == step_of(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False
