"""A language model run one step at a time, with keys and values that several conversations share room for.

Each row of the room is one conversation and has a length of its own: rows start at place 0, and what lies behind their
ends is not looked at. So nothing is shifted when a conversation joins or leaves, and a step writes in place where
transformers' `DynamicCache` copies everything it holds.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from mllm.errors import WeightsError
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.serve import row_attention
from mllm.token_memory import token_bytes

ROOM = 256  # places by which rows grow
KINDS = {"full_attention", "sliding_attention"}


class _Layer(CacheLayerMixin):
    """Keys and values of one layer [rows, heads, places, head size]; the room says where a step writes."""

    is_sliding = False

    def __init__(self, room: KeyValues):
        super().__init__()
        # weakly: in a circle, megabytes of keys and values would wait for Python's collector of garbage
        self.room = weakref.proxy(room)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        room = self.room
        self.keys = key_states.new_zeros((room.rows, key_states.shape[1], room.capacity, key_states.shape[3]))
        self.values = value_states.new_zeros((room.rows, value_states.shape[1], room.capacity, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values where the room says; returns all of the rows up to the longest one's new end.

        Args:
            key_states, value_states: [rows, heads, tokens, head size]; more than one token only where there is one row.

        Returns:
            Two views [rows, heads, places, head size]; what lies behind a shorter row's end is none of its own.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows, count, room = key_states.shape[0], key_states.shape[2], self.room
        if rows == 1:
            at = room.lengths[0]
            self.keys[:1, :, at : at + count] = key_states
            self.values[:1, :, at : at + count] = value_states
        else:
            self.keys[room.numbers, :, room.places] = key_states[:, :, 0]
            self.values[room.numbers, :, room.places] = value_states[:, :, 0]
        end = room.longest + count
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.room.longest + query_length, 0

    def get_seq_length(self) -> int:
        return self.room.longest

    def get_max_length(self) -> int:
        return -1


class KeyValues(Cache):
    """Keys and values of up to `rows` conversations.

    Args:
        layers: of the language model.
        rows: conversations there is room for.
        capacity: tokens that a row has room for.

    Attributes:
        lengths: tokens in each row that is in use; these are the first rows.
    """

    def __init__(self, layers: int, rows: int = 1, capacity: int = ROOM):
        self.rows, self.capacity = rows, capacity
        self.lengths: list[int] = []
        self.numbers = self.places = torch.empty(0, dtype=torch.long)
        super().__init__(layers=[_Layer(self) for _ in range(layers)])

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return max(self.lengths, default=0)

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers if layer.is_initialized)

    def aim(self, device: torch.device) -> None:
        """Fix, before a step of one token a row, where each of them is written."""
        self.numbers = torch.arange(len(self.lengths), device=device)
        self.places = torch.tensor(self.lengths, device=device)

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for at least so many rows of so many tokens; what is there stays."""
        if rows <= self.rows and capacity <= self.capacity:
            return
        rows = max(rows, self.rows)
        capacity = self.capacity if capacity <= self.capacity else -(-capacity // ROOM) * ROOM
        used, end = len(self.lengths), self.longest
        self.rows, self.capacity = rows, capacity
        for layer in self.layers:
            if layer.is_initialized:
                old_keys, old_values = layer.keys, layer.values
                layer.lazy_initialization(old_keys, old_values)
                layer.keys[:used, :, :end] = old_keys[:used, :, :end]
                layer.values[:used, :, :end] = old_values[:used, :, :end]

    def add(self, other: KeyValues, length: int, row: int = 0) -> int:
        """Take the first `length` tokens of a row of another room as a new row; returns its number."""
        new = len(self.lengths)
        self.reserve(new + 1, length)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if not mine.is_initialized:
                mine.lazy_initialization(theirs.keys, theirs.values)
            mine.keys[new, :, :length] = theirs.keys[row, :, :length]
            mine.values[new, :, :length] = theirs.values[row, :, :length]
        self.lengths.append(length)
        return new

    def copy(self, row: int) -> KeyValues:
        """A row on its own, in a room of its exact size."""
        length = self.lengths[row]
        one = KeyValues(len(self.layers), 1, length)
        one.add(self, length, row)
        return one

    def remove(self, row: int) -> int:
        """Give a row up; the last row takes its number. Returns the number that the last row had."""
        last = len(self.lengths) - 1
        if row != last:
            end = self.lengths[last]
            for layer in self.layers:
                layer.keys[row, :, :end] = layer.keys[last, :, :end]
                layer.values[row, :, :end] = layer.values[last, :, :end]
            self.lengths[row] = end
        self.lengths.pop()
        return last


class Decoder:
    """The language model of a music language model, step by step.

    Raises:
        WeightsError: its layers keep something else than keys and values of single tokens.
    """

    def __init__(self, model: MusicLMForConditionalGeneration):
        self.model = model
        self.text = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.embeddings = model.get_input_embeddings()
        config: PretrainedConfig = model.config.text_config
        kinds = getattr(config, "layer_types", None)
        window = getattr(config, "sliding_window", None)
        self.kinds = set(kinds) if kinds else {"sliding_attention" if window else "full_attention"}
        if not self.kinds <= KINDS:
            raise WeightsError(
                f"the engine runs layers of {' and '.join(sorted(KINDS))}, and this model has "
                f"{', '.join(sorted(self.kinds - KINDS))}: serve it with vLLM"
            )
        self.window = window if "sliding_attention" in self.kinds else None
        self.layers = config.num_hidden_layers
        self.token_bytes = token_bytes(config, self.embeddings.weight.dtype)
        self._by_rows = self.text.config._attn_implementation in ("sdpa", row_attention.NAME)
        if self._by_rows:
            self.text.config._attn_implementation = row_attention.NAME  # where no lengths are given it is sdpa
        forbidden = model.generation_config.suppress_tokens or []
        self._forbidden = torch.tensor(forbidden, dtype=torch.long, device=model.device)

    def room(self, capacity: int, rows: int = 1) -> KeyValues:
        """An empty room for conversations of this model."""
        return KeyValues(self.layers, rows, capacity)

    def read(self, room: KeyValues, embeddings: torch.Tensor) -> torch.Tensor:
        """Go on with the one conversation in `room`; returns the last hidden state [1, hidden].

        Args:
            room: of one row.
            embeddings: [1, tokens, hidden].
        """
        room.lengths = room.lengths or [0]
        start, count = room.lengths[0], embeddings.shape[1]
        own = torch.arange(start, start + count, device=embeddings.device)
        mask = None
        if start or self.window:
            mask = self._masks(own[:, None], start + count, embeddings)
        hidden = self._run(room, embeddings, own[None], mask)
        room.lengths[0] += count
        return hidden

    def step(self, room: KeyValues, tokens: list[int]) -> torch.Tensor:
        """Give every row of `room` a token more; returns what may come next, as `logits`."""
        device = self.embeddings.weight.device
        embeddings = self.embeddings(torch.tensor(tokens, device=device)[:, None])
        room.reserve(len(tokens), room.longest + 1)
        room.aim(device)
        own = room.places[:, None]
        mask, lengths = None, None
        if self._by_rows:
            lengths = [length + 1 for length in room.lengths]
        elif self.window or min(room.lengths) != room.longest:
            mask = self._masks(own[:, :, None], room.longest + 1, embeddings)
        hidden = self._run(room, embeddings, own, mask, lengths)
        room.lengths = [length + 1 for length in room.lengths]
        return self.logits(hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary] float32 of last hidden states; -inf at what this model never writes."""
        logits = self.head(hidden).float()
        logits[:, self._forbidden] = -torch.inf
        return logits

    def _run(
        self,
        room: KeyValues,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        mask: Any,
        lengths: list[int] | None = None,
    ) -> torch.Tensor:
        out = self.text(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=room,
            use_cache=True,
            **({"row_lengths": lengths} if lengths else {}),
        )
        return out.last_hidden_state[:, -1].contiguous()  # a strided slice falls off the fast bf16 path of the CPU

    def _masks(self, own: torch.Tensor, end: int, like: torch.Tensor) -> Any:
        """What a token at place `own` [(rows,) tokens, 1] sees of `end` places, added to the attention's scores.

        A tensor [rows, 1, tokens, end], or one a kind of layer where the model has several.
        """
        places = torch.arange(end, device=own.device)
        seen = places <= own
        kinds = {}
        for kind in self.kinds:
            of_kind = seen & (places > own - self.window) if kind == "sliding_attention" else seen
            mask = torch.zeros(of_kind.shape, dtype=like.dtype, device=like.device).masked_fill_(~of_kind, -torch.inf)
            kinds[kind] = mask[:, None] if mask.dim() == 3 else mask[None, None]
        return kinds if len(kinds) > 1 else next(iter(kinds.values()))
