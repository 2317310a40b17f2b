"""The answers that are being written, one token each a step. They join and leave between steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mllm.serve.engine_work import Work
from mllm.serve.key_values import Decoder
from mllm.serve.prefix_cache import PrefixCache
from mllm.serve.sampling import Choice

ROWS = 4  # that there is room for at the start; more is made when it is needed
KEPT_BYTES = 128 << 20  # of an empty room; what long conversations took beyond is given back


class Batch:
    """Answers under way. For the generation thread alone.

    Args:
        decoder: the language model.
        prefixes: where conversations go that have ended.
    """

    def __init__(self, decoder: Decoder, prefixes: PrefixCache):
        self._decoder, self._prefixes = decoder, prefixes
        self._room = decoder.room(0, ROWS)
        self.works: list[Work] = []  # one a row of the room

    def __len__(self) -> int:
        return len(self.works)

    def join(self, work: Work, hidden: torch.Tensor) -> None:
        """Take in a request whose prompt is read; its first token follows from `hidden` [1, hidden]."""
        assert work.room is not None
        choice = work.sampler.choose(self._decoder.logits(hidden)[0].cpu())
        work.remember(self._prefixes, work.room, 0)
        if not work.write(choice):
            self._room.add(work.room, work.prompt_tokens)
            self.works.append(work)
        work.room = None

    def step(self, fail: Callable[[Work, Exception], None]) -> None:
        """Write a token more of every answer.

        Args:
            fail: told of an answer whose token could not be chosen; the others go on.
        """
        logits = self._decoder.step(self._room, [work.reply.tokens[-1] for work in self.works])
        likeliest = logits.argmax(-1).tolist()
        done = []
        for row, work in enumerate(self.works):
            try:
                choice = Choice(likeliest[row]) if work.sampler.plain else work.sampler.choose(logits[row].cpu())
                if work.write(choice):
                    done.append(work)
            except Exception as error:
                fail(work, error)
                done.append(work)
        for work in done:
            self.leave(work, keep=work.reply.finish is not None)

    def leave(self, work: Work, keep: bool = False) -> None:
        """Give up an answer's place; `keep`: what was read and written is remembered for a follow-up."""
        row = self.works.index(work)
        if keep and self._prefixes.limit:
            room = self._room.copy(row)
            work.remember(self._prefixes, room, room.longest - work.prompt_tokens)
        self._room.remove(row)
        last = self.works.pop()
        if last is not work:
            self.works[row] = last
        if not self.works and self._room.bytes > KEPT_BYTES:
            self._room = self._decoder.room(0, ROWS)
