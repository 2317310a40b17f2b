"""Greedy answers to many prompts at once: to the bit those to each prompt alone, at a fraction of the time.

Prompts are laid behind one another without filling, so that products see all tokens there are, and the attention of
each prompt is computed by itself over its own length: sums fall as they would if nobody else were there. Where prompts
begin alike, such as questions about one recording, the beginning is read once; the others take its keys and values.

What makes that the same to the bit was measured in bfloat16 on a CPU with avx512_bf16 and without AMX (which
`mllm.eval.kernels` leaves out), with the weights that `mllm.packed_weights` sorts (LOG, 2026-11-26): products, norms
and rotary angles give a token the same bits in any company; so does causal attention if the queries before it are
there, be they zeros, and if what is shared goes no further than `same_to` says. A prompt is read to the bits of
`generate` of transformers, too; a step may round otherwise, as there one row goes alone.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mllm_pieces"
"""`attn_implementation` of this."""
READ_TOKENS, WEIGHED = 4096, 256
"""Tokens that are read at once, and those whose likelihood is had at once."""


class Piece(NamedTuple):
    """Tokens that lie one behind the other: of one prompt, or one of each of some rows of equal length.

    Attributes:
        row: the first one in the cache. rows: of which each has one token; 0: all are of the one row.
        first: the place of the first token in the packed sequence.
        start: its place in its row. end: that behind the last.
    """

    row: int
    rows: int
    first: int
    start: int
    end: int


class Pieces(list[Piece]):
    """What a packed sequence is made of; `asked`: the layers whose attention was given it."""

    asked = 0


def pieces_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    pieces: Pieces | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`sdpa`, or with `pieces` each of them by itself over what its row has up to there.

    Args:
        query: [1, heads, tokens, size].
        key, value: [rows, key heads, places, size].

    Returns:
        [1, tokens, heads, size], None.
    """
    if pieces is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    pieces.asked += 1
    _, heads, _, size = query.shape
    shared = heads != key.shape[1]
    out = []
    for row, rows, first, start, end in pieces:
        own = key[row : row + max(rows, 1), :, :end], value[row : row + max(rows, 1), :, :end]
        asked = query[:, :, first : first + (rows or end - start)]
        if rows:
            # heads that share keys ask as if they were several tokens: a third of the time
            asked = asked.permute(2, 1, 0, 3).reshape(rows, key.shape[1], -1, size)
            out.append(F.scaled_dot_product_attention(asked, *own, scale=scaling).reshape(rows, heads, size))
        else:
            asked = F.pad(asked, (0, 0, start, 0))
            heard = F.scaled_dot_product_attention(asked, *own, is_causal=True, scale=scaling, enable_gqa=shared)
            out.append(heard[0, :, start:].transpose(0, 1))
    return torch.cat(out)[None], None


