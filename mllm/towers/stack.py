"""Several towers side by side: each hears the same window at its own rate, their features meet on one frame grid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from mllm.towers.grid import resize_mean
from mllm.towers.resample import resample

DEFAULT_MEMBERS = ("basic_pitch", "musicnn", "tempogram")
BOOKKEEPING = ("_name_or_path", "transformers_version", "max_source_positions")
"""Entries of a config that say where and by whom it was written, or what vLLM asks for, not what the model computes."""


class StackConfig(PreTrainedConfig):
    """Settings of `StackTower`.

    members: config dicts (with `model_type`) of registered towers that take a waveform. Their window_seconds and
    frames_per_second become the stack's. sampling_rate: Hz of the waveform that comes in. hidden_size is the sum of the
    members'.
    """

    model_type = "mllm_stack"

    members: list | None = None
    sampling_rate: int = 22050
    window_seconds: float = 10.0
    frames_per_second: float = 20.0
    hidden_size: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        members = self.members
        if members is None:
            members = [{"model_type": f"mllm_{name}"} for name in DEFAULT_MEMBERS]
        grid = {"window_seconds": self.window_seconds, "frames_per_second": self.frames_per_second}
        members = [member.to_dict() if isinstance(member, PreTrainedConfig) else member for member in members]
        self.members = [{k: v for k, v in m.items() if k not in BOOKKEEPING} | grid for m in members]
        self.hidden_size = sum(config.hidden_size for config in self.member_configs())
        super().__post_init__(**kwargs)

    def member_configs(self) -> list[PreTrainedConfig]:
        """One config object for each member, in order."""
        return [AutoConfig.for_model(**member) for member in self.members or []]

    @property
    def window_frames(self) -> int:
        """Frames that one window gives."""
        return round(self.window_seconds * self.frames_per_second)


class StackTower(PreTrainedModel):
    """Frozen towers of `config.members`; their features are concatenated in that order."""

    config_class = StackConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)

    def __init__(self, config: StackConfig, towers: Sequence[PreTrainedModel] | None = None):
        """`towers`: ready members instead of random ones; their configs must be those of `config.members`."""
        super().__init__(config)
        # the dtype that was asked for, not the one that a member's own config remembers from when it was saved
        made = {"dtype": torch.get_default_dtype()}
        self.towers = nn.ModuleList(towers or [AutoModel.from_config(c, **made) for c in config.member_configs()])
        kept = [getattr(tower, "_keep_in_fp32_modules_strict", None) or () for tower in self.towers]
        self._keep_in_fp32_modules_strict = {pattern for patterns in kept for pattern in patterns}
        self.post_init()
        self.requires_grad_(False)
        self.eval()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing of its own: the members initialise themselves."""

    @classmethod
    def from_towers(cls, towers: Sequence[PreTrainedModel], **config: Any) -> "StackTower":
        """Stack towers that are already loaded; `config`: fields of StackConfig."""
        settings = StackConfig(members=[tower.config for tower in towers], **config)
        for tower in towers:
            tower.config.window_seconds = settings.window_seconds
            tower.config.frames_per_second = settings.frames_per_second
        return cls(settings, towers)

    @torch.no_grad()
    def forward(self, input_features: Tensor, **kwargs: Any) -> BaseModelOutput:
        """float32 windows [n, samples] at config.sampling_rate -> last_hidden_state [n, frames, hidden_size]."""
        rate = self.config.sampling_rate
        frames = round(input_features.shape[-1] / rate * self.config.frames_per_second)
        heard = {rate: input_features}
        features = []
        for tower in self.towers:
            wanted = tower.config.sampling_rate
            if wanted not in heard:
                heard[wanted] = resample(input_features, rate, wanted)
            features.append(resize_mean(tower(heard[wanted]).last_hidden_state, frames))
        dtype = features[0].dtype
        return BaseModelOutput(last_hidden_state=torch.cat([x.to(dtype) for x in features], dim=-1))


AutoConfig.register(StackConfig.model_type, StackConfig, exist_ok=True)
AutoModel.register(StackConfig, StackTower, exist_ok=True)
