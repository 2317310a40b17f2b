"""What is written as MusicXML holds every note, for us and for music21 itself."""

from __future__ import annotations

import random
from pathlib import Path

import music21
import pytest
from hypothesis import given, settings
from test_score import scores
from typer.testing import CliRunner

from mllm.cli import app
from mllm.music21_reading import read_with_music21
from mllm.score import DRUMS, Key, Note, Score, read_abc, read_score, sounding, to_musicxml

PICKUP = "X:1\nT:Réel\nM:3/4\nL:1/8\nQ:1/4=96\nK:Ebdor\nD2|G2 (3ABc d2|_e=e f3 g|[Gd]4-[Gd]2|z2 G4|]\n"


@settings(max_examples=60, deadline=None)
@given(scores)
def test_music21_finds_every_note_where_it_stands(score: Score) -> None:
    piece = music21.converter.parseData(to_musicxml(score).decode(), format="musicxml")
    found = []
    for element in piece.flatten().notes:
        for one in element.notes if isinstance(element, music21.chord.Chord) else [element]:
            if one.tie is None or one.tie.type == "start":
                found.append((round(float(element.offset) * 12), one.pitch.midi))
    # the same note twice at once, of one length, is written as two
    assert sorted(found) == sorted((round(n.onset * 12), n.pitch) for n in score.notes)


def thick(seed: int) -> Score:
    """Voices whose notes overlap, often of one pitch, over many bar lines."""
    draw = random.Random(seed)
    notes = [
        Note(draw.randrange(700) / 12, draw.randint(1, 60) / 12, draw.randint(55, 66), v)
        for v in (0, 1)
        for _ in range(80)
    ]
    return Score("Thick", sorted(notes), Key("F#", "minor"), (7, 8), 93.0, instruments=["Violin", ""])


# a turn of 64ths of a quarter, as a quartet of Beethoven's has one written
TURN = Score(
    "Turn", [Note(0, 7 / 64, 80), Note(7 / 64, 9 / 64, 78), Note(0.25, 0.75, 80)], Key("E"), (4, 4), 60.0,
    instruments=["Violin"],
)  # fmt: skip


@pytest.mark.parametrize("score", [thick(1), thick(2), TURN], ids=["thick", "thicker", "turn"])
def test_what_is_written_is_read_again(tmp_path: Path, score: Score) -> None:
    (tmp_path / "a.musicxml").write_bytes(to_musicxml(score))
    again = read_score(tmp_path / "a.musicxml")
    assert sounding(again.notes) == sounding(score.notes)
    for name in ("title", "key", "metre", "tempo", "pickup", "instruments"):
        assert getattr(again, name) == getattr(score, name)


def test_pickup_ties_tuplets_and_drums_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "tune.abc").write_text(PICKUP)
    done = CliRunner().invoke(app, ["score", "convert", str(tmp_path / "tune.abc"), str(tmp_path / "tune.musicxml")])
    assert done.exit_code == 0, done.output
    score, again = (read_score(tmp_path / name) for name in ("tune.abc", "tune.musicxml"))
    assert sounding(again.notes) == sounding(score.notes) and again.pickup == score.pickup == 1.0
    assert (again.title, again.key, again.metre, again.tempo) == ("Réel", Key("Eb", "dorian"), (3, 4), 96.0)
    beat = Score("", [Note(i / 2, 0.5, 36 + 2 * (i % 2), 0) for i in range(8)], metre=(4, 4), instruments=[DRUMS])
    (tmp_path / "beat.musicxml").write_bytes(to_musicxml(beat))
    again = read_score(tmp_path / "beat.musicxml")
    assert sounding(again.notes) == sounding(beat.notes) and again.instruments == [DRUMS] and not again.title


def test_what_was_played_is_written_on_note_values_near_by() -> None:
    draw = random.Random(5)
    times = sorted(draw.randrange(480 * 16) / 480 for _ in range(40))
    score = Score("", [Note(t, draw.randint(30, 900) / 480, draw.randint(50, 80)) for t in times], metre=(4, 4))
    again = read_with_music21(to_musicxml(score).decode(), "musicxml")
    assert sorted(n.pitch for n in again.notes) == sorted(n.pitch for n in score.notes)
    assert max(abs(a.onset - b.onset) for a, b in zip(again.notes, score.notes, strict=True)) <= 0.25


def test_clef_beams_and_the_last_bar_line_are_written() -> None:
    low = to_musicxml(Score(notes=[Note(i / 2, 0.5, 40) for i in range(8)], metre=(4, 4)))
    assert b"<sign>F</sign>" in low and b"<beam" in low and b"light-heavy" in low


def test_an_ending_whose_start_is_not_marked_is_a_first_one() -> None:
    written = to_musicxml(read_abc("X:1\nM:4/4\nL:1/1\nK:C\n|:C|1D:|2E|]\n")).decode()
    score = read_with_music21(written.replace('<ending number="1" type="start" />', ""), "musicxml")
    assert score.repeats == ((0.0, "|:"), (4.0, "[1"), (8.0, ":|"), (8.0, "[2"))
