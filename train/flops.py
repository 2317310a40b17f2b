"""Estimated work of training, from the model's real modules, and what the machine can do at most: its GEMM peak."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

# Projections that read what comes into their module, not what the projection before them in it made.
PARALLEL = {"q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj"}
GEMM_TOKENS = {"cpu": 1024, "cuda": 8192}  # rows that fill the device without taking long


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, a multiplication and an addition counted as two.

    Model FLOPs as in PaLM's appendix B (Chowdhery et al. 2022): what gradient checkpointing recomputes and what is
    spent on padding, norms and activation functions is left out. So is a tower whose features come from the cache.
    """

    token_forward: float
    """Linear layers of the language model, for one position."""
    token_backward: float
    supervised_forward: float
    """The language model's head, for one position whose next token is learned."""
    supervised_backward: float
    window_forward: float
    """The projector, for one window of audio; 0 where the model has none."""
    window_backward: float
    tower_forward: float
    """Products and convolutions of the tower, for one window of audio; 0 where it does not run in every step."""
    tower_backward: float
    pair_forward: float
    """One layer's attention of one position to another: scores and values over all heads."""
    full_layers: int
    """Layers whose positions see all that came before."""
    sliding_layers: int
    """Layers whose positions see `sliding_window` positions at most."""
    sliding_window: int
    trained: bool
    """Whether anything is trained at all; if not, there is no backward pass."""

    def attention(self, context: float) -> tuple[float, float]:
        """Forward and backward FLOPs of attention for one position: the mean over a causal sequence of `context`."""
        pairs = self.full_layers * (context + 1) / 2
        window = min(self.sliding_window, context)
        if window:
            pairs += self.sliding_layers * (window * (window + 1) / 2 + (context - window) * window) / context
        forward = pairs * self.pair_forward
        return forward, 2 * forward * self.trained

    def total(self, tokens: float, supervised: float, windows: float, context: float) -> float:
        """FLOPs of learning from so many tokens, supervised tokens and windows, in sequences of length `context`."""
        return (
            tokens * (self.token_forward + self.token_backward + sum(self.attention(context)))
            + supervised * (self.supervised_forward + self.supervised_backward)
            + windows * (self.window_forward + self.window_backward + self.tower_forward + self.tower_backward)
        )


