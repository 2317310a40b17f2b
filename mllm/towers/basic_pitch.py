"""Basic Pitch (Spotify, ICASSP 2022, Apache-2.0) in PyTorch: which notes sound and which begin, 88 piano keys each.

Weights come out of `nmp.onnx` of the PyPI wheel `basic-pitch==0.4.0`. A constant-Q transform of nine octaves feeds a
small convolutional net that sees each frequency together with its harmonics.
"""

import json
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from mllm.download import disk_errors
from mllm.errors import WeightsError
from mllm.towers.grid import resize_max, resize_mean
from mllm.weights import PINNED, cache_dir, resolve

SOURCE = "basic-pitch-icassp-2022"
HOP = 256  # samples between native frames
WINDOW_SAMPLES = 43_844  # what the net was trained on: 2 s less one hop
WINDOW_FRAMES = 172
EDGE_FRAMES = 15  # frames at each window end that the original drops where windows overlap
OCTAVES = 9
KERNEL = 256  # taps of the constant-Q kernels and of the half-band filter between octaves
BINS_PER_OCTAVE = 36
BINS = 309  # the highest 309 of 9 * 36
CONTOURS = 264
KEYS = 88
CONTOUR_BANDS = 4  # parts of the 264 contour bins that are computed apart, each from the bins it can see
CHUNK = 6  # windows at a time, the six of 10 s: their activations stay in the processor's cache
SILENCE_DB = 1e-3  # a window whose spectrum spans less is silent
HARMONIC_SHIFTS = (-36, 0, 36, 57, 72, 84, 93, 101)  # bins of the harmonics 1/2, 1, 2, … 7


class BasicPitchConfig(PreTrainedConfig):
    """Settings of `BasicPitchTower`.

    sampling_rate: Hz of the waveform. window_seconds: length of one input window. frames_per_second: output grid.
    fused: fast path (constant-Q and contour layer as matrix products, channels-last convolutions); False runs the
    plain layers in fp32 and gives the same numbers.
    """

    model_type = "mllm_basic_pitch"

    sampling_rate: int = 22050
    window_seconds: float = 10.0
    frames_per_second: float = 20.0
    hidden_size: int = 2 * KEYS
    fused: bool = True

    @property
    def window_frames(self) -> int:
        """Frames that one window gives."""
        return round(self.window_seconds * self.frames_per_second)


