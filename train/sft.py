"""Supervised fine-tuning: projector and language model learn to answer about what the tower hears.

    accelerate launch -m mllm.train.sft CONFIG.yaml [--output_dir DIR]
    accelerate launch --config_file train/accelerate/ddp.yaml -m mllm.train.sft CONFIG.yaml [--output_dir DIR]

The default folder is runs/ and the config's name. Stops and goes on: called again with the same folder, it resumes from
the last checkpoint there, and Ctrl-C saves one first. `mllm ask --model DIR` loads the result; `provenance.json` beside
it says what went into it and what it cost, and `report.html` how it went.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError
from transformers import IntervalStrategy, TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mllm.chat import MusicLM
from mllm.provenance import read_provenance
from mllm.rows import Row, RowsError, iter_rows
from mllm.train.arguments import arguments_of
from mllm.train.collator import Collator
from mllm.train.config import ConfigError, DataConfig, PackingSettings, TrainConfig, cache_folder
from mllm.train.counts import Counts
from mllm.train.dataset import InstructionDataset, audios_of, chosen, describe_packing, prepared
from mllm.train.faults import (
    Stop,
    TrainingError,
    clear_partial_checkpoints,
    holds_weights_alone,
    last_whole_checkpoint,
    make_output_folder,
    out_of_memory,
    step_of,
    what_is_left,
    why_not_written,
)
from mllm.train.feature_cache import FeatureCache
from mllm.train.ledger import CostLedger
from mllm.train.record import RunRecord, publish, refuse_another_run
from mllm.train.report import write_report
from mllm.train.streaming import PackStream
from mllm.train.trainer import MusicTrainer
from mllm.train.tuned_model import attention_of, build_model, inner_model, sliding_window
from mllm.train.watching import LocalTracker, SampleAnswers, replace_progress

log = logging.getLogger(__name__)


def train(config: TrainConfig, output_dir: str | Path) -> dict[str, Any]:
    """Run (or go on with) the training that `config` describes; returns the Trainer's metrics.

    Raises:
        ConfigError: a setting that TrainingArguments does not know, missing rows or weights, no folder to write to.
        TrainingError: stopped by a signal, a number that is none, a full disk or GPU; what is safe is said.
    """
    logging.getLogger("mllm.train").setLevel(logging.WARNING)  # the command line lets errors alone through
    output_dir = Path(output_dir)
    arguments = arguments_of(config, output_dir)
    set_seed(arguments.seed)
    if arguments.should_save:
        make_output_folder(output_dir)
        clear_partial_checkpoints(output_dir)
    last = last_whole_checkpoint(output_dir)
    if last:
        refuse_another_run(config, last)
        if 0 < arguments.max_steps <= step_of(last):
            return _leave_ended(arguments, output_dir, last)
    with _unsharded(arguments):
        model, processor = build_model(config, arguments.bf16)
    base = inner_model(model)
    cuda = arguments.device.type == "cuda"
    tower = base.model.audio_tower.to(arguments.device)
    if config.data.streaming and cuda:
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
        if packing:
            _warn_of_small_packs(learn, packing)
    check = None
    if arguments.eval_strategy != "no":
        split = config.data.validation_split
        try:
            check = _dataset(config.data, packing, processor, cache, split, config.data.validation_limit)
        except RowsError as error:
            log.warning("nothing to check with: %s", error)
            arguments.eval_strategy = IntervalStrategy.NO
    if cache and cuda and not config.data.streaming:
        # from here on workers ask it: for silence, or for what was evicted meanwhile
        cache.tower = copy.deepcopy(tower).cpu()
    ledger = CostLedger(Counts(), model, None if cache else _window(processor))
    ledger.encoding_seconds = cache.seconds if cache else 0.0
    ledger.restore(read_provenance(Path(last)).get("cost", {}) if last else {})
    record = RunRecord(config, base.config, processor, _describe(learn, config), ledger.cost)
    try:
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
    except (ValueError, RuntimeError, ImportError) as error:  # arguments that do not go together, trackers not there
        raise ConfigError(f"training: {' '.join(str(error).split())}") from error
    if last:
        if arguments.max_steps <= 0 and trainer.count_steps() <= step_of(last):
            return _leave_ended(arguments, output_dir, last)
        _tell_of_weights_alone(trainer, last)
        if config.data.streaming:
            trainer.go_on_in_stream(last)
    stop = Stop()
    for callback in (stop, ledger, LocalTracker()):  # the ledger sums up before a save that a stop asks for
        trainer.add_callback(callback)
    replace_progress(trainer)
    if questions := _questions(config) if arguments.world_size == 1 else []:
        trackers = trainer.callback_handler.callbacks
        answer = _answerer(trainer, processor, config.samples.max_new_tokens)
        every = config.samples.every or None
        trainer.add_callback(SampleAnswers(questions, answer, every=every, ledger=ledger, trackers=trackers))
    try:
        metrics: dict[str, Any] = trainer.train(resume_from_checkpoint=last).metrics
    except torch.OutOfMemoryError as error:
        raise out_of_memory(output_dir, error) from error
    if stop.asked and trainer.state.global_step < trainer.state.max_steps:
        raise TrainingError(f"stopped; {last_whole_checkpoint(output_dir)} is saved, and the same command goes on")
    try:
        trainer.save_model(str(output_dir))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{why_not_written(output_dir, error)}; {what_is_left(output_dir)}") from error
    if trainer.is_world_process_zero():
        write_report(output_dir)
    return metrics


def _leave_ended(arguments: TrainingArguments, output_dir: Path, last: str) -> dict[str, Any]:
    """Nothing is left to do, where the Trainer would do one step more; only what a kill kept from being written."""
    if arguments.should_save:
        log.warning(
            "%s has ended already: to go on, raise training.%s",
            output_dir,
            "max_steps" if arguments.max_steps > 0 else "num_train_epochs",
        )
        publish(last, output_dir, arguments.load_best_model_at_end)
        write_report(output_dir)
    return {}


def _tell_of_weights_alone(trainer: MusicTrainer, last: str) -> None:
    if not holds_weights_alone(last):
        return
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise ConfigError(
            f"{last} holds weights alone (training.save_only_model), from which a sharded run cannot go on: begin "
            "another one from it (model.adapter, model.projector_weights) with another --output_dir"
        )
    if trainer.is_world_process_zero():
        log.warning("%s holds weights alone (training.save_only_model): the optimizer begins anew", last)


@contextmanager
def _unsharded(arguments: TrainingArguments) -> Iterator[None]:
    """ZeRO-3 would shard every part while it is made; ours are put together first, and the Trainer shards the whole."""
    if plugin := arguments.deepspeed_plugin:
        unset_hf_deepspeed_config()
    yield
    if plugin:
        plugin.set_deepspeed_weakref()


def _questions(config: TrainConfig) -> list[Row]:
    """The validation rows that are answered as the model learns, checked with or not."""
    try:
        return list(islice(iter_rows(config.data.path, config.data.validation_split), config.samples.rows))
    except RowsError as error:
        log.warning("no sample answers: %s", error)
        return []


def _answerer(trainer: MusicTrainer, processor: Any, max_new_tokens: int) -> Callable[[Row], str]:
    """What answers the last user turn of a row, as the model is at that moment."""

    def answer(row: Row) -> str:
        last = max(i for i, message in enumerate(row["messages"]) if message["role"] == "user")
        # what learns is float32 and what is frozen may not be; and for answers, which keep keys and values, compiled
        # layers would be compiled anew one by one
        with torch.compiler.set_stance("force_eager"), trainer.accelerator.autocast():
            # made anew: it remembers what it heard, and the projector has learned since
            speaker = MusicLM(inner_model(trainer.model), processor)
            return str(speaker.chat(row["messages"][: last + 1], max_new_tokens=max_new_tokens))

    return answer


def _window(processor: Any) -> torch.Tensor:
    """A window of silence as the tower takes it, to count what the tower does with one."""
    extractor = processor.feature_extractor
    silence = np.zeros(extractor.window_samples, np.float32)
    return torch.from_numpy(extractor([silence], sampling_rate=extractor.sampling_rate)["input_features"][:1])


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
    if not rows:
        raise RowsError(f"data.shares lets no {split} row of {data.path} through: name a larger share of some task")
    if cache:
        everyone = PartialState()
        cache.fill(audios_of(rows), rank=everyone.process_index, world=everyone.num_processes)
        everyone.wait_for_everyone()
    return InstructionDataset(rows, processor, data.longest, packing)


def _warn_of_small_packs(learn: InstructionDataset, packing: PackingSettings) -> None:
    shortest = min(example["length"] for example in learn.examples)
    if shortest > packing.tokens and PartialState().is_main_process:
        log.warning("packing.tokens (%d) is less than the shortest row (%d): none are packed", packing.tokens, shortest)


def _describe(learn: InstructionDataset | PackStream, config: TrainConfig) -> dict[str, Any]:
    if isinstance(learn, PackStream):
        return {"streamed": True}
    out: dict[str, Any] = {"examples": len(learn.examples), "left_out_as_too_long": learn.too_long}
    if config.packing:
        out["packing"] = describe_packing(learn, config.packing.tokens)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: CONFIG.yaml [--output_dir DIR]."""
    from mllm.train.command_line import run

    run(train, __doc__, arguments, folder_by_name=True)


if __name__ == "__main__":
    main(sys.argv[1:])
