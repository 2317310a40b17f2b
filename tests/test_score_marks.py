"""What stands beside the notes of a score: chord symbols, words, grace notes, repeats, changes on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mllm.chord_symbols import is_chord_symbol, move_chord_symbol
from mllm.music21_reading import read_with_music21
from mllm.score import Key, Note, Score, read_abc, read_score, sounding, to_abc, to_musicxml, transpose
from mllm.score_repeats import unfold
from mllm.score_types import ChordSymbol, Grace, Lyric

MARKS = ("keys", "metres", "tempos", "repeats", "chords", "lyrics", "graces")
SONG = """X:1
T:A Song
M:4/4
L:1/4
Q:1/4=90
K:G
|:"G"G {ab}B "D7/F#"d>c|"C"e2 {^c}"Am7"d2|1 "G"G4:|2 [Q:1/4=60]G4|
w:Hap-py are we~two,|on this|day.|end.
w:Sad are they all|_ now,|night.|all.
[M:3/4][K:Em]"Em"EFG|(3ABc d "B7"B|E3|]
"""
WHOLE = ("C", "D7/F#", "Bbmaj7", "F#m", "Am7", "Gsus4", "Edim", "Gmmaj7", "Em7b5", "C7b9", "Bb-7")


@st.composite
def songs(draw: st.DrawFn) -> Score:
    """Bars of quarters in one or two voices, with everything that a score may hold beside its notes."""
    bars = draw(st.integers(2, 5))
    lengths = [draw(st.sampled_from([3, 4])) for _ in range(bars)]
    lines = [sum(lengths[:i]) for i in range(bars + 1)]
    voices = draw(st.integers(1, 2))
    pitch = st.integers(55, 80)
    notes = [Note(float(t), 1.0, draw(pitch), v) for v in range(voices) for t in range(lines[-1])]
    moments = st.integers(0, lines[-1] - 1).map(float)
    later = st.sampled_from(lines[1:-1])
    key = draw(st.sampled_from([Key("C"), Key("F#", "minor"), Key("Eb"), Key("D", "dorian")]))
    new = draw(st.sampled_from([Key("A"), Key("Bb", "minor"), Key("A", "minor")]))
    moment = draw(later)
    keys = [(float(moment), new)] + [(float(t), key) for t in lines[1:-1] if t > moment][:1]  # there, and back again
    changes = [(float(line), (size, 4)) for line, size, last in zip(lines[1:], lengths[1:], lengths, strict=False)
               if size != last]  # fmt: skip
    words = st.sampled_from(["la", "Hap-", "day", "o-", "it's"])
    first, last = sorted(draw(st.lists(st.sampled_from(lines), min_size=2, max_size=2, unique=True)))
    marks = [(float(first), "|:"), (float(last), ":|")] if draw(st.booleans()) else []
    graces = {(draw(moments), draw(st.integers(0, voices - 1))) for _ in range(draw(st.integers(0, 3)))}
    lyrics = {(draw(moments), draw(st.integers(0, voices - 1)), 1): draw(words) for _ in range(4)}
    return Score(
        "Song", sorted(notes), key, (lengths[0], 4), 100.0, instruments=["Flute", "Cello"][:voices],
        bars=tuple(map(float, lines[1:])), keys=tuple(keys), metres=tuple(changes),
        tempos=((float(draw(later)), 60.0),), repeats=tuple(marks),
        chords=tuple(sorted({ChordSymbol(draw(moments), draw(st.sampled_from(WHOLE))) for _ in range(2)})),
        lyrics=tuple(sorted(Lyric(t, text, v, verse) for (t, v, verse), text in lyrics.items())),
        graces=tuple(sorted(Grace(t, v, place, draw(pitch)) for t, v in graces for place in range(2))),
    )  # fmt: skip


def one_chord_a_moment(score: Score) -> bool:
    return len({chord.onset for chord in score.chords}) == len(score.chords)


@settings(max_examples=60, deadline=None)
@given(songs().filter(one_chord_a_moment))
def test_abc_keeps_all_of_it(score: Score) -> None:
    again = read_abc(to_abc(score))
    assert sounding(again.notes) == sounding(score.notes)
    for name in MARKS:
        assert getattr(again, name) == getattr(score, name), name


@settings(max_examples=30, deadline=None, phases=(Phase.explicit, Phase.generate))  # music21 is slow to shrink
@given(songs().filter(one_chord_a_moment))
def test_musicxml_keeps_all_of_it(score: Score) -> None:
    again = read_with_music21(to_musicxml(score).decode(), "musicxml")
    assert sounding(again.notes) == sounding(score.notes)
    for name in MARKS:
        assert getattr(again, name) == getattr(score, name), name


@settings(max_examples=60, deadline=None)
@given(songs(), st.integers(-12, 12))
def test_transposed_up_and_down_again_all_of_it_is_the_same(score: Score, semitones: int) -> None:
    back = transpose(transpose(score, semitones), -semitones)
    assert [getattr(back, name) for name in MARKS] == [getattr(score, name) for name in MARKS]


@settings(max_examples=60, deadline=None)
@given(songs())
def test_what_is_repeated_sounds_twice(score: Score) -> None:
    played = unfold(score)
    assert not played.repeats and unfold(played) == played
    start, end = (m for m, _ in score.repeats) if score.repeats else (0.0, 0.0)
    twice = [n for n in score.notes if start <= n.onset < end]
    assert len(played.notes) == len(score.notes) + len(twice) and played.length == score.length + end - start
    for note in played.notes:  # each sounds in the key in force where it is written
        written = note.onset if note.onset < end else note.onset - (end - start)
        assert played.key_at(note.onset) == score.key_at(written)
        assert played.metre_at(note.onset) == score.metre_at(written)


def test_a_song_is_read_with_its_words_chords_and_graces() -> None:
    song = read_abc(SONG)
    assert [(c.onset, c.text) for c in song.chords] == [
        (0, "G"), (2, "D7/F#"), (4, "C"), (6, "Am7"), (8, "G"), (16, "Em"), (22, "B7"),
    ]  # fmt: skip
    first = [(w.onset, w.text) for w in song.lyrics if w.verse == 1]
    bar = [(0, "Hap-"), (1, "py"), (2, "are"), (3.5, "we two,")]
    assert first == [*bar, (4, "on"), (6, "this"), (8, "day."), (12, "end.")]
    second = [(w.onset, w.text) for w in song.lyrics if w.verse == 2]
    assert second[3:] == [(3.5, "all"), (6, "now,"), (8, "night."), (12, "all.")]
    assert [(g.onset, g.pitch, g.place) for g in song.graces] == [(1, 81, 0), (1, 83, 1), (6, 73, 0)]
    assert song.repeats == ((0, "|:"), (8, "[1"), (12, ":|"), (12, "[2"))
    assert (song.keys, song.metres, song.tempos) == (((16, Key("E", "minor")),), ((16, (3, 4)),), ((12, 60),))
    played = unfold(song)
    assert [c.text for c in played.chords] == ["G", "D7/F#", "C", "Am7", "G", "G", "D7/F#", "C", "Am7", "Em", "B7"]
    assert played.tempos == ((20, 60),) and played.keys == ((24, Key("E", "minor")),)


def test_the_next_time_through_goes_back_to_the_first_key() -> None:
    played = unfold(read_abc("X:1\nM:4/4\nL:1/4\nQ:1/4=80\nK:C\n|:CDEF|[K:D][Q:1/4=99]DEFG:|\n"))
    assert played.keys == ((4, Key("D")), (8, Key("C")), (12, Key("D")))
    assert played.tempos == ((4, 99), (8, 80), (12, 99))


def test_an_ending_may_open_a_line() -> None:
    score = read_abc("X:1\nL:1/4\nK:C\n|:CD|\n1 EF:|\n2 GA|]\n")
    assert score.repeats == ((0, "|:"), (2, "[1"), (4, ":|"), (4, "[2"))


@pytest.mark.parametrize(
    ("text", "chord"),
    [("Am7", True), ("F#m7b5", True), ("Bb/D", True), ("(G)", True), ("Cmaj7#11", True), ("C°", True), ("Gsus4", True),
     ("Fine", False), ("D.C. al Fine", False), ("Coda", False), ("2.", False), ("", False), ("A" * 40, False),
     ("Allegro", False), ("Andante", False), ("Dolce", False)],
)  # fmt: skip
def test_what_names_a_chord(text: str, chord: bool) -> None:
    assert is_chord_symbol(text) is chord


def test_no_chord_and_a_chord_behind_the_last_note_survive() -> None:
    score = read_abc('X:1\nM:4/4\nL:1/4\nK:C\n"C"C4|"N.C."C2"NC"C2"G"|]\n')
    chords = [(0.0, "C"), (4.0, "N.C."), (6.0, "N.C."), (8.0, "G")]
    for again in (score, read_abc(to_abc(score)), read_with_music21(to_musicxml(score).decode(), "musicxml")):
        assert [(c.onset, c.text) for c in again.chords] == chords
    assert [c.text for c in transpose(score, 2).chords] == ["D", "N.C.", "N.C.", "A"]


def test_chord_symbols_move_along_the_line_of_fifths() -> None:
    assert move_chord_symbol("Am7/G", 2) == "Bm7/A"
    assert move_chord_symbol("Bbmaj7", -3) == "Dbmaj7" and move_chord_symbol("Am/c", 1) == "Em/G"
    assert move_chord_symbol("C" + "maj" * 30 + "!", 2) == "C" + "maj" * 30 + "!"  # at once
    song = transpose(read_abc(SONG), 3)
    assert [c.text for c in song.chords] == ["Bb", "F7/A", "Eb", "Cm7", "Bb", "Gm", "D7"]


def test_words_that_abc_cannot_hold_do_not_shift_the_others(tmp_path: Path) -> None:
    words = tuple(Lyric(float(i), text) for i, text in enumerate(["a*b", "two words", "semi-final", "100%", "x_|y"]))
    score = Score("", [Note(float(i), 1.0, 60) for i in range(5)], Key("C"), (5, 4), lyrics=words)
    (tmp_path / "a.abc").write_text(to_abc(score))
    again = read_score(tmp_path / "a.abc")
    assert [w.onset for w in again.lyrics] == [0, 1, 2, 3, 4]
    assert again.lyrics[1].text == "two words"


def test_repeats_of_any_format_are_played_out(tmp_path: Path) -> None:
    (tmp_path / "a.musicxml").write_bytes(to_musicxml(read_abc(SONG)))
    played = read_score(tmp_path / "a.musicxml", unfold=True)
    assert sounding(played.notes) == sounding(read_abc(SONG, unfold=True).notes)


@pytest.mark.parametrize(
    ("body", "sounds"),
    [
        ("|:CD|1 E:|2 F:|3 G|]", "CDE CDF CDG"),
        ("|:CD|1,2 E:|3 F|]", "CDE CDE CDF"),
        ("|:C|1-2 D:|3 E|:F:|", "CD CD CE FF"),
        ("|:C|1 D:|2 E:|F|]", "CD CE F"),
        ("|:C|1 D:|F|]", "CDC F"),
        ("C:|:D:|E|", "CC DD E"),
    ],
)
def test_endings_are_played_as_often_as_they_say(body: str, sounds: str) -> None:
    head = "X:1\nM:none\nL:1/4\nK:C\n"
    score = read_abc(head + body)
    assert [n.pitch for n in unfold(score).notes] == [n.pitch for n in read_abc(head + sounds).notes]
    again = read_with_music21(to_musicxml(score).decode(), "musicxml")
    assert unfold(again).notes == unfold(score).notes and read_abc(to_abc(score)).repeats == score.repeats


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["|:", ":|", "|", "[1", "[2", "[1,2", "[3", "|1", "::"]), max_size=12))
def test_in_any_order_of_marks_every_note_is_played(marks: list[str]) -> None:
    score = read_abc("X:1\nM:none\nL:1/4\nK:C\n" + "CD" + "".join(f"{mark} CD" for mark in marks) + "E\n")
    played = unfold(score)
    assert played.notes[0].pitch == 60
    assert {n.pitch for n in played.notes} == {n.pitch for n in score.notes}


def test_a_key_change_within_a_bar_says_its_accidentals() -> None:
    written = to_musicxml(read_abc("X:1\nM:4/4\nL:1/4\nK:G\nfg[K:A]cg|=g f g ^g|[K:Eb]e =e e2|\n")).decode()
    shown = [s.count("<accidental>") and s.split("<accidental>")[1].split("<")[0] for s in written.split("<note>")[1:]]
    assert shown == [0, 0, 0, 0, "natural", 0, 0, "sharp", 0, "natural", 0]


def test_a_first_tempo_that_comes_later_stays_there() -> None:
    score = read_abc("X:1\nM:4/4\nL:1/4\nK:C\nCDEF|[Q:1/4=80]GABc|\n")
    again = read_with_music21(to_musicxml(score).decode(), "musicxml")
    assert again.tempo is None and again.tempos == score.tempos == ((4.0, 80.0),)


def test_a_book_has_a_header_and_words_between_its_tunes(tmp_path: Path) -> None:
    book = tmp_path / "book.abc"
    book.write_text(
        "L:1/4\nM:3/4\n\nX:1\nT:50\\% off\nK:C\nCDE|\n\nA word, or two: this is no music.\n\nX:2\nK:G\nGAB|\n"
    )
    first, second = (read_score(book, number=n) for n in (1, 2))
    assert first.metre == second.metre == (3, 4) and len(first.notes) == len(second.notes) == 3
    assert first.title == "50% off" == read_abc(to_abc(first)).title and first.length == 3.0