def estimate_flops(model: nn.Module, window: torch.Tensor | None = None) -> Flops:
    """What one token, one supervised token and one window of audio cost in training.

    Args:
        model: a causal language model of transformers, or `MusicLMForConditionalGeneration`; also under peft's LoRA and
            with quantised linear layers. What is trained is read from `requires_grad`. Experts that are no linear
            layers (fused mixtures) are not counted.
        window: [1, …] a window as the tower takes it, where the tower runs in every step; it is run once on it.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    projector = getattr(getattr(base, "model", None), "projector", None)
    body = _Walk(projector is not None and (_is_trained(projector) or _is_trained(base.model.audio_tower)))
    body.visit(decoder, "", body.trained)
    top = _Walk(body.trained)
    if head is not None:
        top.visit(head, "", top.trained)
    config = decoder.config.get_text_config()
    heads = config.num_attention_heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    bounded = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    window_forward = window_backward = tower_forward = tower_backward = 0.0
    if projector is not None:
        tower = base.model.audio_tower
        window_forward, window_backward = _projector_flops(projector, base.config, _is_trained(tower))
        if window is not None:
            tower_forward, tower_backward = _tower_flops(tower, window)
    return Flops(
        token_forward=body.forward,
        token_backward=body.backward,
        supervised_forward=top.forward,
        supervised_backward=top.backward,
        window_forward=window_forward,
        window_backward=window_backward,
        tower_forward=tower_forward,
        tower_backward=tower_backward,
        pair_forward=4.0 * heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
        full_layers=kinds.count("full_attention"),
        sliding_layers=bounded,
        sliding_window=(getattr(config, "sliding_window", None) or 0) if bounded else 0,
        trained=top.trained,
    )


class _Walk:
    """Adds up a module's linear layers in the order they are called in, which is the order they were registered in."""

    def __init__(self, trained: bool):
        self.forward = self.backward = 0.0
        self.trained = trained  # whether anything so far is, so that its gradient has to pass through what follows

    def visit(self, module: Any, name: str, entry: bool) -> None:
        """`entry`: whether the parent's input needs a gradient."""
        needed = entry if name in PARALLEL else self.trained
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            self._add(module.base_layer, needed)
            for adapter in () if module.disable_adapters else module.active_adapters:
                if adapter in module.lora_A:
                    self._add(module.lora_A[adapter], needed)
                    self._add(module.lora_B[adapter], needed or _is_trained(module.lora_A[adapter]))
        elif hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
            active = [module.modules_to_save[key] for key in module.active_adapters if key in module.modules_to_save]
            self.visit(active[0] if active else module.original_module, name, entry)
        elif _shape(module):
            self._add(module, needed)
        else:
            self.trained |= any(parameter.requires_grad for parameter in module.parameters(recurse=False))
            entry = self.trained
            for child_name, child in module.named_children():
                self.visit(child, child_name, entry)

    def _add(self, linear: Any, input_needs_gradient: bool) -> None:
        inputs, outputs = _shape(linear) or (0, 0)
        flops, learned = 2.0 * inputs * outputs, _is_trained(linear)
        self.forward += flops
        self.backward += flops * (input_needs_gradient + learned)
        self.trained |= learned


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _shape(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer; the packed weights of a quantised one do not show them."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return module.in_features, module.out_features
    return (module.nx, module.nf) if type(module).__name__ == "Conv1D" else None  # GPT-2's


def _projector_flops(projector: nn.Module, config: Any, tower_learns: bool) -> tuple[float, float]:
    """Counted on a copy without memory, so neither the weights nor the stream of random numbers are touched."""
    ghost = copy.deepcopy(projector).to("meta").train()
    frames = torch.empty(
        1, config.window_frames, config.audio_config.hidden_size, device="meta", requires_grad=tower_learns
    )
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        out = ghost(frames)
        forward = counter.get_total_flops()
        if out.requires_grad:
            out.sum().backward()
    return float(forward), float(counter.get_total_flops() - forward)


def _tower_flops(tower: nn.Module, window: torch.Tensor) -> tuple[float, float]:
    """Counted on the tower itself, which draws no random numbers; many towers do not run without memory."""
    first = next(tower.parameters(), window)
    learned = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    mixed = torch.autocast(first.device.type, torch.bfloat16, enabled=first.dtype == torch.bfloat16)
    # torch counts attention where it is plain products, which its kernel for the CPU is not
    with torch.enable_grad(), mixed, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        out = tower(window.to(first.device)).last_hidden_state
        forward = counter.get_total_flops()
        if out.requires_grad:  # not `backward`, which would leave gradients for the first step
            torch.autograd.grad(out.float().sum(), learned, allow_unused=True)
    return float(forward), float(counter.get_total_flops() - forward)


def gemm_shapes(hidden: int, intermediate: int, device: torch.device) -> list[tuple[int, int, int]]:
    """Products (rows, inner, columns) like a language model's: two MLP matrices on many tokens, and a large square."""
    rows = GEMM_TOKENS.get(device.type, 1024)
    return [(rows, hidden, intermediate), (rows, intermediate, hidden), (rows, rows, rows)]


def gemm_peak(
    dtype: torch.dtype,
    device: torch.device,
    seconds: float = 0.5,
    shapes: Sequence[tuple[int, int, int]] | None = None,
) -> float:
    """Most floating-point operations a second that a matrix product reaches here: the best of several, measured.

    Args:
        dtype: of both matrices.
        device: where they lie.
        seconds: how long to measure, over all shapes; a slow product is timed once, however long it takes.
        shapes: (rows, inner, columns) of the products; default: those of SmolLM2-135M.
    """
    shapes = shapes or gemm_shapes(576, 1536, device)
    # its own generator: measuring leaves the random numbers of the training as they are
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    for rows, inner, columns in shapes:
        left = torch.randn(rows, inner, generator=generator, device=device).to(dtype)
        right = torch.randn(columns, inner, generator=generator, device=device).to(dtype).t()  # as nn.Linear holds it
        end = time.perf_counter() + seconds / len(shapes)
        shortest = float("inf")
        with torch.no_grad():
            while shortest == float("inf") or time.perf_counter() < end:
                shortest = min(shortest, _time_product(left, right))
        best = max(best, 2.0 * rows * inner * columns / shortest)
    return best


def _time_product(left: torch.Tensor, right: torch.Tensor) -> float:
    repeats = 10 if left.device.type == "cuda" else 1  # a launch takes as long as a small product
    _wait(left.device)
    began = time.perf_counter()
    for _ in range(repeats):
        torch.mm(left, right)
    _wait(left.device)
    return (time.perf_counter() - began) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
