"""`mllm score convert` keeps what a file says of who wrote it: that it was a model, and which."""

from pathlib import Path

import pytest
from music21 import converter
from typer.testing import CliRunner

from mllm.cli import app
from mllm.composed_files import mark_of, with_mark, write_composition
from mllm.composing import Composition, made_by
from mllm.composing_tasks import Request
from mllm.score import read_abc, read_score, to_abc, to_midi, to_musicxml

TUNE = read_abc("X:1\nT:Up & away, 50 \\% <slower>\nM:3/4\nL:1/8\nQ:1/4=100\nK:Dm\nA2|d2 f2 a2|g3 f e2|d6|]\n")


class Model:
    name, provenance = "mini & more", {"licence": "none"}


MADE_BY = made_by(Model(), Request("variation", TUNE))  # type: ignore[arg-type]


def composed(folder: Path, suffix: str) -> Path:
    file = folder / f"composed{suffix}"
    text = with_mark(to_abc(TUNE).encode(), ".abc", MADE_BY).decode()
    write_composition(Composition(text, read_abc(text), MADE_BY, {}, False), file)
    return file


def convert(*arguments: object) -> None:
    done = CliRunner().invoke(app, ["score", "convert", *map(str, arguments)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("source", [".abc", ".mid", ".musicxml"])
@pytest.mark.parametrize("target", [".abc", ".mid", ".musicxml"])
def test_a_composed_file_still_says_so_in_every_format(source: str, target: str, tmp_path: Path) -> None:
    there = tmp_path / f"converted{target}"
    convert(composed(tmp_path, source), there, "--transpose", 2)
    assert mark_of(there, read_score(there)) == MADE_BY
    if target == ".abc":
        head = there.read_text().partition("K:")[0].splitlines()
        assert head.count("N:" + MADE_BY.replace("%", "\\%")) == 1
    elif target == ".musicxml":
        assert converter.parse(there).metadata.composer == MADE_BY
    else:
        assert there.read_bytes().count(MADE_BY.encode()) == 1


def test_an_archive_of_musicxml_that_another_program_packed_keeps_it(tmp_path: Path) -> None:
    plain = composed(tmp_path, ".xml")
    packed = Path(converter.parse(plain).write("mxl", tmp_path / "packed.mxl"))
    convert(packed, tmp_path / "again.abc")
    assert mark_of(tmp_path / "again.abc", read_score(tmp_path / "again.abc")) == MADE_BY


def test_only_the_tune_that_a_model_wrote_says_so(tmp_path: Path) -> None:
    book = tmp_path / "book.abc"
    book.write_text(composed(tmp_path, ".abc").read_text() + "\nX:2\nT:By hand\nM:3/4\nL:1/4\nK:C\nCDE|\n")
    for number, mark in ((1, MADE_BY), (2, None)):
        there = tmp_path / f"{number}.musicxml"
        convert(book, there, "--number", number)
        assert mark_of(there, read_score(there)) == mark


@pytest.mark.parametrize(
    "words",
    [
        "collected by hand",
        "a tune about the language model mini",
        "written by the language model mini (mllm 1.0, provenance unknown)",
        "by the language model " + "m" * 1000 + " (mllm 1.0, provenance 0123456789abcdef)",
    ],
)
def test_other_remarks_are_no_mark(words: str, tmp_path: Path) -> None:
    for suffix, data in ((".abc", to_abc(TUNE).encode()), (".mid", to_midi(TUNE)), (".xml", to_musicxml(TUNE))):
        file = tmp_path / f"tune{suffix}"
        file.write_bytes(with_mark(data, suffix, words))
        assert mark_of(file, TUNE if suffix != ".abc" else read_score(file)) is None


def test_a_file_without_a_mark_gets_none(tmp_path: Path) -> None:
    (tmp_path / "tune.abc").write_text(to_abc(TUNE))
    convert(tmp_path / "tune.abc", tmp_path / "tune.musicxml")
    assert b"<creator" not in (tmp_path / "tune.musicxml").read_bytes()
