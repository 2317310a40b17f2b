"""Whatever is written inside of a tune's grammar is a whole tune, and what is none stays outside."""

import shutil
import subprocess
import time

import music21
import pytest
from grammar_walk import accepts, compiled, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.abc_grammar import Part, bar_sixteenths, names_of, scale_pitches, tune_grammar
from mllm.abc_harmony import chord_choices, harmony_grammar
from mllm.abc_validation import validate_abc
from mllm.score import Key, ScoreError, read_abc, sounding
from mllm.score_types import MODES

METRES = [(2, 4), (3, 4), (4, 4), (6, 8), (9, 8), (12, 8), (5, 8), (7, 8), (2, 2), (3, 2), (5, 4), (1, 4), (3, 8)]
TUNE = "X:1\nT:Up\nM:3/4\nL:1/8\nK:Dm\nA2 | d2 f2 a2 | g3 f e2 | d6 | c4 A2 |\nd2 f2 a2 | g3 f e2 | ^c4 c2 | d4 |]\n"
keys = st.builds(Key.of, st.integers(0, 11), st.sampled_from(list(MODES)))


def header(key, metre):
    return f"X:1\nM:{metre[0]}/{metre[1]}\nL:1/8\nK:{key.tonic}{key.mode}\n"


@settings(max_examples=60, deadline=None)
@given(
    key=keys,
    metre=st.sampled_from(METRES),
    bars=st.integers(1, 9),
    lowest=st.integers(24, 90),
    width=st.integers(7, 18),
    voices=st.integers(1, 3),
    pickup=st.sampled_from([0.0, 0.0, 0.25, 0.5]),
    chords=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_what_a_grammar_lets_through_is_whole(key, metre, bars, lowest, width, voices, pickup, chords, seed):
    if pickup > bar_sixteenths(metre) / 4 - 1:
        pickup = 0.0
    highest = min(lowest + width, 108)
    parts = [Part(lowest, highest, f"V:{i + 1}" if voices > 1 else "") for i in range(voices)]
    body = walk(tune_grammar(key, metre, bars, parts, pickup=pickup, chords=chords), seed)
    text = header(key, metre) + ("V:1\n" if voices > 1 else "") + body + "\n"
    assert validate_abc(text, metre=metre, bars=bars, lowest=lowest, highest=highest) == []
    score = read_abc(text)
    assert score.key == key and score.metre == metre
    assert len({n.voice for n in score.notes}) == voices or "z" in body
    assert body.endswith(" |]") and "|]" not in body[:-2].replace("|]\nV:", "")
    last = max((n for n in score.notes if n.voice == 0), key=lambda n: n.onset)
    scale = {p % 12 for p in scale_pitches(key, lowest, highest)}
    if key.pitch_class in scale:
        assert last.pitch % 12 == key.pitch_class


@pytest.mark.skipif(shutil.which("abc2midi") is None, reason="abc2midi is not installed (Debian: abcmidi)")
@pytest.mark.parametrize(("metre", "key"), zip(METRES[:9], map(Key, "CGDAEFDCB"), strict=True), ids=str)
def test_music21_and_abc2midi_count_full_bars_in_it(tmp_path, metre, key):
    body = walk(tune_grammar(key, metre, 6, [Part(57, 79)]), seed=5)
    text = header(key, metre) + body + "\n"
    (tmp_path / "tune.abc").write_text(text)
    command = ["abc2midi", str(tmp_path / "tune.abc"), "-o", str(tmp_path / "tune.mid")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Warning" not in said.stdout + said.stderr and "Error" not in said.stdout + said.stderr
    (part,) = music21.converter.parse(text, format="abc").parts
    lengths = {float(m.duration.quarterLength) for m in part.getElementsByClass("Measure")}
    assert lengths == {metre[0] * 4 / metre[1]}


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        ("G2 A2 | B2 d2 | (3gfe d2 | G4 |]", True),
        ("G2 A2- | A2 d2 | z4 | G4 |]", True),
        ("G2 A2- | A d3/ d/ d | z4 | G4 |]", False),  # a dotted eighth off the beat
        ("G2 A2- | A d d2 | z4 | G4 |]", True),
        ("G2 A2- | B2 d2 | z4 | G4 |]", False),  # a tie to another note
        ("G2 A | B2 d2 | z4 | G4 |]", False),  # too short
        ("G2 A3 | B2 d2 | z4 | G4 |]", False),  # too long
        ("G2 A2 | B2 d2 | G4 |]", False),  # three bars
        ("G2 A2 | B2 d2 | z4 | z4 | G4 |]", False),  # five
        ("G2 A2 | B2 d2 | z4 | A4 |]", False),  # does not close on the tonic
        ("G2 A2 | B2 d2 | z4 | G4 |] and", False),
        ("G2 A2 | B2 c'2 | z4 | G4 |]", False),  # above the range
        ("G2 A2 | B2 ^A2 | z4 | G4 |]", False),  # an accidental that is foreign to the mode
        ("G2 ^c2 | B2 =f2 | z4 | G4 |]", True),
        ("Here is a tune:", False),
    ],
)
def test_which_tunes_are_inside(body, whole):
    grammar = tune_grammar(Key("G"), (2, 4), 4, [Part(62, 79)])
    assert accepts(grammar, body) == whole


