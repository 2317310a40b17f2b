"""What a training run is: one typed config, loaded from one YAML, refused where it holds a key that nobody knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mllm.errors import MllmError
from mllm.settings import Settings, nearest, read_settings


class ConfigError(MllmError):
    """A configuration cannot be used: unknown key, missing file, value of the wrong type."""


class ModelConfig(Settings):
    """What is trained: the parts that are put together."""

    audio_tower: str = "stack"
    """Name, folder or `hf:` address of the tower."""
    language_model: str = "smollm2-135m-instruct"
    """Pinned name or folder of the instruct model."""
    projector: dict[str, Any] = {}
    """Fields of MusicLMConfig about projector and tokens."""
    projector_weights: str | None = None
    """Safetensors of a projector trained before: by a warm-up, or by a run with `method: projector`. It goes before the
    one of `adapter`."""
    adapter: str | None = None
    """Trained adapter to go on from: `mini`, or the folder of an earlier run."""
    attention: Literal["auto", "grouped", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Kernel of the language model's attention. `grouped` (CPU) lays the packs of a batch out as one row, without
    padding, and computes nothing that is masked; `auto` is that where it can be (packing, no sliding attention), else
    sdpa. With flash_attention_2 (GPU, package flash-attn) packs become one row too, and share no prefixes."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """Of the frozen language model, with bitsandbytes: QLoRA (Dettmers et al. 2023). Not with `method: full`."""

    @field_validator("projector")
    @classmethod
    def _known(cls, given: dict[str, Any]) -> dict[str, Any]:
        from mllm.configuration import MusicLMConfig  # brings transformers along

        parts = ("audio_config", "text_config", "audio_token_id")
        known = [name for name in vars(MusicLMConfig)["__annotations__"] if name not in parts]
        for name in given:
            if name not in known:
                raise ValueError(f"unknown key {name!r}{nearest(name, known)}")
        return given


class LoraSettings(Settings):
    """Low-rank adaptation (peft)."""

    rank: int = Field(12, ge=1)
    """Of the two factors that each adapted matrix gets: how much can be learned, and how much there is to keep."""
    alpha: int = Field(24, ge=1)
    """What is learned counts alpha / rank times."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """On a CPU it costs a sixth of a step."""
    target_modules: str = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
    """Regular expression over module names: what of the language model is adapted. It begins at the language model, or
    projections of the tower would be meant too."""
    tower_modules: str = r"model\.audio_tower\..*(q_proj|k_proj|v_proj|out_proj|query|key|value)"
    """What of the tower is adapted where `learning_rates.tower` is above 0."""


class LearningRates(Settings):
    """Peak learning rate of each part; 0 leaves it as it is."""

    language_model: float | None = Field(None, ge=0)
    """Of LoRA, or of all weights with `method: full`; None: `training.learning_rate`."""
    projector: float = Field(1e-4, ge=0)
    """Of all weights of the projector, whatever the method; far higher (1e-3) where it begins at random."""
    tower: float = Field(0.0, ge=0)
    """Above 0 the tower gets a LoRA of its own. Then it runs in every step, for its features change."""


class PackingSettings(Settings):
    """Several examples in one row of a batch, each blind to the others."""

    tokens: int = Field(768, ge=1)
    """Length of a row of a batch; longer examples stand alone."""
    share_prefixes: bool = True
    """Rows about one recording (or one long score) have it in a row of the batch once."""


class DataConfig(Settings):
    """Rows to learn from: a folder made by `mllm data build`, or a JSONL of `messages` with audio paths beside it."""

    path: str = "runs/data/mini"
    """The folder or the JSONL; paths of audios in it are seen from there."""
    train_split: str = "train"
    """Rows that are learned from. In a JSONL a line without `split` is one of "train"."""
    validation_split: str = "validation"
    """Rows that are checked with (`training.eval_strategy`), and that sample answers are given to."""
    limit: int | None = Field(None, ge=1)
    """At most so many training rows."""
    shares: dict[str, float] = {}
    """Task, or a pattern such as `score_*`, -> share of its training rows that is learned from; the first pattern that
    fits counts, and a task that none fits is learned whole. Which rows, their ids decide."""
    validation_limit: int | None = Field(200, ge=1)
    """At most so many rows to check with."""
    longest: int = Field(8192, ge=16)
    """Tokens of an example; longer ones are left out and counted."""
    join_dialogues: bool = False
    """Rows about one recording become turns of one dialogue, each after the others; `packing.share_prefixes` saves the
    same work and leaves the rows as they are."""
    loop_share: float = Field(0.0, ge=0, le=1)
    """Share of dialogues whose clip is looped into a longer recording (time marks, summaries)."""
    feature_cache: str | bool = True
    """What the frozen tower hears is kept: in the user's cache (true), in a folder of yours, or not at all (false)."""
    feature_cache_gib: float | None = Field(None, gt=0)
    """Most that all features of this cache may take on the disk; the oldest go first. None: 20, or
    MLLM_FEATURE_CACHE_GIB."""
    streaming: bool = False
    """Rows are read as they are needed: for sets larger than memory. Needs `training.max_steps`."""
    shuffle_buffer: int = Field(4096, ge=1)
    """Rows that are mixed (and packed) together when streaming."""


