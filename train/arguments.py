"""transformers' TrainingArguments of a run: our defaults, what the config says, and what must not be said there."""

from __future__ import annotations

import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments

from mllm.settings import nearest
from mllm.train.config import ConfigError, TrainConfig

log = logging.getLogger(__name__)
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "weight_decay": 0.0,
    "logging_steps": 10,
    "save_steps": 100,
    "save_total_limit": 2,
    "eval_strategy": "no",
    "report_to": "none",
    "bf16": True,
    "seed": 0,
    "dataloader_num_workers": 1,  # the next batch is laid out while the model works on this one
    "prediction_loss_only": True,
    "logging_nan_inf_filter": False,  # a loss that is no number stops the run
    "ddp_find_unused_parameters": False,
}
OURS = ("output_dir", "remove_unused_columns", "resume_from_checkpoint")
"""Fields that are not the config's to say."""
_NUMBERS = {int, float, bool, type(None)}
_ABOVE_0 = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")


def arguments_of(config: TrainConfig, output_dir: Path) -> TrainingArguments:
    """TrainingArguments of the config over our defaults.

    Raises:
        ConfigError: a field that they do not have, or a value that cannot be.
    """
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    strategy = "group_by_length" if alone else "batch_rebalance"  # over processes: the same work for each
    unpacked = {} if config.packing or config.data.streaming else {"train_sampling_strategy": strategy}
    given = _checked(config.training)
    if given.get("fp16"):
        given = {"bf16": False} | given
    try:
        arguments = TrainingArguments(
            output_dir=str(output_dir),
            remove_unused_columns=False,
            **{"use_cpu": not torch.cuda.is_available(), **DEFAULTS, **unpacked, **given},
        )
    except (TypeError, ValueError, ImportError) as error:
        # untested: no such GPU has been at hand
        old = "; for this GPU write training: {fp16: true}" if "support bf16" in str(error) else ""
        raise ConfigError(f"training: {' '.join(str(error).split())}{old}") from error
    metric = arguments.metric_for_best_model
    if metric and not metric.removeprefix("eval_").startswith(("loss_task/", "loss")):
        raise ConfigError(f"training.metric_for_best_model: {metric!r} is not measured; eval_loss, eval_loss_task/NAME")
    if arguments.n_gpu > 1:
        # the Trainer would cut every batch into pieces for them (DataParallel), which packs and recordings are not for;
        # untested: no machine with two has been at hand
        log.warning("one of %d GPUs is used: for all, run it with accelerate launch", arguments.n_gpu)
        arguments._n_gpu = 1
    return arguments


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """What the config says, with numbers where TrainingArguments, which checks nothing, wants numbers."""
    hints = get_type_hints(TrainingArguments)
    known = [field.name for field in fields(TrainingArguments) if field.init and field.name not in OURS]
    checked = {}
    for name, value in given.items():
        if name in OURS:
            raise ConfigError(f"training.{name} is not said here: --output_dir says where a run lies and goes on")
        if name not in known:
            raise ConfigError(f"unknown key 'training.{name}'{nearest(name, known)}")
        if value is False and name.endswith("_strategy"):
            value = "no"  # which YAML 1.1 reads as false
        if set(get_args(hints[name]) or [hints[name]]) <= _NUMBERS:
            try:
                number = TypeAdapter(hints[name]).validate_python(value)
            except ValidationError as error:
                raise ConfigError(f"training.{name}: {error.errors()[0]['msg']}, not {value!r}") from error
            value = value if isinstance(value, int) else number  # 100 stays whole where 0.1 would do too
        if name in _ABOVE_0 and value < 1:
            raise ConfigError(f"training.{name}: has to be above 0, not {value!r}")
        checked[name] = value
    if checked.get("max_steps") == 0 or (checked.get("num_train_epochs") == 0 and checked.get("max_steps", -1) < 0):
        raise ConfigError("training: a run of 0 steps learns nothing; raise max_steps, or num_train_epochs")
    return checked
