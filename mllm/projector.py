"""Projectors: tower frames in, embeddings of the language model out. One class each, one dict."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from mllm.configuration import MusicLMConfig


class FeatureNorm(nn.Module):
    """Brings each tower feature to zero mean and unit variance with statistics of the training data.

    The towers' features live on scales that differ by orders of magnitude (note probabilities beside convolution
    outputs). The statistics are buffers, set once by `mllm.train`, and are saved with the projector.
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("std", torch.ones(size, dtype=torch.float32))

    def _apply(self, fn, recurse=True):
        """Follows the model to another device but stays float32: rounded means would shift small features."""
        device = fn(self.mean).device
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return ((frames.float() - self.mean.float()) / self.std.float()).clamp(-8, 8)


def pack_frames(frames: torch.Tensor, frames_per_token: int) -> torch.Tensor:
    """[n, frames, size] -> [n, tokens, frames_per_token * size]; the last token is filled with zeros."""
    missing = -frames.shape[1] % frames_per_token
    return F.pad(frames, (0, 0, 0, missing)).unflatten(1, (-1, frames_per_token)).flatten(2)


class LinearProjector(nn.Module):
    """One matrix on the packed frames of a token (LLaVA, Liu et al. 2023)."""

    def __init__(self, config: MusicLMConfig):
        super().__init__()
        self.frames_per_token = config.frames_per_token
        self.norm = FeatureNorm(config.audio_config.hidden_size)
        packed = config.audio_config.hidden_size * config.frames_per_token
        self.out = nn.Linear(packed, config.text_config.hidden_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        packed = pack_frames(self.norm(frames), self.frames_per_token)
        return self.out(packed.to(self.out.weight.dtype))


class MLPProjector(nn.Module):
    """Two layers with GELU on the packed frames of a token (LLaVA-1.5, Liu et al. 2023)."""

    def __init__(self, config: MusicLMConfig):
        super().__init__()
        self.frames_per_token = config.frames_per_token
        self.norm = FeatureNorm(config.audio_config.hidden_size)
        packed = config.audio_config.hidden_size * config.frames_per_token
        self.hidden = nn.Linear(packed, config.projector_hidden_size)
        self.out = nn.Linear(config.projector_hidden_size, config.text_config.hidden_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        packed = pack_frames(self.norm(frames), self.frames_per_token)
        return self.out(F.gelu(self.hidden(packed.to(self.hidden.weight.dtype))))


class ResamplerLayer(nn.TransformerEncoderLayer):
    """torch's layer (pre-norm, GELU), computed by calling its parts.

    torch's own forward reads the weights of its linear layers in one fused step. vLLM puts linear layers of its own in
    their places, whose weights are packed away.
    """

    def __init__(self, size: int, dropout: float):
        heads = max(1, size // 64)
        super().__init__(size, heads, 4 * size, dropout, activation="gelu", batch_first=True, norm_first=True)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, tokens, size] -> the same."""
        attention = self.self_attn
        inputs = F.linear(self.norm1(hidden), attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = inputs.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = attention.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        hidden = hidden + self.dropout1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
        return hidden + self.dropout2(self.linear2(self.dropout(F.gelu(self.linear1(self.norm2(hidden))))))


class ResamplerProjector(nn.Module):
    """A small transformer over the tokens of a window, with learned queries in front that look at all of it.

    The queries ("summary tokens") do what the Perceiver resampler's latents do (Flamingo, Alayrac et al. 2022): they
    gather what is true of the whole window, such as key, tempo, metre, instruments. The time tokens keep the order of
    events. Output: [n, summary_tokens + time_tokens, text hidden size].
    """

    def __init__(self, config: MusicLMConfig):
        super().__init__()
        size = config.projector_hidden_size
        self.frames_per_token = config.frames_per_token
        self.norm = FeatureNorm(config.audio_config.hidden_size)
        self.frame = nn.Linear(config.audio_config.hidden_size, size * 3 // 4)
        self.pack = nn.Linear(size * 3 // 4 * config.frames_per_token, size)
        self.queries = nn.Parameter(torch.zeros(config.summary_tokens, size))
        self.positions = nn.Parameter(torch.zeros(config.time_tokens, size))
        self.layers = nn.ModuleList(
            ResamplerLayer(size, config.projector_dropout) for _ in range(config.projector_layers)
        )
        self.out_norm = nn.LayerNorm(size)
        self.out = nn.Linear(size, config.text_config.hidden_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self.frame(self.norm(frames).to(self.frame.weight.dtype)))
        hidden = self.pack(pack_frames(hidden, self.frames_per_token)) + self.positions
        hidden = torch.cat([self.queries.expand(len(hidden), -1, -1).to(hidden.dtype), hidden], dim=1)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.out(self.out_norm(hidden))


PROJECTORS: dict[str, type[nn.Module]] = {
    "linear": LinearProjector,
    "mlp": MLPProjector,
    "resampler": ResamplerProjector,
}
