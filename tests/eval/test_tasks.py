"""Each task asks what a build's rows ask, takes their own answers for right, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.eval.item import Item
from mllm.eval.row_tasks import answer_of
from mllm.eval.tasks import TASKS, abc_writing, abstention, captions, compare, json_fields, melody, structure, theory

CLIP = {
    "instruments": ["harp"], "key": "Eb minor", "tonic": "Eb", "mode": "minor", "tempo": 96.0, "metre": "3/4",
    "tune_id": "t1",
}  # fmt: skip
CAPTION = "A moderate piece in Eb minor, played by a harp, in 3/4 at about 96 BPM. The melody falls."
CHOICE = "Which key?\nA. Eb minor\nB. C major\nC. A minor\nAnswer with letter and text."
ROWS = [
    # task of the row, question, answer, then: the task that asks it, other right answers, wrong ones
    ("key_choice", CHOICE, "A. Eb minor", "choice", ["A", "Eb minor", "The answer is A."], ["B", "A or B", "", "yes"]),
    ("metre_verify", "Is this in 3/4 time?", "Yes, the metre is 3/4.", "verify", ["yes", "Yes."],
     ["No.", "", "3/4", "Yes or no", "yes/no", "Yes. No.", "Yes, no", "Yes and no: it changes."]),
    ("drums_verify", "Is it without drums?", "Yes, there are no drums.", "verify",
     ["yes, no drums", "Yes, and no drums either."],
     ["Yes: none, no.", "No, there are drums.", "There are no drums.", "No; yes"]),
    ("voice_verify", "Does somebody sing?", "No, nobody does, yes or not.", "verify", ["No, there is no voice"],
     ["Yes\nNo", "yes"]),
    ("melody_lowest_short", "Lowest note?", "C#4", "melody", ["It is C#4.", "Db4"],
     ["C4", "C#5", "C#4 or D4", "C#", ""]),
    ("melody_first_notes", "First notes?", "Eb4, F4, G4", "melody", ["Eb4 F4 G4"], ["G4, F4, Eb4", "Eb4, F4", "none"]),
    ("melody_contour", "Contour?", "falling", "melody", ["It is falling."], ["rising", "falling or rising", ""]),
    ("mode_short", "Mode?", "minor", "properties", ["It is minor."], ["major", "major or minor", "not minor", ""]),
    ("tonic_short", "Tonic?", "Eb", "properties", ["E♭", "The tonic is Eb."], ["E", "F", "Eb or F", ""]),
    ("drums_short", "Drums?", "no", "properties", ["No."], ["yes", "yes, no", "?"]),
    ("instrument_count_short", "How many?", "2", "properties", ["2 kinds"], ["1", "12", "1 or 2"]),
    ("cannot_tell", "Who composed this?", "I cannot tell who composed this.", "abstention",
     ["That cannot be heard."], ["Bach", "C major", ""]),
    ("can_tell", "What key? If it cannot be told, say so.", "Eb minor", "abstention", ["C major"],
     ["I cannot tell.", ""]),
    ("describe", "Describe this.", CAPTION, "captions", ["Eb minor, harp, 3/4, 96 BPM"],
     ["", "A nice piece.", CAPTION.replace("harp", "flute"), "Harp."]),
    ("json", 'JSON with "tempo", "drums".', '{"tempo": 96, "drums": false}', "json", ['{"drums": false, "tempo": 98}'],
     ['{"tempo": 96}', '{"tempo": 96, "drums": 0}', "tempo 96", '{"tempo": 192, "drums": false}', "[]"]),
    ("theory_scale", "Spell it.", "G# A# B C# D# E F#", "theory", ["It is G#, A#, B, C#, D#, E, F#."],
     ["G# A# B C# D# E", "F# E D# C# B A# G#", "G A B C D E F", ""]),
    ("theory_roman", "Which numeral?", "IV", "theory", ["It is IV."], ["iv", "V", "IV or V", ""]),
    ("theory_metre", "How long?", "6", "theory", ["It is 6"], ["3", "60", "6 or 3"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """A JSONL of rows of every kind."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = []
    for i, (task, question, answer, *_rest) in enumerate(ROWS):
        content = [{"type": "audio", "audio": f"{i}.wav"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        row = {"id": f"row {i}", "task": task, "messages": messages, "facts": CLIP, "split": "test"}
        lines += [json.dumps(row), json.dumps(row | {"id": f"train {i}", "split": "train"})]
    file.write_text("\n".join(lines))
    return file


def item_of(build: Path, number: int) -> Item:
    task, name = ROWS[number][0], ROWS[number][3]
    return next(i for i in TASKS[name].items(build, "test", None, 0) if i.meta["row"]["task"] == task)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row[0] for row in ROWS])
