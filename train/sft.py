"""Supervised fine-tuning: projector and language model learn to answer about what the tower hears.

    accelerate launch -m mllm.train.sft CONFIG.yaml --output_dir DIR
    accelerate launch --config_file train/accelerate/ddp.yaml -m mllm.train.sft CONFIG.yaml --output_dir DIR

Stops and goes on: called again with the same folder, it resumes from the last checkpoint there, and Ctrl-C saves one
first. `mllm ask --model DIR` loads the result; `provenance.json` beside it says what went into it and what it cost, and
`report.html` how it went.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import PartialState
from transformers import IntervalStrategy, TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mllm.chat import MusicLM
from mllm.provenance import read_provenance
from mllm.rows import Row, RowsError, iter_rows
from mllm.train.collator import Collator
from mllm.train.config import ConfigError, DataConfig, PackingSettings, TrainConfig, cache_folder
from mllm.train.counts import Counts
from mllm.train.dataset import InstructionDataset, audios_of, chosen, describe_packing, prepared
from mllm.train.faults import Stop, TrainingError, clear_partial_checkpoints, last_whole_checkpoint, step_of
from mllm.train.feature_cache import FeatureCache
from mllm.train.ledger import CostLedger
from mllm.train.record import RunRecord, publish, refuse_another_run
from mllm.train.report import write_report
from mllm.train.streaming import PackStream
from mllm.train.trainer import MusicTrainer
from mllm.train.tuned_model import attention_of, build_model, inner_model, sliding_window
from mllm.train.watching import LocalTracker, SampleAnswers, replace_progress

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


def arguments_of(config: TrainConfig, output_dir: Path) -> TrainingArguments:
    """TrainingArguments of the config over our defaults. Raises ConfigError for what it does not know."""
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    strategy = "group_by_length" if alone else "batch_rebalance"  # over processes: the same work for each
    unpacked = {} if config.packing or config.data.streaming else {"train_sampling_strategy": strategy}
    try:
        return TrainingArguments(
            output_dir=str(output_dir),
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            **{**DEFAULTS, **unpacked, **config.training},
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training: {' '.join(str(error).split())}") from error


def train(config: TrainConfig, output_dir: str | Path) -> dict[str, Any]:
    """Run (or go on with) the training that `config` describes; returns the Trainer's metrics.

    Raises:
        ConfigError: a setting that TrainingArguments does not know, missing rows or weights.
        TrainingError: stopped by a signal, a number that is none, or a full disk; what is safe is said.
    """
    logging.getLogger("mllm.train").setLevel(logging.WARNING)  # the command line lets errors alone through
    output_dir = Path(output_dir)
    arguments = arguments_of(config, output_dir)
    set_seed(arguments.seed)
    if arguments.should_save:
        clear_partial_checkpoints(output_dir)
    last = last_whole_checkpoint(output_dir)
    if last:
        refuse_another_run(config, last)
    if last and 0 < arguments.max_steps <= step_of(last):  # the Trainer would do one step more
        if arguments.should_save:
            log.warning("%s has ended already: to go on, raise training.max_steps", output_dir)
            publish(last, output_dir, arguments.load_best_model_at_end)
            write_report(output_dir)
        return {}
    with _unsharded(arguments):
        model, processor = build_model(config, arguments.bf16)
    base = inner_model(model)
    tower = base.model.audio_tower.to(arguments.device)
    if config.data.streaming and arguments.device.type == "cuda":
        tower = copy.deepcopy(tower).cpu()  # it runs in the worker that reads, and a fork cannot use the GPU
    cache = _cache(config, tower, processor)
    attention = attention_of(model)
    packing = config.packing
    if packing and "flash" in attention:  # no mask says who sees a prefix
        packing = packing.model_copy(update={"share_prefixes": False})
    learn: InstructionDataset | PackStream
    if config.data.streaming:
        learn = PackStream(
            config.data, processor, packing, arguments.seed, arguments.process_index, arguments.world_size
        )
        arguments.ignore_data_skip = True
    else:
        learn = _dataset(
            config.data, packing, processor, cache, config.data.train_split, config.data.limit, config.data.shares
        )
    check = None
    if arguments.eval_strategy != "no":
        split = config.data.validation_split
        try:
            check = _dataset(config.data, packing, processor, cache, split, config.data.validation_limit)
        except RowsError as error:
            log.warning("nothing to check with: %s", error)
            arguments.eval_strategy = IntervalStrategy.NO
    ledger = CostLedger(Counts(), model)
    ledger.encoding_seconds = cache.seconds if cache else 0.0
    ledger.restore(read_provenance(Path(last)).get("cost", {}) if last else {})
    record = RunRecord(config, base.config, processor, _describe(learn, config), ledger.cost)
    trainer = MusicTrainer(
        model=model,
        args=arguments,
        train_dataset=learn,
        eval_dataset=check,
        data_collator=Collator(processor, cache, attention, sliding_window(base.config.text_config)),
        config=config,
        ledger=ledger,
        record=record,
    )
    if last and config.data.streaming:
        trainer.go_on_in_stream(last)
    stop = Stop()
    for callback in (stop, ledger, LocalTracker()):  # the ledger sums up before a save that a stop asks for
        trainer.add_callback(callback)
    replace_progress(trainer)
    if config.samples.rows and check is not None and arguments.world_size == 1:
        questions = list(islice(iter_rows(config.data.path, config.data.validation_split), config.samples.rows))
        trackers = trainer.callback_handler.callbacks
        answer = _answerer(trainer, processor, config.samples.max_new_tokens)
        every = config.samples.every or None
        trainer.add_callback(SampleAnswers(questions, answer, every=every, ledger=ledger, trackers=trackers))
    metrics: dict[str, Any] = trainer.train(resume_from_checkpoint=last).metrics
    if stop.asked and trainer.state.global_step < trainer.state.max_steps:
        raise TrainingError(f"stopped; {last_whole_checkpoint(output_dir)} is saved, and the same command goes on")
    trainer.save_model(str(output_dir))
    if trainer.is_world_process_zero():
        write_report(output_dir)
    return metrics


@contextmanager
def _unsharded(arguments: TrainingArguments) -> Iterator[None]:
    """ZeRO-3 would shard every part while it is made; ours are put together first, and the Trainer shards the whole."""
    if plugin := arguments.deepspeed_plugin:
        unset_hf_deepspeed_config()
    yield
    if plugin:
        plugin.set_deepspeed_weakref()


def _answerer(trainer: MusicTrainer, processor: Any, max_new_tokens: int) -> Callable[[Row], str]:
    """What answers the last user turn of a row, as the model is at that moment."""

    def answer(row: Row) -> str:
        last = max(i for i, message in enumerate(row["messages"]) if message["role"] == "user")
        with trainer.accelerator.autocast():  # what learns is float32 and what is frozen may not be
            # made anew: it remembers what it heard, and the projector has learned since
            speaker = MusicLM(inner_model(trainer.model), processor)
            return str(speaker.chat(row["messages"][: last + 1], max_new_tokens=max_new_tokens))

    return answer


def _cache(config: TrainConfig, tower: Any, processor: Any) -> FeatureCache | None:
    if config.learning_rates.tower or config.data.feature_cache is False:
        return None
    limit = config.data.feature_cache_gib
    return FeatureCache(tower, processor.feature_extractor, cache_folder(config.data), limit_gib=limit)


def _dataset(
    data: DataConfig,
    packing: PackingSettings | None,
    processor: Any,
    cache: FeatureCache | None,
    split: str,
    limit: int | None,
    shares: Mapping[str, float] = MappingProxyType({}),
) -> InstructionDataset:
    """Rows of a split, those that `shares` lets through, with the features of all their audios in the cache."""
    rows = list(prepared(islice(chosen(iter_rows(data.path, split), shares), limit), data))
    if cache:
        everyone = PartialState()
        cache.fill(audios_of(rows), rank=everyone.process_index, world=everyone.num_processes)
        everyone.wait_for_everyone()
    return InstructionDataset(rows, processor, data.longest, packing)


def _describe(learn: InstructionDataset | PackStream, config: TrainConfig) -> dict[str, Any]:
    if isinstance(learn, PackStream):
        return {"streamed": True}
    out: dict[str, Any] = {"examples": len(learn.examples), "left_out_as_too_long": learn.too_long}
    if config.packing:
        out["packing"] = describe_packing(learn, config.packing.tokens)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: CONFIG.yaml --output_dir DIR."""
    from mllm.train.command_line import run

    run(train, __doc__, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
