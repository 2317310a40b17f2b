"""A build end to end: layout, rows, facts, hashes, and that a killed build goes on to the same bytes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.config import HERE, DataError

TINY = HERE / "mixtures" / "tiny.yaml"


def rows_of(folder: Path) -> list[dict]:
    return [row for shard in sorted(folder.glob("rows/*.parquet")) for row in pq.read_table(shard).to_pylist()]


def contents(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_rows_have_the_house_format_and_their_audio_exists(tiny_build: Path) -> None:
    rows = rows_of(tiny_build)
    assert rows and len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"id", "task", "messages", "facts", "source", "licence", "split", "length", "provenance"}
        messages = json.loads(row["messages"])
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        parts = [p for m in messages if m["role"] == "user" for p in m["content"]]
        audios = [p["audio"] for p in parts if p["type"] == "audio"]
        assert len(audios) == 1 and messages[0]["content"][0]["type"] == "audio"
        assert all(m["content"].strip() for m in messages if m["role"] == "assistant")
        samples, rate = sf.read(tiny_build / audios[0], dtype="float32")
        assert rate == 22050 and samples.ndim == 1
        assert len(samples) / rate == pytest.approx(row["length"], abs=1e-3)
        assert 0.2 < np.abs(samples).max() < 0.95 and np.sqrt(np.mean(samples**2)) > 0.005
        assert row["licence"] and row["source"] == "tonal"


def test_a_full_disk_is_one_clear_line(tiny_disk: Path) -> None:
    with pytest.raises(DataError, match="run the same command again"):
        build_mixture(TINY, tiny_disk / "built", workers=1)


def test_answers_say_what_the_facts_say(tiny_build: Path) -> None:
    for row in rows_of(tiny_build):
        facts, messages = json.loads(row["facts"]), json.loads(row["messages"])
        if row["task"] == "dialogue":
            continue
        answer = messages[1]["content"]
        expected = {
            "instrument": ", ".join(facts["instruments"]),
            "key": facts["key"],
            "metre": facts["metre"],
            "melody_lowest": facts["lowest"],
            "melody_highest": facts["highest"],
        }.get(row["task"])
        assert expected is None or answer == expected
        if row["task"] == "tempo":
            assert abs(np.log(int(answer.split()[1]) / facts["tempo"])) < 0.03
        if row["task"] == "describe":
            assert facts["key"] in answer and facts["metre"] in answer


def test_training_clips_have_a_dialogue_with_the_audio_once(tiny_build: Path) -> None:
    train = [r for r in rows_of(tiny_build) if r["split"] == "train"]
    dialogues = [r for r in train if r["task"] == "dialogue"]
    assert len(dialogues) == 12 and len(train) == 24
    assert all(3 <= len(json.loads(r["messages"])) / 2 <= 5 for r in dialogues)


def test_manifest_counts_hashes_and_licences(tiny_build: Path) -> None:
    manifest = json.loads((tiny_build / "manifest.json").read_text())
    assert manifest["complete"] and manifest["clips"]["train"] == 12
    assert manifest["licences"]["tonal"]["licence"] == "apache-2.0"
    assert manifest["soundfonts"]["TimGM6mb"]["licence"] == "GPL-2.0"
    for name, digest in manifest["shards"].items():
        assert hashlib.sha256((tiny_build / name).read_bytes()).hexdigest() == digest


def test_test_clips_use_a_soundfont_that_training_never_heard(tiny_build: Path) -> None:
    fonts: dict[str, set[str]] = {}
    for row in rows_of(tiny_build):
        fonts.setdefault(row["split"], set()).add(json.loads(row["facts"])["soundfont"])
    assert fonts["train"] == {"TimGM6mb"}
    if "test" not in fonts:
        pytest.skip("the soundfont of the test split (Debian csound-soundfont) is not on this machine")
    assert not fonts["test"] & (fonts["train"] | fonts["validation"])


def test_killed_build_goes_on_to_identical_bytes(tiny_build: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    code = f"from mllm.data_recipes.build import build_mixture; build_mixture({str(TINY)!r}, {str(output)!r}, 1)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(output.glob("rows/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(list(output.glob("rows/*.parquet"))) < len(list(tiny_build.glob("rows/*.parquet")))
    (output / "clips" / "clips-00099.part").mkdir()
    build_mixture(TINY, output, workers=2)
    assert contents(output) == contents(tiny_build)


def test_folder_with_another_build_is_refused(tiny_build: Path) -> None:
    before = contents(tiny_build)
    with pytest.raises(DataError, match="another build"):
        build_mixture(TINY, tiny_build, limit=4)
    assert contents(tiny_build) == before


def test_limit_makes_fewer_clips(tmp_path: Path) -> None:
    manifest = json.loads(Path(build_mixture(TINY, tmp_path / "few", workers=1, limit=3)).read_text())
    assert manifest["clips"]["train"] == 3 and manifest["clips"]["validation"] == 1
