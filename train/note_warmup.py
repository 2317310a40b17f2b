"""A projector's time tokens learn the melody before a language model reads them; its summary tokens stay as they are.

What `mllm.train.warmup` does for what is true of a whole clip, done for its notes: throw-away heads (`note_targets`) on
the time tokens, the language model not in the loop. It starts from the projector of `model.adapter` (or a new one):
what its summary tokens said before they have to say still, so what was learned from them is kept.

    python -m mllm.train.note_warmup CONFIG.yaml --output_dir DIR
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from mllm.rows import is_whole_clip, iter_rows, row_audios
from mllm.train.config import ConfigError, NoteWarmupConfig, TrainConfig, cache_folder
from mllm.train.faults import make_output_folder
from mllm.train.feature_cache import FeatureCache
from mllm.train.note_targets import NoteHeads, NoteTargets
from mllm.train.projector_fit import first_windows, fit, save_projector, silence_frames
from mllm.train.tuned_model import build_model, inner_model, trained_projector
from mllm.train.warmup import roll_pitch, semitone_blocks, set_feature_statistics


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
    reach = settings.pitch_shift if blocks else 0

    def step(batch: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        shift = torch.randint(-reach, reach + 1, (len(batch),))
        shift[torch.rand(len(shift)) < 0.5] = 0  # letters are asked of these
        batch = roll_pitch(batch, shift, blocks)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                was = before(batch)[:, :summary_tokens].float()
            tokens = projector(silence_frames(batch, settings.frame_dropout)).float()
        moved = _moved(tokens[:, :summary_tokens], was)
        loss = targets.losses(heads(tokens[:, summary_tokens:]), index, shift) + settings.keep_weight * moved
        return {"loss": loss, "moved": moved}

    return fit(
        projector,
        [*projector.parameters(), *heads.parameters()],
        features,
        step,
        lambda: evaluate(projector, before, heads, *validation, summary_tokens),
        settings,
        console,
    )


def _moved(tokens: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """How far tokens went from what they were, of their spread."""
    return (tokens - before).square().mean() / before.var()


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
        moved.append(float(_moved(tokens[:, :summary_tokens], was)))
    logits = {name: torch.cat([one[name] for one in said]) for name in said[0]}
    return targets.accuracy(logits) | {"moved": round(float(np.mean(moved)), 4)}


def warm_up(config: TrainConfig, output_dir: str | Path, console: Console | None = None) -> dict[str, Any]:
    """Teach the time tokens as `config` says; writes `projector.safetensors` and `warmup.json` to `output_dir`."""
    console = console or Console()
    make_output_folder(Path(output_dir))
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
        loaded[split] = (
            first_windows(cache, list(facts)),
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
    return save_projector(projector, output_dir, scores, len(train[0]), settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: CONFIG.yaml --output_dir DIR."""
    from mllm.train.command_line import run

    run(warm_up, __doc__, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
