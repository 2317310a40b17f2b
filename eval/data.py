"""Clips of a data set's split: where the sound lies and what is true of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm.errors import MllmError


class EvalError(MllmError):
    """An evaluation cannot start: no data, an unknown task, results of another run in the folder."""


@dataclass(frozen=True)
class EvalClip:
    """One recording; `name` is its path inside the data folder, `facts` what the row says is true of it."""

    name: str
    path: Path
    facts: dict[str, Any]


def read_clips(data: Path, split: str) -> list[EvalClip]:
    """Every clip of `split`, once, in the order of its name; rows are parquet shards anywhere under `data`.

    Raises EvalError where there is none.
    """
    import pyarrow.parquet as pq

    clips: dict[str, EvalClip] = {}
    for shard in sorted(data.rglob("*.parquet")):
        table = pq.read_table(shard, columns=["messages", "facts", "split"], filters=[("split", "==", split)])
        for row in table.to_pylist():
            messages = json.loads(row["messages"]) if isinstance(row["messages"], str) else row["messages"]
            names = [part["audio"] for m in messages if not isinstance(m["content"], str) for part in m["content"]
                     if part.get("type") == "audio"]  # fmt: skip
            facts = json.loads(row["facts"])
            if len(names) == 1 and names[0] not in clips and _is_whole(names[0], facts):
                clips[names[0]] = EvalClip(names[0], data / names[0], facts)
    if not clips:
        raise EvalError(
            f"{data} has no rows of the split {split!r}: build it first (mllm data build … --output {data})"
        )
    return [clips[name] for name in sorted(clips, key=lambda n: (Path(n).name, n))]


def _is_whole(name: str, facts: dict[str, Any]) -> bool:
    """Whether the facts are all that there is to know of one clip.

    Those of a medley change from section to section, those of an episode are its labels, and of an item of a public set
    this or that is known.
    """
    return not name.startswith("clips/sets-") and not {"sections", "label_kind"} & facts.keys()


def data_hash(data: Path) -> str:
    """sha256 of manifest.json, or of all shards where there is no manifest."""
    manifest = data / "manifest.json"
    files = [manifest] if manifest.is_file() else sorted(data.rglob("*.parquet"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def model_hash(model: str) -> str | None:
    """sha256 over config and trained weights of a model's folder; None for what is not a local folder."""
    from mllm.assemble import MODELS

    folder = MODELS.get(model, Path(model))
    files = sorted(f for f in folder.glob("*") if f.suffix == ".safetensors" or f.name.endswith("config.json"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
