"""What can go wrong while training, so that nothing is lost: Ctrl-C, numbers that are none, a full disk."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mllm.errors import MllmError

STOPS = (signal.SIGINT, signal.SIGTERM)
_NAMED = 8


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

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the signals back."""
        for number, former in self._former.items():
            signal.signal(number, former)


def not_a_number(what: str, rows: Sequence[str], step: int) -> TrainingError:
    """The error for a loss or gradient that is no number, naming the rows that it comes from."""
    named = ", ".join(rows[:_NAMED]) + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
    return TrainingError(
        f"{what} of step {step + 1} is not a number; rows: {named}. Look at them and leave out what is broken, or "
        "lower the learning rate; the last checkpoint is whole, and the same command goes on from it"
    )


def failed_save(folder: Path, error: Exception) -> TrainingError:
    """Removes a checkpoint that could not be written and says what is left."""
    shutil.rmtree(folder, ignore_errors=True)
    whole = last_whole_checkpoint(folder.parent)
    left = f"{whole} is whole, and the same command goes on from it" if whole else "there is no earlier checkpoint"
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return TrainingError(f"cannot write {folder}: {reason}; {left} once there is room")


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
