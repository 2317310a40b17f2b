"""Conditions change just what they say, and constants are what a guesser would get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mllm.eval.controls import CONDITIONS, constants, prompts
from mllm.eval.item import Item
from mllm.eval.sounds import Sound
from mllm.eval.task import Task, Verdict

ABC = "X:1\nM:3/4\nL:1/8\nK:G\nG2 B2 d2 |]\n"


def exact(answer: str, item: Item) -> Verdict:
    return Verdict(answer or None, float(answer == item.truth))


def task(**more) -> Task:
    return Task("t", "t", lambda *a: [], exact, **more)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", np.full(800 + 80 * i, 0.1), 8000)
    return [tmp_path / f"{i}.wav" for i in range(4)]


def asked(items, *names) -> dict:
    return {(name, item.id): messages for name, item, messages in prompts(task(), items, names or CONDITIONS)}


def sounds(messages) -> list[Sound]:
    return [
        p["audio"] for m in messages if not isinstance(m["content"], str) for p in m["content"] if p["type"] == "audio"
    ]


def test_each_condition_changes_what_it_says(files):
    items = [Item(str(i), f"q{i}?", "x", (files[i],), score=ABC, group=str(i // 2)) for i in range(4)]
    found = asked(items)
    assert {name for name, _ in found} == {"model", "silence", "noise", "swapped", "text", "nudged"}
    for i, item in enumerate(items):
        plain = found["model", item.id][0]["content"]
        assert [p["type"] for p in plain] == ["audio", "text", "text"]
        for name in ("silence", "noise", "swapped", "nudged"):
            other = found[name, item.id][0]["content"]
            assert other[1:] == plain[1:] and other[0]["audio"].key != plain[0]["audio"].key
        assert found["text", item.id][0]["content"] == plain[1:]
        assert sounds(found["silence", item.id])[0].seconds == pytest.approx(0.1 + 0.01 * i)
        # neighbours of one group do not stand in for each other
        swapped = sounds(found["swapped", item.id])[0].key
        others = [sounds(found["model", o.id])[0].key for o in items if o.group != item.group]
        assert swapped in others


def test_questions_about_scores_lose_or_exchange_their_scores():
    other = ABC.replace("G2", "A2")
    items = [Item("a", "q?", "x", score=ABC, group="1"), Item("b", "q?", "x", score=other, group="2")]
    found = asked(items)
    assert {name for name, _ in found} == {"model", "no_score", "other_score"}
    assert [p["text"] for p in found["no_score", "a"][0]["content"]] == ["q?"]
    assert [p["text"] for p in found["other_score", "a"][0]["content"]] == [other, "q?"]


def test_examples_before_the_question_keep_their_clips_when_the_question_has_anothers(files):
    def talk(first: Path, last: Path) -> tuple[dict, ...]:
        said = [
            {"role": "user", "content": [{"type": "audio", "audio": f}, {"type": "text", "text": "?"}]}
            for f in (first, last)
        ]
        return (said[0], {"role": "assistant", "content": "yes"}, said[1])

    items = [Item("a", "?", "x", (files[0], files[1]), messages=talk(files[0], files[1])),
             Item("b", "?", "x", (files[2], files[3]), messages=talk(files[2], files[3]))]  # fmt: skip
    found = asked(items)
    plain, swapped = sounds(found["model", "a"]), sounds(found["swapped", "a"])
    assert swapped[0].key == plain[0].key and swapped[1].key == sounds(found["model", "b"])[1].key
    assert all(s.key.startswith("silence") for s in sounds(found["silence", "a"]))
    assert constants(task(), items, [])["prompt"][0][0] == "yes"


def test_recordings_that_are_not_there_are_asked_about_without_sound(tmp_path):
    found = asked([Item(str(i), "q?", "x", (tmp_path / f"{i}.wav",)) for i in range(2)])
    assert {name for name, _ in found} == {"silence", "noise", "text"}
    assert sounds(found["noise", "0"])[0].seconds == 10


def test_a_score_in_a_file_reaches_the_model_as_its_notes(tmp_path):
    (tmp_path / "answer-is-g.abc").write_text(ABC)
    part = {"type": "score", "score": str(tmp_path / "answer-is-g.abc")}
    message = {"role": "user", "content": [part, {"type": "text", "text": "Key?"}]}
    found = asked([Item("a", "Key?", "G major", messages=(message,))], "model")
    text = found["model", "a"][0]["content"][0]["text"]
    assert text.startswith("X:1") and "answer-is" not in text


def test_constants_of_options():
    options = ("a", "bbb", "cc")
    items = [Item(str(i), "?", options[t], options=options) for i, t in enumerate((1, 1, 1, 0, 2, 2))]
    found = {name: [v.score for _, v in rows] for name, rows in constants(task(), items, []).items()}
    assert np.mean(found["longest"]) == 0.5 and np.mean(found["shortest"]) == pytest.approx(1 / 6)
    assert np.mean(found["position"]) == 0.5 and np.mean(found["chance"]) == pytest.approx(1 / 3)
    tied = [Item("0", "?", "aa", options=("aa", "bb", "c"))]
    assert constants(task(), tied, [])["longest"][0][1].score == 0.5


def test_majority_is_learned_from_train_and_knows_what_is_asked():
    train = [Item(str(i), "?", t, strata={"of": of}) for i, (of, t) in enumerate(
        [("mode", "major"), ("mode", "major"), ("mode", "minor"), ("drums", "no"), ("drums", "yes"), ("drums", "no")]
    )]  # fmt: skip
    items = [Item("a", "?", "minor", strata={"of": "mode"}), Item("b", "?", "no", strata={"of": "drums"})]
    found = constants(task(), items, train)
    assert [answer for answer, _ in found["majority"]] == ["major", "no"]
    assert [v.score for _, v in found["majority"]] == [0, 1] and [v.score for _, v in found["chance"]] == [0.5, 0.5]
    assert "majority" not in constants(task(guess=lambda item: None), items, train)
