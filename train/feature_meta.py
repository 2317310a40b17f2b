"""What the folder of a tower's features says of them (`meta.json`), and whether that is still true."""

from __future__ import annotations

import importlib.metadata
import json
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from mllm.feature_extraction import SHORTEST_TAIL, MusicLMFeatureExtractor
from mllm.train.config import ConfigError
from mllm.train.feature_files import ANOTHER_FOLDER, read_header, stored_files, write_atomically

FORMAT = 1  # of the files and of meta.json
LIBRARIES = ("mllm", "torch", "transformers")
# How far the answer to the test sound may move. bfloat16 instead of float32 moves the stack's by 0.7 %, a shift by one
# frame by 6 %.
RELATIVE, ABSOLUTE = 0.02, 0.002


def probe_sound(samples: int, rate: int) -> np.ndarray:
    """Four notes that repeat at different periods: float32 [samples] at `rate` Hz."""
    seconds = np.arange(samples) / rate
    notes = ((110.0, 0.5), (277.2, 0.75), (440.0, 1.0), (1318.5, 0.375))  # Hz, seconds
    tones = [np.sin(2 * np.pi * pitch * seconds) * np.exp(-8 * (seconds % period)) for pitch, period in notes]
    return (0.2 * np.sum(tones, axis=0)).astype(np.float32)


def first_tensor(tower: torch.nn.Module) -> torch.Tensor | None:
    """A parameter of a tower, or a buffer where it has none, or nothing."""
    return next(chain(tower.parameters(), tower.buffers()), None)


def describe_features(
    tower: PreTrainedModel, extractor: MusicLMFeatureExtractor, features: np.ndarray
) -> dict[str, Any]:
    """Content of `meta.json`.

    The revision of the code is not told by version numbers, which change when nothing else does and stay when something
    does, but by `probe`: what the tower answers to `probe_sound`, in outline. Versions stand there to be read.

    Args:
        tower: makes the features.
        extractor: cuts recordings into windows.
        features: of one window of `probe_sound`, [frames, hidden] float16.
    """
    config = tower.config
    encoder = getattr(config, "encoder", None)
    tensor = first_tensor(tower)
    parts = getattr(config, "members", None) or ([encoder] if isinstance(encoder, dict) else [])
    meta = {
        "format": FORMAT,
        "tower": {
            "model_type": config.model_type,
            "parts": [part.get("model_type") for part in parts],
            "dtype": None if tensor is None else str(tensor.dtype).removeprefix("torch."),
        },
        "dtype": str(features.dtype),
        "frames": features.shape[0],
        "hidden_size": features.shape[1],
        "extractor": {
            "sampling_rate": extractor.sampling_rate,
            "window_seconds": extractor.window_seconds,
            "shortest_tail_seconds": SHORTEST_TAIL,
            "encoder_extractor": extractor.encoder_extractor,
        },
        "probe": _outline(features),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return json.loads(json.dumps(meta))  # as it will be read: tuples are lists then


def check_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Compare `meta.json` of a tower's folder with what is true now; write it where there is none.

    Args:
        folder: of one tower. Features in it from before there was a `meta.json` are taken over if the first file fits.
        meta: of `describe_features`.

    Raises:
        ConfigError: a field differs, and which; or features without `meta.json` are not what this tower gives.
    """
    file = folder / "meta.json"
    try:
        there = json.loads(file.read_bytes())
        fields, found = _flat(meta), _flat(there)
        old, new = np.array(there["probe"], float), np.array(meta["probe"], float)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):  # none yet, or cut off when the power was
        for entry in stored_files(folder):
            with suppress(FileNotFoundError):
                if read_header(Path(entry.path), meta["frames"], meta["hidden_size"]):
                    break
        with suppress(ConfigError):  # a cache may be shared read-only; where features are to be written it will be said
            write_atomically(file, lambda stream: stream.write(json.dumps(meta, indent=1).encode() + b"\n"))
        return
    remedy = f"delete {folder} to encode anew, or {ANOTHER_FOLDER}"
    for name in fields | found:
        was, now = (known.get(name, "absent") for known in (found, fields))
        if was != now:
            raise ConfigError(f"{file}: {name} was {was} and is {now} now: {remedy}")
    near = ABSOLUTE * np.abs(new).max(initial=0)
    if old.shape != new.shape or not np.allclose(old, new, RELATIVE, near, equal_nan=True):
        raise ConfigError(
            f"{file}: probe: the tower answers the test sound otherwise than when the folder was begun "
            f"({_versions(there)}; now {_versions(meta)}): {remedy}"
        )


def _outline(features: np.ndarray) -> list[float]:
    """Features [frames, hidden] in up to 64 numbers: means over 8 spans of time and 8 of features."""
    spans = np.array_split(features.astype(np.float32), min(8, len(features)))
    blocks = [block for span in spans for block in np.array_split(span, min(8, span.shape[1]), axis=1)]
    return [float(f"{block.mean():.4g}") for block in blocks]


def _flat(meta: dict[str, Any]) -> dict[str, Any]:
    """Fields that are compared for equality, nested ones by their dotted names."""
    flat = {}
    for name, value in meta.items():
        if name not in ("probe", "libraries"):
            inner = _flat(value) if isinstance(value, dict) else {}
            flat |= {f"{name}.{key}": each for key, each in inner.items()} or {name: value}
    return flat


def _versions(meta: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in (meta.get("libraries") or {}).items())
