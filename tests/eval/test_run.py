"""A whole evaluation of a tiny random model: every control is there, a rerun goes on, nothing is mixed up."""

import json
import shutil

import numpy as np
import pytest

from mllm.eval.answers import Answerer
from mllm.eval.data import EvalError, read_clips
from mllm.eval.report import interval, summarise
from mllm.eval.run import evaluate
from mllm.eval.tasks import TASKS


def records(output):
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def test_every_clip_has_every_condition(evaluated):
    rows = records(evaluated)
    for name, task in TASKS.items():
        conditions = {
            "chance",
            "majority",
            "model",
            "silence",
            "text",
            "swapped",
            *(f"tool: {t.name}" for t in task.tools),
        }
        asked = 3 if name == "instrument" else 4
        found = [(row["condition"], row["clip"]) for row in rows if row["task"] == name]
        assert {c for c, _ in found} == conditions
        assert len(found) == len(set(found)) == asked * len(conditions)
    assert all({"question", "answer", "parsed", "truth", "score"} <= row.keys() for row in rows)


def test_controls_are_what_they_say(evaluated):
    rows = {(r["task"], r["condition"], r["clip"]): r for r in records(evaluated)}
    assert rows["key", "majority", "clips/test-0.flac"]["answer"] == "C major"
    assert rows["key", "majority", "clips/test-0.flac"]["score"] == 1
    assert rows["tempo", "majority", "clips/test-1.flac"]["score"] == 0
    assert rows["key", "chance", "clips/test-0.flac"]["score"] == pytest.approx(1 / 3)  # three keys in TRAIN
    texts = {r["answer"] for (task, condition, _), r in rows.items() if (task, condition) == ("key", "text")}
    assert len(texts) == 1
    assert (
        rows["tempo", "swapped", "clips/test-0.flac"]["answer"] == rows["tempo", "model", "clips/test-1.flac"]["answer"]
    )
    # the test clips are the TRAIN clips again, and clicks on a grid: the tools must find what is there
    assert rows["tempo", "tool: librosa tempo", "clips/test-2.flac"]["extras"]["acc2 (octaves allowed)"]
    assert rows["instrument", "tool: MFCC + logistic regression", "clips/test-2.flac"]["parsed"] == "harp"


def test_table_and_summary_state_their_terms(evaluated):
    table = (evaluated / "table.md").read_text()
    summary = json.loads((evaluated / "summary.json").read_text())
    assert summary["run"]["data_sha256"] in table and summary["run"]["command"] in table
    for task in TASKS.values():
        assert task.title in table and task.question in table
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    model = summary["tasks"]["key"]["model"]
    assert model["n"] == 4 and model["low"] <= model["accuracy"] <= model["high"]
    assert model["over_silence"]["points"] == pytest.approx(
        model["accuracy"] - summary["tasks"]["key"]["silence"]["accuracy"]
    )


def test_a_rerun_asks_nothing_twice_and_a_torn_line_is_asked_again(evaluated, data, model, tmp_path):
    output = shutil.copytree(evaluated, tmp_path / "eval")
    whole = (output / "results.jsonl").read_bytes()
    evaluate(model, None, data, output)
    assert (output / "results.jsonl").read_bytes() == whole
    before = records(output)
    marked = [row | {"answer": "kept"} if row["condition"] == "model" else row for row in before[:-3]]
    lines = "".join(json.dumps(row) + "\n" for row in marked) + json.dumps(before[-3])[:20]
    (output / "results.jsonl").write_text(lines)
    evaluate(model, None, data, output)
    after = records(output)
    assert {(r["task"], r["condition"], r["clip"]) for r in after} == {
        (r["task"], r["condition"], r["clip"]) for r in before
    }
    assert len(after) == len(before)
    assert all(r["answer"] == "kept" for r in after if r["condition"] == "model")


def test_limit_first_and_the_rest_later_equals_all_at_once(evaluated, data, model, tmp_path):
    evaluate(model, ["tempo"], data, tmp_path, limit=2)
    assert {r["clip"] for r in records(tmp_path)} == {"clips/test-0.flac", "clips/test-1.flac"}
    summary = evaluate(model, ["tempo", "metre"], data, tmp_path)
    assert summary["tasks"]["tempo"] == json.loads((evaluated / "summary.json").read_text())["tasks"]["tempo"]


def test_batched_answers_equal_single_ones(model, waves):
    answerer = Answerer(model, max_new_tokens=6)
    questions = ["What is the tempo?", "Key?"]
    together = answerer.ask(waves, questions)
    assert together == [[answerer.ask([wave], [question])[0][0] for wave in waves] for question in questions]


def test_another_model_or_split_is_not_mixed_in(evaluated, data, model):
    with pytest.raises(EvalError, match="another split"):
        evaluate(model, None, data, evaluated, split="train")


def test_what_cannot_be_evaluated_is_refused_in_one_line(data, model, tmp_path):
    for kwargs, message in (
        ({"tasks": ["kea"]}, "unknown task kea"),
        ({"split": "validation"}, "no rows of split 'validation'"),
        ({"limit": 0}, "at least 1"),
    ):
        with pytest.raises(EvalError, match=message) as error:
            evaluate(model, data=data, output=tmp_path / "out", **kwargs)
        assert "\n" not in str(error.value)
    with pytest.raises(EvalError, match="build them first"):
        evaluate(model, None, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_clips_are_read_once_each(data):
    clips = read_clips(data, "test")
    assert [clip.name for clip in clips] == [f"clips/test-{i}.flac" for i in range(4)]
    assert all(clip.path.is_file() for clip in clips)


def test_interval_covers_the_mean_and_shrinks_with_more_clips():
    few, many = np.array([0, 1] * 10, float), np.array([0, 1] * 1000, float)
    for scores in (few, many):
        low, high = interval(scores)
        assert low < scores.mean() < high
    assert interval(few)[1] - interval(few)[0] > 5 * (interval(many)[1] - interval(many)[0])
    assert interval(np.ones(20)) == (1.0, 1.0)


def test_unparsed_answers_are_wrong_and_counted():
    row = {"condition": "model", "clip": "a", "answer": "?", "parsed": None, "score": 0.0, "extras": {}}
    good = row | {"clip": "b", "answer": "3/4", "parsed": "3/4", "score": 1.0}
    model = summarise([row, good])["model"]
    assert model["accuracy"] == 0.5 and model["unparsed"] == 1 and model["n"] == 2
