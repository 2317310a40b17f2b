"""transformers' Trainer, with a learning rate for each part, counts of what it did, and an eye on what goes wrong."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from mllm.train.collator import META, BatchMeta
from mllm.train.config import ConfigError, TrainConfig
from mllm.train.counts import Counts
from mllm.train.faults import failed_save, holds_weights_alone, leave_stops_to_the_trainer, not_a_number
from mllm.train.ledger import CostLedger
from mllm.train.record import RunRecord
from mllm.train.streaming import PackStream
from mllm.train.tuned_model import PROJECTOR_FILE, inner_model, part_of
from mllm.train.watching import enrich

PARTS = ("language_model", "projector", "tower")


class LengthOrder(LengthGroupedSampler):
    """Batches of like length, in an order that seed and epoch decide: a run that goes on finds it again."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch, self.generator = seed, 0, torch.Generator()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


class MusicTrainer(Trainer):
    """The Trainer of a music language model.

    Args:
        config: the run.
        ledger: its counts are kept up to date with what was learned from.
        record: writes what stands beside the weights.
    """

    def __init__(
        self,
        *args: Any,
        config: TrainConfig,
        ledger: CostLedger,
        record: RunRecord,
        **kwargs: Any,
    ):
        self.config, self.ledger, self.record = config, ledger, record
        self.counts = ledger.counts
        self._checked = Counts()  # of an evaluation
        self._rows: list[str] = []  # of the step under way
        self.position: tuple[int, int] | None = None  # in the stream, behind the last batch
        self._random_of: str | None = None
        super().__init__(*args, **kwargs)
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if isinstance(policy := getattr(plugin, "mixed_precision_policy", None), MixedPrecisionPolicy):
            # FSDP 2 would round what the model gives, losses among it, to bfloat16
            plugin.mixed_precision_policy = replace(policy, output_dtype=None)

    def count_steps(self) -> int:
        """Optimizer steps of the whole run, by its epochs where they decide."""
        with torch.random.fork_rng(devices=[]):  # a loader may draw a seed
            return int(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """One group of parameters a part, each with its rate; weight decay not for vectors (norms, biases)."""
        if self.optimizer is None:
            rates = self.config.learning_rates
            language = self.args.learning_rate if rates.language_model is None else rates.language_model
            rate = {"language_model": language, "projector": rates.projector, "tower": rates.tower}
            groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
            for name, parameter in (model or self.model).named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((part_of(name), parameter.ndim > 1), []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(
                [
                    {"params": groups[part, decays], "lr": rate[part], "weight_decay": self.args.weight_decay * decays}
                    for part in PARTS
                    for decays in (True, False)
                    if (part, decays) in groups
                ],
                **options,
            )
        return self.optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The model's loss over supervised tokens; what the batch was made of is counted.

        Raises:
            TrainingError: the loss is not a number; the rows that it comes from are named.
        """
        meta: BatchMeta = inputs.pop(META)
        if not self.config.supervised_logits:
            inputs["supervised_logits"] = False
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        training = self.model.training
        counts = self.counts if training else self._checked
        size = len(meta.rows) if training else sum(meta.sizes[: self._new_items(len(meta.sizes))])
        self._count(counts, meta, size, inputs["labels"], outputs["token_losses"])
        if training:
            self._rows += [row for row, _ in meta.rows]
            self.position = meta.position or self.position
        return (loss, outputs) if return_outputs else loss

    def _new_items(self, items: int) -> int:
        """How many items of a batch of an evaluation are no repetition: over processes the last one is filled up."""
        loader = self.accelerator.gradient_state
        if self.args.world_size == 1 or not loader.end_of_dataloader or loader.remainder <= 0:
            return items
        return min(items, max(0, loader.remainder - self.args.process_index * self.args.eval_batch_size))

    def _count(self, counts: Counts, meta: BatchMeta, size: int, labels: torch.Tensor, losses: torch.Tensor) -> None:
        """Count the first `size` rows of a batch."""
        learned = labels[:, 1:] != -100
        owners = meta.owners.to(labels.device)[:, 1:][learned]
        losses, owners, rows = losses[owners < size], owners[owners < size], meta.rows[:size]
        totals = torch.zeros(size, device=losses.device).index_add_(0, owners, losses).tolist()
        tokens = torch.bincount(owners, minlength=size).tolist()
        for (_, task), total, number in zip(rows, totals, tokens, strict=True):
            counts.tasks[task].total += total
            counts.tasks[task].tokens += number
        counts.rows += size
        counts.tokens += meta.tokens
        counts.padding += labels.numel() - meta.tokens
        counts.supervised += len(owners)
        counts.audio_seconds += meta.audio_seconds
        broken = [row for (row, _), total in zip(rows, totals, strict=True) if not math.isfinite(total)]
        if broken:
            raise not_a_number("the loss", broken, self.state.global_step)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        rows, self._rows = self._rows, []
        # in fp16 the scaler meets infinite gradients by itself
        if norm is not None and not self.args.fp16 and not torch.isfinite(torch.as_tensor(norm)):
            raise not_a_number("the gradient", rows, self.state.global_step)
        return norm

    def get_train_dataloader(self) -> DataLoader:
        """As in the Trainer; a stream shards itself, and is read a batch ahead by one process."""
        if not isinstance(self.train_dataset, PackStream):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            num_workers=min(1, self.args.dataloader_num_workers),
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            worker_init_fn=partial(leave_stops_to_the_trainer, None),
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        """As in the Trainer; the ledger looks how long the batches are waited for."""
        return super().get_batch_samples(self.ledger.waiting(epoch_iterator), *args, **kwargs)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader: Any = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)  # accelerate's stands around torch's
        inner.worker_init_fn = partial(leave_stops_to_the_trainer, inner.worker_init_fn)
        return loader

    def go_on_in_stream(self, checkpoint: str) -> None:
        """Let the stream begin behind the last batch of a checkpoint, and this process's random numbers with it.

        Raises:
            ConfigError: the checkpoint is of a run without streaming, or with fewer processes.
        """
        file = Path(checkpoint) / f"stream-{self.args.process_index}.json"
        if not file.is_file():
            raise ConfigError(
                f"{checkpoint} does not say where in the stream process {self.args.process_index} was: go on as it was "
                "made (data.streaming, number of processes), or give another --output_dir"
            )
        self.position = self.train_dataset.start = tuple(json.loads(file.read_text()))
        self._random_of = checkpoint

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if type(sampler) is not LengthGroupedSampler:
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthOrder(sampler.batch_size, sampler.lengths, seed)

    def _run_epoch(self, **given: Any) -> Any:
        # a loader that skips batches does not tell the sampler under several layers which epoch it is
        layer: Any = given["train_dataloader"]
        while layer is not None:
            if hasattr(layer, "set_epoch"):
                layer.set_epoch(given["epoch"])
            below = getattr(layer, "batch_sampler", None)
            layer = below if below is not None else getattr(layer, "sampler", None)
        return super()._run_epoch(**given)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in the Trainer, which restores random numbers only where it skips batches itself."""
        if self._random_of:
            self._load_rng_state(self._random_of)
            self._random_of = None
        return super().training_step(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in the Trainer, with more to tell."""
        super().log(enrich(logs, self.counts, self.ledger, self._checked), start_time)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in the Trainer, counted anew; `log` makes losses of the counts."""
        self._checked = Counts()
        return super().evaluation_loop(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:  # sharded weights are gathered for the main process alone
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        if self.config.method == "projector":
            folder.mkdir(parents=True, exist_ok=True)
            tensors = state_dict or self.model.state_dict()
            own = {name.split(".projector.", 1)[1]: t for name, t in tensors.items() if ".projector." in name}
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in own.items()}, folder / PROJECTOR_FILE
            )
        else:
            super()._save(output_dir, state_dict)
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; the config is in provenance.json
        self.record.write(folder)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # the state, which says that a checkpoint is whole, is written next

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        try:
            if isinstance(self.train_dataset, PackStream):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"stream-{self.args.process_index}.json").write_text(json.dumps(self.position))
                self.accelerator.wait_for_everyone()  # with weights alone nothing else waits
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save says RuntimeError where the disk is full
            raise failed_save(folder, error) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._load_projector_alone(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_projector_alone(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_projector_alone(self, checkpoint: str) -> bool:
        """Load a checkpoint of `method: projector`, which the Trainer does not know; says whether it is one."""
        file = Path(checkpoint) / PROJECTOR_FILE
        if not file.is_file() or self.is_fsdp_enabled or self.is_deepspeed_enabled:  # these keep shards beside it
            return False
        inner_model(self.model).model.projector.load_state_dict(load_file(file))
        return True

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and holds_weights_alone(checkpoint):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch wants a step of the optimizer before each
                for _ in range(self.state.global_step):
                    self.lr_scheduler.step()