def test_no_accidental_leads_out_of_the_range_in_another_octave():
    wide, narrow = (tune_grammar(Key("A", "minor"), (2, 4), 2, [Part(55, top)]) for top in (68, 67))
    assert accepts(wide, "^G,2 E2 | A,4 |]")
    assert not accepts(narrow, "^G,2 E2 | A,4 |]")  # a plain G behind it would be G#4
    assert accepts(narrow, "G,2 E2 | A,4 |]")


def test_a_continuation_goes_on_behind_the_bars_that_are_given():
    part = Part(62, 81, given="D2 E2 | F4 | G4 | A4 |", bars_given=4)
    grammar = tune_grammar(Key("D"), (2, 4), 6, [part])
    assert accepts(grammar, "\nD2 E2 | D4 |]") and not accepts(grammar, "D2 E2 | D4 |]")
    assert accepts(tune_grammar(Key("D"), (2, 4), 3, [Part(62, 81, given="D4 |", bars_given=1)]), " D2 E2 | D4 |]")


def test_each_bar_of_a_variation_begins_with_its_anchor():
    grammar = tune_grammar(Key("D", "minor"), (3, 4), 4, [Part(60, 81, anchors=(74, None, 73))])
    for seed in range(8):
        bars = walk(grammar, seed).split(" | ")
        assert bars[0].startswith("d") and bars[2].startswith("^c")


def test_chords_are_free_and_the_melody_is_not():
    score = read_abc(TUNE)
    grammar, head = harmony_grammar(score)
    choices = chord_choices(score.key)
    for seed in range(8):
        made = read_abc(head + walk(grammar, seed) + "\n")
        assert sounding(made.notes) == sounding(score.notes)
        assert [c.onset for c in made.chords if (c.onset - 1) % 3 == 0] == [1.0 + 3 * i for i in range(8)]
        for chord in made.chords:
            heard = next(n.pitch % 12 for n in made.notes if n.onset <= chord.onset < n.onset + n.duration)
            assert heard in choices[chord.text]


def test_the_chords_of_a_key():
    major, minor = chord_choices(Key("C")), chord_choices(Key("A", "minor"))
    assert {"C", "Dm", "Em", "F", "G", "Am", "Bdim", "G7", "A7", "B7", "C7", "D7", "E7"} == set(major)
    assert major["G7"] == {7, 11, 2, 5} and major["Bdim"] == {11, 2, 5}
    assert {"Am", "C", "Dm", "E7"} <= set(minor) and minor["E7"] == {4, 8, 11, 2}


@given(key=keys)
@settings(max_examples=30, deadline=None)
def test_names_are_read_as_the_pitches_they_stand_for(key):
    pitches = scale_pitches(key, 40, 90, chromatic=True)
    text = f"X:1\nM:1/4\nL:1/4\nK:{key.tonic}{key.mode}\n" + "|".join(names_of(key, pitches)) + "|]\n"
    assert tuple(n.pitch for n in read_abc(text).notes) == pitches


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"bars": 0}, "0 bars: possible are 1 to 64"),
        ({"bars": 65}, "possible are 1 to 64"),
        ({"metre": (0, 4)}, "metre 0/4"),
        ({"metre": (4, 0)}, "metre 4/0"),
        ({"metre": (4, 3)}, "metre 4/3"),
        ({"metre": (99, 4)}, "metre 99/4"),
        ({"parts": [Part(60, 66)]}, "range C4 to F#4: possible is a fifth"),
        ({"parts": [Part(72, 60)]}, "range C5 to C4"),
        ({"parts": [Part(-5, 300)]}, "range -5 to 300"),
        ({"parts": []}, "0 voices: possible are 1 to 4"),
        ({"parts": [Part(60, 79)] * 5}, "5 voices"),
        ({"pickup": 4.0}, "a pickup of 4 quarters"),
        ({"pickup": 0.1}, "moves in sixteenths"),
        ({"parts": [Part(60, 79, given="C8 |", bars_given=8)]}, "of which 8 are given"),
    ],
)
def test_what_cannot_be_written_is_said(changed, says):
    asked = {"key": Key("C"), "metre": (4, 4), "bars": 8, "parts": [Part(60, 79)]} | changed
    with pytest.raises(ScoreError, match=says):
        tune_grammar(**asked)


def test_the_largest_grammar_is_made_and_compiled_at_once():
    parts = [Part(24, 108, f"V:{i}") for i in range(1, 5)]
    begun = time.perf_counter()
    compiled(tune_grammar(Key("Gb"), (4, 2), 64, parts, pickup=0.25, chords=True))
    assert time.perf_counter() - begun < 5  # 0.1 s on an idle machine
