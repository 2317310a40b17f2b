"""Beginnings of conversations that the model has read before: a follow-up question is read from where they part."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict

import numpy as np
import torch

from mllm.hearing import Hearing
from mllm.serve.key_values import KeyValues

LIMIT = 512 << 20  # bytes
SHORTEST = 16  # tokens: what every prompt begins with is not worth the copy


class PrefixCache:
    """Keys and values of conversations by what stands in them; least recently used first to go.

    Args:
        limit: bytes.
        audio_token: id that stands for sound in a prompt.

    Attributes:
        hits, misses: how often a beginning was found, and was not.
    """

    def __init__(self, limit: int, audio_token: int):
        self.limit, self.audio_token = limit, audio_token
        self.hits = self.misses = self.bytes = 0
        self._secret = secrets.token_bytes(32)  # nobody can make a clip that passes for another's
        self._kept: OrderedDict[int, tuple[np.ndarray, KeyValues]] = OrderedDict()
        self._next = 0

    def keys(self, ids: torch.Tensor, hearings: tuple[Hearing, ...], owner: str = "") -> np.ndarray:
        """[1 + tokens] int64 that say what stands at each place of a prompt: whose it is, then text and sound.

        Args:
            ids: [1, tokens].
            hearings: the recordings in it, in order.
            owner: conversations of different owners have no beginning in common.
        """
        keys = ids[0].numpy().astype(np.int64)
        places = np.flatnonzero(keys == self.audio_token)
        if hearings:
            keys[places] = np.concatenate([self._draw(h.key, int(h.mask.sum())) for h in hearings])
        return np.concatenate([self._draw("owner:" + owner, 1), keys])

    def _draw(self, name: str, count: int) -> np.ndarray:
        """Negative numbers [count] that stand for a recording, in this process alone."""
        seed = hashlib.blake2b(name.encode(), key=self._secret).digest()
        return np.random.default_rng(int.from_bytes(seed, "big")).integers(-(2**63), 0, count, dtype=np.int64)

    def longest(self, keys: np.ndarray) -> tuple[int, int | None]:
        """How many tokens are known from the start, at most all but the last; and the number of what holds them."""
        best, found = 0, None
        for number, (known, _) in self._kept.items():
            tokens = _common(known, keys[:-1]) - 1  # the owner's key is no token
            if tokens > best and tokens >= SHORTEST:
                best, found = tokens, number
        return best, found

    def use(self, keys: np.ndarray) -> tuple[int, KeyValues | None]:
        """How many tokens are known from the start, and their keys and values (row 0)."""
        best, found = self.longest(keys)
        if found is None:
            self.misses += 1
            return 0, None
        self.hits += 1
        self._kept.move_to_end(found)
        return best, self._kept[found][1]

    def keep(self, keys: np.ndarray, room: KeyValues) -> None:
        """Remember a conversation. Its beginnings that were remembered on their own go."""
        if room.bytes > self.limit:
            return
        for number, (known, _) in list(self._kept.items()):
            common = _common(known, keys)
            if common == len(keys):
                self._kept.move_to_end(number)
                return
            if common == len(known):
                self._drop(number)
        self._kept[self._next] = (keys, room)
        self._next += 1
        self.bytes += room.bytes
        while self.bytes > self.limit:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0

    def _drop(self, number: int) -> None:
        self.bytes -= self._kept.pop(number)[1].bytes


def _common(left: np.ndarray, right: np.ndarray) -> int:
    """Length of the beginning that two sequences share."""
    shorter = min(len(left), len(right))
    differing = np.flatnonzero(left[:shorter] != right[:shorter])
    return int(differing[0]) if len(differing) else shorter
