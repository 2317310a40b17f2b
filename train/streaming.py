"""Rows of any number as packs, in bounded memory, in an order that a resumed run finds again without reading anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch.utils.data import IterableDataset

from mllm.processing import MusicLMProcessor
from mllm.rows import Row, iter_rows
from mllm.train.config import ConfigError, DataConfig, PackingSettings
from mllm.train.dataset import chosen, encode_rows, packed, prepared
from mllm.train.packing import Example, Pack


class PackStream(IterableDataset):
    """Endless packs: the rows of this process again and again, `shuffle_buffer` of them mixed and packed at a time.

    Each item is (pack, position): the position (window, pack in it) behind the pack, from which `start` goes on. A
    window is decided by seed and number alone, so only the rows before it are read again, and none of them encoded.

    Args:
        data: what to read; `shuffle_buffer` rows (over all processes) make a window.
        processor: of the model.
        packing: None gives examples instead of packs.
        seed: decides the order.
        rank, world: this process reads every `world`-th row.
    """

    def __init__(
        self,
        data: DataConfig,
        processor: MusicLMProcessor,
        packing: PackingSettings | None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        self.data, self.processor, self.packing = data, processor, packing
        self.seed, self.rank, self.world = seed, rank, world
        self.start = (0, 0)
        self._gave = False  # anything, on the present way through the rows

    def __iter__(self) -> Iterator[tuple[Example | Pack, tuple[int, int]]]:
        first, inside = self.start
        for number, rows in enumerate(self._windows()):
            if number < first:
                self._gave = True
                continue
            items = self._items(number, rows)
            self._gave = self._gave or bool(items)
            for at, item in enumerate(items, start=1):
                if number > first or at > inside:
                    yield item, ((number, at) if at < len(items) else (number + 1, 0))

    def _windows(self) -> Iterator[list[Row]]:
        size = max(1, self.data.shuffle_buffer // self.world)
        while True:
            self._gave = False
            every = iter_rows(self.data.path, self.data.train_split, self.rank, self.world)
            rows = chosen(every, self.data.shares)
            left = islice(rows, self.data.limit and max(1, self.data.limit // self.world))
            some = list(islice(left, size))
            if not some:
                raise ConfigError(f"{self.data.path} has no row for process {self.rank} of {self.world}")
            while some:
                yield some
                some = list(islice(left, size))
            if not self._gave:
                raise ConfigError(f"every row is longer than data.longest ({self.data.longest} tokens): raise it")

    def _items(self, number: int, rows: list[Row]) -> list[Example | Pack]:
        rng = np.random.default_rng([self.seed, self.rank, number])
        mixed = [rows[i] for i in rng.permutation(len(rows))]
        examples = encode_rows(prepared(mixed, self.data), self.processor, self.data.longest)
        items = packed(examples, self.packing)
        return [items[i] for i in rng.permutation(len(items))]