class _SplitWeight(nn.Module):
    """A fixed array kept as two halves whose sum keeps 16 bits of mantissa even after a cast of the model to bf16.

    The log spectrum spans 100 dB: kernels rounded to bf16's 8 bits would fill its quiet bins with noise.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, *shape), requires_grad=False)

    @staticmethod
    def split(value: Tensor) -> Tensor:
        high = value.float().bfloat16().float()
        return torch.stack([high, value.float() - high])

    def forward(self) -> Tensor:
        return self.weight[0].float() + self.weight[1].float()


class ConstantQ(nn.Module):
    """Log constant-Q spectrogram, 36 bins an octave from 27.5 Hz, scaled to 0…1 within each 2-s window, always fp32."""

    def __init__(self):
        super().__init__()
        self.kernels = _SplitWeight(2 * BINS_PER_OCTAVE, KERNEL)  # real parts, then imaginary parts, of one octave
        self.lowpass = _SplitWeight(KERNEL)
        self.scale = _SplitWeight(BINS)  # square root of each bin's kernel length

    def forward(self, waveform: Tensor, fused: bool) -> Tensor:
        """waveform float32 [n, 43844] -> [n, 172, 309]."""
        signal = waveform.float()
        kernels, lowpass = self.kernels(), self.lowpass()
        halve = _Decimator(lowpass) if fused else None
        octaves = []
        for octave in range(OCTAVES):
            if octave and halve:
                signal = halve(signal)
            elif octave:
                signal = F.conv1d(F.pad(signal[:, None], (127, 127)), lowpass[None, None], stride=2)[:, 0]
            hop = HOP >> octave
            padded = F.pad(signal[:, None], (KERNEL // 2, KERNEL // 2), mode="reflect")
            if fused:
                rows = padded[:, 0].unfold(-1, KERNEL, hop)
                parts = (rows.flatten(0, 1) @ kernels.T).view(*rows.shape[:2], -1)
                real, imaginary = parts[..., :BINS_PER_OCTAVE], parts[..., BINS_PER_OCTAVE:]
            else:
                real = F.conv1d(padded, kernels[:BINS_PER_OCTAVE, None], stride=hop).transpose(1, 2)
                imaginary = F.conv1d(padded, kernels[BINS_PER_OCTAVE:, None], stride=hop).transpose(1, 2)
            octaves.append(real.square() + imaginary.square())
        power = torch.cat(octaves[::-1], dim=-1)[..., -BINS:] * self.scale().square()
        decibels = torch.log(power + 1e-10) * (10.0 / math.log(10.0))
        decibels = decibels - decibels.amin((1, 2), keepdim=True)
        peak = decibels.amax((1, 2), keepdim=True)
        # Digital silence: what is left is rounding, which the original would blow up to full scale.
        return torch.where(peak < SILENCE_DB, torch.zeros_like(decibels), decibels / peak.clamp_min(SILENCE_DB))


class _Decimator:
    """Half-band filter and every second sample as one matrix product: 128 outputs out of 510 inputs a row."""

    BLOCK = 128

    def __init__(self, lowpass: Tensor):
        self.span = 2 * (self.BLOCK - 1) + len(lowpass)
        # Rows of one length too many by two, read again at the right length, shift by two from row to row.
        row = F.pad(lowpass, (0, self.span + 2 - len(lowpass)))
        self.matrix = row.repeat(self.BLOCK)[: self.BLOCK * self.span].view(self.BLOCK, self.span)

    def __call__(self, signal: Tensor) -> Tensor:
        length = (signal.shape[-1] + 2 * 127 - KERNEL) // 2 + 1
        blocks = -(-length // self.BLOCK)
        total = 2 * self.BLOCK * (blocks - 1) + self.span
        padded = F.pad(signal, (127, total - 127 - signal.shape[-1]))
        rows = padded.unfold(-1, self.span, 2 * self.BLOCK)
        return (rows.flatten(0, 1) @ self.matrix.T).view(len(signal), -1)[:, :length]


def stack_harmonics(spectrum: Tensor, dim: int = 1) -> Tensor:
    """Put each bin beside its harmonics along a new axis `dim`: [n, frames, 309] -> [n, 8, frames, 264] (`dim` 1).

    Zeros where there is no such bin.
    """
    below = max(-min(HARMONIC_SHIFTS), 0)
    padded = F.pad(spectrum, (below, max(HARMONIC_SHIFTS) + CONTOURS - spectrum.shape[-1]))
    return torch.stack([padded[..., below + shift :][..., :CONTOURS] for shift in HARMONIC_SHIFTS], dim)


def one_channel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A "same" convolution with one output channel: [n, c, frames, bins] in channels-last strides -> [n, 1, …].

    One matrix product gives what every tap of the kernel adds at every place; then the taps are shifted and summed,
    first over time for all columns of the kernel at once. oneDNN's convolution takes three times as long.
    """
    n, channels, frames, bins = x.shape
    height, width = weight.shape[2:]
    places = x.permute(0, 2, 3, 1).reshape(-1, channels)
    taps = (weight[0].flatten(1).T @ places.T).view(height, width, n, frames, bins)
    rows = _sum_shifted(taps, dim=2)
    return (_sum_shifted(rows.float(), dim=2) + bias)[:, None].to(x.dtype)


