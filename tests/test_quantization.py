"""Played notes go to notated moments: as few and as near as can be, and none is lost."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mllm.cli import app
from mllm.score import (
    Key,
    Moved,
    Note,
    Score,
    ScoreError,
    quantize,
    read_abc,
    read_midi,
    read_notated,
    read_score,
    to_abc,
    to_midi,
    transpose,
)
from mllm.verification import verify

GRID = (4, 3, 8, 6, 12, 24)
FINEST = 1 / 24
TUNE = "X:1\nL:1/8\nM:4/4\nQ:1/4=100\nK:D\nDEFG A2 (3FED|G/F/E/D/ E2 A4|(3ABA G2 F2 E2|D8|]\n"

played_notes = st.lists(
    st.builds(
        Note,
        onset=st.integers(0, 16 * 480).map(lambda tick: tick / 480),
        duration=st.integers(1, 4 * 480).map(lambda ticks: ticks / 480),
        pitch=st.integers(30, 100),
        voice=st.integers(0, 2),
    ),
    min_size=1,
    max_size=40,
)


def performance(notes: list[Note], **fields: object) -> Score:
    voices = sorted({n.voice for n in notes})
    renamed = [replace(n, voice=voices.index(n.voice)) for n in notes]
    names = ["Flute", "Violin", "Cello"][: len(voices)]
    return replace(Score("", sorted(renamed), metre=(4, 4), tempo=120.0, instruments=names), **fields)


def late(score: Score, by: tuple[float, ...] = (0.03, 0.0, 0.02, 0.035, 0.01)) -> Score:
    """The same notes as a player plays them: each a little late and a little short."""
    notes = [replace(n, onset=n.onset + by[i % len(by)], duration=n.duration * 0.92) for i, n in enumerate(score.notes)]
    return replace(score, notes=sorted(notes))


def test_a_tune_played_a_little_late_is_the_tune_again() -> None:
    tune = read_abc(TUNE)
    heard, moved = quantize(read_midi(to_midi(late(tune))))
    assert [(n.onset, n.pitch) for n in heard.notes] == [(n.onset, n.pitch) for n in tune.notes]
    assert moved.notes == len(tune.notes)
    assert 0.015 < moved.mean < 0.025 and 0.03 < moved.largest < 0.037
    assert moved.mean_ms == pytest.approx(moved.mean * 600) and moved.largest_ms == pytest.approx(moved.largest * 600)
    assert moved.share == 0 and quantize(late(tune), limit=0.025)[1].share == pytest.approx(0.4, abs=0.05)


def test_what_was_written_stays_where_it_is() -> None:
    quintuplets = "X:1\nL:1/8\nM:4/4\nQ:1/4=100\nK:D\n(5:2:5DEFGA (7:2:7DEFGABc B4|D8|]\n"
    for text in (TUNE, quintuplets):
        tune = read_abc(text)
        staccato = replace(tune, notes=[replace(n, duration=n.duration * 0.97) for n in tune.notes])
        for score in (tune, staccato):
            heard, moved = quantize(read_midi(to_midi(score)))
            assert [n.pitch for n in heard.notes] == [n.pitch for n in tune.notes]
            assert max(abs(a.onset - b.onset) for a, b in zip(heard.notes, tune.notes, strict=True)) < 1e-9
            assert moved.largest < 1 / 480 and moved.share == 0
        assert max(abs(a.duration - b.duration) for a, b in zip(heard.notes, tune.notes, strict=True)) < 1e-9


def test_the_milliseconds_are_those_of_the_tempo_at_the_note() -> None:
    notes = [Note(0.0, 0.5, 60), Note(0.52, 0.5, 62), Note(8.03, 1.0, 64)]
    _, moved = quantize(performance(notes, tempo=60.0, tempos=((4.0, 120.0),)))
    assert moved.largest == pytest.approx(0.03) and moved.largest_ms == pytest.approx(20)  # 0.02 at 60 a minute


def test_it_says_what_the_file_does_not() -> None:
    notes = [Note(0.02, 1, 60)]
    said = {
        (tempo, metre): str(quantize(performance(notes, tempo=tempo, metre=metre))[1])
        for tempo in (90.0, None)
        for metre in ((4, 4), None)
    }
    assert "states no" not in said[90.0, (4, 4)]
    assert "the file states no tempo," in said[None, (4, 4)] and "the file states no metre," in said[90.0, None]
    assert "the file states no tempo and no metre," in said[None, None]
    assert "1 notes moved by 0.020 quarters (13 ms) on average" in said[90.0, (4, 4)]
    assert "are where they were" in str(quantize(performance([Note(1, 1, 60)]))[1])


def test_what_stands_at_a_note_moves_with_it() -> None:
    score = performance([Note(0.02, 1, 60), Note(4.03, 1, 62)], key=Key("D"))
    score = replace(score, keys=((4.03, Key("G")),), metres=((3.97, (3, 4)),), tempos=((0.01, 90.0), (4.03, 60.0)))
    heard, _ = quantize(score)
    assert [n.onset for n in heard.notes] == [0, 4]
    assert heard.keys == ((4.0, Key("G")),) and heard.metres == ((4.0, (3, 4)),)
    assert heard.tempo == 90.0 and heard.tempos == ((4.0, 60.0),)


@pytest.mark.parametrize("grid", [(), (0,), (-4,), (97,), (2.5,)])
def test_a_grid_that_is_none_is_refused(grid: tuple[int, ...]) -> None:
    with pytest.raises(ScoreError, match="divisions of a quarter are whole numbers"):
        quantize(performance([Note(0, 1, 60)]), grid)


@settings(deadline=None, max_examples=150)
@given(played_notes, st.sampled_from([GRID, (4, 3), (3,), (1,), (24,)]))
def test_no_note_vanishes_and_their_order_stays(notes: list[Note], grid: tuple[int, ...]) -> None:
    score = performance(notes)
    heard, moved = quantize(score, grid)
    assert sorted((n.voice, n.pitch) for n in heard.notes) == sorted((n.voice, n.pitch) for n in score.notes)
    # one map of moments takes every onset to its place, and never turns two round
    before, after = sorted({n.onset for n in score.notes}), sorted({n.onset for n in heard.notes})
    assert len(after) <= len(before)
    for voice, pitch in {(n.voice, n.pitch) for n in score.notes}:
        played = sorted(n.onset for n in score.notes if (n.voice, n.pitch) == (voice, pitch))
        placed = sorted(n.onset for n in heard.notes if (n.voice, n.pitch) == (voice, pitch))
        assert len(set(placed)) == len(set(played))  # the same note again is still heard again
    finest = 1 / max(*grid, 24)
    assert all(n.duration >= finest - 1e-9 for n in heard.notes)
    assert all(Fraction(n.onset).limit_denominator(100).denominator <= 24 for n in heard.notes)
    assert isinstance(moved, Moved) and 0 <= moved.mean <= moved.largest
    again, still = quantize(heard, grid)
    assert still.largest < 1e-9  # what is on the grid is written, and stays
    assert [n.duration for n in again.notes] == pytest.approx([n.duration for n in heard.notes], abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(played_notes)
def test_midi_to_abc_keeps_pitch_and_onset_within_the_grid(notes: list[Note]) -> None:
    score = performance([replace(n, voice=0) for n in notes])
    heard, moved = quantize(read_midi(to_midi(score)))
    back = read_abc(to_abc(heard))
    assert sorted((n.pitch, round(n.onset * 24)) for n in back.notes) == sorted(
        (n.pitch, round(n.onset * 24)) for n in heard.notes
    )
    played = sorted((n.pitch, n.onset) for n in read_midi(to_midi(score)).notes)
    written = sorted((n.pitch, n.onset) for n in back.notes)
    assert [pitch for pitch, _ in played] == [pitch for pitch, _ in written]
    assert max(abs(a - b) for (_, a), (_, b) in zip(played, written, strict=True)) <= moved.largest + 1e-6


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.builds(
            Note,
            onset=st.integers(0, 15).map(lambda k: k / 2),
            duration=st.integers(1, 8).map(lambda k: k / 2),
            pitch=st.integers(40, 90),
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda n: (n.onset, n.pitch),
    )
)
def test_abc_to_midi_and_back_keeps_pitch_and_onset(notes: list[Note]) -> None:
    written = read_abc(to_abc(performance(notes)))
    heard, moved = quantize(read_midi(to_midi(written)))
    assert sorted((n.pitch, n.onset) for n in heard.notes) == sorted((n.pitch, n.onset) for n in written.notes)
    assert moved.largest == 0


@settings(deadline=None, max_examples=150)
@given(played_notes, st.integers(-30, 27), st.sampled_from(["C", "F#", "Eb", "A", None]))
def test_there_and_back_again_is_the_same_score(notes: list[Note], semitones: int, tonic: str | None) -> None:
    score = performance(notes, key=Key.of(Key(tonic).pitch_class) if tonic else None, signature=None if tonic else 2)
    back = transpose(transpose(score, semitones), -semitones)
    assert replace(back, abc=None) == replace(score, abc=None)


def test_what_is_said_of_a_performance_is_of_its_notation(tmp_path: Path) -> None:
    early = [replace(n, onset=max(0.0, n.onset - 0.02)) for n in read_abc(TUNE).notes]
    played, tune = tmp_path / "played.mid", tmp_path / "tune.abc"
    played.write_bytes(to_midi(replace(read_abc(TUNE), notes=early)))
    tune.write_text(TUNE)
    score, moved = read_notated(played)
    assert moved is not None and 0.01 < moved.largest < 0.03 and read_notated(tune)[1] is None
    assert read_score(played).notes[1].onset == pytest.approx(0.48, abs=0.003)  # what sounds stays as it was played
    bars = [json.loads(CliRunner().invoke(app, ["score", "facts", "--bars", str(f)]).stdout) for f in (played, tune)]
    assert [bar["names"] for bar in bars[0]] == [bar["names"] for bar in bars[1]]
    told = CliRunner().invoke(app, ["score", "facts", str(played)])
    assert told.stderr.startswith("quantized: 21 notes moved by")
    assert CliRunner().invoke(app, ["score", "facts", str(tune)]).stderr == ""
    (verdict,) = verify("Bar 2 begins with a G4.", played)
    assert verdict.verdict == "verified" and "as played, quantized" in verdict.source
