"""Answers about scores are read strictly, transcriptions are scored by their notes, and the table is what was said."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import clicks
from typer.testing import CliRunner

from mllm.eval.item import Item
from mllm.eval.metrics.notes import note_f1, notes_of
from mllm.eval.row_tasks import row_items
from mllm.eval.score_answers import given_answer, is_right
from mllm.eval.score_tasks import TASKS, score_tasks
from mllm.eval.task import EvalError
from mllm.eval.tasks import theory

HEAD = "X:1\nM:3/4\nL:1/8\nK:G"
TUNE = f"{HEAD}\nG2 B2 d2 | c6 |]\n"
NOTES = {
    "metre": "3/4", "tempo": 60.0, "lead_in": 0.5,
    "notes": [[0.5, 1.4, 67], [1.51, 2.4, 71], [2.49, 3.4, 74], [3.5, 6.4, 72]],
}  # fmt: skip


def row(task: str, answer: str, style: str, said: str, question: str = "", **facts: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": TUNE}, {"type": "text", "text": question}]
    return {
        "id": f"{task}-{answer}-{style}", "task": task, "split": "test",
        "facts": {"answer": answer, "style": style, **facts},
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": said}],
    }  # fmt: skip


CHOICE = "Which bar is higher?\nA. bar 2\nB. bar 1\nAnswer with the letter."
ROWS = [
    row("score_count_notes", "4", "sentence", "There are 4 notes."),
    row("score_locate", "bar 1", "choice", "B", CHOICE),
    row("score_compare", "bar 2", "sentence", "Bar 2 is longer than bar 1."),
    row("score_bar_sum", "yes", "json", '{"answer": true}'),
    row("match", "no", "sentence", "No, something else is played."),
    row("first_difference", "they agree", "short", "they agree"),
    row("bar_at", "bar 2", "json", '{"answer": 2}'),
    row("which_of_three", "Score B", "sentence", "It is Score B."),
    row("score_interval", "rising major third", "short", "rising major third"),
    row("score_key", "G major", "sentence", "The key is G major."),
    row("score_retrograde", "c6 | d2 B2 G2 |]", "short", "c6 | d2 B2 G2 |]", head=HEAD),
    row("transcribe", "G2 B2 d2 | c6 |]", "short", "G2 B2 d2 | c6 |]", head=HEAD, **NOTES),
]
KNOWN = {
    "score_interval": ["rising major third", "rising third", "falling major third"],
    "score_key": ["G major", "G minor"],
}  # fmt: skip


@pytest.mark.parametrize("one", ROWS, ids=lambda one: one["id"])
def test_the_rows_own_answer_is_right_and_nothing_else_is(one: dict[str, Any]) -> None:
    known = KNOWN.get(one["task"], [one["facts"]["answer"]])
    assert is_right(given_answer(one["messages"][-1]["content"], one, known), one)
    for other in ("", "I cannot tell.", "bar 1 or bar 2", "7 or 8", "maybe", "G major or G minor", "A or B"):
        assert not is_right(given_answer(other, one, known), one), other


@pytest.mark.parametrize(
    ("task", "said"),
    [("score_retrograde", f"{HEAD}\nc6 | d2 B2 G2 |]"), ("score_retrograde", "c6|d2B2G2|"),
     ("score_locate", "B. bar 1"), ("score_locate", "The answer is B."), ("match", "no"),
     ("first_difference", "There is no difference."), ("which_of_three", "B"), ("score_key", "g major"),
     ("which_of_three", "A recording of Score B.")],
)  # fmt: skip
def test_other_ways_of_saying_it(task: str, said: str) -> None:
    one = next(r for r in ROWS if r["task"] == task)
    assert is_right(given_answer(said, one, KNOWN.get(task, [one["facts"]["answer"]])), one)


def test_to_agree_no_longer_is_to_differ() -> None:
    one = next(r for r in ROWS if r["task"] == "first_difference") | {"facts": {"answer": "bar 3", "style": "sentence"}}
    assert is_right(given_answer("They do not agree in bar 3.", one, ["bar 3"]), one)
    assert not is_right(given_answer("They agree up to bar 3.", one, ["bar 3"]), one)


@pytest.mark.parametrize(
    ("truth", "said", "right"),
    [
        ("A perfect fifth.", "perfect fifth", True), ("perfect fifth", "It is a perfect fifth.", True),
        ("A minor", "minor", False), ("A", "a", False), ("A C# E", "C# E", False),
        ("An augmented fourth.", "augmented fourth", True),
    ],
)  # fmt: skip
def test_an_article_is_no_note(truth: str, said: str, right: bool) -> None:
    assert theory.score(said, Item("1", "?", truth, strata={"of": "theory_interval"})).score == right


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ROWS), st.text(max_size=60))
def test_no_answer_ends_the_reading(one: dict[str, Any], said: str) -> None:
    is_right(given_answer(said, one, [one["facts"]["answer"]]), one)
    notes_of(said, {"head": HEAD, **NOTES})


def test_notes_count_within_fifty_milliseconds_and_at_their_pitch() -> None:
    played = [tuple(note) for note in NOTES["notes"]]
    assert note_f1(played, played) == 1.0 and note_f1(played, []) == 0.0

    def moved(seconds: float, pitch: int = 0) -> list[tuple[float, float, int]]:
        return [(start + seconds, end + seconds, p + pitch) for start, end, p in played]

    assert note_f1(played, moved(0.04)) == 1.0
    assert note_f1(played, moved(0.06)) == 0.0 and note_f1(played, moved(0, 1)) == 0.0
    assert note_f1(played, played[:2]) == pytest.approx(2 / 3)
    assert note_f1(played, notes_of("G2 B2 d2 | c6 |]", {"head": HEAD, **NOTES})) == 1.0
    assert note_f1(played, notes_of("G2 B2 e2 | c6 |]", {"head": HEAD, **NOTES})) == 0.75


@pytest.mark.parametrize("one", ROWS, ids=lambda one: one["id"])
def test_tasks_score_as_the_reader_reads(one: dict[str, Any]) -> None:
    task = TASKS[one["task"]]
    (item,) = row_items([one], lambda row: row["facts"]["answer"], None)
    item.meta["answers"] = KNOWN.get(one["task"], [one["facts"]["answer"]])
    assert task.score(one["messages"][-1]["content"], item).score == 1
    unread = task.score("", item)
    assert unread.score == 0 and unread.parsed is None
    if task.guess(item) is not None:
        assert task.credit is not None and task.credit(item.truth, item).score == 1
        assert task.credit("something else", item).score == 0


def test_a_transcription_is_scored_by_its_notes_too() -> None:
    one = next(r for r in ROWS if r["task"] == "transcribe")
    item = Item("a", "?", one["facts"]["answer"], meta={"row": one, "answers": ()})
    (f1,) = TASKS["transcribe"].score("G2 B2 d2 | c6 |]", item).extras.values()
    assert f1 == 1.0
    nearly = TASKS["transcribe"].score("G2 B2 e2 | c6 |]", item)
    assert nearly.score == 0 and list(nearly.extras.values()) == [0.75]


def test_a_time_or_a_metre_is_no_bar() -> None:
    at = row("bar_at", "bar 2", "sentence", "")
    wrong = row("score_bar_error", "bar 1", "sentence", "")
    assert is_right(given_answer("At 0:03 the recording is in bar 2.", at, ()), at)
    assert is_right(given_answer("Bar 1 does not add up to 3/4.", wrong, ()), wrong)


def test_a_model_is_asked_and_a_second_run_goes_on(model: str, tmp_path: Path) -> None:
    from mllm.eval.score_tasks import app

    soundfile.write(tmp_path / "a.wav", clicks(100, 3.0), 22_050)
    rows = [dict(one, messages=[dict(m) for m in one["messages"]]) for one in ROWS if one["task"] in KNOWN]
    heard = next(one for one in ROWS if one["task"] == "transcribe")
    sound = {"type": "audio", "audio": "a.wav"}
    question = heard["messages"][0] | {"content": [sound, *heard["messages"][0]["content"]]}
    rows.append(heard | {"messages": [question, heard["messages"][1]]})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["--data", str(tmp_path / "rows.jsonl"), "--model", model, "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    tasks, words = summary["tasks"], shlex.split(summary["run"]["command"])
    assert words[:3] == ["python", "-m", "mllm.eval.score_tasks"] and set(command) <= set(words)
    assert {name: task["model"]["n"] for name, task in tasks.items()} == dict.fromkeys([*KNOWN, "transcribe"], 1)
    assert all("beside text:smollm2-135m-instruct" in task for task in tasks.values())
    assert "text" in tasks["transcribe"] and all("no_score" in tasks[name] for name in KNOWN)
    (f1,) = tasks["transcribe"]["tool: perfect text"]["extras"].values()
    assert f1 == 1.0 and "tool: Basic Pitch" in tasks["transcribe"]
    answers = (tmp_path / "out/answers.jsonl").read_text()
    with (tmp_path / "out/answers.jsonl").open("a") as file:
        file.write('{"condition": "mo')  # killed
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "out/answers.jsonl").read_text() == answers


def test_rows_without_scores_are_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="no questions about scores"):
        score_tasks(data, "constant:x", tmp_path)
