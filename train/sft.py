"""Supervised fine-tuning: projector and LoRA learn to answer about what the frozen tower hears.

    accelerate launch -m mllm.train.sft CONFIG.yaml --output_dir DIR

Stops and goes on: called again with the same folder, it resumes from the last checkpoint there. The result in DIR is an
adapter that `mllm ask --model DIR` loads; `provenance.json` beside it says what went into it and what it cost.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from mllm.assemble import MODELS, assemble
from mllm.provenance import describe_bases, describe_data, describe_parent
from mllm.train.config import ConfigError, TrainConfig
from mllm.train.dataset import (
    Collator,
    InstructionDataset,
    PackingCollator,
    join_dialogues,
    loop_recordings,
    read_rows,
    row_audios,
)
from mllm.train.feature_cache import FeatureCache

DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "weight_decay": 0.0,
    "logging_steps": 10,
    "save_steps": 100,
    "save_total_limit": 2,
    "eval_strategy": "no",
    "train_sampling_strategy": "group_by_length",
    "report_to": "none",
    "bf16": True,
    "seed": 0,
}


class MusicTrainer(Trainer):
    """transformers' Trainer with a learning rate of its own for the projector."""

    def __init__(self, *args: Any, projector_learning_rate: float, **kwargs: Any):
        self.projector_learning_rate = projector_learning_rate
        super().__init__(*args, **kwargs)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over two groups: the projector, and everything else that is trained."""
        if self.optimizer is None:
            groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
            for name, parameter in (model or self.model).named_parameters():
                if parameter.requires_grad:
                    groups["projector" in name].append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            options["weight_decay"] = self.args.weight_decay
            rates = {True: self.projector_learning_rate, False: self.args.learning_rate}
            self.optimizer = kind(
                [{"params": groups[key], "lr": rates[key]} for key in groups if groups[key]], **options
            )
        return self.optimizer


class Provenance(TrainerCallback):
    """Puts `config.json` and `provenance.json` beside every checkpoint, so each can be asked and is accounted for.

    Args:
        config: the run.
        model_config: of the model that is trained.
        examples: what it learns from.
        last: the checkpoint that the run goes on from; its cost is counted in.
    """

    def __init__(self, config: TrainConfig, model_config: Any, examples: InstructionDataset, last: str | None):
        self.config, self.model_config, self.examples = config, model_config, examples
        self.parent = describe_parent(adapter_file(config.model.adapter)) if config.model.adapter else None
        before = Path(last or "") / "provenance.json"
        self.seconds_before = json.loads(before.read_text())["cost"]["seconds"] if last and before.is_file() else 0
        self.started = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.write(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)

    def write(self, folder: Path, state: Any, **cost: Any) -> None:
        """Write both files into `folder`; `cost` holds what else is known of it."""
        parts, data = self.config.model, self.config.data
        provenance = {
            "bases": describe_bases(parts.audio_tower, parts.language_model, parts.projector),
            "data": describe_data(data.path),
            **({"goes_on_from": self.parent} if self.parent else {}),
            "config": asdict(self.config),
            "command": f"accelerate launch -m mllm.train.sft CONFIG.yaml --output_dir {folder.name}",
            "cost": {
                "seconds": self.seconds_before + round(time.monotonic() - self.started),
                "steps": state.global_step,
                "examples": len(self.examples),
                "tokens_an_epoch": sum(example["length"] for example in self.examples.examples),
                "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                **cost,
            },
        }
        self.model_config.save_pretrained(folder)
        (folder / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")


def build_model(config: TrainConfig) -> tuple[PeftModel, Any]:
    """Frozen tower and language model, trainable projector and LoRA, and the processor."""
    dtype = torch.bfloat16 if config.training.get("bf16", DEFAULTS["bf16"]) else torch.float32
    if config.lora.rank < 1:
        raise ConfigError("lora.rank must be at least 1")
    warmed = Path(config.model.projector_weights) if config.model.projector_weights else None
    if warmed and not warmed.is_file():
        command = f"python -m mllm.train.warmup CONFIG.yaml --output_dir {warmed.parent}"
        raise ConfigError(f"no projector weights at {warmed}: make them first with `{command}`")
    model, processor = assemble(config.model.audio_tower, config.model.language_model, dtype, **config.model.projector)
    model.model.projector.float()
    if warmed:
        model.model.projector.load_state_dict(load_file(warmed))
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        modules_to_save=["projector"],
    )
    tuned = get_peft_model(model, lora)
    if config.model.adapter:
        _go_on_from(tuned, adapter_file(config.model.adapter))
    for module in tuned.modules():
        if isinstance(module, BaseTunerLayer):  # autocast casts; peft would copy every activation to float32 first
            module.cast_input_dtype_enabled = dtype == torch.float32
    if config.compile_layers:
        for layer in tuned.get_base_model().get_decoder().layers:
            layer.compile(dynamic=True)
    return tuned, processor


def adapter_file(name: str) -> Path:
    """The weights of the adapter `name`: a shipped model, or the folder of an earlier run."""
    file = MODELS.get(name, Path(name)) / "adapter_model.safetensors"
    if not file.is_file():
        raise ConfigError(f"model.adapter: {name} holds no adapter_model.safetensors; give `mini` or a run's folder")
    return file


def _go_on_from(tuned: PeftModel, file: Path) -> None:
    try:
        result = set_peft_model_state_dict(tuned, load_file(file))
    except RuntimeError as error:
        raise ConfigError(
            f"{file} is of another shape than `lora` and `projector` say: {str(error).splitlines()[-1].strip()}"
        ) from error
    missing = [name for name in result.missing_keys if "lora_" in name or "modules_to_save" in name]
    if missing or result.unexpected_keys:
        first = [*missing, *result.unexpected_keys][0]
        raise ConfigError(
            f"{file} does not fit this model ({first}): use the language model, tower and lora it was made with"
        )


def last_whole_checkpoint(output_dir: Path) -> str | None:
    """The newest checkpoint in `output_dir` that was written to its end, or None.

    The Trainer writes `trainer_state.json` last, so a save that was killed half-way has none and is passed over.
    """
    states = output_dir.glob("checkpoint-*/trainer_state.json")
    folders = sorted((state.parent for state in states), key=lambda folder: int(folder.name.split("-")[1]))
    return str(folders[-1]) if folders else None


def load_dataset(
    config: TrainConfig, processor: Any, cache: FeatureCache, split: str, limit: int | None
) -> InstructionDataset:
    """Rows of a split with the features of all their audios in the cache."""
    rows = loop_recordings(read_rows(config.data.path, split)[:limit], config.data.loop_share)
    if config.data.join_dialogues:
        rows = join_dialogues(rows)
    cache.fill(sorted({audio for row in rows for audio in row_audios(row)}))
    return InstructionDataset(rows, processor)


def train(config: TrainConfig, output_dir: str | Path) -> dict[str, Any]:
    """Run (or go on with) the training that `config` describes; returns the Trainer's metrics.

    Raises:
        ConfigError: a setting that TrainingArguments does not know, missing rows or weights.
    """
    output_dir = Path(output_dir)
    try:
        arguments = TrainingArguments(
            output_dir=str(output_dir),
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            **{**DEFAULTS, **config.training},
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training: {' '.join(str(error).split())}") from error
    set_seed(arguments.seed)
    model, processor = build_model(config)
    base = model.get_base_model()
    cache = FeatureCache(base.model.audio_tower, processor.feature_extractor, config.data.feature_cache)
    learn = load_dataset(config, processor, cache, config.data.train_split, config.data.limit)
    check = None
    if arguments.eval_strategy != "no":
        check = load_dataset(config, processor, cache, config.data.validation_split, config.data.validation_limit)
    trainer = MusicTrainer(
        model=model,
        args=arguments,
        train_dataset=learn,
        eval_dataset=check,
        data_collator=PackingCollator(cache) if config.packing else Collator(cache, processor.tokenizer.pad_token_id),
        projector_learning_rate=config.projector_learning_rate,
    )
    last = last_whole_checkpoint(output_dir)
    record = Provenance(config, base.config, learn, last)
    trainer.add_callback(record)
    result = trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(output_dir))
    if trainer.is_world_process_zero():
        (output_dir / "training_args.bin").unlink(missing_ok=True)  # a pickle; the config is in provenance.json
        record.write(output_dir, trainer.state, train_loss=result.training_loss)
    return result.metrics


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: CONFIG.yaml --output_dir DIR."""
    from mllm.train.command_line import run

    run(train, __doc__, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
