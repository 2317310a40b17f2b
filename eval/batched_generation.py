"""Greedy answers to many prompts at once; what prompts begin with alike, such as one recording, is read once.

Rows start at place 0 and are filled up behind their ends, which a causal model does not look at; a row that has ended
leaves the batch. So nothing is moved when a short answer stands beside a long one.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

ALIKE = 48
"""Tokens from which on two prompts that begin alike count as of one family."""
_SPARE = 32
"""Places by which rows grow."""


class _Layer(DynamicLayer):
    """Keys and values [rows, heads, places, size]: prompts are appended, then each row's next token put behind it."""

    def __init__(self, rows: Rows):
        super().__init__()
        self.rows = weakref.proxy(rows)  # in a circle it would wait for Python's collector of garbage

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.rows
        if not rows.answering:
            return super().update(key_states, value_states, *args, **kwargs)
        assert self.keys is not None and self.values is not None
        if rows.longest >= self.keys.shape[2]:
            self.keys, self.values = (torch.nn.functional.pad(x, (0, 0, 0, _SPARE)) for x in (self.keys, self.values))
        self.keys[rows.numbers, :, rows.lengths] = key_states[:, :, 0]
        self.values[rows.numbers, :, rows.lengths] = value_states[:, :, 0]
        return self.keys[:, :, : rows.longest + 1], self.values[:, :, : rows.longest + 1]

    def get_seq_length(self) -> int:
        return self.rows.longest if self.rows.answering else super().get_seq_length()


class Rows:
    """A batch of prompts [tokens, hidden] being answered by a causal language model.

    Attributes:
        next: the token that each row says next [rows].
        lengths: tokens of each row that have been read [rows].
    """

    def __init__(self, model: Any, prompts: Sequence[torch.Tensor], families: Sequence[int], alike: int):
        """`families`: a number for each prompt; `alike`: tokens with which all prompts of a family begin alike."""
        self.model, self.answering = model, False
        self.lengths = torch.tensor([len(prompt) for prompt in prompts])
        self.longest, self.numbers = int(self.lengths.max()), torch.arange(len(prompts))
        config = model.config.get_text_config()
        self.cache = DynamicCache()
        self.cache.layers = [_Layer(self) for _ in range(config.num_hidden_layers)]
        first = {family: i for i, family in reversed(list(enumerate(families)))}
        start = alike if len(first) < len(prompts) else 0
        if start:
            known = list(first)
            self._read([prompts[first[family]][:start] for family in known])
            self.cache.batch_select_indices(torch.tensor([known.index(family) for family in families]))
        hidden = self._read([prompt[start:] for prompt in prompts])
        self.next = self._choose(hidden[self.numbers, self.lengths - start - 1])
        self.answering = True

    def _read(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """Hidden states [rows, longest piece, hidden] of what follows in each row."""
        padded = torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True)
        return self.model.base_model(inputs_embeds=padded, past_key_values=self.cache, use_cache=True).last_hidden_state

    def _choose(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.get_output_embeddings()(hidden).argmax(-1)

    def step(self) -> None:
        """Read what each row has said last."""
        places, mask = torch.arange(self.longest + 1), None
        if int(self.lengths.min()) < self.longest:
            mask = (places[None] <= self.lengths[:, None])[:, None, None]
        said = self.model.get_input_embeddings()(self.next[:, None])
        out = self.model.base_model(
            inputs_embeds=said, attention_mask=mask, position_ids=self.lengths[:, None], past_key_values=self.cache,
            use_cache=True,
        )  # fmt: skip
        self.next = self._choose(out.last_hidden_state[:, 0])
        self.lengths, self.longest = self.lengths + 1, self.longest + 1

    def keep(self, some: Sequence[int]) -> None:
        """Let all rows but these go."""
        chosen = torch.tensor(some)
        self.cache.batch_select_indices(chosen)
        self.next, self.lengths, self.numbers = self.next[chosen], self.lengths[chosen], torch.arange(len(some))
        self.longest = int(self.lengths.max())


def attends_fully(model: Any) -> bool:
    """Whether every layer looks at all that was read, as what stands here takes for granted."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ("full_attention",)
    return set(kinds) == {"full_attention"} and getattr(config, "sliding_window", None) is None


def generate(
    model: Any, prompts: Sequence[torch.Tensor], families: Sequence[int], most: int, ends: frozenset[int]
) -> list[list[int]]:
    """Greedy tokens behind each prompt, without the one that ends it.

    Args:
        model: ours, or a causal language model of transformers that `attends_fully`.
        prompts: embeddings [tokens, hidden].
        families: as `families_of` says.
        most: tokens of an answer at most.
        ends: tokens that end an answer.
    """
    rows = Rows(model, prompts, families, _alike(prompts, families))
    said: list[list[int]] = [[] for _ in prompts]
    of = list(range(len(prompts)))
    while True:
        going = []
        for row, (i, token) in enumerate(zip(of, rows.next.tolist(), strict=True)):
            if token not in ends:
                said[i].append(token)
                if len(said[i]) < most:
                    going.append(row)
        if not going:
            return said
        if len(going) < len(of):
            rows.keep(going)
            of = [of[row] for row in going]
        rows.step()


def families_of(prompts: Sequence[torch.Tensor]) -> list[int]:
    """A number for each prompt, the same for those that begin with the same `ALIKE` tokens; short ones are alone."""
    known: dict[bytes, int] = {}
    out = []
    for i, prompt in enumerate(prompts):
        beginning = prompt[:ALIKE].float().numpy().tobytes() if len(prompt) > ALIKE else str(i).encode()
        out.append(known.setdefault(beginning, len(known)))
    return out


def _alike(prompts: Sequence[torch.Tensor], families: Sequence[int]) -> int:
    """Tokens with which every prompt begins as the first of its family does, at least one less than its own."""
    first: dict[int, torch.Tensor] = {}
    alike = min(map(len, prompts)) - 1
    for prompt, family in zip(prompts, families, strict=True):
        other = first.setdefault(family, prompt)
        differs = (prompt[:alike] != other[:alike]).any(1)
        alike = int(differs.int().argmax()) if bool(differs.any()) else alike
    return alike
