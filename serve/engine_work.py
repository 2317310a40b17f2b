"""One request on its way through the engine: prepared, heard, read, written."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from mllm.chat import Draft, MusicLM
from mllm.grammar_decoding import Path
from mllm.hearing import Hearing
from mllm.serve.engine_reply import Reply
from mllm.serve.engine_text import Writer
from mllm.serve.generation import GenerationRequest, Usage
from mllm.serve.key_values import Decoder, KeyValues
from mllm.serve.prefix_cache import PrefixCache
from mllm.serve.sampling import Choice, Sampler

CHUNK = 256  # prompt tokens read between two steps of answers that are being written
WHOLE = 512  # the same while no answer is


class Work:
    """A request and everything that belongs to it.

    Attributes:
        reply: where its answer goes.
        deadline: on the clock `time.monotonic`.
        room: keys and values of what was read of its prompt.
        cached: prompt tokens that were known before.
    """

    def __init__(self, request: GenerationRequest, reply: Reply):
        self.request, self.reply = request, reply
        self.submitted = time.monotonic()
        self.deadline = self.submitted + request.seconds
        self.cached = 0
        self.room: KeyValues | None = None
        self.sampler: Sampler
        self.writer: Writer
        self._draft: Draft
        self._keys: np.ndarray
        self._embeddings: torch.Tensor | None = None

    def prepare(self, draft: Draft, grammar: Any, keys: np.ndarray, writer: Writer) -> None:
        """What the request is made of; no model was asked yet. `grammar`: compiled, or None."""
        self._draft, self._keys, self.writer = draft, keys, writer
        self.sampler = Sampler(self.request, Path(grammar) if grammar is not None else None)

    @property
    def prompt_tokens(self) -> int:
        return self._draft.ids.shape[1]

    @property
    def tokens(self) -> int:
        """The most places that it may come to need."""
        return self.prompt_tokens + self.request.max_tokens

    @property
    def usage(self) -> Usage | None:
        """What it took so far; None before it was prepared."""
        if not hasattr(self, "_draft"):
            return None
        return Usage(self.prompt_tokens, len(self.reply.tokens), self._draft.audio_tokens, self.cached)

    @property
    def left(self) -> int:
        """Units of work until its first token, roughly."""
        windows = sum(hearing.windows - hearing.done for hearing in self._draft.hearings) if not self.room else 0
        read = self.room.longest if self.room else 0
        return windows + -(-(self.prompt_tokens - read) // CHUNK)

    def share(self, under_way: Any) -> None:
        """Hear recordings together with other requests that bring the same ones (`under_way`: key -> Hearing)."""
        draft = self._draft
        shared: list[Hearing] = [under_way.setdefault(hearing.key, hearing) for hearing in draft.hearings]
        self._draft = Draft(draft.ids, tuple(shared), draft.begin)

    def advance(self, music: MusicLM, decoder: Decoder, prefixes: PrefixCache, alone: bool) -> torch.Tensor | None:
        """One unit of work: a window of sound, or a chunk of the prompt. At its end the last hidden state [1, hidden].

        Args:
            music, decoder: hear recordings; read the prompt.
            prefixes: what was read before.
            alone: whether no answer waits for this unit to be over.
        """
        if self.room is None:
            known, _ = prefixes.longest(self._keys)
            unheard = [h for h in self._draft.sounding(known, prefixes.audio_token)[1] if not h.heard]
            if unheard:
                unheard[0].advance(1)  # several at once take as long, and keep others waiting
                return None
            self.cached, known_room = prefixes.use(self._keys)
            self._embeddings = music.embed(self._draft, self.cached)
            self.room = decoder.room(self.prompt_tokens)
            if known_room:
                self.room.add(known_room, self.cached)
        assert self._embeddings is not None
        start = self.room.longest - self.cached
        hidden = decoder.read(self.room, self._embeddings[:, start : start + (WHOLE if alone else CHUNK)])
        if self.room.longest < self.prompt_tokens:
            return None
        self._embeddings = None
        return hidden

    def remember(self, prefixes: PrefixCache, room: KeyValues, tokens: int) -> None:
        """Keep what was read and written for a follow-up; the first `tokens` written ones have keys and values."""
        written = np.array(self.reply.tokens[:tokens], dtype=np.int64)
        prefixes.keep(np.concatenate([self._keys, written]), room)

    def write(self, choice: Choice) -> bool:
        """Put a token more to the answer; whether that was the last."""
        self.reply.tokens.append(choice.token)
        piece, finish = self.writer.write(choice)
        self.reply.give(piece)
        if finish is None and len(self.reply.tokens) >= self.request.max_tokens:
            self.reply.give(self.writer.flush())
            finish = "length"
        if finish:
            self.reply.end(finish, self.usage)
        return finish is not None
