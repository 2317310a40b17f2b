"""Attention over a line of packed groups that looks only where something may be seen, for CPUs.

A mask over a whole line would have every position look at every other one and forget four fifths of it. Here each
prefix, each example, and the examples together with their prefix are a call of PyTorch's own kernel; what an example
sees in its prefix and in itself is put together by the sums of their exponentials, as ring attention does (H. Liu et
al., "Ring Attention with Blockwise Transformers", 2023). Value and gradient are those of the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mllm.train.packing import Group

NAME = "grouped"
"""`attn_implementation` of this."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def spans(groups: Sequence[Group]) -> torch.Tensor:
    """Who looks where in a line of groups, in place of a mask.

    Returns:
        [1, 1, spans, 4] int32: first query, the one behind the last, first key, the one behind the last. Where queries
        and keys are the same, each sees those before it; else all see all. Every position is a query of one span of the
        first sort, and these come first.
    """
    own, across, at = [], [], 0
    for group in groups:
        begin, first = at, at + group.prefix
        if group.prefix:
            own.append((begin, first, begin, first))
        at = first
        for example in group.examples:
            end = at + len(example["input_ids"]) - group.prefix
            own.append((at, end, at, end))
            at = end
        if group.prefix:
            across.append((first, at, begin, first))
    return torch.tensor([own + across], dtype=torch.int32)[None]


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers wants an attention: query [1, heads, length, size], key and value with a part of the heads.

    With any other mask than `spans` (in generation, in padded batches) it is sdpa.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # rotated queries and keys may have been left in float32 under autocast
    query, key = query.to(value.dtype), key.to(value.dtype)
    out, _ = _attend(query, key, value, attention_mask, scale)
    return out, None


@torch.library.custom_op("mllm::grouped_attention", mutates_args=())
def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [1, length, heads, size], and the logarithms of the sums of exponentials [heads, length] float32."""
    heads, length, size = query.shape[1:]
    out = query.new_empty(1, length, heads, size, dtype=torch.float32)
    sums = query.new_empty(heads, length, dtype=torch.float32)
    q, k, v = _by_key_head(query, key, value)
    o, s = _as_heads(out, key), sums.unflatten(0, q.shape[:2])
    for queries, keys, causal in _pieces(spans):
        part, more = _flash(q[:, :, queries], k[:, :, keys], v[:, :, keys], 0.0, causal, scale=scale)
        if causal:
            o[:, :, queries], s[:, :, queries] = part, more
            continue
        total = torch.logaddexp(s[:, :, queries], more)
        o[:, :, queries] = torch.lerp(o[:, :, queries], part, torch.exp(more - total)[..., None])
        s[:, :, queries] = total
    return out.to(query.dtype), sums


@_attend.register_fake
def _(query: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    heads, length, size = query.shape[1:]
    return query.new_empty(1, length, heads, size), query.new_empty(heads, length, dtype=torch.float32)


@torch.library.custom_op("mllm::grouped_attention_backward", mutates_args=())
def _attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: torch.Tensor,
    out: torch.Tensor,
    sums: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value, [1, length, heads, size] each."""
    of_query, of_key, of_value = _empty_gradients(query, key, torch.float32)
    q, k, v = _by_key_head(query, key, value)
    g, o = (_as_heads(x.float().contiguous(), key) for x in (gradient, out))
    s = sums.unflatten(0, q.shape[:2])
    dq, dk, dv = _as_heads(of_query, key), of_key[0].transpose(0, 1), of_value[0].transpose(0, 1)
    for queries, keys, causal in _pieces(spans):
        # with output and sums of the whole, a part's gradient is its share of the whole's
        gq, gk, gv = _flash_backward(
            g[:, :, queries],
            q[:, :, queries],
            k[:, :, keys],
            v[:, :, keys],
            o[:, :, queries],
            s[:, :, queries],
            0.0,
            causal,
            scale=scale,
        )
        gk, gv = gk.sum(1), gv.sum(1)
        if causal:
            dq[:, :, queries], dk[:, keys], dv[:, keys] = gq, gk, gv
        else:
            dq[:, :, queries] += gq
            dk[:, keys] += gk
            dv[:, keys] += gv
    return of_query.to(query.dtype), of_key.to(query.dtype), of_value.to(query.dtype)


@_attend_backward.register_fake
def _(gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return _empty_gradients(query, key, query.dtype)


def _empty_gradients(query: torch.Tensor, key: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    _, heads, length, size = query.shape
    of_query = query.new_empty(1, length, heads, size, dtype=dtype)
    return of_query, *(query.new_empty(1, length, key.shape[1], size, dtype=dtype) for _ in range(2))


def _pieces(spans: torch.Tensor) -> Iterator[tuple[slice, slice, bool]]:
    for first, last, begin, end in spans[0, 0].tolist():
        yield slice(first, last), slice(begin, end), first == begin


def _by_key_head(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[key heads, queries of each, length, size] float32: keys and values are seen several times, not copied.

    float32, for the kernel takes five times as long to go back through forty positions in bfloat16.
    """
    q = query[0].unflatten(0, (key.shape[1], -1)).float()
    return q, *(x[0][:, None].float().expand(-1, q.shape[1], -1, -1) for x in (key, value))


def _as_heads(x: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """[1, length, heads, size] as [key heads, queries of each, length, size], without a copy."""
    return x[0].unflatten(1, (key.shape[1], -1)).permute(1, 2, 0, 3)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, of_line, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, of_line, *output)
    ctx.mark_non_differentiable(output[1])


def _back(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    gradients = _attend_backward(gradient, *ctx.saved_tensors, ctx.scale)
    return *(one.transpose(1, 2) for one in gradients), None, None


_attend.register_autograd(_back, setup_context=_keep)
AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
