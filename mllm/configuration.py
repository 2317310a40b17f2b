"""The configuration of a music language model: an audio tower, a projector and a text model."""

from __future__ import annotations

import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

import mllm.towers  # noqa: F401  registers the towers with AutoConfig / AutoModel
from mllm.audio import MAX_SECONDS

DEFAULT_PARTS = {"audio_config": "mllm_stack", "text_config": "llama"}  # model types, where a config names none


class MusicLMConfig(PreTrainedConfig):
    """Configuration of `MusicLMForConditionalGeneration`.

    Args:
        audio_config: config of the frozen audio tower (any registered `mllm.towers` config, as object or dict). Generic
            code reads `sampling_rate` (Hz), `window_seconds`, `frames_per_second`, `hidden_size` from it.
        text_config: config of the causal language model (any `AutoModelForCausalLM`).
        projector_type: key of `mllm.projector.PROJECTORS`: "linear", "mlp" or "resampler".
        projector_hidden_size: inner width of the projector.
        projector_layers: transformer layers of the resampler (the others ignore it).
        frames_per_token: tower frames packed into one audio token; 20 frames/s and 4 give 5 tokens a second.
        summary_tokens: tokens a window that look at the whole window (resampler only; 0 for the others).
        long_seconds: a recording longer than this keeps only its summary tokens and every `long_stride`-th time token,
            which bounds the prompt of a 30-minute recording.
        long_stride: see `long_seconds`; 0 keeps summary tokens alone.
        audio_token_id: id of the placeholder that audio tokens replace.
    """

    model_type = "mllm"
    sub_configs = dict.fromkeys(DEFAULT_PARTS, AutoConfig)  # as transformers before 5.20 has it too: vLLM needs those

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projector_type: str = "resampler"
    projector_hidden_size: int = 256
    projector_layers: int = 3
    projector_dropout: float = 0.1
    frames_per_token: int = 4
    summary_tokens: int = 8
    long_seconds: float = 60.0
    long_stride: int = 0
    audio_token_id: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        for name, model_type in DEFAULT_PARTS.items():
            part = getattr(self, name)
            if not isinstance(part, PreTrainedConfig):
                setattr(self, name, AutoConfig.for_model(**{"model_type": model_type} | (part or {})))
        super().__post_init__(**kwargs)
        if self.projector_type != "resampler":
            self.summary_tokens = 0
        self.audio_config.max_source_positions = self.longest_audio_tokens  # where vLLM looks for it

    @property
    def window_frames(self) -> int:
        """Tower frames in one window."""
        return round(self.audio_config.window_seconds * self.audio_config.frames_per_second)

    @property
    def time_tokens(self) -> int:
        """Audio tokens of one full window that stand for a stretch of time each."""
        return -(-self.window_frames // self.frames_per_token)

    @property
    def tokens_per_window(self) -> int:
        """Summary tokens and time tokens of one full window, in this order."""
        return self.summary_tokens + self.time_tokens

    @property
    def longest_audio_tokens(self) -> int:
        """The most audio tokens that one recording may take."""
        whole = math.ceil(self.long_seconds / self.audio_config.window_seconds) * self.tokens_per_window
        stride = self.long_stride or (self.time_tokens if not self.summary_tokens else 0)
        thinned = self.summary_tokens + (math.ceil(self.time_tokens / stride) if stride else 0)
        return max(whole, math.ceil(MAX_SECONDS / self.audio_config.window_seconds) * thinned)


AutoConfig.register("mllm", MusicLMConfig, exist_ok=True)
