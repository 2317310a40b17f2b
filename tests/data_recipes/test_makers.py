"""Makers: every answer is true of the facts, and no trick wins a choice, a check or an honest question."""

import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from drawn_music import SEED, chosen, music
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.data_recipes.choices import Pool
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.makers import JSON_FIELDS, MAKERS, dialogue, draw_turns, make_turns
from mllm.data_recipes.mentions import agrees
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.properties import midi_number
from mllm.data_recipes.row import FACTS
from mllm.data_recipes.tune import note_name


@settings(max_examples=40, deadline=None)
@given(SEED)
def test_answers_say_only_what_is_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    facts = music(rng)
    for task, style, turns in make_turns(facts, rng):
        for question, answer in turns:
            assert (
                question
                and answer
                and "{" not in question.replace('{"', "")
                and "Secret Waltz" not in question + answer
            )
            # Times and numbers of beats are checked below against the facts themselves.
            # JSON is checked field by field, for the name of a field says nothing.
            wrong = [
                w
                for w in agrees(answer if style != "json" else "", facts)
                if not w.startswith(("time", "count", "notes"))
            ]
            assert not wrong, (task, style, question, answer)
            assert agrees(question, {}, question) == [] == agrees(answer, {}, answer)


@settings(max_examples=60, deadline=None)
@given(SEED)
def test_answers_about_moments_are_those_of_the_moment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    facts = music(rng)

    def seconds(text: str) -> list[int]:
        return [int(m) * 60 + int(s) for m, s in re.findall(r"(\d+):(\d\d)", text)]

    for _, style, ((question, answer),) in make_turns(facts, rng, ["chords", "beats", "sections"]):
        at = seconds(question)
        if "chord" in question.lower() and at and style == "short":
            (label,) = [c for a, b, c in facts["chords"] if a <= at[0] < b]
            assert answer == label.removesuffix(":maj")
        if "beats" in question and len(at) == 2:
            assert int(answer) == sum(at[0] <= b < at[1] for b in facts["beats"])
        if answer.startswith("Section"):
            (section,) = [s for s in facts["sections"] if s["start"] <= at[0] < s["end"]]
            assert answer.startswith(f"Section {section['label']}, in {section['key']}, in {section['metre']}")
            assert section["instruments"][0].split()[-1][:6] in answer
        if question.endswith(("m:ss.", "m:ss?")) and "section" in question:
            label = re.search(r"section ([A-C])", question)
            assert (
                label
                and abs(seconds(answer)[0] - [s["start"] for s in facts["sections"] if s["label"] == label[1]][0])
                <= 0.5
            )
        for place in seconds(answer) if "change" in answer else ():
            assert min(abs(place - s["start"]) for s in facts["sections"][1:]) <= 0.5


def test_every_family_asks_and_every_maker_can_be_named() -> None:
    rng = seed_of(1, "families")
    seen = {task for _ in range(6) for task, _, _ in make_turns(music(rng), rng)}
    seen |= {task for task, _, _ in make_turns({"pitch": 61}, rng)}
    assert seen == {maker.task for maker in MAKERS.values()}
    assert {m.style for m in MAKERS.values()} == {"short", "sentence", "json", "choice", "verify", "honest"}
    assert all(m.difficulty in (1, 2, 3) and set(m.needs) <= set(FACTS) for m in MAKERS.values())
    assert [t for t, _, _ in make_turns(music(rng), rng, ["key.choice"])] == ["key"]
    with pytest.raises(DataError, match="no maker asks 'colour'"):
        make_turns({}, rng, ["colour"])


def test_only_facts_that_are_there_are_asked_about() -> None:
    rng = seed_of(1, "few")
    assert make_turns({}, rng) == [] and make_turns({"title": "X", "composer": "Y"}, rng) == []
    asked = {task for task, _, _ in make_turns({"key": "A minor", "tempo": None, "instruments": []}, rng)}
    assert asked == {"key", "mode", "tonic", "json", "can_tell"}
    odd = {"key": "H", "metre": "13/16", "texture": "?", "contour": "?", "lowest": "?", "chords": [[0, 9, "N"]]}
    assert not [s for _, s, _ in make_turns(odd, rng) if s in ("choice", "verify")]
    named = {"caption": "The Secret Waltz of Nobody, played well.", "title": "the secret waltz of nobody"}
    assert make_turns(named, rng) == []


