"""Tasks over scores: their answers found again from the text alone, laws of the changes, balance of the answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.data_recipes.choices import LETTERS, Pool
from mllm.data_recipes.notation_tasks import TASKS, Asked, notation_question
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.score_changes import bars_of, first_difference, inverted, moved, retrograde, varied
from mllm.data_recipes.score_questions import LEVELS
from mllm.data_recipes.score_rows import fills_its_bars, melody_of, shown, written
from mllm.data_recipes.templates import wordings
from mllm.data_recipes.tonal import tonal_tune
from mllm.data_recipes.tune import SCALES
from mllm.score import Key, Note, Score, read_abc, read_score, transpose

TUNES = [tonal_tune(n) for n in range(160)]
MELODY = st.lists(st.tuples(st.sampled_from((0.25, 0.5, 1.0, 1.5)), st.integers(54, 74)), min_size=1, max_size=12)


def questions(count: int, seed: int = 1, only: tuple[str, ...] = tuple(TASKS)) -> list[Asked]:
    rng, pool = seed_of(seed, "tunes"), Pool(seed)
    out = []
    for _ in range(count):
        asked = notation_question([TUNES[int(i)] for i in rng.integers(len(TUNES), size=8)], rng, pool, only)
        if asked is not None:
            out.append(asked)
    return out


@lru_cache
def many() -> tuple[Asked, ...]:
    return tuple(questions(680))


def of(task: str) -> list[Asked]:
    return [asked for asked in many() if asked.task == task]


def melody(notes: list[tuple[float, int]]) -> Score:
    onset, out = 0.0, []
    for duration, pitch in notes:
        out.append(Note(onset, duration, pitch))
        onset += duration
    return Score(notes=out, key=Key("D"), metre=(4, 4), instruments=[""])


def bars(text: str) -> list[str]:
    music = " ".join(text.rstrip("\n").split("\nK:")[1].split("\n")[1:])
    return [bar.strip() for bar in music.removesuffix("|]").split("|")]


def quarters(bar: str, text: str) -> float:
    unit = 4 / int(re.search(r"L:1/(\d+)", text)[1])
    total, triplet = 0.0, 0
    for mark, above, slash, below in re.findall(r"(\(3)|[_^=]*[A-Ga-gz][,']*(\d*)(/?)(\d*)", bar):
        if mark:
            triplet = 3
            continue
        total += int(above or 1) / (int(below or 2) if slash else 1) * unit * (2 / 3 if triplet else 1)
        triplet = max(0, triplet - 1)
    return total


@given(MELODY)
def test_retrograde_and_inversion_undo_themselves(notes: list[tuple[float, int]]) -> None:
    score = melody(notes)
    assert retrograde(retrograde(score)).notes == score.notes
    assert inverted(inverted(score)).notes == score.notes
    assert [n.pitch for n in retrograde(score).notes] == [n.pitch for n in score.notes][::-1]
    assert inverted(score).notes[0] == score.notes[0]


@given(MELODY, st.integers(-24, 24))
def test_transposition_up_and_down_gives_the_same(notes: list[tuple[float, int]], step: int) -> None:
    score = melody(notes)
    assert transpose(transpose(score, step), -step).notes == score.notes
    moved_first = inverted(transpose(score, step)).notes
    assert moved_first == transpose(inverted(score), step).notes


@given(st.integers(30, 100), st.integers(-6, 6), st.integers(0, 11), st.sampled_from(sorted(SCALES)))
def test_steps_stay_in_the_scale_and_go_back(pitch: int, steps: int, tonic: int, mode: str) -> None:
    there = moved(pitch, steps, tonic, mode)
    assert (there - tonic) % 12 in SCALES[mode]
    assert moved(there, -steps, tonic, mode) == moved(pitch, 0, tonic, mode)


@settings(max_examples=40)
@given(st.integers(0, 159), st.data())
def test_only_the_chosen_bars_change_and_their_rhythm_stays(number: int, data: st.DataObject) -> None:
    tune = TUNES[number]
    content = tune.runs[0][:6]
    which = sorted(data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1)))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    before, after = melody_of(content, tune), melody_of(varied(content, which, tune, rng), tune)
    assert first_difference(before, after) == which[0] + 1 and first_difference(before, before) is None
    assert [(n.onset, n.duration) for n in before.notes] == [(n.onset, n.duration) for n in after.notes]
    unlike = [any(after.notes[i] != before.notes[i] for i in some) for some in bars_of(before)]
    assert [i for i, differs in enumerate(unlike) if differs] == which


def test_a_score_taken_apart_is_the_text_that_is_written() -> None:
    from mllm.score import to_abc

    for tune in TUNES[:20]:
        score = melody_of(tune.runs[0][:7], tune)
        assert fills_its_bars(score, 7) and written(score).text == to_abc(score, title=False)
        assert read_score(written(score).text).notes == score.notes and len(written(score).bars) == 7


def test_every_task_is_asked_at_every_level_and_in_its_styles() -> None:
    assert {asked.task for asked in many()} == set(TASKS)
    for task in TASKS:
        levels = Counter(asked.facts["level"] for asked in of(task))
        assert set(levels) == set(LEVELS) and max(levels.values()) <= 2 * min(levels.values()) + 2, (task, levels)
        assert len({len(a.facts.get("options", ())) for a in of(task)}) <= 2
    assert Counter(a.style for a in many()).keys() == {"short", "sentence", "json", "choice"}


def test_every_task_has_four_wordings() -> None:
    for task, words in wordings("scores").items():
        if task != "endings":
            assert len(set(words["questions"])) >= 4, task
    assert all(len(ends) >= 4 for ends in wordings("scores")["endings"].values())


def test_scores_can_be_read_and_are_short() -> None:
    for asked in many():
        for text in asked.scores:
            assert text.startswith("X:1\nM:") and len(text) < 420 and read_abc(text).notes


def test_the_same_again() -> None:
    again = questions(120)
    assert [(a.task, a.scores, a.turn, a.facts) for a in again] == [
        (a.task, a.scores, a.turn, a.facts) for a in many()[: len(again)]
    ]


def test_counts_comparisons_and_places_are_those_of_the_text() -> None:
    for asked in of("score_count_notes"):
        text, where = asked.scores[0], re.search(r"in bar (\d)", asked.turn[0])
        counted = bars(text) if not where else [bars(text)[int(where[1]) - 1]]
        assert sum(len(re.findall(r"[A-Ga-g]", bar)) for bar in counted) == int(asked.facts["answer"])
    for asked in of("score_compare"):
        a, b = map(int, re.findall(r"\b[Bb]ar (\d)", asked.turn[0].partition("\n")[0]))
        right = int(asked.facts["answer"].split()[1])
        if "notes" in asked.facts["what"]:
            sizes = {n: len(re.findall(r"[A-Ga-g]", bars(asked.scores[0])[n - 1])) for n in (a, b)}
            assert right == (max if "more" in asked.facts["what"] else min)((a, b), key=sizes.__getitem__)
    for asked in of("score_locate"):
        score, bar = read_abc(asked.scores[0]), int(asked.facts["answer"].split()[1])
        if asked.facts["what"] == "the highest note":
            top = max(n.pitch for n in score.notes)
            assert {int(n.onset / score.bar_length + 1e-6) + 1 for n in score.notes if n.pitch == top} == {bar}


def test_exactly_the_named_bar_does_not_add_up() -> None:
    for asked in (*of("score_bar_error"), *of("score_bar_sum")):
        text = asked.scores[0]
        beats, unit = map(int, asked.facts["metre"].split("/"))
        wrong = [i + 1 for i, bar in enumerate(bars(text)) if abs(quarters(bar, text) - 4 * beats / unit) > 1e-6]
        if asked.task == "score_bar_sum":
            assert wrong == ([asked.facts["wrong_bar"]] if asked.facts["answer"] == "no" else [])
        else:
            assert asked.facts["answer"] == f"bar {wrong[0]}" and len(wrong) == 1


def test_exactly_the_named_bar_has_wrong_notes() -> None:
    for asked in of("score_wrong_note"):
        pairs = zip(*map(bars, asked.scores), strict=True)
        assert [f"bar {i}" for i, (a, b) in enumerate(pairs, 1) if a != b] == [asked.facts["answer"]]


def test_the_next_bar_is_the_tunes_and_no_other_option_follows_anywhere() -> None:
    for asked in of("score_next_bar"):
        options = asked.facts["options"]
        assert 3 <= len(options) <= 4 and len(set(options)) == len(options)
        shown_bars, truth = bars(asked.scores[0]), options[LETTERS.index(asked.facts["letter"])]
        assert truth == asked.facts["answer"]
        head = asked.scores[0].split("\nK:")[0] + "\nK:" + asked.scores[0].split("\nK:")[1].split("\n")[0]
        found = []
        for option in options:
            score = read_abc(f"{head}\n{' | '.join([*shown_bars, option])} |]\n")
            run = asked.tune.runs[0]
            goal = [[n.pitch - score.notes[0].pitch for n in score.notes], [n.duration for n in score.notes]]
            some = [melody_of(run[i : i + len(shown_bars) + 1], asked.tune) for i in range(len(run))]
            found.append(
                any(
                    [[n.pitch - s.notes[0].pitch for n in s.notes], [n.duration for n in s.notes]] == goal for s in some
                )
            )
        assert found == [option == truth for option in options]


def test_what_is_written_in_answers_is_what_the_rule_gives() -> None:
    rules = {"score_invert": inverted, "score_retrograde": retrograde}
    for asked in (*of("score_transpose"), *of("score_invert"), *of("score_retrograde")):
        before, after = read_abc(asked.scores[0]), read_abc(f"{asked.facts['head']}\n{asked.turn[1]}\n")
        rule = rules.get(asked.task, lambda score, a=asked: transpose(score, a.facts["semitones"]))
        assert [(n.onset, n.pitch) for n in after.notes] == [(n.onset, n.pitch) for n in rule(before).notes]
    for asked in of("score_transposed_by"):
        a, b = map(read_abc, asked.scores)
        assert {y.pitch - x.pitch for x, y in zip(a.notes, b.notes, strict=True)} == {asked.facts["semitones"]}
        assert asked.facts["answer"].startswith("up" if asked.facts["semitones"] > 0 else "down")


def test_intervals_are_those_of_music21() -> None:
    from music21 import interval, note

    for asked in of("score_interval"):
        score = read_abc(asked.scores[0])
        found = {
            "rising " * (b.pitch > a.pitch)
            + "falling " * (b.pitch < a.pitch)
            + interval.Interval(*(note.Note(score.key.spell(n.pitch).replace("b", "-")) for n in pair)).niceName.lower()
            for a, b in zip(score.notes, score.notes[1:], strict=False)
            for pair in ((a, b),)
        }
        assert asked.facts["answer"] in found or asked.facts["answer"].split()[1] in ("augmented", "diminished")


def test_forms_and_keys() -> None:
    for asked in of("score_form"):
        unit = 2 if asked.facts["level"] == "medium" else 1
        all_bars = bars(asked.scores[0])
        parts = [tuple(all_bars[i : i + unit]) for i in range(0, len(all_bars), unit)]
        letters = asked.facts["answer"].split()
        assert len(letters) == len(parts)
        assert {(a == b) == (x == y) for a, x in zip(letters, parts, strict=True) for b, y in zip(letters, parts, strict=True)} == {True}  # fmt: skip # noqa: E501
    for asked in of("score_key"):
        assert "K:none" in asked.scores[0] and asked.facts["answer"] == asked.facts["key"]


def test_answers_hold_the_truth_in_every_style() -> None:
    for asked in many():
        question, answer = asked.turn
        truth = asked.facts["answer"]
        if asked.style == "json":
            assert str(json.loads(answer)["answer"]) in (
                truth,
                truth.removeprefix("bar "),
                str(truth == "yes"),
            )
        elif asked.style == "choice":
            texts = re.findall(r"^[A-E]\. (.*)$", question, re.M)
            assert texts[LETTERS.index(answer[0])] == truth
        elif truth not in ("yes", "no"):
            assert truth.lower() in answer.lower()


def test_yes_and_places_are_balanced() -> None:
    yes = Counter(a.facts["answer"] for a in of("score_bar_sum"))
    assert abs(yes["yes"] - yes["no"]) <= 2
    asked = questions(160, 3, ("score_next_bar",))
    for count in (3, 4):
        places = Counter(a.facts["letter"] for a in asked if len(a.facts["options"]) == count)
        assert len(places) == count and max(places.values()) - min(places.values()) <= 1
    for task in ("score_relation", "score_wrong_note", "score_bar_error"):
        answers = Counter(a.facts["answer"] for a in questions(90, 4, (task,)) if a.facts["level"] == "medium")
        assert max(answers.values()) - min(answers.values()) <= 3, (task, answers)


def test_no_length_tells_the_next_bar() -> None:
    gains = []
    for asked in questions(220, 5, ("score_next_bar",)):
        lengths = [len(option) for option in asked.facts["options"]]
        ties = [i for i, n in enumerate(lengths) if n == max(lengths)]
        gains.append((LETTERS.index(asked.facts["letter"]) in ties) / len(ties) - 1 / len(lengths))
    assert abs(np.mean(gains)) < 0.07


def test_several_scores_are_named() -> None:
    talk = shown([("Which?", "A")], ["X:1\nK:C\nC", "X:1\nK:C\nD"], ["a.flac"])
    texts = [part.get("text") for part in talk[0]["content"]]
    assert texts == [None, "Score A:\n", "X:1\nK:C\nC\n", "Score B:\n", "X:1\nK:C\nD\n", "Which?"]


@pytest.mark.parametrize("task", TASKS)
def test_no_task_has_one_answer_for_most(task: str) -> None:
    answers = Counter(asked.facts["answer"] for asked in of(task))
    assert answers.most_common(1)[0][1] <= 0.55 * sum(answers.values()), answers.most_common(3)
