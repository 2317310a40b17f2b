"""A user's small set of recordings with captions, and a mixture of it: a build of it takes a second."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile as sf
import yaml


def write_set(folder: Path, count: int = 6, name: str = "mine", **more: Any) -> None:
    """A table and recordings of one second in `folder/sets/NAME`, and its recipe in `folder/NAME.yaml`."""
    place = folder / "sets" / name
    place.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    lines = []
    for n in range(count):
        sf.write(place / f"{n:03d}.wav", 0.1 * rng.standard_normal(8000).astype(np.float32), 8000)
        lines.append({"file": f"{n:03d}.wav", "caption": f"a noise number {n} of {name}"})
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    recipe = {
        "name": name, "title": "mine", "loader": "table", "licence": "cc0-1.0", "terms": "my own", "path": name,
        "options": {"files": "rows.jsonl"}, "fields": {"id": "file", "audio": "file", "caption": "caption"},
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe | more))


def write_mixture(folder: Path, *names: str, **more: Any) -> Path:
    """`folder/mixture.yaml`, of the sets of these names."""
    content = {
        "name": "small",
        "seed": 1,
        "sets_dir": str(folder / "sets"),
        "sources": [{"recipe": f"{name}.yaml"} for name in names],
    }
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump(content | more))
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a build."""
    return [row for shard in sorted(folder.glob("rows/*.parquet")) for row in pq.read_table(shard).to_pylist()]


def hash_of(folder: Path) -> str:
    """The hash in a build's manifest."""
    return json.loads((folder / "manifest.json").read_text())["hash"]
