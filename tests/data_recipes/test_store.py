"""What a build writes is whole or not there, on a disk and at an fsspec address."""

import json
import os
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml
from fsspec.implementations.memory import MemoryFileSystem
from planted import RATE, elsewhere, sound
from typer.testing import CliRunner

from mllm.data_recipes import store as store_module
from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.card import write_card
from mllm.data_recipes.check import check
from mllm.data_recipes.command_line import data_verbs
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.store import Store
from mllm.data_recipes.tonal import tonal_tune


@pytest.fixture(params=["disk", "memory", "elsewhere"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    memory = f"memory://{uuid.uuid4().hex}"
    built = tmp_path / "built"
    return Store.at({"disk": built, "memory": memory, "elsewhere": elsewhere(built)}[request.param])


def test_files_and_folders_come_back_by_name(store: Store) -> None:
    assert not store.exists("rows/a.parquet") and store.names("rows") == []
    store.write("rows/b.parquet", b"two")
    store.write("rows/a.parquet", b"one")
    store.write("rows/a.parquet", b"one again")
    with store.folder("clips/x-00001") as folder:
        (folder / "a.flac").write_bytes(b"sound")
    assert store.names("rows", ".parquet") == ["rows/a.parquet", "rows/b.parquet"]
    assert store.read("rows/a.parquet") == b"one again"
    assert store.read("clips/x-00001/a.flac") == b"sound"
    assert store.read("rows/b.parquet") == b"two"


def test_a_folder_that_fails_half_way_does_not_appear(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.folder("clips/x-00001") as folder:
        (folder / "a.flac").write_bytes(b"half")
        raise ZeroDivisionError
    assert store.names("clips") == []
    store.clear_parts("clips")
    if store.local:
        assert not list((store.local / "clips").iterdir())


def test_a_folder_replaces_what_an_earlier_attempt_left(store: Store) -> None:
    for text in (b"old", b"new"):
        with store.folder("clips/x-00001") as folder:
            (folder / "a.flac").write_bytes(text)
    assert store.read("clips/x-00001/a.flac") == b"new"


def test_a_relative_path_means_the_same_after_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.at("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.write("a", b"1")
    assert (tmp_path / "here" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("in_memory", [1 << 20, 10])
def test_an_open_file_is_read_from_any_place(store: Store, in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_IN_MEMORY", in_memory)
    store.write("clips/a.flac", bytes(range(100)))
    with store.open("clips/a.flac") as file:
        assert file.read() == bytes(range(100))
        file.seek(40)
        assert file.read(2) == b"()"
    for name in ("clips/none.flac", "nowhere/a.flac"):
        with pytest.raises(FileNotFoundError), store.open(name):
            pass


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.flac")
    with pytest.raises(FileNotFoundError), Store.at(tmp_path).open("a.flac"):
        pass


def test_where_a_file_lies(tmp_path: Path) -> None:
    assert Store.at(tmp_path).where("a") == str(tmp_path / "a")
    assert Store.at(tmp_path / "odd::name").where("a") == str(tmp_path / "odd::name" / "a")
    assert Store.at("memory://x/").where("card/a.svg") == "memory://x/card/a.svg"
    assert Store.at("dir://x::file:///y").where("a") == "dir://x/a::file:///y"


def test_an_address_of_nothing_installed_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for verb in (check, write_card):
        with pytest.raises(DataError, match=r"s3://bucket/x cannot be opened: Install s3fs.*$"):
            verb("s3://bucket/x")
    with pytest.raises(DataError, match="nonesuch"):
        Store.at("nonesuch://x")


@pytest.mark.parametrize("error", [RuntimeError("no\nway"), TimeoutError()])
def test_what_a_file_system_raises_is_an_os_error_with_words(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    for name in ("cat_file", "pipe_file", "ls", "info", "_open"):
        monkeypatch.setattr(MemoryFileSystem, name, fail)
    store = Store.at("memory://broken")
    with pytest.raises(OSError, match=type(error).__name__):
        store.read("a")
    with pytest.raises(OSError, match=type(error).__name__):
        store.write("a", b"1")
    with pytest.raises(OSError, match=type(error).__name__):
        store.exists("a")
    with pytest.raises(OSError, match=type(error).__name__), store.open("a"):
        pass
    with pytest.raises(DataError, match="memory://broken cannot be read"):
        check("memory://broken")


def test_a_build_elsewhere_is_deduplicated_checked_and_described_as_one_here(tmp_path: Path) -> None:
    mine = tmp_path / "sets" / "mine"
    mine.mkdir(parents=True)
    lines = []
    for n in range(6):
        samples = sound(tonal_tune(n), 0, 1)
        sf.write(mine / f"{n}.wav", samples, RATE)
        lines.append({"file": f"{n}.wav", "caption": f"tune number {n}"})
    sf.write(mine / "copy.ogg", np.float32(0.5) * samples, RATE)
    lines.append({"file": "copy.ogg", "caption": "once more"})
    (mine / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = {
        "name": "mine", "title": "mine", "loader": "table", "licence": "cc0-1.0", "terms": "my own", "path": "mine",
        "url": "https://example.org/mine", "options": {"files": "rows.jsonl"},
        "fields": {"id": "file", "audio": "file", "caption": "caption"},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    mixture = {
        "name": "copies", "seed": 1, "sets_dir": str(mine.parent), "soundfonts": [],
        "sources": [{"recipe": "mine.yaml"}], "clips": {"train": 0, "validation": 0, "test": 0},
    }  # fmt: skip
    (tmp_path / "copies.yaml").write_text(yaml.safe_dump(mixture))
    here, far, third = tmp_path / "here", tmp_path / "far", tmp_path / "third"
    for place in (here, elsewhere(far), f"file://{third}"):
        build_mixture(tmp_path / "copies.yaml", place, workers=2)
        report = check(place, workers=2)
        assert report.ok and report.audio == 6 and not report.remarks, report
        write_card(place)
    dropped = {drop["id"] for drop in json.loads((far / "duplicates.json").read_text())}
    assert dropped == {"mine-copy.ogg-00", "mine-copy.ogg-01"}
    names = {p.relative_to(here) for p in here.rglob("*") if p.is_file()}
    for other in (far, third):
        assert names == {p.relative_to(other) for p in other.rglob("*") if p.is_file()}
        told = [json.loads((place / "manifest.json").read_text()) for place in (here, other)]
        assert told[0]["hash"] == told[1]["hash"] and told[0]["skipped_in_clips"] == told[1]["skipped_in_clips"]
        assert all((here / n).read_bytes() == (other / n).read_bytes() for n in names if n.name != "manifest.json")
    shown = CliRunner().invoke(data_verbs, ["show", elsewhere(far), "--rows", "1"]).output
    assert '"name": "copies"' in shown and json.loads(shown.splitlines()[-1])["source"] == "mine"
    checked = CliRunner().invoke(data_verbs, ["check", elsewhere(far), "--workers", "1"])
    assert checked.exit_code == 0 and "fine" in checked.output
    assert "README.md" in CliRunner().invoke(data_verbs, ["card", elsewhere(far)]).output