def _sum_shifted(taps: Tensor, dim: int) -> Tensor:
    """Sum over the first axis [taps, …] of an odd kernel, each tap shifted along axis `dim` of its own to its place."""
    middle = len(taps) // 2
    total = taps[middle]
    for i, tap in enumerate(taps):
        shift, length = i - middle, total.shape[dim]
        if shift and abs(shift) < length:
            to, source = (max(-shift, 0), max(shift, 0))
            total.narrow(dim, to, length - abs(shift)).add_(tap.narrow(dim, source, length - abs(shift)))
    return total


class BasicPitchTower(PreTrainedModel):
    """Frozen Basic Pitch. Input waveform windows, output notes (mean) and onsets (maximum) on the config's grid."""

    config_class = BasicPitchConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)

    def __init__(self, config: BasicPitchConfig):
        super().__init__(config)
        self.constant_q = ConstantQ()
        self.norm_scale = nn.Parameter(torch.ones(1))
        self.norm_bias = nn.Parameter(torch.zeros(1))
        self.contour_hidden = nn.Conv2d(8, 8, (3, 39), padding=(1, 19))
        self.contour_out = nn.Conv2d(8, 1, 5, padding=2)
        self.note_hidden = nn.Conv2d(1, 32, 7, stride=(1, 3), padding=(3, 2))
        self.note_out = nn.Conv2d(32, 1, (7, 3), padding=(3, 1))
        self.onset_hidden = nn.Conv2d(8, 32, 5, stride=(1, 3), padding=(2, 1))
        self.onset_out = nn.Conv2d(33, 1, 3, padding=1)
        self._fast: tuple[Any, list[tuple[int, int, Tensor]]] | None = None
        self.post_init()
        self.requires_grad_(False)
        self.eval()

    def _init_weights(self, module: nn.Module) -> None:
        """Random weights, for tests: the real ones always come from a file."""
        super()._init_weights(module)
        if isinstance(module, _SplitWeight):
            init.normal_(module.weight)
        elif isinstance(module, BasicPitchTower):
            init.ones_(module.norm_scale)
            init.zeros_(module.norm_bias)

    @torch.no_grad()
    def transcribe(self, waveform: Tensor) -> dict[str, Tensor]:
        """What the original gives for float32 waveform [n, 43844]: note, onset [n, 172, 88], contour [n, 172, 264].

        Values are probabilities in the model's dtype. Equal to `nmp.onnx` within 1e-3 in fp32.
        """
        spectrum = self.constant_q(waveform, self.config.fused).to(self.dtype) * self.norm_scale + self.norm_bias
        if self.config.fused:
            chunk = CHUNK if spectrum.device.type == "cpu" else len(spectrum)
            parts = [self._fused_layers(x) for x in spectrum.split(chunk)]
            outputs = tuple(torch.cat(x) for x in zip(*parts, strict=True))
        else:
            outputs = self._plain_layers(spectrum)
        return {name: x[:, 0] for name, x in zip(("note", "onset", "contour"), outputs, strict=True)}

    def _plain_layers(self, spectrum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The layers as the original has them: [n, 172, 309] -> note, onset, contour, each [n, 1, 172, keys]."""
        stacked = stack_harmonics(spectrum)
        contour = torch.sigmoid(self.contour_out(F.relu(self.contour_hidden(stacked))))
        note = torch.sigmoid(self.note_out(F.relu(self.note_hidden(contour))))
        onset = F.relu(self.onset_hidden(stacked))
        return note, torch.sigmoid(self.onset_out(torch.cat([note, onset], dim=1))), contour

    def _fused_layers(self, spectrum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same numbers; convolutions with few channels become matrix products or run channels-last."""
        batch, frames = spectrum.shape[:2]
        padded = F.pad(spectrum, (0, 0, 1, 1))
        around = torch.stack([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=-1).view(batch * frames, -1)
        bands = self._contour_bands()
        width = 8 * CONTOURS // len(bands)
        bias = self.contour_hidden.bias.repeat(CONTOURS // len(bands))
        hidden = around.new_empty(batch * frames, 8 * CONTOURS)
        for i, (low, high, matrix) in enumerate(bands):
            torch.addmm(bias, around[:, 3 * low : 3 * high], matrix, out=hidden[:, i * width : (i + 1) * width])
        hidden = hidden.relu_().view(batch, frames, CONTOURS, 8).permute(0, 3, 1, 2)
        contour = torch.sigmoid(one_channel(hidden, self.contour_out.weight, self.contour_out.bias))
        # With one channel both layouts hold the same bytes; these strides say channels last, and so its output is.
        last = contour.as_strided(contour.shape, (frames * CONTOURS, 1, CONTOURS, 1))
        note = F.relu_(self.note_hidden(last))
        note = torch.sigmoid(one_channel(note, self.note_out.weight, self.note_out.bias))
        onset = F.relu_(self.onset_hidden(stack_harmonics(spectrum, -1).permute(0, 3, 1, 2)))
        # The note channel apart: 33 channels would cost a copy of all 32 others.
        weight = self.onset_out.weight
        onset = one_channel(onset, weight[:, 1:], self.onset_out.bias)
        return note, torch.sigmoid(onset + F.conv2d(note, weight[:, :1], padding=1)), contour

    def _contour_bands(self) -> list[tuple[int, int, Tensor]]:
        """Harmonic stacking and the 3 x 39 convolution as matrices on three neighbouring frames, one a band of outputs.

        The harmonics are shifts of one spectrum and their windows overlap, so a dense product costs few multiplications
        more than the convolution, as a large GEMM; a band of outputs sees only the bins low:high. Each matrix is
        [(high - low) * 3, outputs * 8]. Made anew when the weights change.
        """
        weight = self.contour_hidden.weight
        version = None if weight.is_inference() else weight._version
        key = (weight.dtype, weight.device, weight.data_ptr(), version)
        if self._fast is None or self._fast[0] != key:
            harmonics = stack_harmonics(torch.eye(BINS, device=weight.device)[None]).permute(3, 1, 2, 0)[..., 0]
            wide = F.pad(harmonics, (0, 0, 0, 0, 19, 19)).unfold(0, 39, 1)  # [264, 8, 309, 39 neighbours]
            contour = torch.einsum("fibk,oitk->btfo", wide, weight.float())
            width = CONTOURS // CONTOUR_BANDS
            bands = []
            for start in range(0, CONTOURS, width):
                low = max(start + HARMONIC_SHIFTS[0] - 19, 0)
                high = min(start + width + HARMONIC_SHIFTS[-1] + 19, BINS)
                matrix = contour[low:high, :, start : start + width].reshape(3 * (high - low), width * 8)
                bands.append((low, high, matrix.to(weight.dtype).contiguous()))
            self._fast = (key, bands)
        return self._fast[1]

    @torch.no_grad()
    def forward(self, input_features: Tensor, **kwargs) -> BaseModelOutput:
        """float32 waveform [n, samples of one window] -> last_hidden_state [n, frames, 176]: notes, then onsets."""
        batch, samples = input_features.shape
        frames = samples // HOP + 1
        count = 1 if frames <= WINDOW_FRAMES else -(-(frames - 2 * EDGE_FRAMES) // (WINDOW_FRAMES - 2 * EDGE_FRAMES))
        step = WINDOW_FRAMES if count == 1 else -(-(frames - WINDOW_FRAMES) // (count - 1))
        needed = (count - 1) * step * HOP + WINDOW_SAMPLES
        padded = F.pad(input_features.float(), (0, needed - samples))  # a negative pad drops the last part hop
        windows = padded.unfold(-1, WINDOW_SAMPLES, step * HOP).flatten(0, 1)
        out = self.transcribe(windows)
        target = round(samples / self.config.sampling_rate * self.config.frames_per_second)
        note, onset = (
            self._join(out[name].unflatten(0, (batch, count)), step)[:, :frames] for name in ("note", "onset")
        )
        hidden = torch.cat([resize_mean(note, target), resize_max(onset, target)], dim=-1)
        return BaseModelOutput(last_hidden_state=hidden)

    @staticmethod
    def _join(windows: Tensor, step: int) -> Tensor:
        """Overlapping windows [n, windows, 172, keys], `step` frames apart -> one sequence, cut mid-overlap."""
        count = windows.shape[1]
        lead = (WINDOW_FRAMES - step) // 2
        parts = [windows[:, 0, : lead + step]] + [windows[:, k, lead : lead + step] for k in range(1, count)]
        return torch.cat(parts + [windows[:, -1, lead + step :]], dim=1)


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The state dict of `BasicPitchTower` out of `nmp.onnx`. Raises WeightsError for another file."""
    import onnx  # only the one-time conversion needs it

    graph = onnx.load(str(path)).graph
    arrays = {item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy()) for item in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    # The graph's names are long products of its conversion, but each layer's kernel has a shape of its own.
    layers: dict[str, tuple[int, ...]] = {
        "contour_hidden": (8, 8, 3, 39),
        "contour_out": (1, 8, 5, 5),
        "note_hidden": (32, 1, 7, 7),
        "note_out": (1, 32, 7, 3),
        "onset_hidden": (32, 8, 5, 5),
        "onset_out": (1, 33, 3, 3),
    }

    def kernels(shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        found = {node.input[1]: node.input[2] for node in convs if tuple(arrays[node.input[1]].shape) == shape}
        return [(arrays[weight], arrays[bias]) for weight, bias in found.items()]

    try:
        state = {}
        for name, shape in layers.items():
            ((state[f"{name}.weight"], state[f"{name}.bias"]),) = kernels(shape)
        (imaginary, _), (real, _) = kernels((BINS_PER_OCTAVE, 1, 1, KERNEL))
        ((lowpass, _),) = kernels((1, 1, 1, KERNEL))
        scale = next(array for array in arrays.values() if array.shape == (BINS, 1, 1))
        split = _SplitWeight.split
        state["constant_q.kernels.weight"] = split(torch.cat([real, imaginary]).reshape(2 * BINS_PER_OCTAVE, KERNEL))
        state["constant_q.lowpass.weight"] = split(lowpass.reshape(KERNEL))
        state["constant_q.scale.weight"] = split(scale.reshape(BINS))
        norm = {n.op_type: n.input[1] for n in graph.node if "batch_normalization/" in n.output[0]}
        state["norm_scale"], state["norm_bias"] = arrays[norm["Mul"]], arrays[norm["Add"]]
    except (ValueError, StopIteration, KeyError) as error:
        raise WeightsError(
            f"{path} is not the Basic Pitch model nmp.onnx: {error}; delete it and fetch it anew"
        ) from None
    return state


def load_basic_pitch(dtype: torch.dtype = torch.float32, **config: Any) -> BasicPitchTower:
    """The tower with its real weights, fetched and converted to safetensors on first use.

    `config`: fields of BasicPitchConfig to change. Raises WeightsError.
    """
    target = cache_dir() / "towers" / "basic_pitch"
    if not (target / "model.safetensors").is_file():
        source = resolve(SOURCE)
        tower = BasicPitchTower(BasicPitchConfig())
        tower.load_state_dict(read_onnx(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"), disk_errors(target), TemporaryDirectory(dir=target.parent) as scratch:
            if not (target / "model.safetensors").is_file():  # another process may have been first
                tower.save_pretrained(f"{scratch}/tower")
                origin = {"source": PINNED[SOURCE].uri, "sha256": PINNED[SOURCE].sha256}
                origin["licence"] = PINNED[SOURCE].licence
                Path(scratch, "tower", "provenance.json").write_text(json.dumps(origin, indent=1))
                os.replace(f"{scratch}/tower", target)
    return BasicPitchTower.from_pretrained(target, dtype=dtype, **config)


AutoConfig.register(BasicPitchConfig.model_type, BasicPitchConfig, exist_ok=True)
AutoModel.register(BasicPitchConfig, BasicPitchTower, exist_ok=True)
