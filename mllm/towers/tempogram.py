"""A tempogram as a tower without parameters: which periods, from 0.2 s to 4 s, the onsets around a moment repeat in.

Sources: Grosche & Müller, "Extracting predominant local pulse information from music recordings" (IEEE TASLP 2011)
for novelty and local autocorrelation; Percival & Tzanetakis, "Streamlined tempo estimation based on autocorrelation
and cross-correlation with pulses" (IEEE/ACM TASLP 2014) for log-power flux and the autocorrelation by FFT.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_outputs import BaseModelOutput

from mllm.errors import AudioError

FFT, HOP, MELS = 1024, 256, 64
LOW_HZ = 250.0  # bass and kick drum, which often carry the beat where the melody does not
SEGMENT_SECONDS = 8.0  # two periods of the longest lag
LEVEL_SECONDS = 2.0  # novelty is judged against this much of its surroundings
BLUR = 7  # frames
POINTS = 6  # places looked at between one lag and the next
QUIET = 1e-3  # novelty (in log10 power a mel band) below which there is nothing to be periodic


class TempogramConfig(PreTrainedConfig):
    """Configuration of `TempogramTower`.

    `lags` periods, equally spaced in log between `shortest` and `longest` seconds; a step is 3.2 % by default.
    """

    model_type = "mllm_tempogram"

    def __init__(
        self,
        sampling_rate: int = 22050,
        window_seconds: float = 10.0,
        frames_per_second: float = 20.0,
        lags: int = 96,
        shortest: float = 0.2,
        longest: float = 4.0,
        **kwargs,
    ):
        self.sampling_rate = sampling_rate
        self.window_seconds = window_seconds
        self.frames_per_second = frames_per_second
        self.lags = lags
        self.shortest = shortest
        self.longest = longest
        for derived in ("hidden_size", "window_frames"):
            kwargs.pop(derived, None)
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Features a frame."""
        return 2 * self.lags

    @property
    def window_frames(self) -> int:
        """Frames in one window."""
        return round(self.window_seconds * self.frames_per_second)

    def lag_seconds(self) -> np.ndarray:
        """The period of each lag [lags], seconds."""
        return np.geomspace(self.shortest, self.longest, self.lags)


class TempogramTower(PreTrainedModel):
    """Waveform windows -> local autocorrelation of onset novelty at log-spaced lags, for all bands and for the bass.

    Without parameters; always computes and answers in float32.
    """

    config_class = TempogramConfig
    main_input_name = "input_features"

    def __init__(self, config: TempogramConfig):
        super().__init__(config)
        # the period of each lag in seconds; 60 / period is its tempo. Also gives a saved tower a weights file to load
        self.register_buffer("lag_seconds", torch.from_numpy(config.lag_seconds()).float())
        self.post_init()

    @property
    def dtype(self) -> torch.dtype:
        """float32: there are no parameters to take it from."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where the tower was moved to."""
        return self.lag_seconds.device

    def forward(self, input_features: Tensor, **_) -> BaseModelOutput:
        """`input_features`: float waveform windows [n, samples] at config.sampling_rate.

        Returns `last_hidden_state` [n, frames, 2 * lags] float32, frames == round(seconds * frames_per_second):
        first the lags of all bands, then those below 250 Hz, 1 being perfect repetition; zeros where nothing sounds.
        Raises AudioError where a window is under 1,024 samples.
        """
        # one window at a time: it stays in the processor's cache, and a window's result cannot depend on its batch
        return BaseModelOutput(last_hidden_state=torch.cat([self._window(x) for x in input_features.split(1)]))

    def _window(self, waveform: Tensor) -> Tensor:
        config = self.config
        samples = waveform.shape[-1]
        rate = config.sampling_rate / HOP
        novelty = onset_novelty(waveform, config.sampling_rate)
        frames = round(samples / config.sampling_rate * config.frames_per_second)
        half = round(SEGMENT_SECONDS * rate / 2)
        centres = ((torch.arange(frames, device=novelty.device) + 0.5) / config.frames_per_second * rate).round().long()
        at = centres[:, None] + torch.arange(2 * half + 1, device=novelty.device)
        # a moment at the edge sees silence beyond; the padding also holds the last centre
        segments = F.pad(novelty, (half, half + 1))[..., at.clamp_max(novelty.shape[-1] + 2 * half)]
        window = torch.hann_window(2 * half + 1, periodic=False, device=novelty.device)
        correlation = _autocorrelation(segments * window, round(config.longest * 1.02 * rate) + 3)
        lagged = _at_lags(correlation, config.lags, config.shortest, config.longest, rate)
        return torch.cat([lagged[:, 0], lagged[:, 1]], -1)


