"""Composing with a real model of random weights: whole tunes of every task, marked with who wrote them."""

import dataclasses
import json
import random
import shutil
import subprocess
import sys

import music21
import pytest
import torch
from tiny_checkpoint import tiny_folder
from typer.testing import CliRunner

from mllm import load
from mllm.abc_validation import validate_abc
from mllm.cli import app
from mllm.cli_compose import read_range
from mllm.composed_files import WRITERS, write_composition
from mllm.composing import compose, finish, made_by
from mllm.composing_tasks import TASKS, Request, plan
from mllm.errors import PromptError, ScoreError
from mllm.score import Key, Score, facts, read_abc, read_score, sounding, to_abc

pytest.importorskip("xgrammar", reason="xgrammar is not installed (extra `grammar`)")

SOURCE = read_abc("X:1\nT:Up & 100\\% away\nM:3/4\nL:1/8\nQ:1/4=100\nK:Dm\nA2 | d2 f2 a2 | g3 f e2 | ^c4 c2 | d4 |]\n")
QUESTION = [{"role": "user", "content": "Write."}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "the first of 2 tunes, X:3; --tune takes another"),
        (["--tune", "8"], None),
        (["--tune", "9"], "no tune X:9 in it; it holds 3, 8"),
    ],
    ids=["first", "second", "none"],
)
def test_a_tune_book_is_not_taken_silently(tmp_path, options, said):
    book = tmp_path / "book.abc"
    book.write_text("".join(f"X:{n}\nT:{n}\nM:4/4\nL:1/4\nK:C\nCDEF|G4|\n\n" for n in (3, 8)))
    command = ["compose", str(tmp_path / "new.abc"), "--task", "continuation", "--from", str(book), *options]
    done = CliRunner().invoke(app, [*command, "--model", str(tmp_path / "none")])
    words = f"{done.output} {done.exception}"
    assert done.exit_code and (said in words if said else "tunes" not in words and "no tune" not in words)


@pytest.fixture(scope="module")
def music():
    return load(str(tiny_folder()), dtype=torch.float32)


@pytest.mark.parametrize(
    "request_",
    [
        Request(bars=4),
        Request(key=Key("F#", "minor"), metre=(6, 8), bars=3, lowest=57, highest=74, tempo=90.0, style="slow jig"),
        Request(metre=(3, 4), bars=2, voices=3, pickup=1.0, title="Three"),
        Request("continuation", SOURCE, bars=5),
        Request("continuation", SOURCE, lowest=55, highest=84),
        Request("variation", SOURCE, style="waltz"),
        Request("harmonization", SOURCE),
    ],
    ids=lambda r: f"{r.task} {r.bars}",
)
def test_every_task_gives_a_whole_tune_that_obeys(music, request_):
    piece = compose(music, request_, seed=1)
    wanted = plan(request_).request
    assert not piece.repaired and all(piece.obeyed.values())
    assert validate_abc(piece.abc, metre=wanted.metre, bars=wanted.bars) == []
    found = facts(piece.score)
    assert found["key"] == wanted.key.name and found["metre"] == f"{wanted.metre[0]}/{wanted.metre[1]}"
    assert found["bars"] <= wanted.bars and found["tempo"] == wanted.tempo
    assert piece.score.title == wanted.title and sounding(read_abc(piece.abc).notes) == sounding(piece.score.notes)
    for name in ("key", "metre", "bars"):
        assert piece.obeyed[name]


def test_obeyed_is_counted_not_assumed(music):
    made = plan(Request(key=Key("G"), bars=2, tempo=90.0, lowest=62, highest=79))
    assert all(finish(made, "G8 | G8 |]", "me").obeyed.values())
    other = dataclasses.replace(made, begin=made.begin.replace("K:G", "K:D").replace("=90", "=91"))
    held = finish(other, "G8 | G8 |]", "me").obeyed
    assert not held["key"] and not held["tempo"] and held["metre"] and held["bars"] and held["range"]


def test_what_is_not_whole_is_repaired_or_refused(music):
    made = plan(Request(bars=2, lowest=60, highest=72))
    piece = finish(made, "C7 | C8 D", "me")
    assert piece.repaired and piece.abc.endswith("z C7 | C8 |]\n")
    with pytest.raises(ScoreError, match="no notes"):
        finish(made, "I cannot do that.", "me")


