"""A folder belongs to one build, and to one process at a time; what of it is gone is made again."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile as sf
import yaml
from planted import elsewhere
from small_set import hash_of, rows_of, write_mixture, write_set
from typer.testing import CliRunner

from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.build_mark import files_mark
from mllm.data_recipes.command_line import data_verbs
from mllm.data_recipes.config import HERE, DataError, find_soundfont, load_mixture

TINY = HERE / "mixtures" / "tiny.yaml"


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    write_set(tmp_path)
    return write_mixture(tmp_path, "mine")


def test_a_second_build_into_the_same_folder_is_refused_while_the_first_runs(tmp_path: Path, tiny_build: Path) -> None:
    output = tmp_path / "out"
    code = f"from mllm.data_recipes.build import build_mixture; build_mixture({str(TINY)!r}, {str(output)!r}, 1)"
    first = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (output / "build.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, 19)  # SIGSTOP: it holds the folder for as long as this test needs
    try:
        refused = CliRunner().invoke(data_verbs, ["build", str(TINY), "--output", str(output), "--workers", "1"])
        assert isinstance(refused.exception, DataError)
        assert "another build is running in" in str(refused.exception) and str(output) in str(refused.exception)
        build_mixture(TINY, tmp_path / "other", workers=1)  # which another folder does not hinder
    finally:
        os.kill(first.pid, 18)
    assert first.wait() == 0 and hash_of(output) == hash_of(tiny_build)
    names = {p.relative_to(output) for p in output.rglob("*") if p.is_file()}
    assert names == {p.relative_to(tiny_build) for p in tiny_build.rglob("*") if p.is_file()}, "no lock is left"
    build_mixture(TINY, output, workers=1)


def test_a_build_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    mixture = write_mixture(tmp_path, "mine", sources=[{"recipe": "openewld"}], scores={"train": 3})
    with pytest.raises(DataError, match="MLLM_DATA|scores_dir"):
        build_mixture(mixture, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("far", [False, True])
def test_clips_that_were_deleted_are_made_again(mixture: Path, tmp_path: Path, far: bool) -> None:
    output = tmp_path / "out"
    place = elsewhere(output) if far else output
    build_mixture(mixture, place, workers=1)
    whole, flacs = hash_of(output), {p: p.read_bytes() for p in output.glob("clips/*/*.flac")}
    assert len({p.parent for p in flacs}) >= 1 and len(flacs) == 6
    shutil.rmtree(next(iter(flacs)).parent)
    build_mixture(mixture, place, workers=1)
    assert {p: p.read_bytes() for p in output.glob("clips/*/*.flac")} == flacs and hash_of(output) == whole


def test_units_of_text_alone_are_not_made_again(tmp_path: Path) -> None:
    write_set(tmp_path, fields={"id": "file", "caption": "caption", "question": "=What is it?", "answer": "caption"})
    mixture = write_mixture(tmp_path, "mine")
    build_mixture(mixture, tmp_path / "out", workers=1)
    assert not list(tmp_path.glob("out/clips/*")) and len(rows_of(tmp_path / "out")) >= 6
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/rows/*")}
    build_mixture(mixture, tmp_path / "out", workers=1)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/rows/*")} == before


def refusal_of(mixture: Path, output: Path, limit: int | None = None) -> str:
    with pytest.raises(DataError, match="holds another build") as caught:
        build_mixture(mixture, output, workers=1, limit=limit)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_build_is_refused_and_what_of_it_is_another_is_named(mixture: Path, tmp_path: Path) -> None:
    output, mine = tmp_path / "out", tmp_path / "sets" / "mine"
    build_mixture(mixture, output, workers=1)
    rows, recipe, sound = mine / "rows.jsonl", tmp_path / "mine.yaml", mine / "000.wav"
    kept = {path: path.read_bytes() for path in (rows, recipe, mixture)}
    rows.write_text(rows.read_text().replace("noise", "n0ise"))  # the same size
    assert "(files of mine changed)" in refusal_of(mixture, output)
    rows.write_bytes(kept[rows])
    recipe.write_text(recipe.read_text().replace("cc0-1.0", "cc-by-4.0"))
    assert "(recipe mine changed)" in refusal_of(mixture, output)
    recipe.write_bytes(kept[recipe])
    mixture.write_text(mixture.read_text().replace("seed: 1", "seed: 2"))
    assert "(seed of the mixture changed)" in refusal_of(mixture, output)
    mixture.write_bytes(kept[mixture])
    assert "(limit changed)" in refusal_of(mixture, output, limit=2)
    build_mixture(mixture, output, workers=1)  # all is as it was, whenever it was written
    samples, rate = sf.read(sound)
    sf.write(sound, samples[::-1], rate)
    assert "(files of mine changed)" in refusal_of(mixture, output)


def test_files_of_a_set_elsewhere_count_by_name_size_and_what_is_told_of_them(tmp_path: Path) -> None:
    write_set(tmp_path)
    far = elsewhere(tmp_path / "sets" / "mine")
    marks = [files_mark(far), files_mark(far)]
    rows = tmp_path / "sets" / "mine" / "rows.jsonl"
    text = rows.read_text()
    for change in (text.replace("noise", "n0ise"), text + "\n"):
        rows.write_text(change)
        marks.append(files_mark(far))
    rows.rename(rows.with_name("other.jsonl"))
    marks.append(files_mark(far))
    assert marks[0] == marks[1] and len(set(marks)) == 4


def test_hidden_files_and_links_to_nothing_do_not_count(tmp_path: Path) -> None:
    write_set(tmp_path)
    folder = tmp_path / "sets" / "mine"
    before = files_mark(str(folder))
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    (folder / "gone").symlink_to(folder / "nowhere")
    assert files_mark(str(folder)) == before


def test_a_soundfont_counts_by_what_is_in_it(tmp_path: Path) -> None:
    found = find_soundfont(load_mixture(TINY).soundfonts[0])
    assert found is not None
    data = bytearray(found.read_bytes())
    font = tmp_path / "mine.sf2"
    font.write_bytes(data)
    fonts = [{"name": "mine", "path": [str(font)], "licence": "cc0"}]
    content = yaml.safe_load(TINY.read_text()) | {"soundfonts": fonts, "test_soundfonts": []}
    content |= {"clips": {"train": 2, "validation": 0, "test": 0}}
    mixture = tmp_path / "m.yaml"
    mixture.write_text(yaml.safe_dump(content))
    build_mixture(mixture, tmp_path / "out", workers=1)
    data[len(data) // 2] ^= 1
    font.write_bytes(data)
    assert "(soundfont mine changed)" in refusal_of(mixture, tmp_path / "out")


def test_a_build_goes_on_where_it_was_moved_to_with_its_set(mixture: Path, tmp_path: Path) -> None:
    build_mixture(mixture, tmp_path / "out", workers=1)
    whole = hash_of(tmp_path / "out")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("out", "sets", "mine.yaml"):
        shutil.move(tmp_path / name, moved / name)
    (moved / "out" / "manifest.json").unlink()
    shutil.rmtree(moved / "out" / "rows")
    again = write_mixture(moved, "mine")
    build_mixture(again, moved / "out", workers=1)
    assert hash_of(moved / "out") == whole


def test_a_mixture_of_nothing_that_is_here_says_where_it_was_looked_for(
    mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLLM_SETS", raising=False)
    shutil.rmtree(tmp_path / "sets" / "mine")
    with pytest.raises(DataError, match=f"{tmp_path}/sets/mine does not exist.*MLLM_SETS"):
        build_mixture(mixture, tmp_path / "out", workers=1)
    with pytest.raises(DataError, match="set `sets_dir` in the mixture or MLLM_SETS to the folder that holds mine"):
        build_mixture(write_mixture(tmp_path, "mine", sets_dir=None), tmp_path / "out2", workers=1)


@pytest.mark.parametrize("text", ["{", "[]", "", "\x00"])
def test_a_broken_build_json_is_one_clear_line(mixture: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "build.json").write_text(text)
    with pytest.raises(DataError, match="build.json is broken.*choose another folder or delete it"):
        build_mixture(mixture, tmp_path / "out", workers=1)


def test_a_broken_manifest_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    shown = CliRunner().invoke(data_verbs, ["show", str(tmp_path)])
    assert isinstance(shown.exception, DataError) and "is broken" in str(shown.exception)


def test_a_file_where_the_folder_should_be_is_one_clear_line(mixture: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out cannot be written: File exists"):
        build_mixture(mixture, tmp_path / "out", workers=1)


def test_memory_is_no_place_for_a_build(mixture: Path) -> None:
    with pytest.raises(DataError, match="gone at its end; choose a folder"):
        build_mixture(mixture, "memory://x", workers=1)


def test_a_try_that_came_to_nothing_does_not_stand_in_the_way(mixture: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    right = recipe.read_text()
    recipe.write_text(right.replace("audio: file", "audio: fiel"))
    with pytest.raises(DataError, match="did you mean 'file'"):
        build_mixture(mixture, tmp_path / "out", workers=1)
    recipe.write_text(right)
    build_mixture(mixture, tmp_path / "out", workers=1)
    assert len(list(tmp_path.glob("out/clips/*/*.flac"))) == 6


@pytest.mark.parametrize("name", ["rows/mine.parquet", "clips/mine.part", "clips/mine.wav", "duplicates.json"])
def test_a_folder_with_something_of_the_users_is_refused_and_stays_as_it_is(
    mixture: Path, tmp_path: Path, name: str
) -> None:
    own = tmp_path / "out" / name
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(DataError, match="but no build.json.*choose another folder"):
        build_mixture(mixture, tmp_path / "out", workers=1)
    assert own.read_text() == "mine" and [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [own]


def test_a_build_json_that_is_not_ours_stays_as_it_is(mixture: Path, tmp_path: Path) -> None:
    own = tmp_path / "out" / "build.json"
    own.parent.mkdir()
    own.write_text('{"target": "release"}')
    assert "build.json does not say of what" in refusal_of(mixture, tmp_path / "out")
    assert own.read_text() == '{"target": "release"}'


@pytest.mark.parametrize("inside", ["sets/mine", "sets/mine/out"])
def test_a_build_does_not_go_into_the_folder_of_its_set(mixture: Path, tmp_path: Path, inside: str) -> None:
    before = sorted((tmp_path / "sets").rglob("*"))
    with pytest.raises(DataError, match="lies in the folder of mine .*choose a folder outside"):
        build_mixture(mixture, tmp_path / inside, workers=1)
    assert sorted((tmp_path / "sets").rglob("*")) == before
    build_mixture(mixture, tmp_path / "sets" / "mine-built", workers=1)
