"""The engine of a build: killed, resumed, on one core or two, on a disk or an address, with broken items on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from fsspec.implementations.local import LocalFileSystem

from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.config import DataError
from mllm.data_recipes.store import Store

FONT = {"name": "TimGM6mb", "path": ["pretty_midi:TimGM6mb.sf2"], "licence": "gpl-2.0"}


@pytest.fixture(scope="module")
def own_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection as a user has one: a table, recordings, and what goes wrong in the middle of it."""
    folder = tmp_path_factory.mktemp("sets") / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for n in range(12):
        name = f"{n:02d}.wav"
        soundfile.write(folder / name, 0.1 * rng.standard_normal(8000).astype(np.float32), 8000)
        lines.append({"file": name, "caption": f"noise number {n}", "terms": "CC BY 4.0"})
    (folder / "03.wav").write_bytes(b"")
    (folder / "04.wav").write_bytes(b"RIFF" + bytes(64))
    huge = soundfile.SoundFile(folder / "05.wav", "w", 8000, 1, format="WAV", subtype="PCM_U8")
    with huge:
        for _ in range(61):
            huge.write(np.zeros(8000 * 60, np.float32))
    del lines[6]["caption"]
    lines[7]["file"] = "../../etc/passwd"
    lines[8]["terms"] = "CC BY-NC 4.0"
    lines[9]["terms"] = "ask my uncle"
    lines[10]["file"] = "nowhere.wav"
    (folder / "rows.jsonl").write_text("\n".join([*map(json.dumps, lines), "{not json"]) + "\n")
    return folder


