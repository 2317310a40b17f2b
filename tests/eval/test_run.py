"""A whole evaluation of a tiny random model: every control is there, a rerun goes on, nothing is mixed up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mllm.eval.data import read_clips
from mllm.eval.item import Item
from mllm.eval.report import summarise
from mllm.eval.respondents import Failure
from mllm.eval.run import evaluate
from mllm.eval.task import EvalError, Task, chosen
from mllm.eval.tasks import TASKS

SOUND = ("instrument", "key", "tempo", "metre")
ASKED = {"model", "silence", "noise", "text", "swapped", "nudged"}


def records(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def test_every_item_has_every_condition(evaluated):
    rows = records(evaluated)
    for name in SOUND:
        conditions = {"chance", "majority", *ASKED, *(f"tool: {t.name}" for t in TASKS[name].tools)}
        asked = 3 if name == "instrument" else 4
        found = [(row["condition"], row["item"]) for row in rows if row["task"] == name]
        assert {c for c, _ in found} == conditions
        assert len(found) == len(set(found)) == asked * len(conditions)
    assert all({"question", "answer", "parsed", "truth", "score", "version", "group"} <= row.keys() for row in rows)
    assert all(row["prompt"][-1]["role"] == "user" for row in rows if row["condition"] in ASKED)


def test_controls_are_what_they_say(evaluated):
    rows = {(r["task"], r["condition"], r["item"]): r for r in records(evaluated)}
    assert rows["key", "majority", "clips/test-0.flac"]["answer"] == "C major"
    assert rows["key", "majority", "clips/test-0.flac"]["score"] == 1
    assert rows["tempo", "majority", "clips/test-1.flac"]["score"] == 0
    assert rows["key", "chance", "clips/test-0.flac"]["score"] == pytest.approx(1 / 3)  # three keys in TRAIN
    texts = {r["answer"] for (task, condition, _), r in rows.items() if (task, condition) == ("key", "text")}
    assert len(texts) == 1
    # neighbours exchange clips; here the question is the same, so the answer is the one to the other clip
    other = rows["tempo", "model", "clips/test-1.flac"]
    swapped = rows["tempo", "swapped", "clips/test-0.flac"]
    assert (swapped["answer"], swapped["prompt"]) == (other["answer"], other["prompt"])
    # the test clips are the TRAIN clips again, and clicks on a grid: the tools must find what is there
    assert rows["tempo", "tool: librosa tempo", "clips/test-2.flac"]["extras"]["acc2 (octaves allowed)"]
    assert rows["instrument", "tool: MFCC + logistic regression", "clips/test-2.flac"]["parsed"] == "harp"


def test_table_and_summary_state_their_terms(evaluated):
    table = (evaluated / "table.md").read_text()
    summary = json.loads((evaluated / "summary.json").read_text())
    assert summary["run"]["data_sha256"] in table and summary["run"]["command"] in table
    for name in SOUND:
        assert TASKS[name].title in table and f"{name}: “" in table
    assert "which have no TRAIN" not in table
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    model = summary["tasks"]["key"]["model"]
    assert model["n"] == 4 and model["low"] <= model["accuracy"] <= model["high"] and model["medium"] == "audio"
    best = max(summary["tasks"]["key"][c]["accuracy"] for c in ("silence", "noise", "text", "swapped", "majority"))
    assert model["gain"]["points"] == pytest.approx(model["accuracy"] - best)


def test_a_rerun_asks_nothing_twice_and_a_torn_line_is_asked_again(evaluated, data, model, tmp_path):
    output = shutil.copytree(evaluated, tmp_path / "eval")
    whole = {name: (output / name).read_bytes() for name in ("answers.jsonl", "results.jsonl", "summary.json")}
    evaluate(model, SOUND, data, output)
    assert (output / "answers.jsonl").read_bytes() == whole["answers.jsonl"]
    assert (output / "results.jsonl").read_bytes() == whole["results.jsonl"]
    lines = whole["answers.jsonl"].decode().splitlines(keepends=True)
    kept = json.loads(lines[0]) | {"answer": "kept"}
    (output / "answers.jsonl").write_text(json.dumps(kept) + "\n" + "".join(lines[1:-1]) + lines[-1][:20])
    evaluate(model, SOUND, data, output)
    after = (output / "answers.jsonl").read_text().splitlines()
    assert len(after) == len(lines) and json.loads(after[-1]) == json.loads(lines[-1])
    assert any(row["answer"] == "kept" for row in records(output))


def test_kill_9_loses_nothing_that_was_answered(data, tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from mllm.eval.run import evaluate
        class Slow:
            name, sha256, at_once = "slow", "0" * 64, 1
            def answer(self, messages, most):
                time.sleep(0.05)
                print("asked", flush=True)
                return ["C major"] * len(messages)
        evaluate(Slow(), ["key", "metre"], sys.argv[1], sys.argv[2], tools=False)
    """)
    command = [sys.executable, "-c", script, str(data), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(4):
        assert process.stdout.readline() == "asked\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    answered = (tmp_path / "out" / "answers.jsonl").read_text().count("\n")
    assert answered >= 3 and not (tmp_path / "out" / "results.jsonl").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    total = (tmp_path / "out" / "answers.jsonl").read_text().count("\n")
    assert again.stdout.count("asked") == total - answered
    rows = [row for row in records(tmp_path / "out") if row["condition"] == "model"]
    assert len(rows) == 8


def test_limit_first_and_the_rest_later_equals_all_at_once(evaluated, data, model, tmp_path):
    evaluate(model, ["tempo"], data, tmp_path, limit=2, tools=False)
    assert {r["item"] for r in records(tmp_path)} == {"clips/test-0.flac", "clips/test-1.flac"}
    summary = evaluate(model, ["tempo", "metre"], data, tmp_path)
    assert summary["tasks"]["tempo"] == json.loads((evaluated / "summary.json").read_text())["tasks"]["tempo"]


def test_another_model_or_split_is_not_mixed_in(evaluated, data, model):
    with pytest.raises(EvalError, match="another split"):
        evaluate(model, SOUND, data, evaluated, split="train")
    with pytest.raises(EvalError, match="another model_sha256"):
        evaluate("constant:C major", SOUND, data, evaluated)


def test_what_cannot_be_evaluated_is_refused_in_one_line(data, model, tmp_path):
    for kwargs, message in (
        ({"tasks": ["kea"]}, "unknown task kea: did you mean 'key'"),
        ({"tasks": ["key"], "split": "validation"}, "no rows of split 'validation'"),
        ({"tasks": ["key"], "limit": 0}, "at least 1"),
        ({"tasks": ["transcribe"]}, "nothing of the split 'test'"),
    ):
        with pytest.raises(EvalError, match=message) as error:
            evaluate(model, data=data, output=tmp_path / "out", **kwargs)
        assert "\n" not in str(error.value)
    with pytest.raises(EvalError, match="build them first"):
        evaluate(model, ["key"], tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_clips_are_read_once_each(data):
    clips = read_clips(data, "test")
    assert [clip.name for clip in clips] == [f"clips/test-{i}.flac" for i in range(4)]
    assert all(clip.path.is_file() for clip in clips)


def test_unparsed_answers_are_wrong_and_counted():
    row = {
        "condition": "model", "item": "a", "group": "", "strata": {}, "answer": "?", "parsed": None, "score": 0.0,
        "extras": {},
    }  # fmt: skip
    good = row | {"item": "b", "answer": "3/4", "parsed": "3/4", "score": 1.0}
    model = summarise([row, good])["model"]
    assert model["accuracy"] == 0.5 and model["unparsed"] == 1 and model["n"] == 2


def test_figures_over_a_part_of_the_items_tell_how_many_and_how_sure():
    row = {"condition": "model", "group": "", "strata": {}, "answer": "x", "parsed": "x", "score": 1.0}
    rows = [row | {"item": str(i), "extras": {"some": float(i % 4 == 0)} if i % 2 == 0 else {}} for i in range(40)]
    model = summarise(
        rows, lambda found: {"each": [1.0] * len(found), "whole": 0.25, "METEOR": "no Java here"}
    )["model"]  # fmt: skip
    assert model["extras"] == {"some": 0.5, "each": 1.0, "whole": 0.25} and model["left_out"] == {
        "METEOR": "no Java here"
    }
    some = model["intervals"]["some"]
    assert some["n"] == 20 and 0.2 < some["low"] < 0.35 and 0.65 < some["high"] < 0.8
    assert model["intervals"]["each"] == {"n": 40, "low": 1, "high": 1} and model["intervals"]["whole"] == {"n": 40}


class Scales:
    """Takes the first option for the likeliest; says nothing of a question that begins with `lost`."""

    name, sha256, at_once = "scales", "1" * 64, 3

    def __init__(self, lost: str):
        self.lost, self.weighed = lost, []

    def answer(self, messages, max_new_tokens):
        return ["A"] * len(messages)

    def option_loglikelihoods(self, messages, options):
        asked = [one[-1]["content"][-1]["text"] for one in messages]
        self.weighed += asked
        return [
            Failure("too long")
            if self.lost and words.startswith(self.lost)
            else [(-1.0 - i, 2) for i in range(len(of))]
            for words, of in zip(asked, options, strict=True)
        ]


def test_options_that_could_not_be_weighed_are_wrong_counted_and_weighed_again(data, tmp_path):
    items = [Item(str(i), f"{i}?", "harp", options=("harp", "flute")) for i in range(4)]
    pick = Task("pick", "pick", lambda folder, split, limit, seed: items if split == "test" else [], chosen)
    settings = {"data": data, "output": tmp_path, "registry": {"pick": pick}}
    summary = evaluate(Scales("2"), ["pick"], **settings)
    model = summary["tasks"]["pick"]["model"]
    assert model["unweighed"] == 1 and model["accuracy"] == 1 and model["extras"]["likeliest option (sum)"] == 0.75
    told = model["intervals"]["likeliest option (sum)"]
    assert told["n"] == 4 and told["low"] < 0.75 < told["high"]
    table = (tmp_path / "table.md").read_text()
    assert "could not be weighed, where the likeliest counts as wrong: pick 1." in table
    assert f"| – likeliest option (sum) | 4 | 75.0 [{100 * told['low']:.1f}–100.0] |" in table
    again = Scales("")
    model = evaluate(again, ["pick"], **settings)["tasks"]["pick"]["model"]
    assert again.weighed == ["2?"] and "unweighed" not in model and model["extras"]["likeliest option (sum)"] == 1


def test_a_model_beside_is_asked_the_same(data, tmp_path):
    summary = evaluate("constant:C major", ["key"], data, tmp_path, beside=["constant:A minor"], tools=False)
    conditions = summary["tasks"]["key"]
    assert conditions["model"]["accuracy"] == 0.5 and conditions["beside constant:A minor"]["accuracy"] == 0.25
    assert "constant:A minor" in (tmp_path / "table.md").read_text()
