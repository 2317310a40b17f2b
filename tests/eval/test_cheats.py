"""Models that cheat are built here, and the report exposes each: by a control or by what it is not given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cheats import RATE, Cheat, file_name, fingerprint, first_option, memorised

from mllm.eval.gate import failures, read_gate
from mllm.eval.item import Item
from mllm.eval.metrics.multiple_choice import read_choice
from mllm.eval.report import table
from mllm.eval.run import evaluate
from mllm.eval.sounds import recording
from mllm.eval.task import Task, Verdict
from mllm.eval.tasks import key

KEYS = ("C major", "D minor", "G major", "Bb minor")
COUNT = 80


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[tuple[Path, str]]:
    """Tones whose pitch is the truth, under names that betray it."""
    folder = tmp_path_factory.mktemp("named")
    draw = np.random.default_rng(0)
    made = []
    for i in range(COUNT):
        truth = KEYS[int(draw.integers(len(KEYS)))] if i % 3 else "C major"  # "C major" is the commonest
        pitch = 220 * 2 ** (KEYS.index(truth) / 4) * float(draw.uniform(0.99, 1.01))
        path = folder / f"truth-is-{truth.replace(' ', '-')}-{i}.wav"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * np.arange(RATE // 2) / RATE), RATE)
        made.append((path, truth))
    return made


def one_answer(clips: list[tuple[Path, str]]) -> dict[str, Task]:
    items = [Item(str(i), "Key?", truth, (path,)) for i, (path, truth) in enumerate(clips)]

    def score(answer: str, item: Item) -> Verdict:
        parsed = key.parse(answer)
        return Verdict(parsed, float(parsed is not None and key.split(parsed) == key.split(item.truth)))

    return {"keys": Task("keys", "keys", lambda d, s, n, seed: items[:n] if s == "test" else [], score)}


def by_letter(clips: list[tuple[Path, str]]) -> dict[str, Task]:
    """The true option is the first one more often than not, and the longest hardly ever."""
    draw = np.random.default_rng(1)
    items = []
    for i, (path, truth) in enumerate(clips):
        others = [k for k in KEYS if k != truth]
        place = 0 if i % 2 else int(draw.integers(4))
        items.append(Item(str(i), "Which key?", truth, (path,), options=(*others[:place], truth, *others[place:])))

    def score(answer: str, item: Item) -> Verdict:
        at = read_choice(answer, item.options)
        return Verdict(
            None if at is None else item.options[at], float(at is not None and item.options[at] == item.truth)
        )

    return {"letters": Task("letters", "letters", lambda d, s, n, seed: items[:n] if s == "test" else [], score)}


def run(cheat, registry, data, output):
    summary = evaluate(cheat, None, data, output, registry=registry)
    (found,) = summary["tasks"].values()
    return summary, found


def listener(clips: list[tuple[Path, str]]) -> Cheat:
    """No cheat: it hears the pitch."""

    def say(question: str, sounds: list) -> str:
        if not sounds:
            return "C major"
        wave = sounds[0].load(RATE)
        spectrum = np.abs(np.fft.rfft(wave))
        if spectrum.max() < 1e-6:
            return "C major"
        pitch = np.argmax(spectrum) * RATE / len(wave)
        return KEYS[int(np.clip(round(4 * np.log2(pitch / 220)), 0, 3))]

    return Cheat("listener", say)


def test_one_that_listens_has_a_gain_and_passes_the_gate(clips, data, tmp_path):
    summary, found = run(listener(clips), one_answer(clips), data, tmp_path)
    gain = found["model"]["gain"]
    assert found["model"]["accuracy"] > 0.95 and gain["low"] > 0.3
    assert found["model"]["nudged"]["high"] < 0.05  # 30 ms are nothing to it
    assert not failures(summary, read_gate("listening=0.2")) and not failures(summary, read_gate("keys=0.2"))
    assert "No better" not in table(summary) and "knows files" not in table(summary)


def test_always_c_major_is_the_majority_and_silence(clips, data, tmp_path):
    summary, found = run(Cheat("always", lambda q, s: "C major"), one_answer(clips), data, tmp_path)
    assert found["model"]["accuracy"] > 0.4  # better than chance
    for control in ("silence", "noise", "text", "swapped", "majority"):
        assert found[control]["accuracy"] == found["model"]["accuracy"]
    assert found["model"]["gain"]["points"] == 0 and found["majority"]["answer"] == "C major"
    assert "No better than what hears or reads nothing: keys" in table(summary)
    assert failures(summary, read_gate("listening=0.2"))


def test_the_first_option_is_the_best_position(clips, data, tmp_path):
    summary, found = run(Cheat("first", first_option), by_letter(clips), data, tmp_path)
    assert found["model"]["accuracy"] > 0.5 > found["chance"]["accuracy"] == pytest.approx(0.25)
    assert found["position"]["accuracy"] == found["model"]["accuracy"] == found["silence"]["accuracy"]
    assert found["model"]["gain"]["points"] == 0
    assert "No better than what hears or reads nothing: letters" in table(summary)


def test_ignoring_the_sound_is_seen_where_the_words_betray_the_answer(clips, data, tmp_path):
    """One that has read the test's questions answers by their words: right everywhere, without the clip as well."""
    registry = one_answer(clips)
    items = [
        Item(i.id, f"Key of clip {i.id}?", i.truth, i.audio) for i in registry["keys"].items(data, "test", None, 0)
    ]
    known = {item.question: item.truth for item in items}
    task = Task("keys", "keys", lambda d, s, n, seed: items if s == "test" else [], registry["keys"].score)
    summary, found = run(Cheat("deaf", lambda q, s: known.get(q, "?")), {"keys": task}, data, tmp_path)
    assert found["model"]["accuracy"] == found["text"]["accuracy"] == found["silence"]["accuracy"] == 1.0
    assert found["model"]["gain"]["points"] == 0 and failures(summary, read_gate("listening=0.01"))


