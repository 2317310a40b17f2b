"""What went into a checkpoint: base weights with address, hash and licence, the data's manifest, library versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from mllm.errors import WeightsError
from mllm.weights import origin_of

LIBRARIES = ("mllm", "torch", "transformers", "peft")
# what each packaged tower is made from
TOWER_WEIGHTS = {
    "musicnn": ("musicnn-mtt-index", "musicnn-mtt-data"),
    "basic_pitch": ("basic-pitch-icassp-2022",),
    "stack": ("basic-pitch-icassp-2022", "musicnn-mtt-index", "musicnn-mtt-data"),
}


def describe_bases(audio_tower: str, language_model: str, projector: dict[str, Any]) -> dict[str, Any]:
    """The parts that a model was assembled from; `mllm.assemble.load_adapter` reads it back."""
    # a tower without weights of its own, such as the tempogram, is none of the names
    towers = TOWER_WEIGHTS.get(audio_tower, (audio_tower,) if ":" in audio_tower else ())
    weights: list[dict[str, Any]] = [{"name": name, **origin_of(name)} for name in (*towers, language_model)]
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "audio_tower": _fixed(audio_tower),
        "language_model": _fixed(language_model),
        "projector": projector,
        "weights": weights,
        "libraries": versions,
    }


def _fixed(spec: str) -> str:
    """A hub address with the commit that was fetched; anything else as it is."""
    return str(origin_of(spec)["uri"]) if spec.startswith("hf:") else spec


def read_provenance(folder: Path) -> dict[str, Any]:
    """What a checkpoint's `provenance.json` says; empty where it has none.

    Raises:
        WeightsError: it is there and cannot be read.
    """
    record = folder / "provenance.json"
    try:
        return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{record} cannot be read ({error}): fetch or train the checkpoint again") from error


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


def describe_parent(adapter: Path) -> dict[str, Any]:
    """Of an adapter that training goes on from: hash of its weights, and what it had learned from at what cost."""
    record = read_provenance(adapter.parent)
    out: dict[str, Any] = {"sha256": hashlib.sha256(adapter.read_bytes()).hexdigest()}
    for key in ("data", "config", "cost", "warmup", "goes_on_from"):
        if key in record:
            out[key] = record[key]
    return out
