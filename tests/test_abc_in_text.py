"""Tunes are found in what a model says, and nothing else is taken for one."""

import time
from pathlib import Path

import music21
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm.abc_in_text import find_abc
from mllm.score import read_score, sounding, to_abc

TUNE = "X:1\nT:A tune\nM:4/4\nL:1/4\nK:D\nD E F G | A B c d |\nd c B A | G F E D |]\n"
CORPUS = Path(music21.__file__).parent / "corpus"


@pytest.mark.parametrize(
    "text",
    [
        TUNE,
        f"Here it is:\n\n{TUNE}\nThis tune is in D major.",
        f"Sure!\n{TUNE}This tune is in D major.\nK: is its key.",
        f"```abc\n{TUNE}```\nEnjoy.",
        f"~~~\n{TUNE}",
        TUNE.replace("\n", "\r\n"),
        "\n".join("   " + line for line in TUNE.splitlines()),
        "```\n" + TUNE.replace("K:D\n", "K:D\n\n").replace("d |\n", "d |\n\n") + "```",
        TUNE.replace("K:D\n", "K:D\n\n"),
    ],
)
def test_a_tune_is_found_whole_wherever_it_stands(text):
    assert find_abc(text) == [TUNE]


def test_several_tunes_and_one_without_a_number():
    second = TUNE.replace("X:1\n", "").replace("K:D", "K:G")
    assert find_abc(TUNE + TUNE) == [TUNE, TUNE]
    assert find_abc(f"One:\n\n{TUNE}\nand another:\n\n{second}\n") == [TUNE, second]
    assert read_score(second).key.tonic == "G"


def test_voices_lyrics_chords_and_comments_stay_in_the_tune():
    tune = (
        'X:1\nT:Song\nM:3/4\nL:1/4\nK:G\n%%MIDI program 73\nV:1 nm="Flute"\n'
        '"Am7"G>A!trill!B|[M:2/4]~c/2d/2 Te|\nw:Hap-py birth day\n% the end\n|]\nV:2\nz2 z|G,,2|]\n'
    )
    assert find_abc(f"Here:\n{tune}\nBye") == [tune]
    assert len(read_score(tune).notes) > 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "D major",
        "K:D",
        "X:1\nT:Only a head\nK:D\n",
        "The key is K:D\nA B c d",
        "Q: What is it?\nA: A waltz.\nK: what?\nIt is in D.",
        "X:1\nK:D\nThis is prose, and no tune.",
        "X:1\nK:D\n|z4|z4|]\n",
        "```python\nd: dict = {}\n```",
    ],
)
def test_what_is_no_tune_is_not_found(text):
    assert find_abc(text) == []


@given(st.text(alphabet='XKTMVw:|[]ABCdefgz \n`~%"!12/h', max_size=200))
def test_any_text_is_searched_and_finding_again_changes_nothing(text):
    for tune in find_abc(text):
        assert find_abc(tune) == [tune]


@pytest.mark.parametrize(
    "text", ["[K:" * 33_000, "a" * 10**6, "K:C\n" + "a" * 10**6, "X:1\nK:C\n" + "A\n" * 10**5, "!" * 10**6]
)
def test_long_texts_take_no_time(text):
    begun = time.perf_counter()
    find_abc(text)
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("path", sorted((CORPUS / "ryansMammoth").glob("*.abc"))[:100:10], ids=lambda path: path.stem)
def test_what_the_toolkit_writes_is_found_in_an_answer(path):
    score = read_score(path)
    found = find_abc(f"The notation is\n{to_abc(score)}\nThat is all there is to it.")
    assert len(found) == 1 and sounding(read_score(found[0]).notes) == sounding(score.notes)
