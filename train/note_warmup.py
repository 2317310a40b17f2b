"""A projector's time tokens learn the melody before a language model reads them; its summary tokens stay as they are.

What `mllm.train.warmup` does for what is true of a whole clip, done for its notes: throw-away heads (`note_targets`) on
the time tokens, the language model not in the loop. It starts from the projector of `model.adapter` (or a new one):
what its summary tokens said before they have to say still, so what was learned from them is kept.

    python -m mllm.train.note_warmup CONFIG.yaml --output_dir DIR
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from mllm.rows import is_whole_clip, iter_rows, row_audios
from mllm.train.config import ConfigError, NoteWarmupConfig, TrainConfig, cache_folder
from mllm.train.feature_cache import FeatureCache
from mllm.train.note_targets import NoteHeads, NoteTargets
from mllm.train.tuned_model import PROJECTOR_FILE, build_model, inner_model, trained_projector
from mllm.train.warmup import roll_pitch, semitone_blocks, set_feature_statistics
from mllm.whole_files import write_whole


def melodies(path: str | Path, split: str, limit: int | None = None) -> dict[str, dict[str, Any]]:
    """Audio path -> facts, of the recordings whose rows hold their `notes` and `abc`; at most `limit`."""
    found: dict[str, dict[str, Any]] = {}
    for row in iter_rows(path, split):
        if is_whole_clip(row) and {"notes", "abc", "seconds"} <= row["facts"].keys():
            found.setdefault(row_audios(row)[0], row["facts"])
            if limit and len(found) >= limit:
                break
    return found


def train_time_tokens(
    projector: nn.Module,
    heads: NoteHeads,
    train: tuple[np.ndarray, NoteTargets],
    validation: tuple[np.ndarray, NoteTargets],
    settings: NoteWarmupConfig,
    summary_tokens: int,
    console: Console,
    blocks: Sequence[int] = (),
) -> dict[str, float]:
    """Train a projector in place; returns the validation accuracies of the last epoch.

    `blocks`: where the features are semitones (`semitone_blocks`); without any, nothing is transposed.
    """
    torch.manual_seed(settings.seed)
    before = copy.deepcopy(projector).eval().requires_grad_(False)
    features, targets = train
    parameters = [*projector.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    batch_size = min(settings.batch_size, len(features))
    steps = settings.epochs * (len(features) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, max(steps, 2), pct_start=0.1)
    reach = settings.pitch_shift if blocks else 0
    scores: dict[str, float] = {}
    for epoch in range(settings.epochs):
        projector.train()
        start, total, kept = time.monotonic(), 0.0, 0.0
        order = torch.randperm(len(features))
        for index in order[: len(order) // batch_size * batch_size].split(batch_size):
            batch = torch.from_numpy(features[index.numpy()]).float()
            shift = torch.randint(-reach, reach + 1, (len(batch),))
            shift[torch.rand(len(shift)) < 0.5] = 0  # letters are asked of these
            batch = roll_pitch(batch, shift, blocks)
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    was = before(batch)[:, :summary_tokens].float()
                batch *= torch.rand(batch.shape[:2])[..., None] > settings.frame_dropout
                tokens = projector(batch).float()
            keep = (tokens[:, :summary_tokens] - was).square().mean() / was.var()
            loss = targets.losses(heads(tokens[:, summary_tokens:]), index, shift) + settings.keep_weight * keep
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            kept += float(keep.detach())
        scores = evaluate(projector, before, heads, *validation, summary_tokens)
        batches = len(order) // batch_size
        took = time.monotonic() - start
        console.print(
            f"epoch {epoch + 1}: loss {total / batches:.3f} (kept {kept / batches:.4f}) {scores} {took:.0f} s"
        )
    return scores


@torch.no_grad()
def evaluate(
    projector: nn.Module,
    before: nn.Module,
    heads: NoteHeads,
    features: np.ndarray,
    targets: NoteTargets,
    summary_tokens: int,
) -> dict[str, float]:
    """Accuracies of the heads on recordings not trained on; "moved": how far summary tokens went, of their spread."""
    projector.eval()
    said, moved = [], []
    for chunk in np.array_split(features, len(features) // 64 + 1):
        batch = torch.from_numpy(chunk).float()
        tokens, was = projector(batch).float(), before(batch)[:, :summary_tokens].float()
        said.append(heads(tokens[:, summary_tokens:]))
        moved.append(float((tokens[:, :summary_tokens] - was).square().mean() / was.var()))
    logits = {name: torch.cat([one[name] for one in said]) for name in said[0]}
    return targets.accuracy(logits) | {"moved": round(float(np.mean(moved)), 4)}


def warm_up(config: TrainConfig, output_dir: str | Path, console: Console | None = None) -> dict[str, Any]:
    """Teach the time tokens as `config` says; writes `projector.safetensors` and `warmup.json` to `output_dir`."""
    console = console or Console()
    settings = config.note_warmup
    # what is made here is named there for the tuning
    start = config.model.model_copy(update={"projector_weights": None})
    model, processor = build_model(config.model_copy(update={"model": start, "compile_layers": False}))
    base = inner_model(model)
    projector = trained_projector(model).float()
    shape = base.config
    cache = FeatureCache(base.model.audio_tower, processor.feature_extractor, cache_folder(config.data))
    rate = float(shape.audio_config.frames_per_second)
    loaded = {}
    limits = (config.data.limit, config.data.validation_limit)
    for split, limit in zip((config.data.train_split, config.data.validation_split), limits, strict=True):
        facts = melodies(config.data.path, split, limit)
        if not facts:
            raise ConfigError(f"{config.data.path}: no {split} rows with `notes` and `abc` of one recording")
        cache.fill(list(facts))
        # the first window holds the clip: clips are at most one window long
        features = np.stack([cache.load(audio)[0] for audio in facts])
        loaded[split] = (
            features,
            NoteTargets(list(facts.values()), shape.time_tokens, shape.frames_per_token, rate),
        )
        console.print(f"{split}: {len(facts)} recordings")
    embeddings = base.get_input_embeddings().weight
    heads = NoteHeads(shape.frames_per_token, processor.tokenizer, embeddings)
    blocks = semitone_blocks(shape.audio_config)
    train, validation = loaded[config.data.train_split], loaded[config.data.validation_split]
    if not config.model.adapter:
        set_feature_statistics(projector, train[0])
    scores = train_time_tokens(projector, heads, train, validation, settings, shape.summary_tokens, console, blocks)
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    partial = output_dir / f"{PROJECTOR_FILE}.partial"
    save_file({k: v.contiguous() for k, v in projector.state_dict().items()}, partial)
    os.replace(partial, output_dir / PROJECTOR_FILE)
    record = {"validation": scores, "clips": len(train[0]), "settings": settings.model_dump()}
    write_whole(output_dir / "warmup.json", json.dumps(record, indent=1) + "\n")
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: CONFIG.yaml --output_dir DIR."""
    from mllm.train.command_line import run

    run(warm_up, __doc__, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
