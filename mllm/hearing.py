"""Recordings as the model holds them: heard some windows at a time, and remembered by their content."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mllm.audio import samples_sha256

if TYPE_CHECKING:
    from mllm.feature_extraction import MusicLMFeatureExtractor
    from mllm.modeling import MusicLMForConditionalGeneration

REMEMBERED_BYTES = 64 << 20  # about 950 clips of ten seconds with `mini`


@dataclass(frozen=True)
class Heard:
    """A recording as the model holds it."""

    embeddings: torch.Tensor  # [audio tokens, text hidden size]
    mask: np.ndarray  # [windows, tokens a window] bool, which tokens stand in the prompt
    seconds: float


class Memory:
    """What was heard before, least recently used first to go. May be used from several threads.

    Attributes:
        hits, misses: how often something asked for was there, and was not.
        seconds: length of all recordings that were heard, whether still remembered or not.
    """

    def __init__(self, limit: int = REMEMBERED_BYTES):
        self.limit = limit  # bytes of embeddings
        self.hits = self.misses = 0
        self.seconds = 0.0
        self._kept: OrderedDict[str, Heard] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def recall(self, key: str) -> Heard | None:
        """The recording with this fingerprint, or None."""
        with self._lock:
            heard = self._kept.get(key)
            if heard is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return heard

    def keep(self, key: str, heard: Heard) -> None:
        """Remember a recording; others are forgotten where there is no room for all."""
        with self._lock:
            if key in self._kept:
                self._bytes -= self._kept.pop(key).embeddings.nbytes
            self._kept[key] = heard
            self._bytes += heard.embeddings.nbytes
            self.seconds += heard.seconds
            while self._bytes > self.limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].embeddings.nbytes

    @property
    def size(self) -> int:
        """Bytes of embeddings that are remembered."""
        return self._bytes


class Hearing:
    """A recording on its way into the model.

    Args:
        key: fingerprint of the recording.
        source: its float32 mono waveform [samples] at the model's rate, or what is remembered of it.
        model, extractor: who listens.
        memory: where what was heard is kept.

    Attributes:
        mask: [windows, tokens a window] bool, which tokens stand in the prompt.
        seconds: length of the recording.
        done: windows heard so far.
        heard: all of it, once it is heard.
    """

    def __init__(
        self,
        key: str,
        source: np.ndarray | Heard,
        model: MusicLMForConditionalGeneration,
        extractor: MusicLMFeatureExtractor,
        memory: Memory,
    ):
        self.key = key
        self.heard: Heard | None = None
        self._model, self._extractor, self._memory = model, extractor, memory
        self._waveform: np.ndarray | None = None
        self._embeddings: list[torch.Tensor] = []
        if isinstance(source, Heard):
            self.heard, self.mask, self.seconds = source, source.mask, source.seconds
        else:
            self._waveform = source
            self.mask = extractor.token_mask(len(source))
            self.seconds = len(source) / extractor.sampling_rate
        self.windows = len(self.mask)
        self.done = self.windows if self.heard else 0

    @torch.no_grad()
    def advance(self, windows: int) -> Heard | None:
        """Hear up to so many windows more; what was heard, once that is all of it."""
        if self.heard or self._waveform is None:
            return self.heard
        samples = self._extractor.window_samples
        used = self._waveform[: self.windows * samples][self.done * samples : (self.done + windows) * samples]
        features = self._extractor(used, return_tensors="pt")["input_features"].to(self._model.device)
        mask = torch.from_numpy(self.mask[self.done : self.done + windows])
        self._embeddings.append(self._model.get_audio_features(features, mask).pooler_output)
        self.done = min(self.done + windows, self.windows)
        if self.done == self.windows:
            self.heard = Heard(torch.cat(self._embeddings), self.mask, self.seconds)
            self._memory.keep(self.key, self.heard)
            self._waveform, self._embeddings = None, []
        return self.heard


def fingerprint(source: str | Path | bytes | np.ndarray) -> str:
    """What tells recordings apart: sha256 of the file, or of the samples of a waveform."""
    if isinstance(source, np.ndarray):
        return "samples:" + samples_sha256(source)
    if isinstance(source, bytes):
        return "file:" + hashlib.sha256(source).hexdigest()
    if not Path(source).is_file():
        return f"path:{source}"  # decoding says what is wrong with it
    try:
        with open(source, "rb") as file:
            return "file:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"path:{source}"