def test_a_rows_own_answer_is_right_and_wrong_ones_are_wrong(build, number):
    *_, answer, name, right, wrong = ROWS[number]
    item, task = item_of(build, number), TASKS[name]
    assert task.prompt(item) == item.meta["row"]["messages"][:-1]
    for said in (answer, *right):
        assert task.score(said, item).score == 1, said
    for said in wrong:
        assert task.score(said, item).score < 1, said
    assert task.score("", item).parsed is None
    assert task.items(build, "test", 1, 0) == task.items(build, "test", None, 0)[:1]
    assert item.group == "t1"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(ROWS) - 1), st.text(max_size=80))
def test_no_answer_ends_the_scoring(build_rows, number, said):
    verdict = TASKS[ROWS[number][3]].score(said, build_rows[number])
    assert 0 <= verdict.score <= 1
    json.dumps([verdict.parsed, dict(verdict.extras)])


@pytest.fixture(scope="module")
def build_rows(build) -> list[Item]:
    return [item_of(build, number) for number in range(len(ROWS))]


def test_a_caption_counts_what_is_true_of_what_it_states_and_of_what_there_is():
    truth = {"key": "Eb minor", "metre": "3/4", "tempo": 96.0, "instruments": ["harp", "flute"]}
    verdict = captions.score("Eb minor, 4/4. A harp. No drums and no choir.", Item("a", "?", truth))
    assert verdict.extras == {"precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 5)}
    assert verdict.score == pytest.approx(0.5)


def test_captions_together_are_held_against_facts_and_find_their_clips(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # n-gram scores have tests of their own; starting Java takes seconds
    truths = [
        {"key": "Eb minor", "metre": "3/4", "tempo": 96.0, "instruments": ["harp"], "caption": CAPTION},
        {"key": "C major", "metre": "4/4", "tempo": 140.0, "instruments": ["flute"], "caption": "A fast flute solo."},
    ]
    said = [CAPTION, None]
    found = captions.together([{"answer": a, "truth": t} for a, t in zip(said, truths, strict=True)])
    assert found["precision of all claims"] == [1, 0] and found["recall by all claims"] == [1, 0]
    (own,) = [values for name, values in found.items() if name.startswith("R@1 of the own")]
    assert own == [1, pytest.approx(0.5)]  # who says nothing is at chance
    assert any("for comparison with papers only" in name for name in found)


def test_declining_is_read_in_the_words_of_the_corpus_and_others():
    for said in ("I cannot tell.", "The sound does not say who composed it.", "Nobody sings here.", "I don't know.",
                 "There is no singer in this clip.", "It is impossible to know."):  # fmt: skip
        assert abstention.declines(said), said
    for said in ("Bach", "about 120 BPM", "Eb minor", "a harp", "C4"):
        assert not abstention.declines(said), said


def test_lists_in_json_have_no_order_and_types_count():
    assert json_fields.same("instruments", ["a", "b"], ["b", "a"]) and not json_fields.same("instruments", [1], ["a"])
    assert not json_fields.same("drums", 1, True) and not json_fields.same("tempo", "96", 96)


def test_moments_of_a_medley_are_asked_about_inside_their_sections(tmp_path):
    sections = [
        {"start": 0.0, "end": 20.0, "label": "A", "key": "C major", "metre": "3/4"},
        {"start": 21.0, "end": 50.0, "label": "B", "key": "D minor", "metre": "4/4"},
        {"start": 50.5, "end": 75.0, "label": "A'", "key": "G major", "metre": "6/8"},
        {"start": 76.0, "end": 99.0, "label": "C", "key": "F major", "metre": "2/4"},
    ]
    content = [{"type": "audio", "audio": "m.wav"}, {"type": "text", "text": "?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "?"}]
    row = {"id": "1", "task": "medley_json", "messages": messages, "facts": {"sections": sections}, "split": "test"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    items = structure.items(tmp_path / "rows.jsonl", "test", None, 0)
    assert [item.strata["of"] for item in items] == ["label", "key", "metre", "start"]
    said = {"label": "Section A, in C major.", "key": "D minor", "metre": "6/8", "start": "1:17"}
    for item, section in zip(items, sections, strict=True):
        of = item.strata["of"]
        if of != "start":
            minutes, seconds = map(int, item.question.split(" at ")[1].rstrip("?").split(",")[0].split(":"))
            assert section["start"] < 60 * minutes + seconds < section["end"]
        assert structure.score(said[of], item).score == 1
        for wrong in ("", "Section B and Section A", "C", "1:30", "1:16 or 2:00", "E minor", "5/4"):
            assert structure.score(wrong, item).score == (of == "label" and wrong == item.truth), wrong
    assert structure.items(tmp_path / "rows.jsonl", "test", None, 0) == items


def test_pairs_are_balanced_and_true(data):
    from mllm.eval.data import read_clips

    facts = {clip.path: clip.facts for clip in read_clips(data, "test")}
    items = compare.items(data, "test", None, 0)
    assert items and items == compare.items(data, "test", None, 0) != compare.items(data, "test", None, 1)
    for item in items:
        one, two = (facts[path] for path in item.audio)
        of = item.strata["of"]
        if of == "faster":
            assert (one["tempo"] > two["tempo"]) == (item.truth == "first")
        else:
            assert (one[of] == two[of]) == (item.truth == "yes")
        assert compare.score(item.truth, item).score == 1
        assert (
            compare.score({"yes": "no", "no": "yes", "first": "second", "second": "first"}[item.truth], item).score == 0
        )
        assert compare.score("first or second, yes or no", item).parsed is None
    faster = [item.truth for item in items if item.strata["of"] == "faster"]
    assert faster.count("first") == faster.count("second")


def test_a_tune_must_be_whole_and_as_asked():
    item = Item("a", "?", "", meta={"key": "G major", "metre": "3/4", "bars": 4})
    tune = "X:1\nM:3/4\nL:1/4\nK:G\nG A B | c B A | G2 F | G3 |]\n"
    assert abc_writing.score(tune, item).score == 1
    for wrong in (
        "", "Here it is:\n" + tune, tune.replace("K:G", "K:D"), tune.replace("G2 F", "G2"),
        tune.replace("| G3 |]", "|]"), tune.replace("M:3/4", "M:4/4"), "G A B",
    ):  # fmt: skip
        assert abc_writing.score(wrong, item).score == 0, wrong
    other = abc_writing.score(tune.replace("K:G", "K:D"), item)
    assert other.extras == {"whole tune": 1.0}
    assert len({i.id for i in abc_writing.items(Path(), "test", None, 0)}) == 48


def test_words_of_theory_are_compared_in_order_and_without_their_frame():
    assert theory.words("It has 5 sharps.") == ("5", "sharps") and theory.words("A") == ("A",)
    assert theory.words("E♭") == theory.words("Eb")


def test_notes_are_numbers():
    assert melody.notes("C4, Bb3 and F#5; Cb4 lies on B3") == (60, 58, 78, 59, 59)


def test_own_answers_are_right_on_a_real_build():
    """Every row that the tasks take of a build, where one lies here."""
    folder = Path("runs/data/mini")
    if not (folder / "manifest.json").is_file():
        pytest.skip("no build at runs/data/mini")
    for name, task in TASKS.items():
        for item in task.items(folder, "test", 25, 0):
            if "row" in item.meta:
                assert task.score(answer_of(item.meta["row"]), item).score == 1, (name, item.id)


def test_all_tasks_say_what_makes_an_answer_right():
    for name, task in TASKS.items():
        assert task.name == name and task.title and task.version
    assert {"instrument", "key", "tempo", "metre", "match", "transcribe", "score_form", "compare"} <= TASKS.keys()


def test_a_task_is_one_short_file():
    files = [file for file in Path(abstention.__file__).parent.glob("*.py") if file.name != "__init__.py"]
    assert len(files) > 15 and max(len(file.read_text().splitlines()) for file in files) <= 60
