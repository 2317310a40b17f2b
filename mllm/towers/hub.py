"""Any audio encoder of transformers as a tower: MERT, HuBERT, wav2vec2, Whisper, AST, CLAP, EnCodec, DAC, …

What differs between encoders is in `ENCODERS`, copied into the config when a checkpoint is loaded; the code is generic.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mllm.errors import WeightsError
from mllm.towers.grid import resize_mean


@dataclass(frozen=True)
class Encoder:
    """How to use one family of encoders.

    part: attribute of the AutoModel that encodes audio ("" = the model itself), called with the extractor's array.
    axes: meaning of its output's axes after the batch: t(ime), c(hannels), f(requency; averaged).
    prefix_tokens: tokens before the first that stands for sound. frequency_tokens: for patch encoders that lay the
    frequency rows of a spectrogram behind each other, the number of rows. window_seconds: length the encoder was built
    for. architecture: model_type of transformers that loads it, where the checkpoint names another.
    """

    part: str = ""
    axes: str = "tc"
    prefix_tokens: int = 0
    frequency_tokens: Callable[[PreTrainedConfig], int] = lambda config: 1
    window_seconds: Callable[[Any], float] = lambda extractor: 10.0
    architecture: str | None = None


ENCODERS = {
    "mert_model": Encoder(architecture="hubert"),
    "whisper": Encoder(part="encoder", window_seconds=lambda extractor: float(extractor.chunk_length)),
    "audio-spectrogram-transformer": Encoder(
        axes="ftc",
        prefix_tokens=2,  # class and distillation tokens
        frequency_tokens=lambda c: (c.num_mel_bins - c.patch_size) // c.frequency_stride + 1,
        window_seconds=lambda extractor: extractor.max_length / 100,  # frames of 10 ms
    ),
    "clap": Encoder(part="audio_model", axes="cft", window_seconds=lambda extractor: float(extractor.max_length_s)),
    "clap_audio_model": Encoder(axes="cft", window_seconds=lambda extractor: float(extractor.max_length_s)),
    "encodec": Encoder(part="encoder", axes="ct"),
    "dac": Encoder(part="encoder", axes="ct"),
    "mimi": Encoder(part="encoder", axes="ct"),
}


class HubTowerConfig(PreTrainedConfig):
    """Settings of `HubTower`.

    encoder: config dict of the transformers model. feature_extractor: `{"feature_extractor_type": class name, …}`, what
    makes input_features out of a waveform at sampling_rate. layer: -1 for the encoder's output, or the index into its
    hidden states (0 = embeddings). part, axes, prefix_tokens, frequency_tokens: see `Encoder`.
    """

    model_type = "mllm_hub"

    encoder: dict | None = None
    feature_extractor: dict | None = None
    layer: int = -1
    part: str = ""
    axes: str = "tc"
    prefix_tokens: int = 0
    frequency_tokens: int = 1
    sampling_rate: int = 16000
    window_seconds: float = 10.0
    frames_per_second: float = 50.0
    hidden_size: int = 768

    @property
    def window_frames(self) -> int:
        """Frames that one window gives."""
        return round(self.window_seconds * self.frames_per_second)


class HubTower(PreTrainedModel):
    """A frozen encoder of transformers whose output is brought onto the config's frame grid."""

    config_class = HubTowerConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)

    def __init__(self, config: HubTowerConfig, encoder: PreTrainedModel | nn.Module | None = None):
        """`encoder`: the ready part of a loaded model instead of a random one."""
        super().__init__(config)
        settings = AutoConfig.for_model(**(config.encoder or {"model_type": "hubert"}))
        # the dtype that was asked for, not the one that the encoder's config remembers from when it was saved
        self.encoder = encoder or _part(AutoModel.from_config(settings, dtype=torch.get_default_dtype()), config.part)
        with torch.device("meta"):
            # Only its rules of initialisation are wanted, and no weights: it must not become a submodule.
            object.__setattr__(self, "_family", AutoModel.from_config(settings))
        self.post_init()
        self.requires_grad_(False)
        self.eval()

    def _init_weights(self, module: nn.Module) -> None:
        """As the encoder's family does it, which also restores buffers that no checkpoint holds."""
        self._family._init_weights(module)

    def native_features(self, input_features: Tensor) -> Tensor:
        """The encoder's output as [n, its own frames, hidden], before it is brought onto the grid."""
        config = self.config
        features = input_features.to(self.dtype)
        if config.layer == -1:
            out = self.encoder(features)
            hidden = out if isinstance(out, Tensor) else out.last_hidden_state
        else:
            hidden = self.encoder(features, output_hidden_states=True).hidden_states[config.layer]
        if config.prefix_tokens:
            hidden = hidden[:, config.prefix_tokens :]
        if "f" in config.axes and hidden.ndim == 3:
            hidden = hidden.unflatten(1, (config.frequency_tokens, -1))
        if "f" in config.axes:
            hidden = hidden.mean(1 + config.axes.index("f"))
        axes = config.axes.replace("f", "")
        return hidden.movedim(1 + axes.index("t"), 1)

    def forward(self, input_features: Tensor, **kwargs: Any) -> BaseModelOutput:
        """What the encoder's own extractor gives for windows -> last_hidden_state [n, frames, hidden_size].

        With a gradient only where something in the tower learns (a LoRA of its own).
        """
        frames = self.config.window_frames
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        with torch.set_grad_enabled(learns):
            return BaseModelOutput(last_hidden_state=resize_mean(self.native_features(input_features), frames))


