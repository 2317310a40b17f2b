"""Instruction rows -> training examples: token ids, labels, and where the features of their audios lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
from torch.utils.data import Dataset

from mllm.audio import load_audio
from mllm.errors import PromptError
from mllm.processing import MusicLMProcessor, read_conversation
from mllm.train.config import ConfigError
from mllm.train.feature_cache import FeatureCache


def read_rows(path: str | Path, split: str) -> list[dict[str, Any]]:
    """Rows of one split, with audio paths made absolute.

    Args:
        path: folder made by `mllm data build` (`<split>-*.parquet` in it), or a JSONL file whose lines hold `messages`
            (then every line belongs to the split "train" unless it says otherwise).

    Raises:
        ConfigError: nothing there, or a line that is no row (it is named).
    """
    path = Path(path)
    if path.is_file():
        rows = [row for row in _read_lines(path) if row.get("split", "train") == split]
        folder = path.parent
    else:
        shards = sorted(path.glob(f"**/{split}*.parquet"))
        if not shards:
            raise ConfigError(f"no rows of split {split!r} under {path}: build them with `mllm data build`")
        rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
        folder = path
    for row in rows:
        if isinstance(row["messages"], str):
            row["messages"] = json.loads(row["messages"])
        if isinstance(row.get("facts"), str):
            row["facts"] = json.loads(row["facts"])
        for message in row["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if (kind := part.get("type")) in ("audio", "score") and isinstance(part.get(kind), str):
                    part[kind] = str(folder / part[kind])
    return rows


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("messages"), list | str):
            raise ConfigError(f'{path}, line {number}: a row is {{"messages": [...]}}')
        rows.append(row)
    return rows


def row_audios(row: dict[str, Any]) -> list[str]:
    """Paths of the audios in a row's messages, in order."""
    return read_conversation(row["messages"]).audios


def join_dialogues(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that ask about the same single recording become one dialogue, so its audio tokens are read once.

    Only the first row's user message keeps the audio; rows with several audios, none or a looped one stay as they are.
    """
    joined: dict[str, dict[str, Any]] = {}
    for row in rows:
        audios = row_audios(row)
        key = audios[0] if len(audios) == 1 and "loop" not in row else f"row {len(joined)}"
        if key not in joined:
            joined[key] = {**row, "messages": list(row["messages"])}
            continue
        for message in row["messages"]:
            content = message["content"]
            if not isinstance(content, str):
                content = [part for part in content if part["type"] != "audio"]
            joined[key]["messages"].append({**message, "content": content})
    return list(joined.values())


def loop_recordings(rows: Sequence[dict[str, Any]], share: float, seed: int = 0) -> list[dict[str, Any]]:
    """Let a share of the dialogues about one clip hear it several times over, as the longer recording that it would be.

    Clips fill one window; a song has dozens, with time marks between them, and beyond `long_seconds` only their summary
    tokens. A looped clip has the same instruments, key, tempo and metre, so its answers stay true and its features are
    in the cache already. Such rows of the task "dialogue" get a field `loop` (2-3 or 7-18 times).
    """
    rng = np.random.default_rng(seed)
    out = []
    for row in rows:
        if row.get("task") == "dialogue" and len(row_audios(row)) == 1 and rng.random() < share:
            row = {**row, "loop": int(rng.integers(2, 4) if rng.random() < 0.5 else rng.integers(7, 19))}
        out.append(row)
    return out


class InstructionDataset(Dataset):
    """Examples `{input_ids, labels, audios, masks}`; the collator puts the tower features in."""

    def __init__(self, rows: Sequence[dict[str, Any]], processor: MusicLMProcessor):
        self.examples = [self._example(row, processor) for row in rows]

    def _example(self, row: dict[str, Any], processor: MusicLMProcessor) -> dict[str, Any]:
        audios = row_audios(row)
        extractor = processor.feature_extractor
        samples = [samples_at(audio, extractor.sampling_rate) for audio in audios]
        if row.get("loop") and samples == [extractor.window_samples]:  # a shorter clip would leave gaps
            samples, audios = [row["loop"] * extractor.window_samples], audios * row["loop"]
        masks = [extractor.token_mask(count) for count in samples]
        try:
            encoded = processor.encode_supervised(row["messages"], masks)
        except PromptError as error:
            raise PromptError(f"row {row.get('id', '?')}: {error}") from error
        return {**encoded, "audios": audios, "masks": masks, "length": len(encoded["input_ids"])}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]


def samples_at(audio: str, sampling_rate: int) -> int:
    """Samples that a recording has after resampling: from its header where that can be relied on, else by decoding."""
    info = soundfile.info(audio)
    if info.format == "MP3" or not 0 < info.frames < 1 << 60:
        return len(load_audio(audio, sampling_rate))
    return info.frames if info.samplerate == sampling_rate else round(info.frames * sampling_rate / info.samplerate)


class Collator:
    """Pads examples on the right and gathers the tower features of their audios.

    Gives `input_ids`, `labels`, `attention_mask` [batch, length], `tower_features` [windows, frames, hidden] and
    `input_features_mask` [windows, tokens] over all audios of the batch in order.
    """

    def __init__(self, features: FeatureCache, pad_token_id: int):
        self.features = features
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        def padded(name: str, value: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence([e[name] for e in examples], batch_first=True, padding_value=value)

        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        batch: dict[str, Any] = {"input_ids": padded("input_ids", self.pad_token_id), "labels": padded("labels", -100)}
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        batch["use_cache"] = False  # a cache costs memory, and makes compiled layers compile anew for each layer
        return batch | gather_audio(examples, self.features)


def gather_audio(examples: Sequence[dict[str, Any]], features: FeatureCache) -> dict[str, torch.Tensor]:
    """`tower_features` and `input_features_mask` of all audios of some examples; empty where there are none."""
    audios = [audio for example in examples for audio in example["audios"]]
    if not audios:
        return {}
    masks = np.concatenate([mask for example in examples for mask in example["masks"]])
    tower = np.concatenate([features.load(audio) for audio in audios])
    return {"tower_features": torch.from_numpy(tower), "input_features_mask": torch.from_numpy(masks)}


class PackingCollator:
    """All examples of a batch in one row, each with positions from 0 and blind to the others.

    transformers builds the block mask from positions that restart; an all-ones `attention_mask` or a cache would switch
    that off and let samples see each other, so neither is given.
    """

    def __init__(self, features: FeatureCache):
        self.features = features

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        labels = [example["labels"].clone() for example in examples]
        for first in labels:
            first[0] = -100  # or the last token of the sample before would be taught to predict it
        return {
            "input_ids": torch.cat([example["input_ids"] for example in examples])[None],
            "labels": torch.cat(labels)[None],
            "position_ids": torch.cat([torch.arange(len(example["input_ids"])) for example in examples])[None],
            "use_cache": False,
        } | gather_audio(examples, self.features)
