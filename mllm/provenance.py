"""What went into a checkpoint: base weights with address, hash and licence, the data's manifest, library versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from mllm.weights import PINNED

LIBRARIES = ("mllm", "torch", "transformers", "peft")
# what each packaged tower is made from
TOWER_WEIGHTS = {
    "musicnn": ("musicnn-mtt-index", "musicnn-mtt-data"),
    "basic_pitch": ("basic-pitch-icassp-2022",),
    "stack": ("basic-pitch-icassp-2022", "musicnn-mtt-index", "musicnn-mtt-data"),
}


def describe_bases(audio_tower: str, language_model: str, projector: dict[str, Any]) -> dict[str, Any]:
    """The parts that a model was assembled from; `mllm.assemble.load_adapter` reads it back."""
    names = [*TOWER_WEIGHTS.get(audio_tower, ()), language_model]
    weights = [
        {"name": name, "uri": PINNED[name].uri, "sha256": PINNED[name].sha256, "licence": PINNED[name].licence}
        for name in names
        if name in PINNED
    ]
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "audio_tower": audio_tower,
        "language_model": language_model,
        "projector": projector,
        "weights": weights,
        "libraries": versions,
    }


def describe_data(path: str | Path) -> dict[str, Any]:
    """Hash of the manifest (or of the JSONL itself) that a model learned from; licences and counts where it says."""
    path = Path(path)
    manifest = path / "manifest.json" if path.is_dir() else path
    if not manifest.is_file():
        return {"path": path.name, "sha256": None}
    out: dict[str, Any] = {"path": path.name, "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest()}
    if path.is_dir():
        content = json.loads(manifest.read_text())
        out |= {key: content[key] for key in ("licences", "soundfonts", "clips", "rows") if key in content}
    return out
