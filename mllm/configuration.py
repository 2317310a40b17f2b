"""The configuration of a music language model: an audio tower, a projector and a text model."""

from __future__ import annotations

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

import mllm.towers  # noqa: F401  registers the towers with AutoConfig / AutoModel


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
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="mllm_stack"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

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


AutoConfig.register("mllm", MusicLMConfig, exist_ok=True)
