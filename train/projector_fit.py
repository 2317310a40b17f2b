"""A projector trained under throw-away heads on features that were computed once; both warm-ups are this."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from mllm.train.config import ProjectorFit
from mllm.train.feature_cache import FeatureCache
from mllm.train.tuned_model import PROJECTOR_FILE
from mllm.whole_files import write_whole

Step = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
"""(features [n, frames, size] float32, which clips they are [n]) -> "loss", and what else is to be told as an epoch's
mean."""


def first_windows(cache: FeatureCache, audios: Sequence[str]) -> np.ndarray:
    """Features [recordings, frames, size] of the first window, which holds a clip: it is at most one window long."""
    cache.fill(audios)
    return np.stack([cache.load(audio)[0] for audio in audios])


def fit(
    projector: nn.Module,
    parameters: Iterable[nn.Parameter],
    features: np.ndarray,
    step: Step,
    check: Callable[[], dict[str, float]],
    settings: ProjectorFit,
    console: Console,
) -> dict[str, float]:
    """Train `parameters` (the projector's and the heads'); returns what `check` says after the last epoch.

    Args:
        features: [clips, frames, size].
        step: the loss of some clips.
        check: scores on clips that are not trained on.
    """
    every = list(parameters)
    optimizer = torch.optim.AdamW(every, settings.learning_rate, weight_decay=settings.weight_decay)
    batch_size = min(settings.batch_size, len(features))
    batches = len(features) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, max(settings.epochs * batches, 2), pct_start=0.1
    )
    scores: dict[str, float] = {}
    for epoch in range(settings.epochs):
        projector.train()
        start, sums = time.monotonic(), dict[str, float]()
        order = torch.randperm(len(features))
        for index in order[: batches * batch_size].split(batch_size):
            told = step(torch.from_numpy(features[index.numpy()]).float(), index)
            optimizer.zero_grad()
            told["loss"].backward()
            nn.utils.clip_grad_norm_(every, 1.0)
            optimizer.step()
            schedule.step()
            for name, value in told.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        scores = check()
        means = ", ".join(f"{name} {total / batches:.4g}" for name, total in sums.items())
        console.print(f"epoch {epoch + 1}: {means} {scores} {time.monotonic() - start:.0f} s")
    return scores


def silence_frames(batch: torch.Tensor, share: float) -> torch.Tensor:
    """Features [n, frames, size] with a share of the frames at zero, in place."""
    batch *= torch.rand(batch.shape[:2])[..., None] > share
    return batch


def save_projector(
    projector: nn.Module, output_dir: str | Path, scores: dict[str, float], clips: int, settings: ProjectorFit
) -> dict[str, Any]:
    """Write `projector.safetensors` and `warmup.json` to `output_dir`; returns what the second holds."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    partial = output_dir / f"{PROJECTOR_FILE}.partial"
    save_file({k: v.contiguous() for k, v in projector.state_dict().items()}, partial)
    os.replace(partial, output_dir / PROJECTOR_FILE)
    record = {"validation": scores, "clips": clips, "settings": settings.model_dump()}
    write_whole(output_dir / "warmup.json", json.dumps(record, indent=1) + "\n")
    return record