ODD: dict[str, list[Any]] = {
    "instruments": [[""], ["drums"], ["synth lead"], ["hurdy-gurdy", "flute"]],
    "key": ["A# major", "Cb minor", "F dorian", "C", "", None],
    "tempo": [0, -3.0, float("nan"), 12.0, 480.0],
    "metre": ["5/4", "free", "1/1"],
    "mood": ["calm", ["wistful"], []],
    "notes": [0, 5, 10**6, []],
    "contour": ["ascending", "wavy"],
    "chords": [[[0.0, 0.4, "C#:min7/b3"]], [[0.0, 9.0, "Z"]], [[0.0, 9.0, "X"]], [[0.0, 9.0, "Bb:sus4(b7)"]]],
    "beats": [[1.0], [0.5, 0.5, 0.5], [0.1 * i * i for i in range(12)]],
    "sections": [[{"start": 0.0, "end": 0.3, "label": "verse"}], [{"start": 0, "end": 99, "label": "A", "key": None}]],
    "roman": [[[1, 1.0, "C major", "I"]], [[0, 0.5, "a minor", "viio6/5"]] * 4],
    "first_notes": [["A4"], ["A", "B", "C", "D"]],
    "lowest": ["?", "Cb4"],
    "caption": ["", "  ", "Fine\n\nmusic."],
    "genre": ["electro-swing"],
    "pitch": [0, 127],
}


@settings(max_examples=150, deadline=None)
@given(SEED)
def test_few_and_odd_facts_make_no_trouble(seed: int) -> None:
    rng = np.random.default_rng(seed)
    facts = {name: value for name, value in music(rng).items() if rng.random() < 0.5}
    for name, values in ODD.items():
        if rng.random() < 0.3:
            facts[name] = values[int(rng.integers(len(values)))]
    for task, style, turns in make_turns(facts, rng):
        assert all(q.strip() and a.strip() and "None" not in a and "nan" not in a for q, a in turns), (
            task,
            style,
            turns,
        )
    assert dialogue(facts, rng) is None or facts


def test_the_same_generator_gives_the_same_turns() -> None:
    facts = music(seed_of(3, "clip"))
    one, two = (make_turns(facts, seed_of(3, "turns"), pool=Pool(5)) for _ in range(2))
    assert one == two and one != make_turns(facts, seed_of(4, "turns"), pool=Pool(5))
    assert dialogue(facts, seed_of(3, "talk")) == dialogue(facts, seed_of(3, "talk"))


def test_drawn_turns_spread_over_the_tasks_and_keep_the_decks() -> None:
    rng, pool = seed_of(9, "drawn"), Pool(9)
    drawn = [draw_turns(music(rng), rng, 6, pool=pool) for _ in range(400)]
    assert all(len({task for task, _, _ in turns}) == 6 for turns in drawn)
    checks = Counter(a[:2] for turns in drawn for t, s, ((_, a),) in turns if s == "verify" and t == "chords")
    assert sum(checks.values()) >= 8 and abs(checks["Ye"] - checks["No"]) <= 1
    tasks = Counter(task for turns in drawn for task, _, _ in turns)
    assert set(tasks) >= {m.task for m in MAKERS.values()} - {"pitch", "pitch_number"}
    assert max(tasks.values()) < 2.5 * min(tasks.values())
    assert len(draw_turns({"genre": "folk"}, rng, 4, ["genre"])) == 4 and draw_turns({}, rng, 3) == []