@pytest.fixture(scope="module")
def mixture(own_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of everything that a build can hold, in seconds."""
    folder = tmp_path_factory.mktemp("mixture")
    recipe = {
        "name": "mine", "title": "my noises", "loader": "table", "licence": "per-track", "terms": "my own",
        "url": "https://example.org/mine", "path": "mine", "options": {"files": "rows.jsonl"},
        "fields": {"id": "file", "audio": "file", "caption": "caption", "licence": "terms"},
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    content = {
        "name": "everything", "seed": 3, "sets_dir": str(own_set.parent),
        "sources": [{"recipe": "tonal", "limit": 200}, {"recipe": "mine.yaml"}],
        "clips": {"train": 24, "validation": 4, "test": 0, "unit": 4, "questions": 3, "seconds": 6, "short_seconds": 4},
        "soundfonts": [FONT], "scores": {"train": 20, "validation": 2}, "theory": {"train": 2500, "test": 50},
        "notation": {"train": 20}, "score_and_sound": {"train": 10}, "episodes": {"train": 12},
        "medleys": {"train": 2, "shortest_minutes": 1, "longest_minutes": 1.1},
    }  # fmt: skip
    path = folder / "everything.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def built(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "two"
    build_mixture(mixture, folder, workers=2)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted(folder.glob("rows/*.parquet")) for row in pq.read_table(shard).to_pylist()]


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_every_stage_gives_rows_that_say_where_they_are_from(built: Path) -> None:
    rows = rows_of(built)
    stages = Counter(name.split("-")[1] for name in manifest_of(built)["shards"])
    assert set(stages) == {
        "clips", "scores", "notation", "score_and_sound", "theory", "medleys", "sets", "episodes",
    }  # fmt: skip
    assert len({row["id"] for row in rows}) == len(rows)
    works: dict[str, set[str]] = {}
    for row in rows:
        origin = json.loads(row["provenance"])
        assert origin["source_id"] and origin["licence"] == row["licence"] and row["source"]
        works.setdefault(origin["work"], set()).add(row["split"])
        for message in json.loads(row["messages"]):
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "audio":
                    assert soundfile.info(built / part["audio"]).samplerate == 22050
    assert all(len(splits) == 1 for splits in works.values()), "no work stands in two splits"


def test_hugging_face_datasets_reads_what_was_built(built: Path) -> None:
    import datasets

    files = {"train": str(built / "rows" / "train-*.parquet")}
    read = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert json.loads(next(iter(read))["messages"])[0]["role"] == "user"


def test_what_is_broken_is_left_out_with_its_reason_and_counted(built: Path) -> None:
    mine = {json.loads(row["provenance"])["source_id"] for row in rows_of(built) if row["source"] == "mine"}
    assert mine == {f"{n:02d}.wav" for n in (0, 1, 2, 11)} | ({"05.wav"} & mine)
    skipped = {why: n for why, n in manifest_of(built)["skipped_in_clips"].items() if why.startswith("mine: ")}
    text = "\n".join(skipped)
    for word in (
        "missing field caption",
        "cc-by-nc-4.0",
        "unknown licence",
        "missing file",
        "empty",
        "corrupt line",
        "outside",
    ):
        assert word in text, f"{word!r} in {text}"
    assert sum(skipped.values()) >= 7


def test_one_core_gives_the_same_bytes_as_two(built: Path, mixture: Path, tmp_path: Path) -> None:
    build_mixture(mixture, tmp_path / "one", workers=1)
    assert manifest_of(tmp_path / "one")["hash"] == manifest_of(built)["hash"]


def test_a_build_goes_on_behind_any_number_of_units_that_are_there(built: Path, mixture: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(built, again)
    (again / "manifest.json").unlink()
    names = sorted(p.name for p in again.glob("rows/train-clips-*.parquet"))
    (again / "rows" / names[-1]).unlink()
    build_mixture(mixture, again, workers=1)  # which looks at 4 units at a time, all of them there
    assert (again / "rows" / names[-1]).exists()
    assert manifest_of(again)["hash"] == manifest_of(built)["hash"]


def test_killed_five_times_the_result_is_the_same(built: Path, mixture: Path, tmp_path: Path) -> None:
    output, whole = tmp_path / "killed", len(manifest_of(built)["shards"])
    code = f"from mllm.data_recipes.build import build_mixture; build_mixture({str(mixture)!r}, {str(output)!r}, 2)"
    rng, kills, seen = random.Random(5), 0, set()
    while kills < 5:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
        wanted = (kills + 1) * whole // 7
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list(output.glob("rows/*.parquet"))) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        seen.add(len(list(output.glob("rows/*.parquet"))))
    assert kills == 5 and len(seen) >= 3, "killed at different moments"
    build_mixture(mixture, output, workers=2)
    assert manifest_of(output)["hash"] == manifest_of(built)["hash"]
    assert not list(output.rglob("*.part"))
    ours, theirs = ({str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (output, built))
    assert ours == theirs


def test_a_build_goes_to_any_address(built: Path, mixture: Path, tmp_path: Path) -> None:
    class NotLocal(fsspec.AbstractFileSystem):
        protocol = "elsewhere"
        _inner = LocalFileSystem(auto_mkdir=True)

        def __getattribute__(self, name: str) -> Any:
            if name in {"exists", "ls", "cat_file", "pipe_file", "put_file", "open", "invalidate_cache"}:
                return getattr(object.__getattribute__(self, "_inner"), name)
            return super().__getattribute__(name)

    fsspec.register_implementation("elsewhere", NotLocal, clobber=True)
    address = f"elsewhere://{tmp_path / 'far'}"
    assert Store.at(address).local is None
    manifest = build_mixture(mixture, address, workers=2)
    assert manifest == f"{address}/manifest.json"
    assert manifest_of(tmp_path / "far")["hash"] == manifest_of(built)["hash"]


def test_another_mixture_in_the_same_place_is_refused(built: Path, mixture: Path, tmp_path: Path) -> None:
    changed = mixture.with_name("changed.yaml")
    changed.write_text(mixture.read_text().replace("seed: 3", "seed: 4"))
    with pytest.raises(DataError, match="another build"):
        build_mixture(changed, built)


def test_several_captions_of_one_recording_are_all_kept(tmp_path: Path) -> None:
    """Each caption is a row about a clip of its own; equal ids, as a file's name gives them, lose nothing."""
    (tmp_path / "mine").mkdir()
    rng = np.random.default_rng(5)
    rows = []
    for i in range(6):
        soundfile.write(tmp_path / "mine" / f"{i}.wav", rng.normal(0, 0.1, 22050 * 3).astype(np.float32), 22050)
        rows += [{"file": f"{i}.wav", "text": f"A noise number {i}, {word}."} for word in ("loud", "wild")]
    (tmp_path / "mine" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {"name": "mine", "title": "mine", "loader": "table", "licence": "cc0", "terms": "my own", "path": "mine"}
    recipe |= {"options": {"files": "rows.jsonl"}, "fields": {"id": "file", "audio": "file", "caption": "text"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    mixture = {"name": "m", "seed": 1, "sets_dir": str(tmp_path), "sources": [{"recipe": "mine.yaml"}]}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(mixture))
    build_mixture(tmp_path / "m.yaml", tmp_path / "out", workers=1)
    tables = [pq.read_table(path).to_pylist() for path in (tmp_path / "out" / "rows").glob("*.parquet")]
    built = [row for table in tables for row in table]
    told = {row["facts"] for row in built}
    assert all(any(json.dumps(row["text"]) in facts for facts in told) for row in rows)
    assert len({row["id"] for row in built}) == len(built)