def test_a_continuation_begins_with_its_source_and_a_harmony_keeps_it(music):
    longer = compose(music, Request("continuation", SOURCE, bars=5), seed=2).score
    end = SOURCE.pickup + 3 * 3.0
    assert sounding(n for n in longer.notes if n.onset < end) == sounding(n for n in SOURCE.notes if n.onset < end)
    harmony = compose(music, Request("harmonization", SOURCE), seed=2).score
    assert sounding(harmony.notes) == sounding(SOURCE.notes) and len(harmony.chords) >= 4


def test_a_piece_of_two_voices_goes_on_in_both(music):
    duet = read_abc("X:1\nM:2/4\nL:1/8\nK:G\nV:1\nG2 B2 | d4 | c2 A2 | B4 |]\nV:2\nG,4 | B,4 | D,4 |]\n")
    piece = compose(music, Request("continuation", duet, bars=6), seed=3)
    assert facts(piece.score)["voices"] == 2 and all(piece.obeyed.values()) and not piece.repaired


def test_the_same_seed_gives_the_same_tune(music):
    first, again, other = (compose(music, Request(bars=2), seed=seed).abc for seed in (7, 7, 8))
    assert first == again != other


def test_files_say_which_model_wrote_them(music, tmp_path):
    piece = compose(music, Request("harmonization", SOURCE), seed=1)
    assert piece.made_by == made_by(music, Request("harmonization", SOURCE))
    assert "harmonization of Up & 100% away by the language model" in piece.made_by and "provenance" in piece.made_by
    for suffix in WRITERS:
        file = tmp_path / f"tune{suffix}"
        write_composition(piece, file)
        assert b"by the language model" in file.read_bytes()
        assert sounding(read_score(file).notes) == sounding(piece.score.notes)
    noted = piece.made_by.replace("%", "\\%")
    assert f"\nN:{noted}\n" in (tmp_path / "tune.abc").read_text().partition("K:")[0]
    parsed = music21.converter.parse(tmp_path / "tune.musicxml")
    assert parsed.metadata.composer == piece.made_by
    with pytest.raises(ScoreError, match=r"can write \.abc, \.mid and \.musicxml, not \.pdf"):
        write_composition(piece, tmp_path / "tune.pdf")


def test_another_provenance_is_another_mark(music):
    class Other:
        name, provenance = "other", {"licence": "none"}

    here, there = made_by(music, Request()), made_by(Other(), Request())
    assert here.rpartition("provenance ")[2] != there.rpartition("provenance ")[2] and "model other (" in there


@pytest.mark.skipif(shutil.which("abc2midi") is None, reason="abc2midi is not installed (Debian: abcmidi)")
@pytest.mark.parametrize("task", TASKS)
def test_other_programs_read_the_files(music, tmp_path, task):
    piece = compose(
        music, Request(task, None if task == "free" else SOURCE, bars=3 if task == "free" else None), seed=4
    )
    file = tmp_path / "tune.abc"
    write_composition(piece, file)
    said = subprocess.run(["abc2midi", file, "-o", tmp_path / "t.mid"], capture_output=True, text=True, check=True)
    assert "Error" not in said.stdout and "Warning" not in said.stdout
    measures = music21.converter.parse(file).parts[0].getElementsByClass("Measure")
    assert {float(m.duration.quarterLength) for m in list(measures)[1:-1]} == {4.0 if task == "free" else 3.0}


# ---- what cannot be asked for ---------------------------------------------------------------------------------------

