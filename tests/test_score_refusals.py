"""What is no score: one clear line that says what is wrong, and never another error."""

import zipfile
from pathlib import Path

import pytest
from bad_input import BAD_SCORES
from hypothesis import given, settings
from hypothesis import strategies as st
from test_score import HEADER

from mllm.score import (
    Key,
    Note,
    Score,
    ScoreError,
    read_abc,
    read_midi,
    read_score,
    sounding,
    to_abc,
    to_midi,
    transpose,
)


@pytest.mark.parametrize("name", BAD_SCORES)
def test_a_bad_score_is_one_clear_line_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = BAD_SCORES[name](tmp_path)
    with pytest.raises(ScoreError) as caught:
        read_score(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("X:1\nT:a\nCDE\n", "line 3: music or prose before the K: field"),
        ("X:1\nT:a\n", "no K: field"),
        ("X:1\nK:C\n%only\n", "no notes"),
        ("X:1\nK:Q\nC\n", "line 2: K:Q is not a key"),
        ("X:1\nM:4/0\nK:C\nC\n", "line 2: M:4/0"),
        ("X:1\nL:1/0\nK:C\nC\n", "line 2: L:1/0"),
        ("X:1\nK:C\nCDE\nC 7 D\n", "line 4: '7' at column 3"),
        ("X:1\nK:C\nC0\n", "line 3: a note length of zero"),
        ("X:1\nK:C\nC99999\n", "line 3: a note length out of all proportion"),
        ("X:1\nK:C\n" + "".join(f"C/{n}" for n in range(9000, 9999)), "out of all proportion"),
        ("X:1\nK:C\nc''''''''''\n", "outside of the MIDI range"),
        ("X:1\nK:C\n" + "C" * 1_000_001, "too large"),
        ("X:1\nK:C\nC\0D\n", "control characters"),
    ],
)
def test_malformed_abc_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ScoreError, match=words):
        read_score(text)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ABCabcz123/|:[](){}<>-^_='\",&!+K:MLQVX \n%xyZ", max_size=60))
def test_no_abc_text_escapes_as_another_error(body: str) -> None:
    try:
        score = read_abc(HEADER + body)
    except ScoreError:
        return
    assert sounding(read_abc(to_abc(score)).notes) == sounding(score.notes)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=6))
def test_no_midi_bytes_escape_as_another_error(at: int, put: bytes) -> None:
    whole = bytearray(to_midi(Score("", [Note(i, 1, 60 + i) for i in range(20)], Key("G"), (3, 4), 100.0, 1.0)))
    whole[at : at + len(put)] = put
    try:
        assert read_midi(bytes(whole)).notes
    except ScoreError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.musicxml", b"<html></html>", "not MusicXML"),
        ("a.musicxml", b"<score-partwise><part", "malformed musicxml"),
        ("a.musicxml", b"<score-partwise version='3.0'></score-partwise>", "malformed|no notes"),
        ("a.krn", b"hello", "not Humdrum"),
        ("a.pdf", b"%PDF", "not a score that is read here; readable are .abc"),
        ("a.abc", b"", "empty"),
        ("a.mid", bytes(1_000_001), "too large"),
    ],
)
def test_other_formats_are_refused_with_a_reason(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ScoreError, match=words):
        read_score(path)


def test_a_score_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    note = "<note><pitch><step>C</step><octave>4</octave></pitch><duration>1</duration></note>"
    bar = f"<attributes><divisions>1</divisions></attributes>{note * 40_000}"
    path = tmp_path / "long.musicxml"
    path.write_text(
        "<score-partwise version='3.0'><part-list><score-part id='P1'><part-name/></score-part></part-list>"
        f"<part id='P1'><measure number='1'>{bar}</measure></part></score-partwise>"
    )
    with pytest.raises(ScoreError, match="took more than 1 s"):
        read_score(path, time_limit=1)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mxl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("score.xml", b"<score-partwise>" + b" " * 20_000_000)
    with pytest.raises(ScoreError, match="16 MB when unpacked"):
        read_score(path)


def test_transposing_out_of_the_midi_range_is_refused() -> None:
    with pytest.raises(ScoreError, match="MIDI range"):
        transpose(Score("", [Note(0, 1, 120)]), 12)
