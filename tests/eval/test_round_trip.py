"""The round trip of real scores says what became of each, and neither a broken nor an endless one stops it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mllm.eval.round_trip import Piece, compare, pieces_in, spread, through, tunes
from mllm.score import Key, Note, Score, to_midi, to_musicxml

BOOK = "%abc\nX:1\nT:One\nM:4/4\nL:1/4\nK:G\nGABc|\n\nX:2\nT:Two\nM:3/4\nL:1/4\nK:D\nDEF|A3|\n"
NOTE = "<note><pitch><step>C</step><octave>4</octave></pitch><duration>1</duration></note>"


def musicxml(measures: int) -> str:
    inside = "".join(f'<measure number="{i}">{NOTE * 4}</measure>' for i in range(measures))
    inside = inside.replace('">', '"><attributes><divisions>1</divisions></attributes>', 1)
    return (
        '<?xml version="1.0"?><score-partwise><part-list><score-part id="P1"><part-name>t</part-name></score-part>'
        f'</part-list><part id="P1">{inside}</part></score-partwise>'
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of two tunes, a MIDI performance, MusicXML and kern; a file that is broken and one that takes minutes."""
    folder = tmp_path_factory.mktemp("scores")
    (folder / "book.abc").write_text(BOOK)
    played = [Note(i + 0.013 * (i % 3), 0.9, 60 + i) for i in range(8)]
    (folder / "played.mid").write_bytes(to_midi(Score("", sorted(played), tempo=100.0)))
    written = Score("", [Note(float(i), 1.0, 60 + i) for i in range(8)], Key("C"), (4, 4), 90.0)
    (folder / "written.musicxml").write_bytes(to_musicxml(written))
    (folder / "written.krn").write_text("**kern\n*M4/4\n=1\n4c\n4d\n4e\n4f\n==\n*-\n")
    (folder / "broken.xml").write_text(musicxml(1)[:-40])
    (folder / "endless.xml").write_text(musicxml(12_000))
    (folder / "notes.txt").write_text("no score")
    return folder


def run(folder: Path, report: Path, *more: str) -> tuple[str, list[dict[str, object]]]:
    command = [sys.executable, "-m", "mllm.eval.round_trip", str(folder), "--report", str(report), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [json.loads(line) for line in report.read_text().splitlines()]


def test_the_report_has_every_score_and_a_reason_for_each_failure(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    table, lines = run(folder, report, "--time-limit", "10")
    found = {(Path(str(line["file"])).name, line["target"]): line for line in lines}
    whole = ["book.abc#1 X:1", "book.abc#2 X:2", "played.mid", "written.krn", "written.musicxml"]
    for name in whole:
        for target in ("abc", "midi", "musicxml"):
            assert found[name, target]["status"] == "ok", found[name, target]
    broken, endless = found["broken.xml", "read"], found["endless.xml", "read"]
    assert broken["status"] == "unreadable by music21 too" and "malformed musicxml" in str(broken["reason"])
    assert endless["status"] == "too slow" and endless["reason"] == "more than 10 s"
    assert len(found) == len(lines) == 17
    assert "100.00%" in table and "1 too slow" in table and "1 unreadable by music21 too" in table

    # again: nothing is left to do; and what was cut off in the middle of a line is done again
    before = report.read_text()
    run(folder, report)
    assert report.read_text() == before
    report.write_text(before[: before.index('"book.abc') if '"book.abc' in before else 0] + '{"file": "half')
    _, lines = run(folder, report, "--format", "abc,midi", "--workers", "1")
    assert {Path(str(line["file"])).name for line in lines} >= {"book.abc#1 X:1", "book.abc#2 X:2", "played.mid"}


def test_tunes_of_a_book_are_told_apart(folder: Path) -> None:
    assert [tune.splitlines()[1] for tune in tunes(BOOK)] == ["T:One", "T:Two"]
    names = [Path(piece.path).name for piece in pieces_in([folder])]
    assert names == sorted(names) and names.count("book.abc") == 2 and "notes.txt" not in names
    assert len(spread(pieces_in([folder]), 3)) == 3 and len(spread(pieces_in([folder]), 100)) == 7


def test_what_is_lost_is_told() -> None:
    before = {(0.0, 1.0, 60), (1.0, 2.0, 62)}
    assert compare(before, set(before)) == ("ok", "", 0)
    assert compare(before, {(0.0, 1.0, 60)}) == ("lost notes", "1 of 2, first (1.0, 62)", 1)
    assert compare(before, {(0.0, 1.0, 60), (1.0, 1.5, 62)})[0] == "other lengths"
    assert compare(before, before | {(5.0, 6.0, 60)})[0] == "added notes"


def test_what_music21_reads_and_we_do_not_counts_against_us(tmp_path: Path) -> None:
    (tmp_path / "key.abc").write_text("X:1\nT:t\nM:4/4\nL:1/4\nK:Bn\nCDEF|\n")
    lines = list(through(Piece(str(tmp_path / "key.abc"), "abc", "1", 0)))
    assert [(line["target"], line["status"]) for line in lines] == [("read", "refused by us")]
    assert "is not a mode" in lines[0]["reason"]
