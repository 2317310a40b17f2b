"""What is wrong with a tune is said with its place, and one pass of repair makes it whole or refuses."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import music21
import pytest
from grammar_walk import walk
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.abc_grammar import Part, tune_grammar
from mllm.abc_repair import repair_abc
from mllm.abc_validation import validate_abc
from mllm.score import Key, ScoreError, read_abc

HEAD = "X:1\nM:4/4\nL:1/8\nK:Dm\n"
WHOLE = [
    "C2 D2 E2 F2 | G4 A4 |]",
    "A2 | C2>D2 E2 F2 | z8 | G4 A2 |]",  # a pickup, and a last bar shorter by it
    '"Dm"(A2 [DF]2) {g}f2 .e2- | e8 |]',
    "|: C8 | D6 :| E2 | F8 |]",  # a bar in two parts around a repeat
    "(3CDE (3:2:3FGA c2 d2 | C8 |]",
    "V:1\nC8 | D8 |]\nV:2\nA,8 | A,4 D,4 |]",
    "!fermata!C8 | ~D8 || E8 |]",
]
BROKEN = [
    ("C2 D2 E2 F2 | G4 A3 |]", "line 5, bar 2: 7/2 quarters, not 4"),
    ("C8 | C9 | C8 |]", "line 5, bar 2: 9/2 quarters, not 4"),
    ("C8 |\nC8 | C4 | C8 |]", "line 6, bar 3: 2 quarters, not 4"),
    ("C8 | Hello C8 |]", "line 5: 'llo' is not notation"),
    ("C8 | [CE G8 |]", "line 5: '[' is not notation"),
    ('C8 | "Am C8 |]', "line 5: '\"m' is not notation"),
    ("C8 | c8 (3CD |]", "line 5, bar 2: (3 without so many notes"),
    ("C8- | D8 |]", "bar 1: a tie that leads to no note"),
    ("C8 | D8-|]", "bar 2: a tie that leads to no note"),
    ("(C8 | D8 |]", "a slur that is not closed"),
    ("C8 | D8", "bar 2: no bar line at the end"),
    ("> C7 | D8 |]", "bar 1: > without a note on both sides"),
    ("C8 | [M:3/4] D6 |]", "bar 2: [M:3/4] changes what the header says"),
    ("C8 |\nK:G\nD8 |]", "line 6: K:G changes what the header says"),
    ("V:1\nC8 | D8 |]\nV:2\nC8 |]", "voices of different length: 1 2, 2 1 bars"),
    ("V:1\nC8 | D8 |]\nV:2\nC8 | D7 |]", "line 8, voice 2, bar 2: 7/2 quarters"),
    ("z8 |]", "no notes"),
    ("The melody stays level.", "no notes"),
    ("C0 | C8 |]", "a note length of zero"),
]


@pytest.mark.parametrize("body", WHOLE)
def test_a_whole_tune_has_no_problem_and_needs_no_repair(body):
    text = HEAD + body + "\n"
    assert validate_abc(text, metre=(4, 4)) == []
    assert repair_abc(text) == text


@pytest.mark.parametrize(("body", "says"), BROKEN)
def test_problems_are_said_with_their_place(body, says):
    assert says in "\n".join(map(str, validate_abc(HEAD + body + "\n")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no notes"),
        ("hello there", "stands in the header"),
        ("M:4/4\nK:C\nC8|]", "no X: field"),
        ("X:1\nK:C\nC8|]", "no M: field"),
        ("X:1\nM:4/4\nC8|]", "no K: field"),
        ("X:1\nM:four\nK:C\nC8|]", "line 2: M:four is not a metre"),
        ("X:1\nM:none\nK:C\nC8|]", "M:none is not the metre that is wanted"),
        ("X:1\nM:4/4\nK:Q\nC8|]", "line 3: K:Q is not a key"),
    ],
)
def test_problems_of_the_header(text, says):
    assert says in "\n".join(map(str, validate_abc(text)))


def test_what_was_asked_for_is_looked_at():
    text = HEAD + "C4 c4 | D8 | E8 |]\n"
    assert validate_abc(text, metre=(4, 4), bars=3, lowest=60, highest=72) == []
    assert "3 bars, not 4" in str(*validate_abc(text, bars=4))
    assert "M:4/4 is not the metre that is wanted, 3/4" in "\n".join(map(str, validate_abc(text, metre=(3, 4))))
    assert "bar 1: a note below the range (MIDI 60, not under 61)" in str(*validate_abc(text, lowest=61))
    assert "bar 1: a note above the range (MIDI 72, not over 71)" in str(*validate_abc(text, highest=71))


@pytest.mark.parametrize(
    ("body", "mended"),
    [
        ("C2 D2 E2 F2 | G4 |]", "C2 D2 E2 F2 | G4 z4 |]"),
        ("C8 | C2 D2 E2 F4 | C8 |]", "C8 | C2 D2 E2 F2 | C8 |]"),
        ("C8 | C8 D8 | C8 |]", "C8 | C8 | C8 |]"),
        ("C8 | (3CDE (3FG | C8 |]", "C8 | (3CDE F G z4 | C8 |]"),
        ("C4 | C8 | C8", "z4 C4 | C8 | C8 |]"),
        ("C8- | D8- |]", "C8 | D8 |]"),
        ('"C"C8 | [CEG D7 |]', '"C"C8 | C E G D5 |]'),
        ("A tune for you, which is nice:\nC8 | D7 |]\nThat was the tune.", "C8 | D7 z |]"),
        ("|: C8 | D4 :|", "C8 | D4 z4 |]"),
    ],
)
def test_how_a_tune_is_mended(body, mended):
    assert repair_abc(HEAD + body + "\n") == HEAD + mended + "\n"


def test_repair_brings_bars_and_range_to_what_was_asked_for():
    text = HEAD + "c''4 C,4 | D8 | E8 |]\n"
    assert repair_abc(text, bars=2, lowest=60, highest=84) == HEAD + "c4 c4 | D8 |]\n"
    assert repair_abc(text, bars=4, lowest=36, highest=100) == HEAD + "c''4 C,4 | D8 | E8 | z8 |]\n"


def test_repair_gives_voices_the_same_length():
    mended = repair_abc(HEAD + "V:1\nC8 | D8 |]\nV:2\nA,8 |]\n")
    assert mended == HEAD + "V:1\nC8 | D8 |]\nV:2\nA,8 | z8 |]\n"


@pytest.mark.parametrize("text", ["", "hello", "The melody stays level.", HEAD, HEAD + "z8 | z8 |]\n"])
def test_nothing_is_made_of_what_holds_no_notes(text):
    with pytest.raises(ScoreError, match="no notes"):
        repair_abc(text)


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="CDEFGABcdefgabz248/|:]['-,^_=() (3\"><{}!MLKV:.~x\nHello", max_size=120),
    st.booleans(),
    st.none() | st.integers(1, 6),
)
def test_repair_makes_it_whole_or_refuses(body, header, bars):
    text = (HEAD if header else "") + body
    try:
        mended = repair_abc(text, bars=bars, lowest=40, highest=90)
    except ScoreError:
        return
    assert validate_abc(mended, bars=bars, lowest=40, highest=90) == []
    assert repair_abc(mended, bars=bars, lowest=40, highest=90) == mended
    assert read_abc(mended).notes


@pytest.mark.skipif(shutil.which("abc2midi") is None, reason="abc2midi is not installed (Debian: abcmidi)")
@pytest.mark.parametrize("seed", range(12))
def test_abc2midi_misses_a_note_in_the_same_bar(tmp_path, seed):
    body = walk(tune_grammar(Key("G"), (3, 4), 6, [Part(60, 79)]), seed)
    bars = re.split(r" \|\n| \| ", body)
    damaged = next(i for i, bar in enumerate(bars) if 0 < i < 5 and "-" not in bars[i - 1] + bar and " " in bar)
    bars[damaged] = re.sub(r" \S+$", "", bars[damaged])
    text = "X:1\nM:3/4\nL:1/8\nK:G\n" + " | ".join(bars) + "\n"
    assert [p.bar for p in validate_abc(text)] == [damaged + 1]
    (tmp_path / "tune.abc").write_text(text)
    command = ["abc2midi", str(tmp_path / "tune.abc"), "-o", str(tmp_path / "tune.mid")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"Bar (\d+) has", said) == [str(damaged)]  # it counts from 0
    assert validate_abc(repair_abc(text), bars=6) == []


def test_tunes_that_people_wrote_are_mostly_whole():
    """Aird's airs; where one has problems here, it has signs beyond ABC, or endings that do not add up."""
    file = Path(music21.__file__).parent / "corpus" / "airdsAirs" / "book1.abc"
    tunes = re.split(r"(?m)^(?=X:)", file.read_text(encoding="latin-1"))[1:51]
    problems = [validate_abc(tune) for tune in tunes]
    assert sum(not found for found in problems) >= 45
    for tune, found in zip(tunes, problems, strict=True):
        if found:
            mended = repair_abc(tune)
            assert validate_abc(mended) == []
            assert len(read_abc(mended).notes) > 20


@pytest.mark.parametrize("sign", ["(", '"', "{", "(3", "C", ".", "[C", "C-", "V:1\n", "C/"])
def test_long_nonsense_is_refused_or_mended_in_time(sign):
    begun = time.perf_counter()
    try:
        repair_abc(HEAD + sign * (20_000 // len(sign)))
    except ScoreError as error:
        assert len(str(error)) < 500
    assert time.perf_counter() - begun < 20
    with pytest.raises(ScoreError, match="too much for one tune"):
        repair_abc(HEAD + sign * 60_000)
