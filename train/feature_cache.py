"""What the frozen tower makes of a recording, computed once.

A file of features is named by the sha256 of the recording's bytes and by the tower's fingerprint (config and weights),
so a changed clip or tower never meets an old file. Stored before the projector, at the tower's own frame rate, float16.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from transformers import PreTrainedModel

from mllm.audio import load_audio
from mllm.feature_extraction import MusicLMFeatureExtractor
from mllm.towers.stack import BOOKKEEPING
from mllm.weights import cache_dir


def tower_fingerprint(tower: PreTrainedModel) -> str:
    """16 hex digits of the sha256 over a tower's config and weights; where it was loaded from does not matter."""
    config = {k: v for k, v in tower.config.to_dict().items() if k not in BOOKKEEPING}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


class FeatureCache:
    """Tower features of recordings by content.

    Args:
        tower: the frozen tower; features are [windows, frames, hidden] float16.
        extractor: cuts recordings into the tower's windows.
        folder: where the files lie; default `features/` in the user's cache.
    """

    def __init__(self, tower: PreTrainedModel, extractor: MusicLMFeatureExtractor, folder: str | Path | None = None):
        self.tower = tower
        self.extractor = extractor
        self.folder = Path(folder or cache_dir() / "features") / tower_fingerprint(tower)

    def file(self, audio: str | Path) -> Path:
        """Where the features of a recording lie, or would."""
        with open(audio, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return self.folder / digest[:2] / f"{digest}.npy"

    def load(self, audio: str | Path) -> np.ndarray:
        """Features [windows, frames, hidden] float16 of one recording, computed now if they are not there."""
        file = self.file(audio)
        if not file.is_file():
            self.fill([audio], progress=False)
        return np.load(file, allow_pickle=False)

    def fill(self, audios: Sequence[str | Path], batch_size: int = 8, progress: bool = True) -> int:
        """Compute what is missing; returns how many recordings were encoded. May be stopped and called again."""
        missing = [(audio, file) for audio in audios if not (file := self.file(audio)).is_file()]
        batches = [missing[i : i + batch_size] for i in range(0, len(missing), batch_size)]
        shown: Iterable = track(batches, description="audio features") if progress and batches else batches
        with ThreadPoolExecutor(1) as pool:
            ahead = _one_ahead(pool, self._windows, shown)
            for batch, extracted in ahead:
                with torch.inference_mode():
                    hidden = self.tower(torch.from_numpy(extracted["input_features"])).last_hidden_state
                features = hidden.to(torch.float16).cpu().numpy()
                start = 0
                for (_, file), count in zip(batch, extracted["num_windows"], strict=True):
                    _write(file, features[start : start + count])
                    start += count
        return len(missing)

    def _windows(self, batch: Sequence[tuple[str | Path, Path]]) -> dict:
        rate = self.extractor.sampling_rate
        return self.extractor([load_audio(audio, rate) for audio, _ in batch], sampling_rate=rate)


def _one_ahead(pool: ThreadPoolExecutor, prepare, batches: Iterable) -> Iterator[tuple]:
    """Yield (batch, prepare(batch)) with the next batch being prepared meanwhile."""
    waiting = None
    for batch in batches:
        future = pool.submit(prepare, batch)
        if waiting is not None:
            yield waiting[0], waiting[1].result()
        waiting = (batch, future)
    if waiting is not None:
        yield waiting[0], waiting[1].result()


def _write(file: Path, features: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=file.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, features, allow_pickle=False)
        os.chmod(partial, 0o644)  # mkstemp makes it private, but a cache may be shared
        os.replace(partial, file)
    except BaseException:
        os.unlink(partial)
        raise
