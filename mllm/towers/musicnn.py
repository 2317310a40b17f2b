"""musicnn in PyTorch: a frozen music tagger whose front and middle layers describe timbre 62.5 times a second.

Sources: Pons & Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging" (2019) and the
PyPI wheel `musicnn==0.1.0` (ISC licence), whose TensorFlow checkpoint is converted once into the cache.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_outputs import BaseModelOutput

from mllm.download import disk_errors
from mllm.errors import AudioError, WeightsError
from mllm.towers.grid import resize_mean
from mllm.towers.musicnn_fused import FusedFrontEnd
from mllm.towers.tf_checkpoint import read_tf_checkpoint
from mllm.weights import cache_dir, resolve

HOP, FFT, MELS, RATE = 256, 512, 96, 16000
NATIVE_FRAMES_PER_SECOND = RATE / HOP
PATCH = 187  # frames the tags are made from: 3 s, as in training

# tag names in the order of the output units (musicnn/configuration.py in the wheel)
LABELS = {
    "MTT": "guitar,classical,slow,techno,strings,drums,electronic,rock,fast,piano,ambient,beat,violin,vocal,synth,"
    "female,indian,opera,male,singing,vocals,no vocals,harpsichord,loud,quiet,flute,woman,male vocal,no vocal,pop,"
    "soft,sitar,solo,man,classic,choir,voice,new age,dance,male voice,female vocal,beats,harp,cello,no voice,weird,"
    "country,metal,female voice,choral",
    "MSD": "rock,pop,alternative,indie,electronic,female vocalists,dance,00s,alternative rock,jazz,beautiful,metal,"
    "chillout,male vocalists,classic rock,soul,indie rock,Mellow,electronica,80s,folk,90s,chill,instrumental,punk,"
    "oldies,blues,hard rock,ambient,acoustic,experimental,female vocalist,guitar,Hip-Hop,70s,party,country,"
    "easy listening,sexy,catchy,funk,electro,heavy metal,Progressive rock,60s,rnb,indie pop,sad,House,happy",
}

# files of the wheel per training set; MagnaTagATune is pinned in mllm.weights, the other one here
SOURCES: dict[str, dict[str, str | None]] = {
    "MTT": {"musicnn-mtt-index": None, "musicnn-mtt-data": None},
    "MSD": {
        "pypi:musicnn==0.1.0/musicnn/MSD_musicnn/.index": (
            "87f3e0f3550c8d3bafc840374003e5c8af5eeb5ecf6add61af09a7822d3282c8"
        ),
        "pypi:musicnn==0.1.0/musicnn/MSD_musicnn/.data-00000-of-00001": (
            "8579734ee6388f799ed0def4bbd0d1fdcbeaf213ef2a9dc860917bd76a303de6"
        ),
    },
}


class MusicnnConfig(PreTrainedConfig):
    """Configuration of `MusicnnTower`.

    `frames_per_second`: 62.5 is native; a lower rate averages frames. `fused`: the fast arrangement of the front-end
    (same weights, same result up to rounding) or the plain layers. `labels`: names of the tags.
    """

    model_type = "mllm_musicnn"

    def __init__(
        self,
        window_seconds: float = 10.0,
        frames_per_second: float = NATIVE_FRAMES_PER_SECOND,
        fused: bool = True,
        labels: list[str] | None = None,
        **kwargs,
    ):
        self.sampling_rate = RATE
        self.window_seconds = window_seconds
        self.frames_per_second = frames_per_second
        self.hidden_size = 2 * 204 + 3 * 51 + 3 * 64
        self.fused = fused
        self.labels = labels if labels is not None else LABELS["MTT"].split(",")
        for derived in ("sampling_rate", "hidden_size", "window_frames"):
            kwargs.pop(derived, None)
        super().__init__(**kwargs)

    @property
    def window_frames(self) -> int:
        """Frames in one window."""
        return round(self.window_seconds * self.frames_per_second)


class _Block(nn.Module):
    """Convolution, ReLU, BatchNorm (in this order, as the original has it)."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d):
        super().__init__()
        self.conv = conv
        norm = nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm1d
        self.norm = norm(conv.out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x)))