def test_one_that_knows_the_files_forgets_them_when_the_sound_moves(clips, data, tmp_path):
    cheat = Cheat("memory", memorised({fingerprint(recording(path)): truth for path, truth in clips}))
    summary, found = run(cheat, one_answer(clips), data, tmp_path)
    assert found["model"]["accuracy"] == 1.0 and found["model"]["gain"]["low"] > 0.3  # no control catches it but one:
    assert found["model"]["nudged"]["low"] > 0.3
    assert "knows files rather than music: keys" in table(summary)
    assert "It knows these files rather than the music." in (tmp_path / "report.html").read_text()


def test_a_name_that_betrays_the_truth_does_not_reach_the_model(clips, data, tmp_path):
    cheat = Cheat("names", file_name)
    _, found = run(cheat, one_answer(clips), data, tmp_path)
    assert found["model"]["accuracy"] == found["majority"]["accuracy"] and found["model"]["gain"]["points"] == 0
    assert len(cheat.heard) > COUNT and not any("truth-is" in json.dumps(vars(s), default=str) for s in cheat.heard[:5])


def test_works_of_the_test_that_stand_in_train_are_told(clips, tmp_path):
    rows = []
    for i, (path, truth) in enumerate(clips[:6]):
        content = [{"type": "audio", "audio": str(path)}, {"type": "text", "text": "Key?"}]
        facts = {
            "tonic": truth.split()[0],
            "mode": truth.split()[1],
            "tune_id": f"tune {i % 4}",
            "instruments": ["harp"],
        }
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": truth}]
        split = "train" if i < 2 else "test"
        rows.append({"id": str(i), "task": "key", "messages": messages, "facts": facts, "split": split})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = evaluate("constant:C major", ["key"], tmp_path / "rows.jsonl", tmp_path / "out", tools=False)
    assert summary["about"]["key"]["works_in_train"] == 2  # tunes 0 and 1
    assert "stand in TRAIN too: key 2" in table(summary)