CHANGING = read_abc("X:1\nM:4/4\nL:1/4\nK:C\nCDEF | [M:3/4] GAB | cde |]\n")
BARE = Score(notes=SOURCE.notes, metre=(3, 4), pickup=1.0)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request("sonata"), "possible are free, continuation, variation, harmonization"),
        (Request("variation"), "a variation needs a tune to start from"),
        (Request(bars=0), "0 bars: possible are 1 to 64"),
        (Request(bars=1000), "possible are 1 to 64"),
        (Request(metre=(0, 4)), "metre 0/4: possible are"),
        (Request(metre=(4, 7)), "metre 4/7: possible are"),
        (Request(lowest=60, highest=62), "range C4 to D4: possible is a fifth"),
        (Request(lowest=80), "range G#5 to A5"),
        (Request(voices=0), "0 voices: possible are 1 to 4"),
        (Request(tempo=3.0), "tempo 3: possible are 20 to 400"),
        (Request(tempo=float("nan")), "tempo nan"),
        (Request(style="a\nK:C%"), "without %"),
        (Request(title="x" * 100), "up to 60 characters"),
        (Request("continuation", SOURCE, bars=3), "the source has 3, so possible are 4 to 64"),
        (Request("variation", SOURCE, bars=9), "as many bars as its theme, 4"),
        (Request("variation", SOURCE, key=Key("C")), "keeps the key of its source"),
        (Request("variation", SOURCE, metre=(4, 4)), "keeps the metre of its source"),
        (Request("variation", SOURCE, voices=2), "has the voices of its source, 1"),
        (Request("variation", SOURCE, pickup=1.0), "has its source's"),
        (Request("harmonization", SOURCE, lowest=40), "no range can be asked for"),
        (Request("variation", CHANGING), "changes its metre"),
        (Request("variation", BARE), "states no key"),
        (Request("continuation", Score(notes=SOURCE.notes, key=Key("C"))), "states no metre"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_written_is_said_before_the_model_is_asked(request_, says):
    with pytest.raises(ScoreError) as error:
        plan(request_)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "pitches"), [("C4-A5", (60, 81)), ("Bb3 to F#5", (58, 78)), ("C-1-G9", (0, 127)), ("D4 - E5", (62, 76))]
)
def test_ranges_in_words(text, pitches):
    assert read_range(text) == pitches


@pytest.mark.parametrize("text", ["", "C4", "C4-", "H4-C5", "4-5", "C4-C5-C6"])
def test_what_is_no_range(text):
    with pytest.raises(ScoreError, match="such as C4-A5"):
        read_range(text)


# ---- grammars in `chat` and `stream` --------------------------------------------------------------------------------


def test_an_answer_keeps_to_its_grammar(music, tmp_path):
    grammar = 'root ::= "yes" | "no" | "in " [A-G] " major"'
    for temperature in (0.0, 1.0):
        answer = music.chat(QUESTION, grammar=grammar, temperature=temperature)
        assert answer.complete and (answer in ("yes", "no") or (answer.startswith("in ") and answer.endswith(" major")))
    pieces = list(music.stream(QUESTION, grammar='root ::= "la la la"'))
    assert "".join(pieces) == "la la la"
    file = tmp_path / "tune.abc"
    file.write_text(to_abc(SOURCE))
    assert music.ask(file, "What is this?", grammar='root ::= "a tune"') == "a tune"


def test_an_answer_without_a_grammar_is_as_it_was(music):
    assert music.chat(QUESTION, max_new_tokens=8) == music.chat(QUESTION, max_new_tokens=8, grammar=None, begin="")


def test_an_answer_goes_on_from_its_beginning(music):
    answer = music.chat(QUESTION, begin="X:1\nK:C\n", grammar='root ::= "\\nabc |]"')
    assert answer == "\nabc |]"
    longer = music.chat(QUESTION, begin="X:1\nK:C\n" * 10, grammar='root ::= "a"')
    assert longer.prompt_tokens > answer.prompt_tokens


def test_two_grammars_by_turns_do_not_mix(music):
    draw = random.Random(0)
    for _ in range(6):
        word = draw.choice(["red", "blue", "green"])
        assert music.chat(QUESTION, grammar=f'root ::= "{word}"') == word


def test_a_grammar_that_is_none_is_refused(music):
    with pytest.raises(PromptError, match="the grammar cannot be read"):
        music.chat(QUESTION, grammar="root ::= (")
    assert music.chat(QUESTION, grammar='root ::= "a"') == "a"  # and the lock is free


def test_without_xgrammar_the_rest_works():
    code = (
        "import sys; sys.modules['xgrammar'] = None\n"
        "import mllm, mllm.composing, mllm.chat, json\n"
        "print(json.dumps('fine'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == "fine"
