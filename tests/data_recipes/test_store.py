"""What a build writes is whole or not there, on a disk and at an fsspec address."""

import uuid
from pathlib import Path

import pytest

from mllm.data_recipes.store import Store


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.at(tmp_path / "built" if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


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
