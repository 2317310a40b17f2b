"""Curves over examples in the prompt: what is asked, and what learners, copiers and deaf models get."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from mllm.eval.in_context import figures, main, measure
from mllm.eval.in_context_episodes import draw_episodes, fixed_words, item_of, labels_of, read_label, score
from mllm.eval.task import EvalError

RATE, SECONDS = 8000, 0.3
PITCH = {"flute": 500.0, "harp": 250.0}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """Twenty-four test clips of a tone each: flutes are high, harps low. The rows have no episodes of their own."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for i in range(24):
        name = ("flute", "harp")[i % 2]
        time = np.arange(round(RATE * SECONDS)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (PITCH[name] + i) * time)
        soundfile.write(folder / f"{i}.wav", tone, RATE)
        content = [{"type": "audio", "audio": f"{i}.wav"}, {"type": "text", "text": "Which instrument?"}]
        rows.append({
            "id": str(i), "task": "instrument", "split": "test",
            "facts": {"instruments": [name], "tune_id": f"tune {i}"},
            "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": name}],
        })  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def pitch(sound: Any) -> float:
    """Hz of the loudest partial; 0 of silence."""
    heard = np.abs(np.fft.rfft(sound.load(RATE)))
    return float(heard.argmax() / SECONDS) if heard.max() > 1 else 0.0


class Listener:
    """Answers by what `say` makes of the (pitch, label) pairs shown, the pitch of the query, and the labels allowed."""

    at_once = 64

    def __init__(self, say: Any):
        self.name, self.say, self.asked = say.__name__, say, 0
        self.sha256 = hashlib.sha256(self.name.encode()).hexdigest()

    def answer(self, messages: Sequence[Any], max_new_tokens: int) -> list[str]:
        self.asked += len(messages)
        return [self._one(talk) for talk in messages]

    def _one(self, talk: Any) -> str:
        heard = [pitch(m["content"][0]["audio"]) for m in talk if m["role"] == "user"]
        labels = [m["content"] for m in talk if m["role"] == "assistant"]
        allowed = re.search(r"instrument: (.+?)\. Answer", talk[0]["content"][1]["text"])[1].split(", ")
        return self.say(list(zip(heard, labels, strict=False)), heard[-1], allowed)


def learner(shown, query, allowed):
    """The label of the example that sounds nearest."""
    return min(shown, key=lambda one: abs(one[0] - query))[1] if shown else allowed[0]


def copier(shown, query, allowed):
    """The last label shown."""
    return shown[-1][1] if shown else allowed[0]


def knower(shown, query, allowed):
    """Names the instrument by its pitch, whatever the examples say."""
    name = "flute" if query > 400 else "harp" if query else ""
    return name if name in allowed else allowed[0]