def onset_novelty(waveform: Tensor, sampling_rate: int) -> Tensor:
    """Waveform [n, samples] -> normalized spectral flux [n, 2, 1 + samples // 256], float32: all bands, and the bass.

    The flux of log mel power, half-wave rectified, less its local mean, divided by its local deviation.
    """
    if waveform.shape[-1] < FFT:
        raise AudioError(f"a sound of {waveform.shape[-1]} samples is too short for a tempogram; give 0.1 s or more")
    window, bank, low = _constants(sampling_rate, waveform.device)
    spectrum = torch.stft(
        waveform.float(), FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    power = spectrum.real.square() + spectrum.imag.square()
    mel = torch.log10(1 + 10 * (bank @ power))
    rise = F.relu(mel.diff(dim=-1, prepend=mel[..., :1]))
    flux = torch.stack([rise.mean(1), rise[:, :low].mean(1)], 1)
    # an onset wider than a frame is not lost between two frames, which would favour double periods
    blur = torch.hann_window(BLUR + 2, periodic=False, device=flux.device)[1:-1]
    flux = F.conv1d(flux.flatten(0, 1)[:, None], (blur / blur.sum())[None, None], padding=BLUR // 2).view_as(flux)
    width = 2 * round(LEVEL_SECONDS * sampling_rate / HOP / 2) + 1

    def local_mean(x: Tensor) -> Tensor:
        return F.avg_pool1d(x, width, 1, width // 2, count_include_pad=False)

    centred = flux - local_mean(flux)
    return centred / (local_mean(centred.square()).sqrt() + QUIET)


def _autocorrelation(segments: Tensor, lags: int) -> Tensor:
    """[..., length] -> [..., lags], 1 at lag 0, or all zeros for silence."""
    size = -(-(segments.shape[-1] + lags) // 128) * 128  # no wrap-around in these lags, and quick to transform
    spectrum = torch.fft.rfft(segments, size)
    correlation = torch.fft.irfft(spectrum.real.square() + spectrum.imag.square(), size)[..., :lags]
    # novelty has deviation 1 where something sounds, so this is far below one real onset
    return correlation / (correlation[..., :1] + QUIET)


def _at_lags(correlation: Tensor, lags: int, shortest: float, longest: float, rate: float) -> Tensor:
    """[..., lag in frames] -> [..., lags]: the highest value between half a step below and above each lag.

    A long lag's step spans many frames, between which a sharp peak would be lost; a short lag's is less than a frame,
    so values between frames are interpolated.
    """
    weights = _lag_weights(correlation.shape[-1], lags, shortest, longest, rate, correlation.device)
    return (correlation @ weights).unflatten(-1, (lags, POINTS)).amax(-1)


@lru_cache(maxsize=8)
def _lag_weights(source: int, lags: int, shortest: float, longest: float, rate: float, device: torch.device) -> Tensor:
    """Cubic interpolation (Keys 1981, a = -1/2) as a matrix [source, lags * POINTS]."""
    step = (longest / shortest) ** (1 / (lags - 1))
    within = step ** ((np.arange(POINTS) + 0.5) / POINTS - 0.5)
    points = (np.geomspace(shortest, longest, lags)[:, None] * within * rate).ravel()
    d = np.abs(np.arange(source)[:, None] - points)
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    with torch.inference_mode(False):
        return torch.from_numpy(np.where(d < 1, near, np.where(d < 2, far, 0))).float().to(device)


@lru_cache(maxsize=8)
def _constants(sampling_rate: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Window, mel bank [64, bins] and how many of its bands lie below 250 Hz."""
    top = min(sampling_rate / 2, 10000.0)
    bank = mel_filter_bank(FFT // 2 + 1, MELS, 30.0, top, sampling_rate, norm=None, mel_scale="slaney")
    peaks = bank.argmax(0) * sampling_rate / FFT
    with torch.inference_mode(False):
        window = torch.hann_window(FFT, device=device)
        return window, torch.from_numpy(bank.T.copy()).float().to(device), int((peaks < LOW_HZ).sum())
