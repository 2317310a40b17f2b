"""Examples and packs -> tensors of one batch, with the features of the recordings that they hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from mllm.processing import MusicLMProcessor
from mllm.train.feature_cache import FeatureCache
from mllm.train.grouped_attention import NAME, spans
from mllm.train.packing import Example, Group, Pack

META = "meta"


@dataclass
class BatchMeta:
    """What a batch is made of; the trainer takes it out before the model sees the batch."""

    owners: torch.Tensor
    """[batch, length] index into `rows` of the example that a position belongs to alone; -1: shared, or padding."""
    rows: list[tuple[str, str]]
    """(id, task) of each example."""
    tokens: int
    """Positions that are no padding."""
    audio_seconds: float = 0.0
    """Length of the recordings whose features are in the batch."""
    sizes: list[int] = field(default_factory=list)
    """How many of `rows` each item of the batch holds."""
    position: tuple[int, int] | None = None
    """Where in a stream the batch ends; see `mllm.train.streaming`."""


@dataclass
class _Line:
    """One row of the batch being made: a tensor per piece, and the recordings in the order of their tokens."""

    ids: list[torch.Tensor]
    labels: list[torch.Tensor]
    positions: list[torch.Tensor]
    groups: list[torch.Tensor]
    """Which group of its row a position belongs to."""
    members: list[torch.Tensor]
    """Index of the example, -1 in a shared prefix."""
    audios: list[str]
    masks: list[np.ndarray]


class Collator:
    """Lays examples (padded), packs (`mllm.train.packing`) or items of a stream out as a batch.

    Gives `input_ids`, `labels` [batch, length]; `attention_mask` [batch, length] for examples; `position_ids`
    [batch, length] and `attention_mask` [batch, 1, length, length] bool for packs, True where a position may look
    (for the kernel `grouped` who looks where, see `mllm.train.grouped_attention.spans`);
    `tower_features` [windows, frames, hidden] float16 (or, without a cache, `input_features` as the tower takes them)
    and `input_features_mask` [windows, tokens] over all recordings of the batch in order; `meta`, a `BatchMeta`.

    Args:
        processor: of the model.
        features: the cache; None where the tower runs in every step.
        attention: kernel of the language model's attention. For `grouped` and flash attention packs become one row: for
            the first with `spans` as its mask, for the second with none, as positions restart and nothing is shared.
        window: positions that layers with sliding attention look back, where the language model has such layers.
    """

    def __init__(
        self,
        processor: MusicLMProcessor,
        features: FeatureCache | None,
        attention: str = "sdpa",
        window: int | None = None,
    ):
        self.processor, self.features, self.window = processor, features, window
        self.grouped = attention == NAME
        self.flat = self.grouped or "flash" in attention
        self.pad = processor.tokenizer.pad_token_id

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        position = None
        if isinstance(items[0], tuple):  # of a stream
            position = items[-1][1]
            items = [one for one, _ in items]
        packed = isinstance(items[0], list)
        packs: list[Pack] = [i if isinstance(i, list) else [Group((i,), 0)] for i in items]
        sizes = [sum(len(group.examples) for group in one) for one in packs]
        if packed and self.flat:
            packs = [[group for one in packs for group in one]]
        rows: list[tuple[str, str]] = []
        lines = [self._line(one, rows) for one in packs]
        lengths = torch.tensor([sum(map(len, line.ids)) for line in lines])
        batch: dict[str, Any] = {
            "input_ids": _stack([line.ids for line in lines], self.pad),
            "labels": _stack([line.labels for line in lines], -100),
            "use_cache": False,  # a cache costs memory, and makes compiled layers compile anew for each layer
        }
        members = _stack([line.members for line in lines], -1)
        if packed:
            batch["position_ids"] = _stack([line.positions for line in lines], 0)
            if self.grouped:
                batch["attention_mask"] = spans(packs[0])
            elif not self.flat:
                groups = _stack([line.groups for line in lines], -1)
                batch["attention_mask"] = self._sight(groups, members, batch["position_ids"])
        else:
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        batch[META] = BatchMeta(members, rows, int(lengths.sum()), sizes=sizes, position=position)
        audios = [audio for line in lines for audio in line.audios]
        if audios:
            masks = np.concatenate([mask for line in lines for mask in line.masks])
            batch["input_features_mask"] = torch.from_numpy(masks)
            batch |= self._features(audios)
            batch[META].audio_seconds = float(len(masks) * self.processor.feature_extractor.window_seconds)
        else:
            batch |= self._silence()
        return batch

    def _line(self, one: Pack, rows: list[tuple[str, str]]) -> _Line:
        line = _Line([], [], [], [], [], [], [])
        for number, group in enumerate(one):
            first = group.examples[0]
            # prefixes are cut in text, so they hold recordings whole
            heard = sum(end <= group.prefix for end in first["ends"]) if group.prefix else 0
            if group.prefix:
                self._add(line, first, 0, group.prefix, number, -1)
                line.audios += first["audios"][:heard]
                line.masks += first["masks"][:heard]
            for example in group.examples:
                self._add(line, example, group.prefix, len(example["input_ids"]), number, len(rows))
                rows.append((example["id"], example["task"]))
                line.audios += example["audios"][heard:]
                line.masks += example["masks"][heard:]
        return line

    def _add(self, line: _Line, example: Example, begin: int, end: int, group: int, member: int) -> None:
        ids = example["input_ids"][begin:end]
        labels = example["labels"][begin:end].clone()
        labels[:1] = -100  # or what stands before it in the row would be taught to predict it
        line.ids.append(ids)
        line.labels.append(labels)
        line.positions.append(torch.arange(begin, end))
        line.groups.append(torch.full((len(ids),), group))
        line.members.append(torch.full((len(ids),), member))

    def _sight(self, groups: torch.Tensor, members: torch.Tensor, positions: torch.Tensor) -> Any:
        """[batch, 1, length, length] bool: a position sees what is before it in its group's prefix and its example.

        For a model with sliding attention a dict of two masks, as such models take them.
        """
        length = groups.shape[1]
        same_group = groups[:, :, None] == groups[:, None, :]
        same_member = (members[:, None, :] == -1) | (members[:, :, None] == members[:, None, :])
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        full = (same_group & same_member & causal)[:, None]
        if self.window is None:
            return full
        near = positions[:, :, None] - positions[:, None, :] < self.window
        return {"full_attention": full, "sliding_attention": full & near[:, None]}

    def _silence(self) -> dict[str, torch.Tensor]:
        """A window that no token stands for: the projector takes part in every step, or other processes wait for it."""
        extractor = self.processor.feature_extractor
        mask = {"input_features_mask": torch.from_numpy(np.zeros_like(extractor.token_mask(1)))}
        if self.features is not None:
            return {**mask, "tower_features": torch.from_numpy(self.features.silence())}
        return {**mask, **self._heard([np.zeros(extractor.window_samples, np.float32)])}

    def _features(self, audios: Sequence[str]) -> dict[str, torch.Tensor]:
        if self.features is not None:
            tower = np.concatenate([self.features.load(audio) for audio in audios])
            return {"tower_features": torch.from_numpy(tower)}
        return self._heard([self.processor.load(audio) for audio in audios])

    def _heard(self, waves: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Recordings as the tower takes them, where it runs in every step."""
        extractor = self.processor.feature_extractor
        windows = extractor(waves, sampling_rate=extractor.sampling_rate)["input_features"]
        return {"input_features": torch.from_numpy(np.ascontiguousarray(windows))}


def _stack(pieces: Sequence[Sequence[torch.Tensor]], fill: int) -> torch.Tensor:
    return pad_sequence([torch.cat(list(line)) for line in pieces], batch_first=True, padding_value=fill)
