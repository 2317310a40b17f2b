"""Projector warm-up: the summary tokens learn key, tempo, metre and instruments before a language model reads them.

Small heads on the projector's summary tokens learn the facts of the clips; the language model is not in the loop, so an
epoch takes seconds. The heads are thrown away. A language model tuned behind a projector that starts from this needs
fewer steps to answer about key and tempo (LOG.md). Note features are rolled in pitch and the key label with them, which
gives every clip more than one key.

    python -m mllm.train.warmup CONFIG.yaml --output_dir DIR
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from mllm.assemble import assemble
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.train.config import TrainConfig, WarmupConfig
from mllm.train.dataset import read_rows, row_audios
from mllm.train.feature_cache import FeatureCache

PITCH_CLASSES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
MODES = ("major", "minor", "dorian", "mixolydian")
METRES = ("2/4", "3/4", "4/4", "6/8")
TEMPO_RANGE = (40.0, 260.0)  # beats per minute
TEMPO_CLASSES = 54  # 3.5 % apart on a logarithmic scale


def pitch_class(tonic: str) -> int:
    """0-11 of a tonic such as "F#" or "Bb"."""
    return (PITCH_CLASSES[tonic[0].upper()] + tonic.count("#") - tonic[1:].count("b")) % 12


def tempo_class(bpm: float) -> float:
    """Position of a tempo on the scale of classes, not rounded."""
    low, high = TEMPO_RANGE
    return math.log(bpm / low) / math.log(high / low) * (TEMPO_CLASSES - 1)


class FactHeads(nn.Module):
    """One linear head a fact, each reading its own two summary tokens."""

    def __init__(self, instruments: Sequence[str], hidden_size: int):
        super().__init__()
        sizes = {"instruments": len(instruments), "tonic": 12, "mode": len(MODES), "tempo": TEMPO_CLASSES}
        sizes |= {"metre": len(METRES)}
        self.tokens = {"instruments": (0, 1), "tonic": (2, 3), "mode": (2, 3), "tempo": (4, 5), "metre": (6, 7)}
        self.heads = nn.ModuleDict({name: nn.Linear(2 * hidden_size, size) for name, size in sizes.items()})

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: head(tokens[:, self.tokens[name]].flatten(1)) for name, head in self.heads.items()}


class Facts:
    """Targets of the clips as tensors; -1 (or an empty row) where a clip does not have the fact."""

    def __init__(self, facts: Sequence[dict[str, Any]], instruments: Sequence[str]):
        self.instruments = torch.zeros(len(facts), len(instruments))
        self.tonic = torch.full((len(facts),), -1)
        self.mode = torch.full((len(facts),), -1)
        self.metre = torch.full((len(facts),), -1)
        self.tempo = torch.full((len(facts),), -1.0)
        for i, fact in enumerate(facts):
            for name in fact.get("instruments") or []:
                self.instruments[i, instruments.index(name)] = 1
            if fact.get("tonic") and fact.get("mode") in MODES:
                self.tonic[i] = pitch_class(fact["tonic"])
                self.mode[i] = MODES.index(fact["mode"])
            if fact.get("metre") in METRES:
                self.metre[i] = METRES.index(fact["metre"])
            if fact.get("tempo"):
                self.tempo[i] = tempo_class(fact["tempo"])

    def loss(self, logits: dict[str, torch.Tensor], index: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Sum of the facts' losses for clips `index` whose notes were rolled by `shift` semitones."""
        tonic = self.tonic[index]
        tonic = torch.where(tonic >= 0, (tonic + shift) % 12, tonic)
        classes = torch.arange(TEMPO_CLASSES)
        tempo = self.tempo[index]
        near = torch.softmax(-((classes - tempo[:, None]) ** 2) / 0.7, dim=1)  # a neighbour is nearly right
        tempo_loss = -(near * F.log_softmax(logits["tempo"], 1)).sum(1)[tempo >= 0]
        loss = F.binary_cross_entropy_with_logits(logits["instruments"], self.instruments[index]) * 8
        for name, target in (("tonic", tonic), ("mode", self.mode[index]), ("metre", self.metre[index])):
            if (target >= 0).any():
                loss = loss + F.cross_entropy(logits[name], target, ignore_index=-1)
        return loss + tempo_loss.mean() if len(tempo_loss) else loss

    def accuracy(self, logits: dict[str, torch.Tensor], index: torch.Tensor) -> dict[str, float]:
        """Share of right answers a fact; tempo within 8 %, instruments as a whole set."""
        out = {"instruments": ((logits["instruments"] > 0) == (self.instruments[index] > 0)).all(1).float().mean()}
        single = self.instruments[index].sum(1) == 1
        top = logits["instruments"].argmax(1) == self.instruments[index].argmax(1)
        out["single instrument"] = top[single].float().mean()
        for name in ("tonic", "mode", "metre"):
            target = getattr(self, name)[index]
            out[name] = (logits[name].argmax(1) == target)[target >= 0].float().mean()
        known = self.tonic[index] >= 0
        both = (logits["tonic"].argmax(1) == self.tonic[index]) & (logits["mode"].argmax(1) == self.mode[index])
        out["key"] = both[known].float().mean()
        step = math.log(TEMPO_RANGE[1] / TEMPO_RANGE[0]) / (TEMPO_CLASSES - 1)
        apart = (logits["tempo"].argmax(1) - self.tempo[index]).abs() * step
        out["tempo"] = (apart < math.log(1.08))[self.tempo[index] >= 0].float().mean()
        return {name: round(float(value), 3) for name, value in out.items()}


