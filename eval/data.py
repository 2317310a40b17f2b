"""Clips of a data set's split: where the sound lies and what is true of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm.errors import MllmError
from mllm.rows import RowsError, is_whole_clip, iter_rows, row_audios

OTHERS = ("clips/sets-", "clips/score_and_sound-")
"""Recordings of public sets, of one this is known and of another that, so they are no sample to compare tools on; and
the short ones that are set beside scores, which `mllm.eval.score_tasks` asks about."""


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
    clips: dict[str, EvalClip] = {}
    try:
        for row in iter_rows(data, split):
            if is_whole_clip(row):
                path = Path(row_audios(row)[0])
                name = str(path.relative_to(data))
                if not name.startswith(OTHERS):
                    clips.setdefault(name, EvalClip(name, path, row["facts"]))
    except RowsError as error:
        raise EvalError(str(error)) from error
    if not clips:
        raise EvalError(f"{data} has no clips of the split {split!r} to ask about")
    return sorted(clips.values(), key=lambda clip: (clip.path.name, clip.name))


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
