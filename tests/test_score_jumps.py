"""D.C., D.S., Fine and Coda are read, written and played out."""

from __future__ import annotations

import pytest

from mllm.music21_reading import read_with_music21
from mllm.score import Score, read_abc, read_score, to_abc, to_musicxml
from mllm.score_form import form

LETTERS = {60: "C", 62: "D", 64: "E", 65: "F", 67: "G", 69: "A"}
WAYS = [  # a bar a letter, and the bars in the order of their playing
    ("C|D!fine!|E|F!D.C.!|]", "CDEFCD"),
    ('C|D "Fine"|E|F "^D.C. al Fine"|]', "CDEFCD"),
    ("|:C|1D:|2E|]!segno!F|G!D.S.!|A|]", "CDCEFGFGA"),
    ("C|SD|E!coda!|F!D.S.alcoda!|!coda!G|A|]", "CDEFDEGA"),
    ("|:C|D!fine!:||:E|F!D.C.alfine!:|", "CDCDEFEFCD"),
    ("|:C|1D:|2E!fine!|]F!dacapo!|]", "CDCEFCE"),
    ("C|D!D.C.!|E|]", "CDCDE"),
    ("C|D!dacoda!|E!D.C.!|OF|G!fine!|]", "CDECDFG"),
    ("C|D|E!D.S.!|F|]", "CDEF"),  # no segno
    ('C|D "Fine"|E|]', "CDE"),  # nothing goes back
]


def letters(score: Score) -> str:
    return "".join(LETTERS[note.pitch] for note in score.notes)


@pytest.mark.parametrize(("bars", "way"), WAYS, ids=[way for _, way in WAYS])
def test_jumps_are_played_out_and_survive_abc_and_musicxml(bars: str, way: str) -> None:
    text = f"X:1\nM:4/4\nL:1/1\nK:C\n{bars}\n"
    score = read_abc(text)
    assert letters(read_score(text, unfold=True)) == way and len(score.notes) == bars.count("|") - bars.count(":") // 2
    for again in (read_abc(to_abc(score)), read_with_music21(to_musicxml(score).decode(), "musicxml")):
        assert again.jumps == score.jumps and again.repeats == score.repeats
    played = read_score(text, unfold=True)
    assert not played.jumps and played.bars == tuple(4.0 * (i + 1) for i in range(len(way)))


def test_the_form_of_a_da_capo_has_its_first_part_again() -> None:
    first, second = "CDEF|GABc|CDEF|G4!fine!|", "cBAG|FEDC|BAGF|E4!D.C.!|"
    text = f"X:1\nM:4/4\nL:1/4\nK:C\n{first}{second}\n"
    found = [form(read_abc(one), 4) for one in (text, text.replace("!D.C.!", ""))]
    assert [one["letters"] for one in found if one] == ["ABA", "AB"]
