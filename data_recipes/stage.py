"""A build is a row of stages, a stage is units of work, a unit becomes one shard of rows and a folder of clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Skips = Counter[str]
"""Reason -> how many items it left out."""


@dataclass(frozen=True)
class Unit:
    """Work that is written, and after a kill done again, together."""

    stage: str
    number: int
    split: str
    payload: Any
    """Whatever the stage's `make` needs; it travels to a worker process."""
    size: int
    """Items in it, for progress."""

    @property
    def shard(self) -> str:
        """Name of its rows inside the build."""
        return f"rows/{self.split}-{self.stage}-{self.number:05d}.parquet"

    @property
    def clips(self) -> str:
        """Name of its folder of audio inside the build."""
        return f"clips/{self.stage}-{self.number:05d}"


def ranges(stage: str, amounts: Mapping[str, int], size: int) -> Iterator[Unit]:
    """Units of numbered things: each holds (first, count) of the numbers of its split, at most `size` of them."""
    number = 0
    for split, wanted in amounts.items():
        for first in range(0, wanted, size):
            count = min(size, wanted - first)
            yield Unit(stage, number, split, (first, count), count)
            number += 1


@dataclass
class Made:
    """What a unit gave."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    skips: Skips = field(default_factory=Counter)


class Stage(Protocol):
    """One kind of work. `units` runs in the parent and must be cheap and lazy, `make` runs in worker processes."""

    name: str
    audio: bool
    """Whether its units write audio files."""

    def total(self) -> int | None:
        """Items in all units, or None where only the end of a stream tells."""

    def units(self) -> Iterator[Unit]:
        """All units in a fixed order: numbers, splits and payloads depend on the configuration and sources alone."""

    def make(self, unit: Unit, folder: Path) -> Made:
        """The rows of a unit; audio goes into `folder`, and rows name it `{unit.clips}/FILE`."""
