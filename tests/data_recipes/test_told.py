"""What a build left out it says at its end, and a build without a row is a failure."""

import json
from pathlib import Path

import pytest
from small_set import rows_of, write_mixture, write_set
from typer.testing import CliRunner

from mllm.data_recipes import stage_items
from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.command_line import data_verbs
from mllm.data_recipes.licences import DataError


def test_recordings_that_cannot_be_used_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path)
    for n in range(2):
        (tmp_path / "sets" / "mine" / f"{n:03d}.wav").write_bytes(b"no sound")
    build_mixture(write_mixture(tmp_path, "mine"), tmp_path / "out", workers=1)
    told = " ".join(capsys.readouterr().err.split())
    assert "skipped: mine: this is not a recording (2 times)" in told and "[/" not in told


def test_a_build_without_a_row_is_a_failure(tmp_path: Path) -> None:
    write_set(tmp_path, 2)
    for n in range(2):
        (tmp_path / "sets" / "mine" / f"{n:03d}.wav").write_bytes(b"")
    with pytest.raises(DataError, match="not one row .* manifest.json says why"):
        build_mixture(write_mixture(tmp_path, "mine"), tmp_path / "out", workers=1)
    assert (tmp_path / "out" / "manifest.json").exists() and not rows_of(tmp_path / "out")


def test_a_set_whose_items_turn_out_to_be_refused_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"id": "file", "audio": "file", "caption": "caption", "licence": "=ask me"}
    write_set(tmp_path, licence="per-track", fields=fields)
    build_mixture(write_mixture(tmp_path, "mine", theory={"train": 1}), tmp_path / "out", workers=1)
    assert "left out: mine: none of its items can be used: unknown licence" in " ".join(capsys.readouterr().err.split())


def test_a_recording_that_may_not_be_opened_is_counted_by_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(*of: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    write_set(tmp_path)
    monkeypatch.setattr(stage_items, "load_audio", denied)
    with pytest.raises(DataError, match="not one row"):
        build_mixture(write_mixture(tmp_path, "mine"), tmp_path / "out", workers=1)
    assert "skipped: mine: Permission denied (6 times)" in " ".join(capsys.readouterr().err.split())


def test_clips_that_no_source_gives_scores_for_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path)
    font = {"name": "TimGM6mb", "path": ["pretty_midi:TimGM6mb.sf2"], "licence": "gpl-2.0"}
    clips = {"train": 5, "validation": 0, "test": 0}
    build_mixture(write_mixture(tmp_path, "mine", clips=clips, soundfonts=[font]), tmp_path / "out", workers=1)
    assert "left out: clips of the mixture: no source that is here" in " ".join(capsys.readouterr().err.split())


def test_a_build_that_was_stopped_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text("{}")
    shown = CliRunner().invoke(data_verbs, ["show", str(tmp_path)])
    assert isinstance(shown.exception, DataError) and "is not complete" in str(shown.exception)


def test_a_long_recording_is_not_held_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = stage_items.load_audio

    def listen(source: object, *of: object, **more: object) -> object:
        assert isinstance(source, str), "an open file is read into memory"
        return heard(source, *of, **more)

    write_set(tmp_path)
    monkeypatch.setattr(stage_items, "load_audio", listen)
    build_mixture(write_mixture(tmp_path, "mine"), tmp_path / "out", workers=1)
    assert len({json.loads(row["provenance"])["source_id"] for row in rows_of(tmp_path / "out")}) == 6
