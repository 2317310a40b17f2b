"""Instruction rows -> training examples: token ids, labels, and which recordings they hear."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import numpy as np
import soundfile
from torch.utils.data import Dataset

from mllm.audio import load_audio
from mllm.errors import PromptError
from mllm.processing import MusicLMProcessor
from mllm.rows import Row, RowsError, row_audios
from mllm.train.config import DataConfig, PackingSettings
from mllm.train.packing import Example, Pack, pack


def join_dialogues(rows: Sequence[Row]) -> list[Row]:
    """Rows that ask about the same single recording become one dialogue, so its audio tokens are read once.

    Only the first row's user message keeps the audio; rows with several audios, none or a looped one stay as they are.
    """
    joined: dict[str, Row] = {}
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


def loop_recordings(rows: Iterable[Row], share: float, seed: int = 0) -> list[Row]:
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


def encode_row(row: Row, processor: MusicLMProcessor) -> Example:
    """A row as an example.

    Returns:
        `input_ids`, `labels` [length] int64 tensors (-100: not learned); `audios`, paths; of each audio `masks`,
        [windows, tokens] bool, and `ends`, the position behind its last token; `length`; `id`, `task`.

    Raises:
        PromptError: the row cannot be rendered; it is named.
    """
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
    if len(audios) > len(masks):  # looped: a window each
        masks = list(masks[0][:, None])
    places = (encoded["input_ids"] == processor.audio_token_id).nonzero().flatten()
    counts = np.cumsum([int(mask.sum()) for mask in masks], dtype=int)
    if len(places) < sum(int(mask.sum()) for mask in masks):
        raise PromptError(
            f"row {row.get('id', '?')}: a recording stands after the last answer; leave it out, or add an answer"
        )
    return {
        **encoded,
        "audios": audios,
        "masks": masks,
        "ends": [int(places[count - 1]) + 1 if count else 0 for count in counts],
        "length": len(encoded["input_ids"]),
        "id": str(row.get("id", "?")),
        "task": str(row.get("task") or "none"),
    }


@lru_cache(1 << 16)
def samples_at(audio: str, sampling_rate: int) -> int:
    """Samples that a recording has after resampling: from its header where that can be relied on, else by decoding.

    Remembered, as many rows are about one recording. Raises AudioError where it cannot be read.
    """
    try:
        info = soundfile.info(audio)
    except (OSError, RuntimeError):
        return len(load_audio(audio, sampling_rate))  # which says what is wrong with it
    if info.format == "MP3" or not 0 < info.frames < 1 << 60:
        return len(load_audio(audio, sampling_rate))
    return info.frames if info.samplerate == sampling_rate else round(info.frames * sampling_rate / info.samplerate)


def encode_rows(rows: Iterable[Row], processor: MusicLMProcessor, longest: int) -> list[Example]:
    """Rows as examples, without those longer than `longest` tokens. Raises as `encode_row`."""
    encoded = (encode_row(row, processor) for row in rows)
    return [example for example in encoded if example["length"] <= longest]


def packed(examples: list[Example], packing: PackingSettings | None) -> Sequence[Example | Pack]:
    """Examples as the collator takes them: packed where `packing` says how, otherwise as they are."""
    return pack(examples, packing.tokens, packing.share_prefixes) if packing else examples


class InstructionDataset(Dataset):
    """Examples of rows (see `encode_row`), packed into rows of a batch where `packing` says how.

    An item is an `Example` without packing and a `Pack` with it. Examples longer than `longest` tokens are left out.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        processor: MusicLMProcessor,
        longest: int = DataConfig().longest,
        packing: PackingSettings | None = None,
    ):
        encoded = [encode_row(row, processor) for row in rows]
        self.examples = [example for example in encoded if example["length"] <= longest]
        self.too_long = len(rows) - len(self.examples)
        if rows and not self.examples:
            shortest = min(example["length"] for example in encoded)
            raise RowsError(
                f"each of {len(rows)} rows is longer than data.longest ({longest} tokens): raise it, the shortest has "
                f"{shortest}"
            )
        self.items = packed(self.examples, packing)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example | Pack:
        return self.items[index]


def chosen(rows: Iterable[Row], shares: Mapping[str, float]) -> Iterator[Row]:
    """The rows that `DataConfig.shares` lets through; the same ones each time, whatever else is there."""
    for row in rows:
        task = str(row.get("task") or "none")
        share = next((share for pattern, share in shares.items() if fnmatchcase(task, pattern)), 1.0)
        if share >= 1 or zlib.crc32(str(row.get("id", "?")).encode()) / 2**32 < share:
            yield row


def prepared(rows: Iterable[Row], data: DataConfig) -> Iterator[Row]:
    """Rows as the settings want them: looped, joined."""
    looped = loop_recordings(rows, data.loop_share) if data.loop_share else rows
    yield from join_dialogues(list(looped)) if data.join_dialogues else looped


def audios_of(rows: Iterable[Row]) -> list[str]:
    """All recordings that rows name, each once, sorted."""
    return sorted({audio for row in rows for audio in row_audios(row)})


def describe_packing(dataset: InstructionDataset, tokens: int) -> dict[str, Any]:
    """How full the rows of a batch are: `rows`, `examples`, `positions` (of the rows), `used` (share that is no
    padding when rows are filled up to `tokens`), `saved` (share of positions that sharing saved)."""
    packs = [item for item in dataset.items if isinstance(item, list)]
    used = sum(group.length for one in packs for group in one)
    room = sum(max(tokens, sum(group.length for group in one)) for one in packs)
    whole = sum(example["length"] for example in dataset.examples)
    return {
        "rows": len(packs),
        "examples": len(dataset.examples),
        "positions": room,
        "used": used / max(room, 1),
        "saved": 1 - used / max(whole, 1),
    }
