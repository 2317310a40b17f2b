"""Waveform -> fixed windows, and which audio tokens of each window stand in the prompt."""

from __future__ import annotations

import numpy as np
import transformers
from transformers import AutoFeatureExtractor, FeatureExtractionMixin
from transformers.feature_extraction_utils import BatchFeature

from mllm.configuration import MusicLMConfig
from mllm.errors import AudioError

SHORTEST_TAIL = 0.25  # seconds; a decoder's padding at the end of a clip does not open a window of its own


class MusicLMFeatureExtractor(FeatureExtractionMixin):
    """Cuts recordings into windows of `window_seconds`, the last one padded with silence.

    Args:
        sampling_rate: Hz that the tower wants.
        window_seconds: length of one window.
        window_frames: frames that the tower makes of one window.
        frames_per_token: frames packed in one time token.
        summary_tokens: tokens a window that look at all of it.
        long_seconds: recordings longer than this keep their summary tokens and every `long_stride`-th time token.
        long_stride: see above; 0 keeps no time tokens (needs summary tokens).
        encoder_extractor: class name and settings of a hub encoder's own feature extractor, which is then run on each
            window; None for towers that take the waveform itself.
    """

    model_input_names = ["input_features", "input_features_mask"]

    def __init__(
        self,
        sampling_rate: int = 22050,
        window_seconds: float = 10.0,
        window_frames: int = 200,
        frames_per_token: int = 4,
        summary_tokens: int = 8,
        long_seconds: float = 60.0,
        long_stride: int = 0,
        encoder_extractor: dict | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sampling_rate = sampling_rate
        self.window_seconds = window_seconds
        self.window_frames = window_frames
        self.frames_per_token = frames_per_token
        self.summary_tokens = summary_tokens
        self.long_seconds = long_seconds
        self.long_stride = long_stride
        self.encoder_extractor = encoder_extractor

    @classmethod
    def from_model_config(cls, config: MusicLMConfig) -> MusicLMFeatureExtractor:
        """The extractor that fits a model's configuration."""
        return cls(
            sampling_rate=config.audio_config.sampling_rate,
            window_seconds=config.audio_config.window_seconds,
            window_frames=config.window_frames,
            frames_per_token=config.frames_per_token,
            summary_tokens=config.summary_tokens,
            long_seconds=config.long_seconds,
            long_stride=config.long_stride,
            encoder_extractor=getattr(config.audio_config, "feature_extractor", None),
        )

    @property
    def window_samples(self) -> int:
        return round(self.window_seconds * self.sampling_rate)

    def count_windows(self, samples: int) -> int:
        """Windows that a recording of `samples` samples fills."""
        whole, rest = divmod(samples, self.window_samples)
        return max(1, whole + (rest >= SHORTEST_TAIL * self.sampling_rate))

    def token_mask(self, samples: int) -> np.ndarray:
        """[windows, summary_tokens + time_tokens] bool: the tokens that a recording of `samples` samples gets."""
        windows = self.count_windows(samples)
        time_tokens = -(-self.window_frames // self.frames_per_token)
        mask = np.ones((windows, self.summary_tokens + time_tokens), dtype=bool)
        frames_per_sample = self.window_frames / self.window_samples
        tail_frames = min((samples - (windows - 1) * self.window_samples) * frames_per_sample, self.window_frames)
        tail_tokens = max(1, int(np.ceil(tail_frames / self.frames_per_token - 1e-6)))
        mask[-1, self.summary_tokens + tail_tokens :] = False
        if samples > self.long_seconds * self.sampling_rate:
            kept = np.zeros(time_tokens, dtype=bool)
            if self.long_stride or not self.summary_tokens:
                kept[:: self.long_stride or time_tokens] = True
            mask[:, self.summary_tokens :] &= kept
        return mask

    def __call__(self, audio, sampling_rate: int | None = None, return_tensors: str | None = None, **kwargs):
        """Windows of one waveform or of a list of them.

        Args:
            audio: float mono waveform [samples] or a list of such, at `sampling_rate`.
            sampling_rate: Hz of the waveforms; anything but the extractor's own is an error.

        Returns:
            BatchFeature: `input_features` [windows of all recordings, …], `input_features_mask` [windows, tokens] bool,
            `num_windows` (list, one a recording).
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise AudioError(
                f"the model listens at {self.sampling_rate} Hz, not {sampling_rate}: use mllm.audio.load_audio"
            )
        waveforms = [audio] if isinstance(audio, np.ndarray) and audio.ndim == 1 else list(audio)
        windows, masks, counts = [], [], []
        for waveform in waveforms:
            waveform = np.asarray(waveform, dtype=np.float32)
            if waveform.ndim != 1 or not waveform.size:
                raise AudioError(f"expected a mono waveform [samples], got shape {waveform.shape}")
            mask = self.token_mask(len(waveform))
            padded = np.zeros(len(mask) * self.window_samples, dtype=np.float32)
            used = waveform[: len(padded)]
            padded[: len(used)] = used
            windows.append(padded.reshape(len(mask), self.window_samples))
            masks.append(mask)
            counts.append(len(mask))
        features = np.concatenate(windows)
        if self.encoder_extractor:
            features = self._encoder_features(features, build_extractor(self.encoder_extractor))
        data = {"input_features": features, "input_features_mask": np.concatenate(masks)}
        batch = BatchFeature(data, tensor_type=return_tensors)
        batch["num_windows"] = counts
        return batch

    def _encoder_features(self, windows: np.ndarray, extractor) -> np.ndarray:
        """What a hub encoder's own feature extractor makes of each window."""
        out = extractor(list(windows), sampling_rate=self.sampling_rate, return_tensors="np", padding="longest")
        name = next(n for n in ("input_features", "input_values") if n in out)
        return np.asarray(out[name], dtype=np.float32)

    def fetch_audio(self, audio, sampling_rate: int | None = None):
        """Audio is loaded by `mllm.audio` alone, never by address: ProcessorMixin's hook hands it through."""
        return audio


def build_extractor(settings: dict):
    """A transformers feature extractor from `{"feature_extractor_type": class name, …}`; transformers' classes only."""
    name = settings["feature_extractor_type"]
    if not name.endswith("FeatureExtractor") or not hasattr(transformers, name):
        raise AudioError(f"{name} is not a feature extractor of transformers")
    return getattr(transformers, name).from_dict({k: v for k, v in settings.items() if k != "feature_extractor_type"})


AutoFeatureExtractor.register(MusicLMConfig, MusicLMFeatureExtractor, exist_ok=True)
