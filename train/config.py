"""What a training run is: one typed config, loaded from one YAML, refused where it holds a key that nobody knows."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mllm.errors import MllmError


class ConfigError(MllmError):
    """A configuration cannot be used: unknown key, missing file, value of the wrong type."""


@dataclass
class ModelConfig:
    """What is trained: the parts that are put together."""

    audio_tower: str = "stack"  # name, folder or hf: address
    language_model: str = "smollm2-135m-instruct"  # pinned name or folder
    projector: dict[str, Any] = field(default_factory=dict)  # fields of MusicLMConfig
    projector_weights: str | None = None  # safetensors of a projector trained before (warm-up)
    adapter: str | None = None  # trained adapter to go on from: `mini`, or the folder of an earlier run


@dataclass
class LoraSettings:
    """Low-rank adaptation of the language model (peft)."""

    rank: int = 12
    alpha: int = 24
    dropout: float = 0.05
    # anchored to the language model, or peft would wrap the tower's projections too
    target_modules: str = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"


@dataclass
class DataConfig:
    """Rows to learn from: a folder made by `mllm data build`, or a JSONL of `messages` with audio paths beside it."""

    path: str = "runs/data/mini"
    train_split: str = "train"
    validation_split: str = "validation"
    limit: int | None = None
    validation_limit: int = 200
    join_dialogues: bool = True  # rows about the same recording become turns of one dialogue
    loop_share: float = 0.0  # share of dialogues whose clip is looped into a longer recording (time marks, summaries)
    feature_cache: str | None = None  # folder; default: beside the weights in the user's cache


@dataclass
class WarmupConfig:
    """Projector warm-up on facts, without the language model (`mllm.train.warmup`)."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    word_weight: float = 1.0  # of the loss under the language model's own word embeddings; 0 leaves it out
    pitch_shift: int = 6  # semitones that note features are rolled by, and the key label with them
    frame_dropout: float = 0.15  # share of frames that are silenced; far cheaper on a CPU than dropout in the layers
    seed: int = 0


@dataclass
class TrainConfig:
    """A training run. `training` holds fields of transformers' TrainingArguments."""

    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    data: DataConfig = field(default_factory=DataConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    projector_learning_rate: float = 1e-4
    packing: bool = False  # all examples of a batch in one row without padding, blind to each other
    compile_layers: bool = False  # torch.compile each decoder layer: 40 s once, then about 1.5x the speed on two cores
    training: dict[str, Any] = field(default_factory=dict)


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML into a `TrainConfig`.

    Raises:
        ConfigError: no such file, not YAML, or a key that nobody knows (the nearest known one is named).
    """
    try:
        raw = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    config = _build(TrainConfig, raw, str(path))
    for key, value in config.training.items():
        if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value):
            config.training[key] = float(value)  # YAML reads 1e-3 as a string
    return config


def _build(kind: type, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected keys and values, not {type(raw).__name__}")
    known = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")
        factory = known[key].default_factory
        default = known[key].default if factory is dataclasses.MISSING else factory()
        if isinstance(default, float) and isinstance(value, int | str):
            value = _number(value, f"{where}: {key}")  # YAML reads 1e-3 as a string
        if dataclasses.is_dataclass(default):
            value = _build(type(default), value, f"{where}, {key}")
        elif default is not dataclasses.MISSING and default is not None and not isinstance(value, type(default)):
            wanted = type(default).__name__
            raise ConfigError(f"{where}: {key} must be {wanted}, not {type(value).__name__} ({value!r})")
        values[key] = value
    return kind(**values)


def _number(value: int | str, where: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"{where} must be a number, not {value!r}") from error
