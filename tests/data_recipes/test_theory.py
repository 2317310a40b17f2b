"""Theory answers against music21, which spells intervals, scales, chords and keys by another route."""

import re
from collections import Counter

import numpy as np
import pytest
from music21 import chord, interval, key, note, pitch, roman, scale

from mllm.data_recipes.theory import TOPICS, spell, theory_question
from mllm.data_recipes.theory import interval as name_of

QUESTIONS = [(n, *theory_question(np.random.default_rng(n))) for n in range(600)]


def facts_of(task: str) -> list[tuple[str, str, dict]]:
    return [(q, a, facts) for _, t, (q, a), facts in QUESTIONS if t == task]


def m21(name: str) -> str:
    return name.replace("b", "-")


def test_every_topic_is_asked_and_answered_the_same_again() -> None:
    assert set(Counter(t for _, t, _, _ in QUESTIONS)) == set(TOPICS)
    assert all(theory_question(np.random.default_rng(n))[1] == turn for n, _, turn, _ in QUESTIONS[:50])
    assert [spell(f) for f in (-1, 0, 1, 6, 7, 13, -8)] == ["Bb", "F", "C", "B", "F#", "B#", "Bbb"]


def test_intervals_are_those_of_music21() -> None:
    for _, _, facts in facts_of("theory_interval"):
        low, high = note.Note(m21(facts["low"]) + "4"), note.Note(m21(facts["high"]) + "4")
        while high.pitch.diatonicNoteNum < low.pitch.diatonicNoteNum:
            high.octave += 1
        found = interval.Interval(low, high)
        assert found.niceName.lower() == facts["interval"] and found.semitones == facts["semitones"]
    assert name_of(0, 1) == "perfect fifth"


def test_scales_are_those_of_music21() -> None:
    kinds = {
        "major": scale.MajorScale, "natural minor": scale.MinorScale, "harmonic minor": scale.HarmonicMinorScale,
        "dorian": scale.DorianScale, "mixolydian": scale.MixolydianScale,
    }  # fmt: skip
    for _, _, facts in facts_of("theory_scale"):
        tonic, kind = facts["scale"].split(" ", 1)
        expected = [p.name.replace("-", "b") for p in kinds[kind](m21(tonic)).getPitches(m21(tonic) + "4")][:7]
        assert facts["spelled"] == expected


def test_key_signatures_and_relatives_are_those_of_music21() -> None:
    for _, _, facts in facts_of("theory_signature"):
        tonic, mode = facts["key"].split()
        found = key.Key(m21(tonic), mode)
        assert found.sharps == facts["sharps"]
        assert f"{found.relative.tonic.name.replace('-', 'b')} {found.relative.mode}" == facts["relative"]


def test_chords_and_numerals_are_those_of_music21() -> None:
    for _, _, facts in facts_of("theory_chord"):
        found = chord.Chord([pitch.Pitch(m21(n) + "4") for n in facts["spelled"]])
        assert found.root().name == m21(facts["spelled"][0])
        words = {"dominant seventh chord", "major seventh chord", "minor seventh chord"}
        kind = facts["chord"].split(" ", 1)[1]
        assert found.commonName == kind if kind in words else kind.removesuffix(" triad") in found.commonName
    for _, _, facts in facts_of("theory_roman"):
        found = roman.RomanNumeral(facts["numeral"].replace("°", "o"), m21(facts["key"].split()[0]))
        assert {p.name for p in found.pitches} == {m21(n) for n in facts["spelled"]}


def test_bars_add_up() -> None:
    quarters = {"whole note": 4, "half note": 2, "dotted half note": 3, "quarter note": 1, "dotted quarter note": 1.5,
                "eighth note": 0.5, "dotted eighth note": 0.75, "sixteenth note": 0.25}  # fmt: skip
    asked = [row for row in facts_of("theory_metre") if "should hold" in row[0]]
    assert len(asked) > 10
    for _, answer, facts in asked:
        beats, unit = map(int, facts["metre"].split("/"))
        rest = sum(quarters[n] for n in facts["lengths"]) - beats * 4 / unit
        assert answer == ("They fill it exactly." if rest == 0 else f"They are too {'long' if rest > 0 else 'short'}.")


def test_transposing_and_naming_agree() -> None:
    for question, answer, facts in facts_of("theory_transposition"):
        first = interval.Interval(
            note.Note(m21(facts["spelled"][0]) + "4"), note.Note(m21(facts["transposed"][0]) + "5")
        )
        assert first.semiSimpleNiceName.lower() == facts["interval"]
        assert (answer == " ".join(facts["transposed"])) or facts["interval"] in answer
        assert re.search(r"[A-G]", question)


@pytest.mark.parametrize("task", TOPICS)
def test_no_topic_has_one_answer_for_most(task: str) -> None:
    answers = Counter(a for _, a, _ in facts_of(task))
    assert answers.most_common(1)[0][1] <= 0.5 * sum(answers.values())