AttentionInterface.register(NAME, pieces_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class _Layer(CacheLayerMixin):
    """Keys and values [rows, heads, places, size] of one layer; the rows say where tokens are written."""

    is_sliding = False

    def __init__(self, rows: Rows):
        super().__init__()
        self.rows = weakref.proxy(rows)  # in a circle it would wait for Python's collector of garbage

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows = self.rows
        self.keys, self.values = (
            state.new_empty((len(rows.lengths), state.shape[1], rows.places, state.shape[3]))
            for state in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys[self.rows.of, :, self.rows.at] = key_states[0].transpose(0, 1)
        self.values[self.rows.of, :, self.rows.at] = value_states[0].transpose(0, 1)
        return self.keys, self.values

    def take(self, some: torch.Tensor, other: int, length: int) -> None:
        """Let rows begin as another one does."""
        assert self.keys is not None and self.values is not None
        self.keys[some, :, :length] = self.keys[other, :, :length]
        self.values[some, :, :length] = self.values[other, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class Rows:
    """Prompts that a causal language model answers, a row each.

    Attributes:
        lengths: tokens of each row that have been read.
        places: that a row has room for.
        of, at: row and place of each token that is being read [tokens]. pieces: that they make up.
    """

    def __init__(self, model: Any, prompts: Sequence[torch.Tensor], most: int):
        """`prompts`: embeddings [tokens, hidden]; `most`: tokens of an answer at most."""
        self.prompts, self.lengths, self.places = prompts, [0] * len(prompts), max(map(len, prompts)) + most
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.embeddings = model.get_input_embeddings()
        self.decoder.config._attn_implementation = NAME  # where no pieces are given it is sdpa
        self.forbidden = torch.tensor(model.generation_config.suppress_tokens or [], dtype=torch.long)
        self.of = self.at = torch.empty(0, dtype=torch.long)
        self.pieces = Pieces()
        self.cache = Cache(layers=[_Layer(self) for _ in range(self.decoder.config.num_hidden_layers)])

    def read(self, begun: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Read all prompts.

        Args:
            begun: for each an earlier one whose tokens it takes, and how many, as `beginnings` finds them.

        Returns:
            Hidden states of the tokens that each row has read itself [tokens, hidden].
        """
        levels: list[int] = []
        for other, start in begun:
            levels.append(levels[other] + 1 if start else 0)
        read: dict[int, torch.Tensor] = {}
        for level in range(max(levels) + 1):
            taking: dict[tuple[int, int], list[int]] = defaultdict(list)
            here = [row for row, of_row in enumerate(levels) if of_row == level]
            for row in here:
                taking[begun[row]].append(row)
            for (other, start), rows in taking.items():
                for layer in self.cache.layers if start else ():
                    layer.take(torch.tensor(rows), other, start)
            for rows in _packs(here, [len(self.prompts[row]) - begun[row][1] for row in here]):
                read |= zip(rows, self._read(rows, [begun[row][1] for row in rows]), strict=True)
        return [read[row] for row in range(len(self.prompts))]

    def _read(self, rows: Sequence[int], starts: Sequence[int]) -> Sequence[torch.Tensor]:
        """Read prompts from these places on; their hidden states."""
        pieces, first = Pieces(), 0
        for row, start in zip(rows, starts, strict=True):
            self.lengths[row] = len(self.prompts[row])
            pieces.append(Piece(row, 0, first, start, self.lengths[row]))
            first += self.lengths[row] - start
        self.of = torch.cat([torch.full((end - start,), row) for row, _, _, start, end in pieces])
        self.at = torch.cat([torch.arange(start, end) for _, _, _, start, end in pieces])
        tokens = torch.cat([self.prompts[row][start:] for row, _, _, start, _ in pieces])
        return self._pass(tokens, pieces).split([end - start for _, _, _, start, end in pieces])

    def step(self, rows: Sequence[int], said: Sequence[int]) -> torch.Tensor:
        """Read what some rows, in order, have said; hidden states [rows, hidden]."""
        pieces = Pieces()
        for first, row in enumerate(rows):
            before, length = pieces[-1] if pieces else None, self.lengths[row]
            if before and before.row + before.rows == row and before.start == length:
                pieces[-1] = before._replace(rows=before.rows + 1)
            else:
                pieces.append(Piece(row, 1, first, length, length + 1))
        self.of, self.at = torch.tensor(rows), torch.tensor([self.lengths[row] for row in rows])
        for row in rows:
            self.lengths[row] += 1
        return self._pass(self.embeddings(torch.tensor(said)), pieces)

    def _pass(self, tokens: torch.Tensor, pieces: Pieces) -> torch.Tensor:
        """Tokens [tokens, hidden] through the model."""
        self.pieces = pieces
        out = self.decoder(
            inputs_embeds=tokens[None], position_ids=self.at[None], past_key_values=self.cache, use_cache=True,
            pieces=pieces,
        )  # fmt: skip
        return out.last_hidden_state[0]

    def likeliest(self, hidden: torch.Tensor) -> list[int]:
        """The token behind each hidden state [rows, hidden]."""
        logits = self.head(hidden)
        logits[:, self.forbidden] = -torch.inf
        return logits.argmax(-1).tolist()

    def logprobs(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """How likely tokens [tokens] are behind hidden states [tokens, hidden]: float32 [tokens]."""
        out = []
        for some, those in zip(hidden.split(WEIGHED), tokens.split(WEIGHED), strict=True):
            logits = self.head(some).float()
            out.append(logits.gather(1, those[:, None])[:, 0] - logits.logsumexp(-1))
        return torch.cat(out)


def beginnings(prompts: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    """For each prompt an earlier one that begins alike, and for how many tokens; (0, 0) where there is none.

    As far as keys and values are the same to the bit; at least two of the prompt's own tokens are left.
    """
    lengths, numbers = [len(prompt) for prompt in prompts], dict[bytes, int]()
    tokens = np.zeros((len(prompts), max(lengths)), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        written = prompt.contiguous().view(torch.uint8).numpy()
        tokens[row, : len(prompt)] = [numbers.setdefault(token.tobytes(), len(numbers) + 1) for token in written]
    out = []
    for row, length in enumerate(lengths):
        best = 0, 0
        for other, alike in enumerate((tokens[:row] == tokens[row]).cumprod(1).sum(1).tolist()):
            alike = min(alike, same_to(lengths[other], length), length - 2)
            best = (other, alike) if alike > best[1] else best
        out.append(best)
    return out


def same_to(one: int, other: int) -> int:
    """The place up to which tokens of two prompts of such lengths, that begin alike, have the same bits.

    PyTorch's kernel takes queries in blocks of 32, from 192 tokens on of 64, from 768 on of 256, and keys in blocks of
    512; of what is masked it makes zeros, but how products sum depends on the shape of a block. (The numbers are those
    of `cpu_flash_attention` in ATen/native/cpu/FlashAttentionKernel.cpp; that this is enough was tried on 2,277 pairs.)
    """
    shorter, longer = sorted((one, other))
    if shorter == longer:
        return shorter
    if longer < 192:
        return shorter // 32 * 32
    if shorter >= 768:
        return shorter // 512 * 512
    if shorter >= 512 and longer < 768:
        return 512
    return min(shorter // 32 * 32, 96)


def _packs(rows: Iterable[int], lengths: Iterable[int]) -> Iterator[list[int]]:
    """Rows that are read at once."""
    pack: list[int] = []
    tokens = 0
    for row, length in zip(rows, lengths, strict=True):
        if pack and tokens + length > READ_TOKENS:
            yield pack
            pack, tokens = [], 0
        pack.append(row)
        tokens += length
    if pack:
        yield pack


@torch.inference_mode()
def answers_in_pieces(model: Any) -> bool:
    """Whether a model can be asked so: every layer looks at all that was read, and hands the pieces to its attention.

    Two tokens are read to see. If it is false, the model is as it was.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ("full_attention",)
    if set(kinds) != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        return False
    settings = model.get_decoder().config
    before = settings._attn_implementation
    if before not in ("sdpa", NAME):
        return False
    try:
        rows = Rows(model, [model.get_input_embeddings()(torch.tensor([0, 1]))], 1)
        rows.read([(0, 0)])
        handed = rows.pieces.asked == config.num_hidden_layers
    except Exception:  # what a layer says that was not made for this may be anything
        handed = False
    if not handed:
        settings._attn_implementation = before
    return handed


def generate(model: Any, prompts: Sequence[torch.Tensor], most: int, ends: frozenset[int]) -> list[list[int]]:
    """Greedy tokens behind each prompt, without the one that ends it.

    Args:
        model: ours, or a causal language model of transformers, that `answers_in_pieces`.
        prompts: embeddings [tokens, hidden].
        most: tokens of an answer at most.
        ends: tokens that end an answer.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # rows of one length are asked at once
    prompts = [prompts[i] for i in order]
    rows = Rows(model, prompts, most)
    said: list[list[int]] = [[] for _ in prompts]
    read = rows.read(beginnings(prompts))
    going, tokens = list(range(len(order))), rows.likeliest(torch.stack([hidden[-1] for hidden in read]))
    while going:
        kept = [(row, token) for row, token in zip(going, tokens, strict=True) if token not in ends]
        for row, token in kept:
            said[order[row]].append(token)
        kept = [(row, token) for row, token in kept if len(said[order[row]]) < most]
        going = [row for row, _ in kept]
        tokens = rows.likeliest(rows.step(going, [token for _, token in kept])) if going else []
    return said


def weigh(model: Any, prompts: Sequence[torch.Tensor], options: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """Log-likelihood of each option behind its prompt, whose keys and values its options share.

    Args:
        model, prompts: as in `generate`.
        options: for each prompt the tokens of each of its options, one or more.
    """
    embed = model.get_input_embeddings()
    whole, begun = list(prompts), beginnings(prompts)
    behind: list[tuple[int, int, int]] = []  # prompt, option, its row
    for i, of_prompt in enumerate(options):
        for k, tokens in enumerate(of_prompt):
            behind.append((i, k, len(whole) if len(tokens) > 1 else -1))
            if len(tokens) > 1:
                whole.append(torch.cat([prompts[i], embed(torch.tensor(tokens[:-1]))]))
                begun.append((i, len(prompts[i])))
    rows = Rows(model, whole, 0)
    read = rows.read(begun)
    hidden = [torch.cat([read[i][-1:], read[row]] if row >= 0 else [read[i][-1:]]) for i, _, row in behind]
    said = torch.cat([torch.tensor(options[i][k]) for i, k, _ in behind])
    found = rows.logprobs(torch.cat(hidden), said).split([len(one) for one in hidden])
    sums: list[list[float]] = [[] for _ in prompts]
    for (i, _, _), one in zip(behind, found, strict=True):
        sums[i].append(float(one.sum()))
    return sums