class ProjectorFit(Settings):
    """Training of a projector under throw-away heads, without the language model (`mllm.train.projector_fit`)."""

    epochs: int = 20
    """Times that every recording is seen."""
    batch_size: int = 64
    """Recordings in a step; at most as many as there are."""
    learning_rate: float = 1e-3
    """At its peak, after a tenth of the steps; it falls to nought at the end."""
    weight_decay: float = 0.02
    """Of AdamW, for the projector and the heads."""
    pitch_shift: int = 6
    """Semitones that note features are rolled by, and what depends on them with them."""
    frame_dropout: float = 0.15
    """Share of frames that are silenced; far cheaper on a CPU than dropout in the layers."""
    seed: int = 0
    """Of weights, order, rolling and dropout."""


class WarmupConfig(ProjectorFit):
    """Projector warm-up on facts (`mllm.train.warmup`)."""

    word_weight: float = 1.0
    """Of the loss under the language model's own word embeddings; 0 leaves it out."""


class NoteWarmupConfig(ProjectorFit):
    """Warm-up of a projector's time tokens on the notes of melodies (`mllm.train.note_warmup`); half of the recordings
    are rolled."""

    epochs: int = 10
    """Times that every recording is seen."""
    frame_dropout: float = 0.1
    """Share of frames that are silenced."""
    keep_weight: float = 20.0
    """Of what the summary tokens said before."""


class SampleSettings(Settings):
    """Answers of the model that is being trained, for people to look at; where one process trains."""

    rows: int = Field(4, ge=0)
    """Validation rows that are answered, the first ones; 0 for none."""
    every: int = Field(0, ge=0)
    """Steps between; 0: at every evaluation. Always at the end, and also where nothing is evaluated."""
    max_new_tokens: int = Field(48, ge=1)
    """Tokens after which an answer is cut off."""


class TrainConfig(Settings):
    """A training run."""

    model: ModelConfig = ModelConfig()
    """The parts."""
    method: Literal["lora", "dora", "full", "projector"] = "lora"
    """What of the language model is trained: low-rank adapters, DoRA (Liu et al. 2024), all of it, or nothing."""
    lora: LoraSettings = LoraSettings()
    """With `method: lora` or `dora`."""
    learning_rates: LearningRates = LearningRates()
    """Of each part; how they rise and fall say `training.lr_scheduler_type` and `training.warmup_steps`."""
    data: DataConfig = DataConfig()
    """What is learned from."""
    packing: PackingSettings | None = PackingSettings()
    """None: one example a row, padded on the right."""
    supervised_logits: bool = True
    """Logits only where something is learned; false makes them everywhere, as other trainers do."""
    compile_layers: bool = False
    """torch.compile each decoder layer: 10 to 20 s once, then a tenth less time on two cores."""
    liger: bool = False
    """Liger's fused kernels in the decoder's layers (GPU, package liger-kernel)."""
    warmup: WarmupConfig = WarmupConfig()
    """Of `python -m mllm.train.warmup`, a program of its own that is run before."""
    note_warmup: NoteWarmupConfig = NoteWarmupConfig()
    """Of `python -m mllm.train.note_warmup`, likewise."""
    samples: SampleSettings = SampleSettings()
    """Answers that are written down as it learns."""
    training: dict[str, Any] = {}
    """Fields of transformers' TrainingArguments; `mllm.train.arguments` has the defaults of this project."""

    @field_validator("training")
    @classmethod
    def _numbers(cls, given: dict[str, Any]) -> dict[str, Any]:
        # YAML 1.1 reads 1e-3 as a string
        number = re.compile(r"[-+]?[\d.]+[eE][-+]?\d+")
        return {k: float(v) if isinstance(v, str) and number.fullmatch(v) else v for k, v in given.items()}

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.method == "full" and self.model.quantization != "none":
            raise ValueError("method full trains weights, and quantized ones cannot be: use lora or dora")
        if self.method in ("full", "projector") and self.model.adapter:
            raise ValueError(f"method {self.method} cannot go on from an adapter: use lora or dora")
        if self.method in ("full", "projector") and self.learning_rates.tower:
            raise ValueError(f"method {self.method} leaves the tower frozen: set learning_rates.tower to 0")
        if self.data.streaming and not self.training.get("max_steps"):
            raise ValueError("data.streaming needs training.max_steps: a stream has no end that is known")
        return self


def cache_folder(data: DataConfig) -> str | None:
    """The user's own folder for features, or None for the one in the cache."""
    return data.feature_cache if isinstance(data.feature_cache, str) else None


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML into a `TrainConfig`.

    Raises:
        ConfigError: no such file, not YAML, or a key that nobody knows (the nearest known one is named).
    """
    return read_settings(TrainConfig, path, ConfigError)