def _part(model: nn.Module, path: str) -> nn.Module:
    return reduce(getattr, path.split("."), model) if path else model


def load_hub(folder: str | Path, dtype: torch.dtype = torch.float32, **config: Any) -> HubTower:
    """A transformers checkpoint folder (safetensors) with its feature extractor as a tower.

    `config`: fields of HubTowerConfig to set, for example layer, window_seconds, frames_per_second (default: the
    encoder's own frame rate). Code in the checkpoint is never run. Raises WeightsError.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        encoder = ENCODERS.get(settings.get("model_type", ""), Encoder())
        architecture = encoder.architecture or settings.pop("model_type", "")
        settings.pop("model_type", None)
        settings.pop("auto_map", None)
        if architecture not in CONFIG_MAPPING:
            raise WeightsError(
                f"{folder}: model type {architecture!r} is not in transformers (remote code is never run)"
            )
        model_config = CONFIG_MAPPING[architecture].from_dict(settings)
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, config=model_config, dtype=dtype, use_safetensors=True)
        fields = {
            "encoder": model.config.to_dict(),
            "feature_extractor": extractor.to_dict() | {"feature_extractor_type": type(extractor).__name__},
            "part": encoder.part,
            "axes": encoder.axes,
            "prefix_tokens": encoder.prefix_tokens,
            "frequency_tokens": encoder.frequency_tokens(model.config),
            "sampling_rate": extractor.sampling_rate,
            "window_seconds": encoder.window_seconds(extractor),
        }
        tower_config = HubTowerConfig(**fields | config)
        tower = HubTower(tower_config, _part(model, tower_config.part))
        native = _try_out(tower, extractor)
    except WeightsError:
        raise
    except Exception as error:  # transformers, its extractors and safetensors raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{folder} cannot be loaded as an audio encoder: {reason}") from error
    tower_config.hidden_size = native.shape[-1]
    if "frames_per_second" not in config:
        tower_config.frames_per_second = native.shape[1] / tower_config.window_seconds
    return tower


@torch.no_grad()
def _try_out(tower: HubTower, extractor: Any) -> Tensor:
    """One window of silence through extractor and encoder: its shape tells frame rate and width for certain."""
    silence = np.zeros(round(tower.config.window_seconds * tower.config.sampling_rate), dtype=np.float32)
    out = extractor([silence], sampling_rate=tower.config.sampling_rate, padding="longest", return_tensors="pt")
    return tower.native_features(out[extractor.model_input_names[0]])


AutoConfig.register(HubTowerConfig.model_type, HubTowerConfig, exist_ok=True)
AutoModel.register(HubTowerConfig, HubTower, exist_ok=True)
