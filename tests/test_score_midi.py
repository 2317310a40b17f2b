"""What MIDI can and cannot say: drums, channels, metres, tempi."""

import os
from pathlib import Path

import numpy as np
import pytest
import symusic
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.score import DRUMS, Key, Note, Score, ScoreError, facts, read_midi, to_midi, transpose
from mllm.score_types import ChordSymbol, Grace, Lyric
from mllm.synthesis import render

NAMES = ["Piano", "Flute", "Violin", "Trumpet", "Oboe", "Clarinet", "Bassoon", "Cello", "Harp", "Tuba"]
NAMES += ["Trombone", "Viola", "Celesta", "Marimba", "Piccolo", "Xylophone"]


def scored(names: list[str]) -> Score:
    """A quarter for each voice in turn, four quarters apart."""
    return Score("", [Note(4 * i, 1, 60, i) for i in range(len(names))], Key("C"), (4, 4), 120.0, instruments=names)


def test_drums_have_no_pitch_and_are_not_transposed() -> None:
    score = Score("", [Note(0, 1, 36, 1), Note(0, 1, 60, 0)], Key("C"), (4, 4), instruments=["Flute", DRUMS])
    assert facts(score)["lowest"] == "C4" and facts(score)["notes"] == 1
    assert sorted(n.pitch for n in transpose(score, 2).notes) == [36, 62]
    assert read_midi(to_midi(score)).instruments == ["Flute", DRUMS]