def test_json_answers_hold_exactly_the_fields_asked_for() -> None:
    rng = seed_of(5, "json")
    for _ in range(100):
        facts = music(rng)
        for _, _, ((question, answer),) in make_turns(facts, rng, ["json"]):
            fields = json.loads(answer)
            if "properties" in question:
                schema = json.loads(question[question.index("{") :])
                assert schema["required"] == list(fields) == list(schema["properties"])
                types = {"string": str, "integer": int, "boolean": bool, "array": list}
                assert all(type(v) is types[schema["properties"][k]["type"]] for k, v in fields.items())
            else:
                assert re.findall(r'"(\w+)" \(', question) == list(fields)
            for name in fields:
                if name == "tempo":  # as a sentence says it, for both may stand in one dialogue
                    (_, _, ((_, said),)) = make_turns(facts, rng, ["tempo.short"])[0]
                    assert said == f"about {fields[name]} BPM" and abs(fields[name] / facts["tempo"] - 1) < 0.03
                    assert "nearest metronome mark" in question
                elif name != "sections":
                    assert fields[name] == facts[JSON_FIELDS[name].needs]


def test_what_the_clip_cannot_tell_is_said_honestly_and_what_it_can_is_answered() -> None:
    rng = seed_of(6, "honest")
    drums = {"instruments": ["drums"], "tempo": 90.0, "seconds": 5.0}
    refusals = re.compile(r"cannot|no (key|tempo|metre|beat|singer|words)|not say|nothing|nobody|many keys", re.I)
    seen: Counter[str] = Counter()
    for facts in [drums, {"pitch": 60, "seconds": 3.0}, music(rng)] * 60:
        for task, style, ((question, answer),) in make_turns(facts, rng, ["cannot_tell", "can_tell"]):
            assert style == "honest"
            seen[task] += 1
            if task == "cannot_tell":
                assert refusals.search(answer), (question, answer)
                if re.search(r"\bkey\b", question, re.I):
                    assert "key" not in facts
            elif not question.startswith(("Is any", "Do you hear", "Does any")):
                assert not refusals.search(answer) and not agrees(answer, facts), (question, answer)
    assert seen["cannot_tell"] == 180 <= seen["can_tell"]
    pool = Pool(6)
    drawn = [t for _ in range(300) for t, _, _ in draw_turns(music(rng), rng, 2, ["cannot_tell", "can_tell"], pool)]
    assert drawn.count("cannot_tell") == drawn.count("can_tell") == 300
    choir = {**music(rng), "instruments": ["choir"]}
    asked = [t[2][0] for _ in range(80) for t in make_turns(choir, rng, ["cannot_tell", "can_tell"])]
    assert not [q for q, _ in asked if "lyrics" in q or "singer" in q]
    assert {a[:3] for q, a in asked if q.startswith(("Is any", "Do you hear", "Does any"))} == {"Yes"}
    assert not make_turns({"key": "A minor", "bars": 8}, rng, ["cannot_tell"])  # a score may name its composer


@settings(max_examples=60, deadline=None)
@given(SEED, st.integers(2, 6))
def test_dialogues_ask_each_thing_once(seed: int, turns: int) -> None:
    rng = np.random.default_rng(seed)
    facts = music(rng)
    talk = dialogue(facts, rng, turns)
    assert talk is not None and len(talk) in (turns, turns - 1) and len(talk) >= 2
    assert len({q for q, _ in talk}) == len(talk)
    assert not talk[0][0].startswith("And ")
    for question, answer in talk:
        if answer.startswith("{"):
            assert (question, answer) == talk[-1] and json.loads(answer)


def test_dialogues_refer_back_and_mix_styles() -> None:
    rng = seed_of(8, "talks")
    talks = [t for _ in range(150) if (t := dialogue(music(rng), rng))]
    assert {len(t) for t in talks} == {2, 3, 4, 5, 6}
    later = [q for t in talks for q, _ in t[1:]]
    assert sum(q.startswith("And ") for q in later) > 20
    assert any("said about" in q or "sum up" in q for q in later)
    assert any(chosen(q) for q in later) and any("yes or no" in q for q in later)
    assert dialogue({"genre": "folk"}, rng, only=["genre.short"]) is None
    with pytest.raises(DataError, match="2 to 6"):
        dialogue(music(rng), rng, 7)


def test_notes_are_named_by_the_facts() -> None:
    for pitch in range(40, 90):
        made = make_turns({"pitch": pitch}, seed_of(pitch, "note"), ["pitch.short", "pitch_number"])
        assert [a for _, _, ((_, a),) in made] == [note_name(pitch, 0, "major"), str(pitch)]
        assert midi_number(note_name(pitch, 0, "major")) == pitch
