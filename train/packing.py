"""Examples -> rows of a batch without padding: best fit decreasing, and what examples begin with alike stands once.

Best-fit-decreasing packing as in H. Ding et al., "Fewer Truncations Improve Language Modeling", ICML 2024. Prefix
sharing: rows about one recording begin with the same tokens (the recording). In a causal model those positions have the
same hidden states in every row, so they are computed once and every row sees them; the loss is the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Example = dict[str, Any]
"""See `mllm.train.dataset.encode_row`."""

_ALIKE = 64
"""Texts without audio are looked at together when so many first tokens are equal: the same score."""


@dataclass(frozen=True)
class Group:
    """Examples whose first `prefix` tokens are equal."""

    examples: tuple[Example, ...]
    prefix: int
    """0 where there is one example, or nothing in common."""

    @property
    def length(self) -> int:
        """Positions that the group takes in a row of a batch."""
        return self.prefix + sum(len(e["input_ids"]) - self.prefix for e in self.examples)


Pack = list[Group]
"""One row of a batch."""


def pack(examples: Sequence[Example], tokens: int, share_prefixes: bool = True) -> list[Pack]:
    """Rows of at most `tokens` positions that hold every example once; a longer example has a row of its own.

    Deterministic: the same examples in the same order give the same rows.
    """
    groups = list(share(examples, tokens)) if share_prefixes else [Group((e,), 0) for e in examples]
    return best_fit([group.length for group in groups], tokens, groups)


def best_fit(lengths: Sequence[int], tokens: int, things: Sequence[Group]) -> list[Pack]:
    """Best fit decreasing: each thing, the longest first, goes where it leaves the least room."""
    order = sorted(range(len(things)), key=lambda i: (-lengths[i], i))
    rows: list[Pack] = []
    room: list[tuple[int, int]] = []  # (what is left, row), sorted
    for i in order:
        at = bisect_left(room, (lengths[i], -1))
        if at == len(room):
            rows.append([things[i]])
            left, row = tokens - lengths[i], len(rows) - 1
        else:
            left, row = room.pop(at)
            rows[row].append(things[i])
            left -= lengths[i]
        if left > 0:
            insort(room, (left, row))
    return rows


def share(examples: Sequence[Example], tokens: int) -> Iterator[Group]:
    """Groups of examples that begin alike, none longer than `tokens` (but for single examples that are)."""
    alike: dict[Any, list[Example]] = {}
    for number, example in enumerate(examples):
        alike.setdefault(_key(example, number), []).append(example)
    for members in alike.values():
        prefix = shared_prefix(members) if len(members) > 1 else 0
        some: list[Example] = []
        length = prefix
        for example in members:
            own = len(example["input_ids"]) - prefix
            if some and length + own > tokens:
                yield Group(tuple(some), prefix if len(some) > 1 else 0)
                some, length = [], prefix
            some.append(example)
            length += own
        yield Group(tuple(some), prefix if len(some) > 1 else 0)


def _key(example: Example, number: int) -> Any:
    if example["audios"]:
        return tuple(example["audios"])
    ids = example["input_ids"]
    return bytes(ids[:_ALIKE].numpy()) if len(ids) > _ALIKE else number


def shared_prefix(examples: Sequence[Example]) -> int:
    """Tokens with which all begin, cut so that every example keeps an unsupervised token of its own at its start.

    The last shared position has many successors, so what it predicts cannot be learned there.
    """
    ids = [np.asarray(e["input_ids"]) for e in examples]
    least = min(map(len, ids))
    same = np.ones(least, bool)
    for other in ids[1:]:
        same &= ids[0][:least] == other[:least]
    common = int(np.argmin(same)) if not same.all() else least
    first_learned = min(int(np.argmax(np.asarray(e["labels"]) != -100)) for e in examples)
    return max(0, min(common, first_learned - 1, least - 1))
