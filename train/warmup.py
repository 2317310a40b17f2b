"""Projector warm-up: the summary tokens learn key, tempo, metre and instruments before a language model reads them.

Small heads on the projector's summary tokens (`fact_heads`) learn the facts of the clips; the language model is not in
the loop, so an epoch takes a minute. The heads are thrown away. A language model tuned behind a projector that starts
from this needs fewer steps to answer about key and tempo (LOG.md). Note features are rolled in pitch and the key label
with them, which gives every clip more than one key.

    python -m mllm.train.warmup CONFIG.yaml --output_dir DIR
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn
from transformers import PreTrainedConfig

from mllm.assemble import assemble
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.rows import is_whole_clip, iter_rows, row_audios
from mllm.towers.basic_pitch import KEYS, BasicPitchConfig
from mllm.towers.stack import StackConfig
from mllm.train.config import ConfigError, TrainConfig, WarmupConfig, cache_folder
from mllm.train.fact_heads import MODES, FactHeads, Facts, WordHeads, answer_words
from mllm.train.faults import make_output_folder
from mllm.train.feature_cache import FeatureCache
from mllm.train.projector_fit import first_windows, fit, save_projector, silence_frames

SUMMARY_TOKENS = 8  # that the heads read


def clip_facts(path: str | Path, split: str) -> dict[str, dict[str, Any]]:
    """Audio path -> facts, one entry a clip, of rows with exactly one audio of which they are true from end to end."""
    clips: dict[str, dict[str, Any]] = {}
    for row in iter_rows(path, split):
        if is_whole_clip(row):
            clips.setdefault(row_audios(row)[0], row["facts"])
    return clips


def semitone_blocks(config: PreTrainedConfig) -> list[int]:
    """Where a tower's output has blocks of `KEYS` features that are semitones, low to high; none for most towers."""
    if isinstance(config, BasicPitchConfig):
        return [0, KEYS]  # notes and onsets
    starts, start = [], 0
    for member in config.member_configs() if isinstance(config, StackConfig) else ():
        starts += [start + block for block in semitone_blocks(member)]
        start += member.hidden_size
    return starts


def roll_pitch(features: torch.Tensor, shift: torch.Tensor, blocks: Sequence[int]) -> torch.Tensor:
    """Transpose features [n, frames, size] by `shift` [n] semitones in the blocks that `semitone_blocks` names."""
    source = torch.arange(KEYS)[None] - shift[:, None]
    inside = (source >= 0) & (source < KEYS)
    source = source.clamp(0, KEYS - 1)
    out = features.clone()
    for start in blocks:
        block = features[..., start : start + KEYS]
        rolled = torch.gather(block, 2, source[:, None].expand(-1, block.shape[1], -1))
        out[..., start : start + KEYS] = rolled * inside[:, None]
    return out