def clip_facts(path: str | Path, split: str) -> dict[str, dict[str, Any]]:
    """Audio path -> facts, one entry a clip, of rows with exactly one audio."""
    clips: dict[str, dict[str, Any]] = {}
    for row in read_rows(path, split):
        audios = row_audios(row)
        if len(audios) == 1 and row.get("facts"):
            clips.setdefault(audios[0], row["facts"])
    return clips


def roll_pitch(features: torch.Tensor, shift: torch.Tensor, pitch_size: int, axes: int) -> torch.Tensor:
    """Transpose features [n, frames, size], whose first `axes` blocks of `pitch_size` are semitones, by `shift` [n]."""
    source = torch.arange(pitch_size)[None] - shift[:, None]
    inside = (source >= 0) & (source < pitch_size)
    source = source.clamp(0, pitch_size - 1)
    out = features.clone()
    for axis in range(axes):
        block = features[..., axis * pitch_size : (axis + 1) * pitch_size]
        rolled = torch.gather(block, 2, source[:, None].expand(-1, block.shape[1], -1))
        out[..., axis * pitch_size : (axis + 1) * pitch_size] = rolled * inside[:, None]
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
    instruments: Sequence[str],
    hidden_size: int,
    settings: WarmupConfig,
    console: Console,
) -> dict[str, float]:
    """Train a projector in place under throw-away heads; returns the validation accuracies of the last epoch."""
    torch.manual_seed(settings.seed)
    features, facts = train
    heads = FactHeads(instruments, hidden_size)
    set_feature_statistics(projector, features)
    parameters = [*projector.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * (len(features) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, max(steps, 2), pct_start=0.1)
    scores: dict[str, float] = {}
    for epoch in range(settings.epochs):
        projector.train()
        start, total = time.monotonic(), 0.0
        order = torch.randperm(len(features))
        for index in order[: len(order) // settings.batch_size * settings.batch_size].split(settings.batch_size):
            batch = torch.from_numpy(features[index.numpy()]).float()
            shift = torch.randint(-settings.pitch_shift, settings.pitch_shift + 1, (len(batch),))
            batch = roll_pitch(batch, shift, 88, 2)
            batch *= torch.rand(batch.shape[:2])[..., None] > settings.frame_dropout
            with torch.autocast("cpu", torch.bfloat16):
                logits = heads(projector(batch).float())
            loss = facts.loss({name: value.float() for name, value in logits.items()}, index, shift)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        scores = evaluate(projector, heads, *validation)
        rate = total / max(1, len(order) // settings.batch_size)
        console.print(f"epoch {epoch + 1}: loss {rate:.3f} {scores} {time.monotonic() - start:.0f} s")
    return scores


@torch.no_grad()
def evaluate(projector: nn.Module, heads: FactHeads, features: np.ndarray, facts: Facts) -> dict[str, float]:
    """Accuracies of the heads on clips that were not trained on."""
    projector.eval()
    logits = [
        heads(projector(torch.from_numpy(chunk).float())) for chunk in np.array_split(features, len(features) // 64 + 1)
    ]
    joined = {name: torch.cat([part[name] for part in logits]) for name in logits[0]}
    return facts.accuracy(joined, torch.arange(len(features)))


def warm_up(config: TrainConfig, output_dir: str | Path, console: Console | None = None) -> dict[str, Any]:
    """Warm a projector up as `config` says and write `projector.safetensors` and `warmup.json` to `output_dir`."""
    console = console or Console()
    model, processor = assemble(config.model.audio_tower, config.model.language_model, **config.model.projector)
    cache = FeatureCache(model.model.audio_tower, processor.feature_extractor, config.data.feature_cache)
    loaded = {}
    instruments: set[str] = set()
    splits = {"train": config.data.train_split, "validation": config.data.validation_split}
    clips = {name: clip_facts(config.data.path, split) for name, split in splits.items()}
    if config.data.limit:
        clips["train"] = dict(list(clips["train"].items())[: config.data.limit])
    for facts in clips.values():
        instruments |= {name for fact in facts.values() for name in fact.get("instruments") or []}
    names = sorted(instruments)
    for name, facts in clips.items():
        cache.fill(list(facts))
        # the first window holds the clip: clips are at most one window long
        loaded[name] = (np.stack([cache.load(audio)[0] for audio in facts]), Facts(list(facts.values()), names))
        console.print(f"{name}: {len(facts)} clips")
    projector = model.model.projector
    hidden = model.config.text_config.hidden_size
    scores = train_projector(projector, loaded["train"], loaded["validation"], names, hidden, config.warmup, console)
    match_embedding_scale(model, loaded["train"][0][:64])
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in projector.state_dict().items()}, output_dir / "projector.safetensors")
    record = {"validation": scores, "clips": len(loaded["train"][0]), "settings": asdict(config.warmup)}
    (output_dir / "warmup.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


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
    from mllm.train.command_line import parse

    config, output_dir = parse(__doc__, arguments)
    warm_up(config, output_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
