"""Choices and checks: no place, length, number or spelling tells the right option."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from drawn_music import chosen, music

from mllm.data_recipes.choices import LETTERS, Pool
from mllm.data_recipes.makers import MAKERS, make_turns
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.properties import midi_number
from mllm.data_recipes.templates import parse_key


@pytest.fixture(scope="module")
def many() -> list[tuple[str, str, str, str]]:
    """(task, style, question, answer) of some clips from one pool."""
    rng, pool = seed_of(2, "many"), Pool(2)
    wanted = [name for name, m in MAKERS.items() if m.style in ("choice", "verify")]
    return [
        (task, style, question, answer)
        for _ in range(220)
        for task, style, ((question, answer),) in make_turns(music(rng), rng, wanted, pool)
    ]


def test_places_of_right_options_are_balanced_exactly(many: list[tuple[str, str, str, str]]) -> None:
    places: dict[tuple[str, int], Counter[str]] = {}
    for task, style, question, answer in many:
        if style == "choice":
            texts = chosen(question)
            assert 2 <= len(texts) <= 5 and len(set(texts)) == len(texts)
            assert answer in (LETTERS[LETTERS.index(answer[0])], f"{answer[0]}. {texts[LETTERS.index(answer[0])]}")
            places.setdefault((task, len(texts)), Counter())[answer[0]] += 1
    assert sum(sum(c.values()) for c in places.values()) >= 2000
    for (task, count), seen in places.items():
        each = [seen[letter] for letter in LETTERS[:count]]
        assert max(each) - min(each) <= 1, (task, count, seen)


def test_no_length_gives_a_choice_away(many: list[tuple[str, str, str, str]]) -> None:
    questions = [(t, chosen(q), LETTERS.index(a[0])) for t, s, q, a in many if s == "choice"]
    chance = np.mean([1 / len(texts) for _, texts, _ in questions])
    for extreme in (max, min):
        by_task: dict[str, list[float]] = {}
        for task, texts, right in questions:
            lengths = [len(t) for t in texts]
            ties = [i for i, n in enumerate(lengths) if n == extreme(lengths)]
            by_task.setdefault(task, []).append((right in ties) / len(ties) - 1 / len(texts))
        assert abs(np.mean([g for gains in by_task.values() for g in gains])) < 0.05, (extreme, chance)
        for task, gains in by_task.items():
            assert abs(np.mean(gains)) < 0.1, (extreme, task)


def test_the_middle_number_is_no_better_guess_than_another(many: list[tuple[str, str, str, str]]) -> None:
    gains = []
    for task, style, question, answer in many:
        texts = chosen(question)
        if style == "choice" and task in ("tempo", "bars", "melody_lowest", "melody_highest") and len(texts) == 3:
            numbers = [midi_number(t) if t[0] in "ABCDEFG" else int(t.split()[0]) for t in texts]
            order = sorted(range(3), key=lambda i: numbers[i] or 0)
            gains.append((order[1] == LETTERS.index(answer[0])) - 1 / 3)
    assert len(gains) > 100 and abs(np.mean(gains)) < 0.12


def test_half_of_the_checks_are_true(many: list[tuple[str, str, str, str]]) -> None:
    yes: dict[str, list[bool]] = {}
    for task, style, _, answer in many:
        if style == "verify":
            assert answer.startswith(("Yes", "No"))
            yes.setdefault(task, []).append(answer.startswith("Yes"))
    assert {"key", "instrument", "tempo", "metre", "chords", "melody_lowest"} <= set(yes)
    for task, answers in yes.items():
        assert abs(sum(answers) - len(answers) / 2) <= 1, task


def test_wrong_options_are_wrong(many: list[tuple[str, str, str, str]]) -> None:
    rng, pool = seed_of(7, "wrong"), Pool(7)
    near = total = 0
    for _ in range(150):
        facts = music(rng)
        for task, _, ((question, answer),) in make_turns(facts, rng, ["instrument.choice", "key.choice"], pool):
            texts = chosen(question)
            wrong = [t for i, t in enumerate(texts) if i != LETTERS.index(answer[0])]
            if task == "instrument":
                assert not set(wrong) & set(facts["instruments"])
            else:
                true, others = parse_key(facts["key"]), [parse_key(w) for w in wrong]
                assert true and all(k and (k.pitch_class, k.mode) != (true.pitch_class, true.mode) for k in others)
                near += sum(abs(k.signature - true.signature) <= 1 for k in others if k)
                total += len(wrong)
    assert near / total > 0.4  # relatives and neighbours in fifths come far oftener than the 5 in 23 of chance


def test_no_spelling_tells_the_true_note() -> None:
    rng, pool = seed_of(11, "spelling"), Pool(11)
    asked = []
    for i in range(400):
        facts = {"pitch": int(rng.integers(40, 90))} if i % 4 == 0 else music(rng)
        made = make_turns(facts, rng, ["melody_lowest.choice", "melody_highest.choice", "pitch.choice"], pool)
        asked += [(facts.get("key"), chosen(q), LETTERS.index(a[0])) for _, _, ((q, a),) in made]
    assert len(asked) > 600

    def plain(name: str) -> str:
        return name.rstrip("-0123456789")

    right = Counter(plain(texts[place]) for _, texts, place in asked)
    wrong = Counter(plain(t) for _, texts, place in asked for i, t in enumerate(texts) if i != place)
    never = sum(n for name, n in wrong.items() if name not in right)
    assert never / wrong.total() < 0.01, {name: n for name, n in wrong.items() if name not in right}
    for sign in ("#", "b", "##"):
        shares = [sum(n for name, n in c.items() if name[1:] == sign) / c.total() for c in (right, wrong)]
        assert abs(shares[0] - shares[1]) < 0.04, (sign, shares)
    for key, texts, place in asked:
        if key and (of := parse_key(key)):
            scale = {(of.signature + i) * 7 % 12 for i in range(-1, 6)}
            assert len({(midi_number(t) or 0) % 12 in scale for t in texts}) == 1, (key, texts, texts[place])
            assert all(of.spell(midi_number(t) or 0) == t for t in texts), (key, texts)


def test_a_note_spelled_otherwise_than_its_wrong_ones_is_not_asked_for_by_choice() -> None:
    only = ["melody_lowest.choice", "melody_lowest.verify"]
    for lowest, key, count in (("Gb3", "D major", 0), ("F#3", "D major", 2), ("G#3", None, 2), ("Ab3", None, 0)):
        assert len(make_turns({"lowest": lowest, "key": key}, seed_of(1, lowest), only)) == count, (lowest, key)


def test_wrong_chords_are_spelled_as_the_true_one() -> None:
    for root, sign in (("Db", "#"), ("Ab", "#"), ("C#", "b"), ("G#", "b")):
        facts = {"chords": [[0.0, 9.0, f"{root}:min"]]}
        for seed in range(20):
            ((_, _, ((question, answer),)),) = make_turns(facts, seed_of(seed, root), ["chords.choice"])
            texts = chosen(question)
            assert texts[LETTERS.index(answer[0])] == f"{root}:min"
            assert not [t for t in texts if t[1:2] == sign], texts