def set_feature_statistics(projector: nn.Module, features: np.ndarray) -> None:
    """Mean and standard deviation of each tower feature over (a sample of) the training clips [n, frames, size]."""
    sample = torch.from_numpy(features[:: max(1, len(features) // 500)]).float().flatten(0, 1)
    std = sample.std(0)
    projector.norm.mean.copy_(sample.mean(0))
    projector.norm.std.copy_(std.clamp(min=1e-3 * float(std.max())))


def train_projector(
    projector: nn.Module,
    train: tuple[np.ndarray, Facts],
    validation: tuple[np.ndarray, Facts],
    heads: FactHeads,
    words: WordHeads,
    settings: WarmupConfig,
    console: Console,
    blocks: Sequence[int] = (),
) -> dict[str, float]:
    """Train a projector in place under throw-away heads; returns the validation accuracies of the last epoch.

    `blocks`: where the features are semitones (`semitone_blocks`); without any, keys are not transposed.
    """
    torch.manual_seed(settings.seed)
    features, facts = train
    set_feature_statistics(projector, features)
    reach = settings.pitch_shift if blocks else 0

    def step(batch: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        shift = torch.randint(-reach, reach + 1, (len(batch),))
        batch = silence_frames(roll_pitch(batch, shift, blocks), settings.frame_dropout)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = projector(batch)
        tokens = tokens.float()
        loss = facts.loss(heads(tokens), index, shift)
        return {"loss": loss + settings.word_weight * facts.word_loss(words(tokens), index, shift)}

    parameters = [*projector.parameters(), *heads.parameters(), *words.parameters()]
    return fit(
        projector, parameters, features, step, lambda: evaluate(projector, heads, words, *validation), settings, console
    )


@torch.no_grad()
def evaluate(
    projector: nn.Module, heads: FactHeads, words: WordHeads, features: np.ndarray, facts: Facts
) -> dict[str, float]:
    """Accuracies of the heads on clips that were not trained on."""
    projector.eval()
    chunks = np.array_split(features, len(features) // 64 + 1)
    tokens = torch.cat([projector(torch.from_numpy(chunk).float())[:, :SUMMARY_TOKENS] for chunk in chunks])
    index = torch.arange(len(features))
    return facts.accuracy(heads(tokens), index) | facts.word_accuracy(words(tokens), index)


def warm_up(config: TrainConfig, output_dir: str | Path, console: Console | None = None) -> dict[str, Any]:
    """Warm a projector up as `config` says and write `projector.safetensors` and `warmup.json` to `output_dir`."""
    console = console or Console()
    make_output_folder(Path(output_dir))
    model, processor = assemble(config.model.audio_tower, config.model.language_model, **config.model.projector)
    if model.config.summary_tokens < SUMMARY_TOKENS:
        raise ConfigError(f"the warm-up needs {SUMMARY_TOKENS} summary tokens: set projector_type to resampler")
    cache = FeatureCache(model.model.audio_tower, processor.feature_extractor, cache_folder(config.data))
    loaded = {}
    instruments: set[str] = set()
    splits = {"train": config.data.train_split, "validation": config.data.validation_split}
    clips = {name: clip_facts(config.data.path, split) for name, split in splits.items()}
    if config.data.limit:
        clips["train"] = dict(list(clips["train"].items())[: config.data.limit])
    for facts in clips.values():
        instruments |= {name for fact in facts.values() for name in fact.get("instruments") or []}
    names = sorted(instruments)
    spelled = {
        f"{fact['tonic']} {fact['mode']}"
        for facts in clips.values()
        for fact in facts.values()
        if fact.get("tonic") and fact.get("mode") in MODES
    }
    tonics = sorted({key.split()[0] for key in spelled})
    spellings = {key: tonics.index(key.split()[0]) for key in spelled}
    for name, facts in clips.items():
        if not facts:
            raise ConfigError(f"{config.data.path}: no {name} rows with `facts` about one recording to learn from")
        loaded[name] = (first_windows(cache, list(facts)), Facts(list(facts.values()), names, spellings))
        console.print(f"{name}: {len(facts)} clips")
    projector = model.model.projector
    torch.manual_seed(config.warmup.seed)
    heads = FactHeads(names, model.config.text_config.hidden_size)
    embeddings = model.get_input_embeddings().weight
    words = WordHeads(answer_words(names, tonics), processor.tokenizer, embeddings)
    blocks = semitone_blocks(model.config.audio_config)
    scores = train_projector(
        projector, loaded["train"], loaded["validation"], heads, words, config.warmup, console, blocks
    )
    match_embedding_scale(model, loaded["train"][0][:64])
    return save_projector(projector, output_dir, scores, len(loaded["train"][0]), config.warmup)


@torch.no_grad()
def match_embedding_scale(model: MusicLMForConditionalGeneration, features: np.ndarray) -> None:
    """Scale the projector's last layer so that audio tokens are as long as the language model's own embeddings."""
    projector = model.model.projector.eval()
    length = projector(torch.from_numpy(features).float()).norm(dim=-1).mean()
    wanted = model.get_input_embeddings().weight.float().norm(dim=-1).mean()
    projector.out.weight.mul_(wanted / length)
    projector.out.bias.mul_(wanted / length)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: CONFIG.yaml --output_dir DIR."""
    from mllm.train.command_line import run

    run(warm_up, __doc__, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
