"""Tasks whose recordings the harness makes: a passage in minutes of another instrument, and progressions of chords."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mllm.audio import load_audio
from mllm.estimators import RATE
from mllm.eval.tasks import chords, needle

PITCHES = {"flute": 880.0, "harp": 220.0, "organ": 440.0, "brass": 110.0}
"""A tone for each family, so that who plays can be measured."""


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> Path:
    """A JSONL of four test clips of each of four families, tones of 9 s."""
    folder = tmp_path_factory.mktemp("families")
    rows = []
    for family, pitch in PITCHES.items():
        for i in range(4):
            path = folder / f"{family}-{i}.wav"
            soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * np.arange(9 * RATE) / RATE), RATE)
            content = [{"type": "audio", "audio": str(path)}, {"type": "text", "text": "?"}]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "…"}]
            facts = {"instruments": [family], "key": "C major", "tempo": 100.0}
            rows.append({"id": path.stem, "task": "key", "messages": messages, "facts": facts, "split": "test"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "made"
    monkeypatch.setenv("MLLM_CACHE", str(folder))
    return folder


def seconds(clock: str) -> int:
    minutes, rest = clock.split(":")
    return 60 * int(minutes) + int(rest)


def playing(wave: np.ndarray, at: int) -> str:
    """The family whose tone is the loudest in the second from `at` on."""
    spectrum = np.abs(np.fft.rfft(wave[at * RATE : (at + 1) * RATE]))
    return min(PITCHES, key=lambda family: abs(np.log2(np.argmax(spectrum) / PITCHES[family])))


def test_the_passage_is_where_the_questions_say(families):
    what, when = needle.items(families, "test", 2, 0)
    wave = load_audio(what.audio[0], RATE)
    assert what.audio == when.audio and what.group == when.group and len(wave) == 120 * RATE
    heard = [playing(wave, at) for at in range(1, 118)]
    (throughout, most), (other, rest) = Counter(heard).most_common()
    assert 15 <= rest <= 33 and most > 80 and throughout in what.options
    assert what.truth == other == playing(wave, seconds(what.question.split()[-1].rstrip("?")))
    begins = 1 + heard.index(other)
    assert abs(seconds(when.truth) - begins) <= 1
    assert needle.TASK.score("ABCD"[what.options.index(other)], what).score == 1
    assert needle.TASK.score(throughout, what).score == 0  # who hears the whole alone is wrong


def test_passages_are_balanced_in_place_and_stay_the_same(families, monkeypatch):
    monkeypatch.setattr(needle, "MINUTES", (2,))
    asked = needle.items(families, "test", None, 0)
    assert len(asked) == 2 * needle.RECORDINGS and len({item.id for item in asked}) == len(asked)
    for of in ("what", "when"):
        places = Counter(item.options.index(item.truth) for item in asked if item.strata["of"] == of)
        assert set(places.values()) == {needle.RECORDINGS // needle.OPTIONS} and len(places) == needle.OPTIONS
    changed = {path: path.stat().st_mtime_ns for item in asked for path in item.audio}
    assert needle.items(families, "test", None, 0) == asked  # and nothing is made twice
    assert changed == {path: path.stat().st_mtime_ns for path in changed}
    assert needle.items(families, "train", None, 0) == [] == needle.items(families, "validation", None, 0)


def test_chords_are_those_that_sound():
    asked = chords.items(Path("nowhere"), "test", 3, 0)
    for item in asked:
        own = chords.score(item.meta["words"], item)
        assert own.score == 1 and min(own.extras.values()) == 1
        length = len(load_audio(item.audio[0], RATE)) / RATE
        assert item.truth[-1][1] == pytest.approx(length, abs=0.05)
    heard = list(chords.Templates().answers((), asked, lambda: None))
    assert min(verdict.score for verdict in heard) > 0.8  # a method that knows nothing of these recordings
    assert not any(item.audio for item in chords.items(Path("nowhere"), "train", 3, 0))


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [
        ("C, Am, F, G7", ["C:maj", "A:min", "F:maj", "G:7"]),
        ("C major - A minor - Bb major - F♯ minor.", ["C:maj", "A:min", "Bb:maj", "F#:min"]),
        ("1. C 2. Am 3. F/A 4. G:7", ["C:maj", "A:min", "F:maj", "G:7"]),
        ("C, Am, F", None),
        ("C, Am, F, G, C", None),
        ("I cannot hear C, Am, F, G", None),
        ("", None),
    ],
    ids=["symbols", "words", "numbered", "three", "five", "refusal", "nothing"],
)
def test_four_chords_are_read_and_nothing_else(answer, parsed):
    assert chords.parse(answer) == parsed


def test_a_wrong_chord_costs_its_bar():
    item = chords.items(Path("nowhere"), "train", 1, 0)[0]
    words = item.meta["words"].split(", ")
    wrong = "Db" if words[2] != "Db" else "D"
    assert chords.score(", ".join([*words[:2], wrong, words[3]]), item).score == pytest.approx(0.75)
    assert chords.score("no idea", item).score == 0
