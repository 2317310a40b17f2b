"""Answers are read strictly: what is not clearly one answer is none."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.eval.item import Item
from mllm.eval.tasks import TASKS, instrument, key, metre, tempo
from mllm.eval.tasks.instrument import FAMILIES
from mllm.eval.tasks.tempo import near_or_octave

SOUND = {"instrument": instrument, "key": key, "tempo": tempo, "metre": metre}


def is_right(task, answer, truth):
    return TASKS[task].score(answer, Item("a", "?", truth)).score == 1


REFUSALS = [
    "", "I don't know.", "I cannot hear any audio.", "I'm not sure, perhaps a piano in C major, 3/4 at 120 BPM.",
    "It isn't a flute in D minor.", "Sorry, as a language model I am unable to listen.", "No piano, no 4/4.",
]  # fmt: skip


@pytest.mark.parametrize("task", SOUND.values(), ids=list(SOUND))
@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_no_answer(task, answer):
    assert task.parse(answer) is None


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("F minor", "F minor"), ("F# minor", "F# minor"), ("F#minor", "F# minor"), ("f# Minor.", "F# minor"),
        ("f sharp minor", "Gb minor"), ("The piece is in F-sharp minor.", "F# minor"), ("A# major", "Bb major"),
        ("Bb major", "A# major"), ("B♭ major", "Bb major"), ("b flat major", "Bb major"), ("bb major", "Bb major"),
        ("B major", "B major"), ("b minor", "B minor"), ("Cb major", "B major"), ("E# minor", "F minor"),
        ("F#m", "F# minor"), ("Am", "A minor"), ("a minor", "A minor"), ("In A minor, clearly A minor.", "A minor"),
        ("D Dorian", "D dorian"), ("Key: E flat mixolydian", "Eb mixolydian"), ("A AEOLIAN", "A minor"),
        ("Slow drums under a melody in Ab major", "Ab major"), ("C# MINOR", "C# minor"),
    ],
)  # fmt: skip
def test_a_key_is_read(answer, truth):
    assert is_right("key", answer, truth)


@pytest.mark.parametrize(
    "answer",
    [
        "F minor or F# minor", "C major (relative of A minor)", "major", "F#", "Drums", "It is in a minor key.",
        "A minor key.", "A minor third apart", "H minor", "The major part", "in minor", "Bbb minor", "Beta major",
    ],
)  # fmt: skip
def test_what_is_not_one_key_is_not_read(answer):
    assert key.parse(answer) is None


@settings(deadline=None)
@given(st.sampled_from("ABCDEFG"), st.sampled_from(["", "#", "b"]), st.sampled_from(["major", "minor", "dorian"]))
def test_every_key_is_itself_and_no_neighbour(letter, sign, mode):
    name = f"{letter}{sign} {mode}"
    assert key.parse(f"The piece is in {name}.") == key.parse(name) == name
    others = [f"{letter}{s} {mode}" for s in ("", "#", "b") if s != sign]
    assert not any(is_right("key", name, other) for other in others)
    assert not is_right("key", name, f"{letter}{sign} {'minor' if mode == 'major' else 'major'}")


@pytest.mark.parametrize(
    ("answer", "bpm"),
    [
        ("about 120 BPM", 120), ("120", 120), ("120bpm", 120), ("≈92.5 beats per minute", 92.5),
        ("about 96 BPM in 6/8 time", 96), ("The tempo is lively, about 138 BPM.", 138), ("3 voices at 100 BPM", 100),
        ("120 BPM, yes, 120", 120),
    ],
)  # fmt: skip
def test_a_tempo_is_read(answer, bpm):
    assert tempo.parse(answer) == bpm


@pytest.mark.parametrize(
    "answer", ["100 to 120 BPM", "100-120", "fast", "one hundred", "4/4", "1990", "3", "60, or 120"]
)
def test_what_is_not_one_tempo_is_not_read(answer):
    assert tempo.parse(answer) is None


@settings(deadline=None)
@given(st.floats(40, 208), st.floats(0.5, 2.0))
def test_a_tempo_is_right_within_eight_percent_and_octaves_count_apart(truth, ratio):
    assert tempo.near(truth * ratio, truth) == (abs(truth * ratio / truth - 1) <= 0.08)
    assert not tempo.near(truth * 2, truth) and not tempo.near(truth / 2, truth)
    assert near_or_octave(truth * 2, truth) and near_or_octave(truth / 2, truth)


@pytest.mark.parametrize(
    ("answer", "signature"),
    [
        ("6/8 time", "6/8"), ("6 / 8", "6/8"), ("The metre is 3/4: three beats in a bar.", "3/4"), ("4/4, 4/4", "4/4"),
        ("Common time", "4/4"), ("9/8", "9/8"), ("in 2/4 at 120 BPM", "2/4"),
    ],
)  # fmt: skip
def test_a_metre_is_read(answer, signature):
    assert metre.parse(answer) == signature


@pytest.mark.parametrize("answer", ["3/4 or 6/8", "three", "3", "1/2/3", "2024/12/01", "120 BPM"])
def test_what_is_not_one_metre_is_not_read(answer):
    assert metre.parse(answer) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_alone_and_in_a_sentence(family):
    for answer in (family, family.upper(), f"The music is played by a {family}.", f"{family}, {family}"):
        assert instrument.parse(answer) == family


def test_names_within_names_are_not_confused():
    assert instrument.parse("electric piano") == "electric piano"
    assert instrument.parse("harpsichord") == "harpsichord"
    assert instrument.parse("harps") == "harp"
    assert instrument.parse("mallet percussion") == "mallets"
    assert instrument.parse("a guitar") is None
    assert instrument.parse("organised sound") is None


def test_several_families_are_never_right():
    for one, other in combinations(FAMILIES, 2):
        answer = f"{one}, {other}"
        assert not is_right("instrument", answer, one) and not is_right("instrument", answer, other)


def test_only_clips_with_one_family_are_asked_for_the_instrument():
    assert instrument.truth({"instruments": ["harp"], "drums": False}) == "harp"
    assert instrument.truth({"instruments": ["harp", "choir"]}) is None
    assert instrument.truth({"instruments": ["harp"], "drums": True}) is None
