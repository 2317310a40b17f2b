"""Frozen audio encoders, all of one shape: windows in, `last_hidden_state` [n, frames, hidden_size] out.

Importing this package registers every tower with AutoConfig and AutoModel.
"""

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from mllm.errors import WeightsError
from mllm.towers.basic_pitch import BasicPitchConfig, BasicPitchTower, load_basic_pitch
from mllm.towers.hub import HubTower, HubTowerConfig, load_hub
from mllm.towers.musicnn import MusicnnConfig, MusicnnTower, load_musicnn
from mllm.towers.stack import DEFAULT_MEMBERS, StackConfig, StackTower
from mllm.towers.tempogram import TempogramConfig, TempogramTower
from mllm.weights import resolve

__all__ = [
    "TOWERS",
    "BasicPitchConfig",
    "BasicPitchTower",
    "HubTower",
    "HubTowerConfig",
    "MusicnnConfig",
    "MusicnnTower",
    "StackConfig",
    "StackTower",
    "TempogramConfig",
    "TempogramTower",
    "load_tower",
]

for _config, _tower in ((MusicnnConfig, MusicnnTower), (TempogramConfig, TempogramTower)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _tower, exist_ok=True)


def _load_stack(dtype: torch.dtype = torch.float32, fused: bool = True, **config: Any) -> StackTower:
    """`fused`: False lets the members that have a fast arrangement run their layers as they were published."""
    members = [TOWERS[name](dtype=dtype) for name in DEFAULT_MEMBERS]
    for member in members:
        if hasattr(member.config, "fused"):
            member.config.fused = fused
    return StackTower.from_towers(members, **config)


def _load_tempogram(dtype: torch.dtype = torch.float32, **config: Any) -> TempogramTower:
    return TempogramTower(TempogramConfig(**config)).to(dtype)


OWN_TYPES = {
    config.model_type for config in (BasicPitchConfig, HubTowerConfig, MusicnnConfig, StackConfig, TempogramConfig)
}
TOWERS: dict[str, Callable[..., PreTrainedModel]] = {
    "basic_pitch": load_basic_pitch,
    "musicnn": load_musicnn,
    "tempogram": _load_tempogram,
    "stack": _load_stack,
}


def load_tower(spec: str | Path, dtype: torch.dtype = torch.float32, **config: Any) -> PreTrainedModel:
    """A frozen tower with its real weights.

    `spec`: a name in `TOWERS`, a folder (one of ours, or any transformers audio encoder with its feature extractor) or
    "hf:org/name@revision". `config`: fields of the tower's config to change. Raises WeightsError.
    """
    spec = str(spec)
    if spec in TOWERS:
        tower = TOWERS[spec](dtype=dtype, **config)
    elif spec.startswith(("hf:", "file:")) or Path(spec).is_dir():
        folder = Path(spec) if Path(spec).is_dir() else resolve(spec)
        tower = _load_folder(folder, dtype, config)
    else:
        near = difflib.get_close_matches(spec, TOWERS, n=3, cutoff=0.4) or list(TOWERS)
        raise WeightsError(
            f"unknown tower {spec!r}: did you mean {' or '.join(near)}? Otherwise give a folder or hf:org/name@revision"
        )
    return tower.requires_grad_(False).eval()


def _load_folder(folder: Path, dtype: torch.dtype, config: dict[str, Any]) -> PreTrainedModel:
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    except FileNotFoundError:
        raise WeightsError(f"{folder} has no config.json: give the folder that save_pretrained wrote") from None
    except (ValueError, AttributeError, OSError) as error:
        raise WeightsError(f"{folder}/config.json cannot be read: {error}") from None
    if model_type not in OWN_TYPES:
        return load_hub(folder, dtype=dtype, **config)
    try:
        return AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, **config)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder} cannot be loaded as {model_type}: {str(error).splitlines()[0]}") from error