@pytest.fixture(scope="module")
def runs(labelled, tmp_path_factory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("icl")
    return {
        say.__name__: measure(Listener(say), labelled, folder / say.__name__, (0, 2, 4), 14)
        for say in (learner, copier, knower)
    }


def points(summary: dict[str, Any], kind: str) -> dict[int, dict[str, Any]]:
    return {point["shots"]: point for point in summary["curves"][kind]}


def test_every_number_of_examples_asks_the_same_queries_of_other_works(labelled):
    episodes = draw_episodes(labelled, "test", 20, 4)
    words = fixed_words(labelled, "test")
    for episode in episodes:
        works = [clip.facts["tune_id"] for clip, _ in episode.shown] + [episode.query.facts["tune_id"]]
        assert len(set(works)) == 5
        assert Counter(value for _, value in episode.shown) == {"flute": 2, "harp": 2}
        # labels of the shuffled control go with no class
        told = Counter((value, noise) for (_, value), noise in zip(episode.shown, episode.noise, strict=True))
        assert set(told.values()) == {1} and len(told) == 4
        prompts = {}
        for kind in ("ordinary", "made-up", "changing"):
            labels = labels_of(episode, kind, words)
            items = [item_of(episode, kind, k, "plain", labels) for k in (0, 1, 4)]
            assert {item.audio for item in items} == {(episode.query.path,)}
            assert [len(item.messages) for item in items] == [1, 3, 9]
            clips = [m["content"][0]["audio"] for m in items[2].messages if m["role"] == "user"]
            assert clips == [clip.path for clip, _ in episode.shown] + [episode.query.path]
            prompts[kind] = labels
            turned = item_of(episode, kind, 4, "reversed", labels)
            assert turned.meta["shown"] == items[2].meta["shown"][::-1] and turned.truth == items[2].truth
        assert prompts["ordinary"]["harp"] == "harp" and "harp" not in prompts["changing"].values()
        assert prompts["made-up"] == {value: words["instrument", value] for value in episode.classes}
    changing = {labels_of(episode, "changing", words)["harp"] for episode in episodes}
    assert len(changing) > 5
    assert {episode.value for episode in episodes} == {"flute", "harp"}
    assert draw_episodes(labelled, "test", 3, 4) == episodes[:3]


def test_a_learner_rises_with_examples_and_falls_where_labels_tell_nothing(runs):
    for kind in ("made-up", "changing", "ordinary"):
        curve = points(runs["learner"], kind)
        assert curve[0]["accuracy"]["mean"] < 0.8 and curve[2]["accuracy"]["mean"] == curve[4]["accuracy"]["mean"] == 1
        assert curve[4]["shuffled"]["mean"] < 0.8 and curve[4]["silence"]["mean"] < 0.8
        assert curve[4]["reordered"]["mean"] == 0 and curve[4]["copied"]["mean"] == 0
        gain = runs["learner"]["gains"][kind]
        assert gain["shuffled labels"]["difference"] > 0.2 and gain["silence"]["low"] > 0
        assert gain["fewest examples"]["low"] > 0


def test_a_copier_is_told_by_the_last_label_and_by_the_order(runs):
    curve = points(runs["copier"], "changing")
    assert curve[4]["last"]["mean"] == 1 and curve[4]["accuracy"]["mean"] < 0.8
    assert curve[4]["copied"]["mean"] == pytest.approx(1 - curve[4]["accuracy"]["mean"])
    assert curve[2]["reordered"]["mean"] == 1  # of two examples the last one is the other class
    assert curve[4]["silence"]["mean"] == curve[4]["accuracy"]["mean"]
    assert runs["copier"]["gains"]["changing"]["silence"]["difference"] == 0


def test_who_knows_the_words_needs_no_examples_and_fails_where_they_are_invented(runs):
    ordinary, changing = points(runs["knower"], "ordinary"), points(runs["knower"], "changing")
    assert ordinary[0]["accuracy"]["mean"] == ordinary[4]["shuffled"]["mean"] == 1
    assert runs["knower"]["gains"]["ordinary"]["fewest examples"]["difference"] == 0
    assert changing[4]["accuracy"]["mean"] < 0.8


def test_files_terms_and_a_rerun(labelled, tmp_path):
    first = Listener(learner)
    summary = measure(first, labelled, tmp_path, (0, 2), 4)
    assert summary == json.loads((tmp_path / "in_context.json").read_text())
    table = (tmp_path / "table.md").read_text()
    assert summary["run"]["command"] in table and "| changing | 2 | 4 | **100.0 [100.0–100.0]** |" in table
    svg = (tmp_path / "in_context.svg").read_text()
    assert "<svg" in svg and "changing labels" in svg and "shuffled labels" in svg
    assert [cost["shots"] for cost in summary["cost"]] == [0, 2] and all(c["seconds"] > 0 for c in summary["cost"])
    again = Listener(learner)
    assert measure(again, labelled, tmp_path, (0, 2), 4) == summary and again.asked == 0
    assert first.asked > 0


def test_a_tiny_model_of_ours_is_asked_and_its_tokens_grow_with_the_examples(labelled, model, tmp_path):
    arguments = ["--model", model, "--data", labelled, "--output", tmp_path, "--shots", "0,2", "--limit", "2"]
    import typer

    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "in_context.json").read_text())
    none, two = summary["cost"]
    assert two["tokens"] > 2 * none["tokens"] > 0 and none["answered"] == none["of"] == 2
    done = CliRunner().invoke(app, ["--data", str(labelled), "--shots", "0,x", "--output", str(tmp_path / "no")])
    assert done.exit_code == 1 and "--shots 0,x" in done.output


def test_too_few_clips_are_refused(labelled, tmp_path):
    with pytest.raises(EvalError, match="no property has 2 values with 13 works"):
        measure("constant:harp", labelled, tmp_path, (24,), 2)
    with pytest.raises(EvalError, match="--shots"):
        measure("constant:harp", labelled, tmp_path, (), 2)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("harp", "harp"), ("It is a Harp.", "harp"), ("harp or flute", None), ("harpsichord", None), ("", None),
        ("string ensemble", "string ensemble"), ("6/8.", "6/8"), ("16/8", None),
    ],
)  # fmt: skip
def test_one_label_is_read_or_none(answer, label):
    assert read_label(answer, ("harp", "flute", "string ensemble", "ensemble", "6/8")) == label


def test_unread_answers_are_wrong_and_counted(labelled):
    episode = draw_episodes(labelled, "test", 1, 2)[0]
    labels = labels_of(episode, "ordinary", {})
    records = []
    for k in (0, 2):
        for variant in ("plain", "shuffled", "reversed"):
            item = item_of(episode, "ordinary", k, variant, labels)
            for kind in ("ordinary", "made-up", "changing"):
                verdict = score("I cannot say", item)
                records.append({
                    "item": item.id.replace("ordinary", kind), "condition": "model", "group": item.group,
                    "parsed": verdict.parsed, "score": verdict.score, "extras": verdict.extras,
                })  # fmt: skip
    found = figures(records, (0, 2))["curves"]["ordinary"]
    assert [point["unread"] for point in found] == [1, 1] and found[1]["copied"]["mean"] == 0
