"""Facts of a clip -> questions and answers, with the wordings of wordings.yaml."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mllm.metronome import nearest_mark

Facts = dict[str, Any]
Turn = tuple[str, str]
"""A question and its answer."""

SHORT_TASKS = ("instrument", "key", "tempo", "metre")
MELODY_TASKS = ("melody_lowest", "melody_highest", "melody_range", "melody_contour", "melody_first_notes")

_WORDS = {
    "piano": "a piano",
    "harpsichord": "a harpsichord",
    "electric piano": "an electric piano",
    "mallets": "mallet percussion",
    "organ": "an organ",
    "accordion": "an accordion",
    "acoustic guitar": "an acoustic guitar",
    "electric guitar": "an electric guitar",
    "harp": "a harp",
    "solo strings": "solo strings",
    "string ensemble": "a string ensemble",
    "choir": "a choir",
    "brass": "brass",
    "saxophone": "a saxophone",
    "orchestral reeds": "orchestral reeds",
    "flute": "a flute",
    "drums": "drums",
}
_METRE_WORDS = {
    "2/4": "two beats in a bar",
    "3/4": "three beats in a bar",
    "4/4": "four beats in a bar",
    "6/8": "two beats in a bar, each divided into three",
}
_TEXTURES = {
    "solo": "A single line without accompaniment.",
    "duet": "Two voices move together.",
    "voices": "Several voices move together.",
    "accompanied": "A melody over bass and chords.",
}


@lru_cache(maxsize=1)
def wordings() -> dict[str, dict[str, dict[str, list[str]]]]:
    """task -> style (short, sentence) -> questions, answers."""
    return yaml.safe_load((Path(__file__).parent / "wordings.yaml").read_text(encoding="utf-8"))


def _speed(bpm: float) -> str:
    return "slow" if bpm < 76 else "moderate" if bpm < 108 else "lively" if bpm < 144 else "fast"


def _fields(facts: Facts) -> dict[str, str]:
    words = [_WORDS[f] for f in facts["instruments"]]
    speed = _speed(facts["tempo"])
    texture = _TEXTURES[facts["texture"]]
    if facts["texture"] != "solo":
        shape = {
            "level": "stays level",
            "rising": "rises",
            "falling": "falls",
            "arch": "forms an arch",
            "valley": "dips and returns",
        }[facts["contour"]]
        texture = f"{texture} The melody {shape}."
    return {
        "instrument_list": ", ".join(facts["instruments"]),
        "instrument_words": " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words),
        "key": facts["key"],
        "bpm": str(nearest_mark(facts["tempo"])),
        "tempo_word": speed,
        "metre": facts["metre"],
        "metre_words": _METRE_WORDS[facts["metre"]],
        "a_speed": f"a {speed}",
        "A_speed": f"A {speed}",
        "texture_sentence": texture,
        "lowest": facts["lowest"],
        "highest": facts["highest"],
        "contour": facts["contour"],
        "first_notes": ", ".join(facts["first_notes"]),
    }


def ask(task: str, facts: Facts, rng: np.random.Generator, style: str | None = None) -> Turn:
    """A question of `task` and its true answer; `style` is short, sentence, or drawn (short three times in four)."""
    styles = wordings()[task]
    if style is None or style not in styles:
        style = next(iter(styles)) if len(styles) == 1 else ("short" if rng.random() < 0.75 else "sentence")
    questions, answers = styles[style]["questions"], styles[style]["answers"]
    question = questions[int(rng.integers(len(questions)))]
    return question, answers[int(rng.integers(len(answers)))].format(**_fields(facts))


def messages(audio: str, turns: list[Turn]) -> list[dict[str, Any]]:
    """The conversation in the house format; the audio stands in the first user turn only."""
    out: list[dict[str, Any]] = []
    for i, (question, answer) in enumerate(turns):
        parts: list[dict[str, str]] = [{"type": "audio", "audio": audio}] if i == 0 else []
        out.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
        out.append({"role": "assistant", "content": answer})
    return out


def conversations(split: str, facts: Facts, rng: np.random.Generator) -> list[tuple[str, list[Turn]]]:
    """(task, turns) of every row of a clip.

    Training: one dialogue of all short questions in random order (most with a melody question), and one row that
    describes or asks about the melody. Validation and test: one row a task, asked shortly, so each can be scored alone.
    """
    melody = MELODY_TASKS[int(rng.integers(len(MELODY_TASKS)))]
    if split == "train":
        tasks = [SHORT_TASKS[i] for i in rng.permutation(len(SHORT_TASKS))]
        if rng.random() < 0.2:
            tasks = tasks[:3]
        elif rng.random() < 0.6:
            tasks.insert(int(rng.integers(len(tasks) + 1)), MELODY_TASKS[int(rng.integers(len(MELODY_TASKS)))])
        dialogue = [ask(t, facts, rng) for t in tasks]
        other = "describe" if rng.random() < 0.5 else melody
        return [("dialogue", dialogue), (other, [ask(other, facts, rng)])]
    rows = [(t, [ask(t, facts, rng, "short")]) for t in (*SHORT_TASKS, melody)]
    rows.append(("describe", [ask("describe", facts, rng)]))
    if split == "validation":
        order = [SHORT_TASKS[i] for i in rng.permutation(len(SHORT_TASKS))]
        rows.append(("dialogue", [ask(t, facts, rng, "short") for t in order]))
    return rows
