"""manifest.json: what a build holds, from what, under which terms, and the hash of every shard."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from mllm.data_recipes.config import HERE, Mixture

if TYPE_CHECKING:
    from mllm.data_recipes.plan import Unit
    from mllm.data_recipes.sources import Collected


def write_manifest(
    output: Path,
    config: Mixture,
    units: list[Unit],
    found: Collected,
    fonts: dict[str, Path],
    left_out: dict[str, str],
    mark: str,
    seconds: float,
) -> Path:
    """Write manifest.json from the shards on disk; returns its path."""
    counts: dict[str, Counter[str]] = {}
    sources: Counter[str] = Counter()
    clips: Counter[str] = Counter()
    audio: Counter[str] = Counter()
    skips: Counter[str] = Counter()
    shards: dict[str, str] = {}
    for path in sorted((output / "rows").glob("*.parquet")):
        shards[f"rows/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        skips.update(json.loads((pq.read_schema(path).metadata or {}).get(b"skipped", b"{}")))
        seen = set()
        for row in pq.read_table(path, columns=["task", "split", "source", "length", "id"]).to_pylist():
            counts.setdefault(row["split"], Counter())[row["task"]] += 1
            clip = row["id"].removesuffix(f"-{row['task']}")
            if clip not in seen and row["length"]:  # rows about scores alone have no clip
                seen.add(clip)
                clips[row["split"]] += 1
                sources[row["source"]] += 1
                audio[row["split"]] += row["length"]
    manifest: dict[str, Any] = {
        "name": config.name,
        "plan": mark,
        "complete": all(unit.shard in shards for unit in units),
        "clips": dict(clips),
        "hours": {k: round(v / 3600, 3) for k, v in audio.items()},
        "rows": {k: dict(v) for k, v in counts.items()},
        "clips_by_source": dict(sources),
        "licences": {
            r.name: {"title": r.title, "licence": r.licence, "terms": r.terms}
            for r in found.recipes.values()
            if sources[r.name]
        },
        "soundfonts": {
            f.name: {"licence": f.licence, "sha256": hashlib.sha256(fonts[f.name].read_bytes()).hexdigest()}
            for f in [*config.soundfonts, *config.test_soundfonts]
            if f.name in fonts
        },
        "left_out": left_out,
        "skipped_tunes": found.skipped,
        "skipped_in_clips": dict(skips),
        "config": config.model_dump(exclude={"scores_dir"}),
        "git_revision": git_revision(),
        "seconds_of_this_run": round(seconds, 1),
        "shards": shards,
    }
    path = output / "manifest.json"
    part = path.with_name("manifest.json.part")
    part.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def git_revision() -> str | None:
    """The revision of the checkout that this code runs from, or None outside one."""
    try:
        run = subprocess.run(["git", "-C", str(HERE), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