@pytest.mark.parametrize("voices", [1, 15, 16, 40])
def test_every_voice_sounds_as_its_instrument_however_many_there_are(voices: int) -> None:
    alone = render(to_midi(scored(["Piano"])))[:24_000].mean(1)  # half a second: the first note
    names = ["Piano", *(NAMES[i % 15] for i in range(1, voices))]
    among = render(to_midi(scored(names)))[:24_000].mean(1)
    assert np.corrcoef(alone, among)[0, 1] > 0.99


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mid"
    assert to_midi(scored(["Piano"]), file) == file.read_bytes()
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        to_midi(scored(["Flute", "Oboe"]), file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_more_instruments_than_channels_are_refused() -> None:
    with pytest.raises(ScoreError, match="16 different instruments"):
        to_midi(scored(NAMES), programs=range(16))


@pytest.mark.parametrize("metre", [(4, 256), (300, 8), (4, 3), (4, 999)])
def test_a_metre_that_midi_cannot_say_is_left_out(metre: tuple[int, int]) -> None:
    assert read_midi(to_midi(Score("", [Note(0, 1, 60)], metre=metre))).metre != metre


def test_a_tempo_that_midi_cannot_say_is_refused() -> None:
    with pytest.raises(ScoreError, match="a tempo of 1 quarters a minute"):
        to_midi(Score("", [Note(0, 1, 60)], tempo=1.0))
    assert read_midi(to_midi(Score("", [Note(0, 1, 60)], tempo=4.0))).tempo == pytest.approx(4.0, rel=1e-3)
    with pytest.raises(ScoreError, match="a tempo of 3000 quarters a minute"):
        to_midi(Score("", [Note(0, 1, 60)], tempo=100.0, tempos=((1.0, 3000.0),)))


def test_changes_stand_where_they_stood() -> None:
    score = Score("", [Note(4 * i, 4, 60) for i in range(8)], Key("D"), (4, 4), 100.0, instruments=["Flute"])
    score.keys = ((8.0, Key("B", "minor")), (16.0, Key("G")))
    score.metres = ((8.0, (3, 4)), (14.0, (6, 8)), (26.0, (4, 4)))
    score.tempos = ((4.0, 60.0), (10.5, 132.5))
    back = read_midi(to_midi(score))
    assert (back.key, back.keys) == (score.key, score.keys)
    assert (back.metre, back.metres) == (score.metre, score.metres)
    assert (back.tempo, back.tempos) == (score.tempo, score.tempos)
    assert back.changes == {"key", "metre", "tempo"}
    assert read_midi(to_midi(score, tempo=90.0)).tempos == ()


def test_a_pickup_and_a_change_of_metre_are_told_apart() -> None:
    score = Score("", [Note(i, 1, 60) for i in range(12)], metre=(4, 4), pickup=1.0, metres=((9.0, (3, 4)),))
    back = read_midi(to_midi(score))
    assert (back.pickup, back.metre, back.metres) == (1.0, (4, 4), ((9.0, (3, 4)),))


def test_a_signature_without_a_mode_is_written_as_the_major_key() -> None:
    score = Score("", [Note(0, 8, 60)], signature=-2, keys=((4.0, 3),))
    back = read_midi(to_midi(score))
    assert back.key == Key("Bb") and back.keys == ((4.0, Key("A")),)


def test_what_the_file_does_not_say_at_the_start_is_none() -> None:
    midi = symusic.Score(480)
    midi.tracks.append(symusic.Track("", 0, False))
    midi.tracks[0].notes.append(symusic.Note(0, 480 * 8, 60, 80))
    midi.time_signatures.append(symusic.TimeSignature(480 * 4, 3, 4))
    midi.tempos.append(symusic.Tempo(480 * 2, qpm=75.0))
    score = read_midi(midi.dumps_midi())
    assert (score.metre, score.metres) == (None, ((4.0, (3, 4)),))
    assert (score.tempo, score.tempos) == (None, ((2.0, 75.0),))
    midi.tracks[0].notes[0].time = 480 * 4  # no note sounds before: what is said there holds from the start
    score = read_midi(midi.dumps_midi())
    assert score.metre == (3, 4) and score.tempo == 75.0 and not score.changes


def test_of_two_at_one_moment_the_last_holds_and_repetitions_are_no_changes() -> None:
    midi = symusic.Score(480)
    midi.tracks.append(symusic.Track("", 0, False))
    midi.tracks[0].notes.append(symusic.Note(0, 480 * 8, 60, 80))
    for tick, numerator in ((0, 4), (960, 4), (1920, 3), (1920, 2), (3840, 2)):
        midi.time_signatures.append(symusic.TimeSignature(tick, numerator, 4))
    score = read_midi(midi.dumps_midi())
    assert score.metre == (4, 4) and score.metres == ((4.0, (2, 4)),)


@pytest.mark.parametrize("names", [["Flute"], ["Flute", "Violin"], ["Flute", "Flute"], ["", ""], [DRUMS, "Flute"]])
def test_lyrics_come_back_under_their_voice(names: list[str]) -> None:
    notes = [Note(float(i), 1, 60 + 5 * v, v) for v in range(len(names)) for i in range(3)]
    words = [Lyric(float(i), text, v, 1) for v in range(len(names)) for i, text in enumerate(["Hap-", "py", "füß"])]
    words += [Lyric(1.0, "second verse", 0, 2)]
    score = Score("", sorted(notes), instruments=names, lyrics=tuple(sorted(words)))
    back = read_midi(to_midi(score))
    assert back.lyrics == score.lyrics and len(back.notes) == len(notes)


def test_the_words_of_a_track_without_notes_go_to_the_voice_that_sings_them() -> None:
    midi = symusic.Score(480)
    for name, ticks in (("Piano", (0, 100, 200)), ("Tune", (0, 480, 960)), ("Words", ())):
        track = symusic.Track(name, 0, False)
        for tick in ticks:
            track.notes.append(symusic.Note(tick, 90, 60, 80))
        midi.tracks.append(track)
    for tick, text in ((0, "la"), (480, "li"), (960, "lu"), (960, " \r")):
        midi.tracks[2].lyrics.append(symusic.TextMeta(tick, text))
    score = read_midi(midi.dumps_midi())
    assert [(w.text, w.voice) for w in score.lyrics] == [("la", 1), ("li", 1), ("lu", 1)]


def test_a_note_that_is_struck_while_it_is_held_comes_back_whole() -> None:
    notes = [Note(0.0, 4.0, 60), Note(0.0, 0.5, 60), Note(1.0, 0.5, 60), Note(2.0, 3.0, 60), Note(4.0, 1.0, 60)]
    notes += [Note(0.0, 1.0, 64), Note(0.0, 1.0, 64)]
    score = Score("", sorted(notes), instruments=["Violin"], lyrics=(Lyric(0.0, "ah"), Lyric(4.0, "oh")))
    back = read_midi(to_midi(score))
    assert sorted((n.onset, n.duration, n.pitch) for n in back.notes) == sorted(
        (n.onset, n.duration, n.pitch) for n in notes
    )
    assert set(back.instruments) == {"Violin"} and [word.text for word in back.lyrics] == ["ah", "oh"]
    assert read_midi(to_midi(Score("", sorted(notes)[:1] * 2, instruments=["Violin"]))).instruments == ["Violin"]


def test_grace_notes_and_chord_symbols_are_left_out() -> None:
    plain = Score("", [Note(0, 1, 60), Note(1, 1, 62)], Key("C"), (4, 4), 100.0)
    rich = Score("", [Note(0, 1, 60), Note(1, 1, 62)], Key("C"), (4, 4), 100.0)
    rich.chords, rich.graces = (ChordSymbol(0.0, "Am7"),), (Grace(1.0, 0, 0, 64),)
    assert to_midi(rich) == to_midi(plain)


def changing(values: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [one for one, before in zip(values, [(0, 99), *values], strict=False) if one[1] != before[1]]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(20, 400)), max_size=6, unique_by=lambda t: t[0]),
    st.lists(st.tuples(st.integers(1, 30), st.integers(-7, 7)), max_size=6, unique_by=lambda t: t[0]),
)
def test_any_changes_of_tempo_and_key_come_back(tempos: list[tuple[int, int]], keys: list[tuple[int, int]]) -> None:
    score = Score("", [Note(0, 32, 60)], Key("C", "minor"), tempo=10.0)
    score.tempos = tuple((float(t), float(q)) for t, q in changing(sorted(tempos)))
    score.keys = tuple((float(t), Key.from_signature(k)) for t, k in changing(sorted(keys)))
    back = read_midi(to_midi(score))
    assert back.keys == score.keys and back.key == score.key
    assert [t for t, _ in back.tempos] == [t for t, _ in score.tempos]
    assert [q for _, q in back.tempos] == pytest.approx([q for _, q in score.tempos], rel=1e-4)