class MusicnnTower(PreTrainedModel):
    """Waveform windows -> 753 features a frame: 2 x 204 timbral, 3 x 51 temporal, 3 x 64 of the middle layers.

    Frozen: it stays in evaluation mode, and the fused path gives no gradients.
    """

    config_class = MusicnnConfig
    main_input_name = "input_features"
    # bfloat16 statistics would shift every channel; they are small
    # patterns that no other model's names fit: transformers matches them against the whole model that holds this tower
    # and plain strings, not expressions: vLLM takes them literally
    _keep_in_fp32_modules_strict = [
        *(
            f"{part}.{i}.norm."
            for part, count in (("timbral", 2), ("temporal", 3), ("middle", 3))
            for i in range(count)
        ),
        *("input_norm.", "pool_norm.", "dense_norm."),
    ]

    def __init__(self, config: MusicnnConfig):
        super().__init__(config)
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3)
        # kernels are (time, frequency); only time is padded, because frequency is pooled away afterwards
        self.timbral = nn.ModuleList(_Block(nn.Conv2d(1, 204, (7, h), padding=(3, 0))) for h in (38, 67))
        self.temporal = nn.ModuleList(_Block(nn.Conv2d(1, 51, (k, 1))) for k in (128, 64, 32))
        self.middle = nn.ModuleList(_Block(nn.Conv1d(c, 64, 7, padding=3)) for c in (561, 64, 64))
        self.pool_norm = nn.BatchNorm1d(2 * config.hidden_size, eps=1e-3)
        self.dense = nn.Linear(2 * config.hidden_size, 200)
        self.dense_norm = nn.BatchNorm1d(200, eps=1e-3)
        self.output = nn.Linear(200, len(config.labels))
        self._fused: FusedFrontEnd | None = None
        self.post_init()
        self.eval()

    def train(self, mode: bool = True) -> MusicnnTower:
        """Stays in evaluation mode: a frozen tower must not update its BatchNorm statistics."""
        return super().train(False)

    def forward(self, input_features: Tensor, **_) -> BaseModelOutput:
        """`input_features`: float waveform windows [n, samples] at 16 kHz.

        Each window is one patch. Returns `last_hidden_state` [n, frames, 753] in the dtype of the weights, with
        frames == round(seconds * config.frames_per_second). Raises AudioError where a window is under 32 ms.
        """
        # one window at a time: it stays in the processor's cache, and a window's result cannot depend on its batch
        hidden = torch.cat([self._window(window) for window in input_features.split(1)])
        return BaseModelOutput(last_hidden_state=hidden)

    def _window(self, waveform: Tensor) -> Tensor:
        samples = waveform.shape[-1]
        hidden = self._features(log_mel(waveform)[:, : round(samples / HOP)])
        if self.config.frames_per_second != NATIVE_FRAMES_PER_SECOND:
            hidden = resize_mean(hidden, round(samples / RATE * self.config.frames_per_second))
        return hidden

    @property
    def dtype(self) -> torch.dtype:
        """That of the convolutions and of the output; the BatchNorms are always float32."""
        return self.dense.weight.dtype

    @torch.no_grad()
    def tags(self, waveform: Tensor) -> Tensor:
        """The tagger that musicnn is: waveform [samples] at 16 kHz -> probabilities [n_patches, 50], float32.

        One row per whole 3 s, as the original without overlap (a rest is dropped; a shorter sound is repeated);
        `config.labels` names the columns.
        """
        mel = log_mel(waveform[None])[0]
        if len(mel) < PATCH:
            mel = mel.repeat(math.ceil(PATCH / len(mel)), 1)
        patches = torch.stack(mel[: len(mel) // PATCH * PATCH].split(PATCH))
        hidden = torch.cat([self._features(patch) for patch in patches.split(1)])
        pooled = torch.stack([hidden.amax(1), hidden.mean(1)], 2).flatten(1)  # the two alternate
        dense = self.dense_norm(F.relu(self.dense(self.pool_norm(pooled.float()).to(self.dtype)).float()))
        return torch.sigmoid(self.output(dense.to(self.dtype)).float())

    def _features(self, mel: Tensor) -> Tensor:
        """Log-mel [n, frames, 96] float32 -> [n, frames, 753]."""
        x = self.input_norm(mel[:, None])
        front = self._front_fused(x[:, 0]) if self.config.fused else self._front_plain(x)
        layers = [front.to(self.dtype)]
        previous: Tensor | None = None
        for block in self.middle:
            y = block((layers[0] if previous is None else previous).transpose(1, 2)).transpose(1, 2)
            previous = y if previous is None else previous + y
            layers.append(previous)
        return torch.cat(layers, 2)

    def _front_plain(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        maps = [block(x) for block in self.timbral]
        for block in self.temporal:
            k = block.conv.kernel_size[0]
            # "same" padding of an even kernel as TensorFlow has it: the odd frame at the end
            maps.append(block(F.pad(x, (0, 0, (k - 1) // 2, k // 2))))
        return torch.cat([m.amax(3) for m in maps], 1).transpose(1, 2)

    @torch.no_grad()
    def _front_fused(self, x: Tensor) -> Tensor:
        if self._fused is None or not self._fused.is_current(self):
            self._fused = FusedFrontEnd(self)
        return torch.stack([self._fused(window) for window in x])


def log_mel(waveform: Tensor) -> Tensor:
    """Waveform [n, samples] at 16 kHz -> log10(1 + 10000 mel power) [n, 1 + samples // 256, 96], float32.

    As librosa's melspectrogram (Slaney scale and norm, Hann, centred frames, reflected edges as librosa had it when
    musicnn was trained), without the original's detour through float16, which overflows on loud music.
    """
    if waveform.shape[-1] < FFT:
        raise AudioError(f"a sound of {waveform.shape[-1]} samples is too short for musicnn; give 0.1 s or more")
    window, bank = _mel_constants(waveform.device)
    spectrum = torch.stft(
        waveform.float(), FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log10(10000 * (power.transpose(1, 2) @ bank) + 1)


@lru_cache(maxsize=4)
def _mel_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    # not buffers of the model: these must stay float32 whatever dtype the model has
    bank = mel_filter_bank(FFT // 2 + 1, MELS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    with torch.inference_mode(False):
        return torch.hann_window(FFT, device=device), torch.from_numpy(bank).float().to(device)


def load_musicnn(variant: str = "MTT", dtype: torch.dtype = torch.float32, **config) -> MusicnnTower:
    """The tower with its real weights, fetched and converted on first use.

    `variant`: "MTT" (MagnaTagATune) or "MSD" (Million Song Dataset). `config`: fields of MusicnnConfig to change.
    Raises WeightsError.
    """
    if variant not in SOURCES:
        raise WeightsError(f"unknown musicnn variant {variant!r}; choose one of {', '.join(SOURCES)}")
    target = cache_dir() / "towers" / "musicnn" / variant
    if not (target / "model.safetensors").is_file():
        files = [resolve(uri, sha256=digest) for uri, digest in SOURCES[variant].items()]
        convert_musicnn(files[0].parent, target)
    return MusicnnTower.from_pretrained(target, dtype=dtype, **config)


def convert_musicnn(folder: str | Path, target: str | Path | None = None) -> Path:
    """Converts a musicnn checkpoint folder of the wheel (`MTT_musicnn` or `MSD_musicnn`) to safetensors.

    `target` defaults to `cache_dir()/towers/musicnn/<MTT|MSD>`. The folder appears whole or not at all.
    Returns it. Raises WeightsError where the checkpoint cannot be read.
    """
    folder = Path(folder)
    variant = "MSD" if folder.name.startswith("MSD") else "MTT"
    target = Path(target or cache_dir() / "towers" / "musicnn" / variant)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if (target / "model.safetensors").is_file():
            return target
        tower = MusicnnTower(MusicnnConfig(labels=LABELS[variant].split(",")))
        tower.load_state_dict(_state_dict(read_tf_checkpoint(folder, set(_tf_names().values()))))
        with disk_errors(target), tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            tower.save_pretrained(f"{scratch}/tower")
            origin = {"source": f"pypi:musicnn==0.1.0/musicnn/{folder.name}", "licence": "ISC"}
            Path(scratch, "tower", "provenance.json").write_text(json.dumps(origin, indent=1))
            os.replace(f"{scratch}/tower", target)
    return target


def _tf_names() -> dict[str, str]:
    """Our parameter or buffer -> the variable of the TensorFlow graph, which numbers layers in creation order."""
    names = {}
    blocks = [f"{part}.{i}" for part, count in (("timbral", 2), ("temporal", 3), ("middle", 3)) for i in range(count)]
    norms = ["input_norm", *(f"{b}.norm" for b in blocks), "pool_norm", "dense_norm"]
    for i, ours in enumerate([*(f"{b}.conv" for b in blocks), "dense", "output"]):
        kind, number = ("conv2d", i) if i < len(blocks) else ("dense", i - len(blocks))
        theirs = f"{kind}_{number}" if number else kind
        names |= {f"{ours}.weight": f"{theirs}/kernel", f"{ours}.bias": f"{theirs}/bias"}
    parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for i, ours in enumerate(norms):
        theirs = f"batch_normalization_{i}" if i else "batch_normalization"
        names |= {f"{ours}.{part}": f"{theirs}/{name}" for part, name in parts.items()}
    return names


def _state_dict(tensors: dict[str, np.ndarray]) -> dict[str, Tensor]:
    state = {}
    for ours, theirs in _tf_names().items():
        tensor = torch.from_numpy(tensors[theirs])
        if ours.startswith("middle") and tensor.ndim == 4:
            tensor = tensor[:, :, 0].permute(2, 1, 0)  # [time, features, 1, out] -> [out, features, time]
        elif tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1)
        elif tensor.ndim == 2:
            tensor = tensor.T
        state[ours] = tensor.contiguous()
    for ours in [name for name in state if name.endswith("running_mean")]:
        state[ours.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    return state
