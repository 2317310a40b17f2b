"""Each metric against a worked example: of its paper, or of the documentation of the library behind it."""

import math

import numpy as np
import pytest

from mllm.eval.metrics.beats import beat_scores, read_times
from mllm.eval.metrics.chords import chord_scores, harte_label
from mllm.eval.metrics.facts_in_text import count_facts, fact_scores
from mllm.eval.metrics.key import read_key, weighted_score
from mllm.eval.metrics.notes import note_measures
from mllm.eval.metrics.regression import read_rating, regression_scores
from mllm.eval.metrics.retrieval import retrieval_scores
from mllm.eval.metrics.segments import segment_scores
from mllm.eval.metrics.tags import tag_scores
from mllm.eval.metrics.tempo import tempo_scores


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("C major", 1.0),
        ("G major", 0.5),
        ("F major", 0.0),
        ("A minor", 0.3),
        ("C minor", 0.2),
        ("D minor", 0.0),
        (None, 0),
    ],
)
def test_key_has_the_weights_of_mirex(said, score) -> None:
    # the table in mir_eval.key.weighted_score's documentation
    assert weighted_score("C major", said) == score


def test_enharmonic_keys_are_equal_and_modes_compare() -> None:
    assert weighted_score("Gb minor", "F# minor") == 1
    assert weighted_score("D dorian", "D dorian") == 1 and weighted_score("D dorian", "E dorian") == 0


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("f minor", "F minor"),
        ("The musical key of the given audio is Bb major.", "Bb major"),
        ("F#m", "F# minor"),
        ("C major or A minor", None),
        ("It is not in C major.", None),
        ("Example 4:\nG minor\n\nExample 5:\nA minor", None),
        ("The audio is in a major key.", None),
        ("", None),
    ],
)
def test_a_key_is_read_only_where_one_is_said(text, key) -> None:
    assert read_key(text) == key


def test_tempo_within_four_and_eight_percent_and_octaves() -> None:
    # Gouyon et al. 2006: accuracy 1 within 4 %, accuracy 2 with 2, 3, 1/2, 1/3 times the tempo
    assert tempo_scores(100, 103.9) == {"acc1_4": 1, "acc1_8": 1, "acc2_4": 1, "acc2_8": 1}
    assert tempo_scores(100, 107) == {"acc1_4": 0, "acc1_8": 1, "acc2_4": 0, "acc2_8": 1}
    for factor in (2, 3, 1 / 2, 1 / 3):
        assert tempo_scores(120, 120 * factor * 1.03) == {"acc1_4": 0, "acc1_8": 0, "acc2_4": 1, "acc2_8": 1}
    assert tempo_scores(100, 150)["acc2_8"] == 0 and tempo_scores(100, None)["acc2_8"] == 0


def test_beats_at_half_the_tempo() -> None:
    beats = np.arange(0, 30, 0.5)
    assert beat_scores(beats, beats) == {"f_measure": 1, "cmlt": 1, "amlt": 1}
    half = beat_scores(beats, beats[::2])
    # all found beats are right, half are missed: F = 2·1·½ / 1½: CML no, AML yes
    assert half["f_measure"] == pytest.approx(2 / 3, abs=0.01) and half["cmlt"] == 0 and half["amlt"] == 1
    assert beat_scores(beats, beats + 0.06)["f_measure"] == 1 and beat_scores(beats, beats + 0.08)["f_measure"] < 0.05
    assert beat_scores(beats, [0.0, 0.5, 1.0])["f_measure"] == 0  # the first five seconds do not count
    assert beat_scores(beats, None) == dict.fromkeys(half, 0.0)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("0.0s,0.54s,1.0ss, ...", [0.0, 0.54, 1.0]),
        ("The beats are at 0.5s, 0:01.5 and 2.25.", [0.5, 1.5, 2.25]),
        ("[1.0, 0.5, 0.5]", [0.5, 1.0]),
        ("[0.4s-2.0s, 2.6s-2.7s]", None),
        ("It is in 4/4 at 120 bpm.", None),
        ("There are 4 beats in this audio track.", None),
        ("9" * 400, None),
    ],
)
def test_times_are_read_out_of_lists(text, times) -> None:
    assert read_times(text) == times


def test_chords_are_compared_by_duration() -> None:
    truth = [(0.0, 2.0, "C:maj"), (2.0, 4.0, "A:min")]
    assert set(chord_scores(truth, truth).values()) == {1.0}
    said = chord_scores(truth, [(0.0, 2.0, "C:maj7"), (2.0, 4.0, "A:maj")])
    # mir_eval.chord: root ignores the kind, majmin takes maj7 as major, sevenths does not
    assert (said["root"], said["majmin"], said["sevenths"]) == (1.0, 0.5, 0.0)
    assert chord_scores(truth, [(0.0, 2.0, "C:maj")])["root"] == 0.5 and chord_scores(truth, None)["root"] == 0
    assert [harte_label(symbol) for symbol in ("Am7/G", "F#dim", "Bbmaj7", "C", "D.C.")] == [
        "A:min7", "F#:dim", "Bb:maj7", "C:maj", None,
    ]  # fmt: skip


def test_segments_by_boundaries_and_labels() -> None:
    truth = [(0.0, 10.0, "A"), (10.0, 20.0, "B"), (20.0, 30.0, "A")]
    assert set(segment_scores(truth, truth).values()) == {1.0}
    moved = [(0.0, 11.0, "x"), (11.0, 20.0, "y"), (20.0, 30.0, "x")]
    scores = segment_scores(truth, moved)
    assert scores["hit_0.5"] == 0.5 and scores["hit_3"] == 1.0 and 0.8 < scores["pairwise"] < 1
    assert segment_scores(truth, [(0.0, 30.0, "A")])["nce"] == pytest.approx(0, abs=1e-6)


def test_notes_by_onset_pitch_and_end() -> None:
    played = [(0.0, 1.0, 60), (1.0, 2.0, 62), (2.0, 3.0, 64), (3.0, 4.0, 65)]
    assert set(note_measures(played, played).values()) == {1.0}
    found = note_measures(played, [(0.01, 1.0, 60), (1.0, 1.4, 62), (2.0, 3.0, 65)])
    # 3 of 3 onsets for 4 notes; 2 pitches; 1 end: F = 2·hits / (3 + 4)
    assert found == pytest.approx({"onset": 6 / 7, "note": 4 / 7, "note_offset": 2 / 7})
    assert note_measures(played, []) == {"onset": 0, "note": 0, "note_offset": 0}


def test_tags_give_scikit_learns_documented_figures() -> None:
    true, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    # scikit-learn's examples: average_precision_score 0.83, roc_auc_score 0.75
    found = tag_scores(np.stack([true, np.ones(4)], 1), np.stack([scores, scores], 1))
    assert found == pytest.approx(
        {"map": 0.8333, "roc_auc": 0.75, "tags": 1}, abs=1e-4
    )  # a tag that all have is left out
    with pytest.raises(ValueError, match="no tag"):
        tag_scores(np.ones((4, 1)), np.ones((4, 1)))


def test_regression_gives_the_documented_figures() -> None:
    # scikit-learn's r2_score example 0.948; SciPy's pearsonr example -0.828503883588428
    assert regression_scores([3, -0.5, 2, 7], [2.5, 0.0, 2, 8])["r2"] == pytest.approx(0.9486, abs=1e-4)
    found = regression_scores([1, 2, 3, 4, 5, 6, 7], [10, 9, 2.5, 6, 4, 3, 2])
    assert found["pearson"] == pytest.approx(-0.828503883588428)
    assert found["r2_rescaled"] == pytest.approx(2 * found["pearson"] - 1)
    flat = regression_scores([1.0, 2.0, 3.0], [2.0, None, None])
    assert flat["r2"] == 0 and flat["pearson"] == 0 and math.isnan(flat["r2_rescaled"]) and flat["read"] == 1 / 3


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("5.", 5),
        ("The score is 6 out of 9.", 6), ("6/9", 6), ("On a scale of 1 to 9, I say 7.5", 7.5), ("120 bpm", None),
        ("Example 1: 2\nExample 2: 8", None), ("between 6 and 7", None), ("not specified", None), ("6, so 6", 6),
    ],
)  # fmt: skip
def test_one_rating_is_read(text, rating) -> None:
    assert read_rating(text, 1, 9) == rating


def _by_word(texts):
    words = ["flute", "drums", "piano", "choir"]
    vectors = np.array([[text.count(word) for word in words] for text in texts], np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def test_retrieval_tells_own_captions_from_a_fixed_sentence() -> None:
    references = [["flute", "a flute"], ["drums"], ["piano"], ["choir"]]
    own = retrieval_scores(["flute", "drums", "piano", "choir"], references, embed=_by_word)
    assert own["r1"] == 1 and own["own_minus_other"] == 1
    fixed = retrieval_scores(["piano"] * 4, references, embed=_by_word)
    # one finds its track; for the others three tracks are equally far, below the piano's: R@1 0
    assert fixed["r1"] == 0.25 and fixed["own_minus_other"] == pytest.approx(0, abs=1e-6)
    silent = retrieval_scores([""] * 4, references, embed=_by_word)
    assert silent["r1"] == 0.25  # four tracks at a tie: chance
    words = retrieval_scores(["some drums", "a solo flute"], references, own=[1, 0], embed="tf-idf")
    assert words["r1"] == 1 and words["tracks"] == 4
    assert retrieval_scores(["drums", "x"], [["the"], ["a"]], embed="tf-idf")["r1"] == 0.5  # no words: chance
    with pytest.raises(ValueError, match="reference"):
        retrieval_scores(["x"], [[]], embed=_by_word)


TRUE = {"key": "Bb major", "tempo": 100.0, "metre": "6/8", "instruments": ["flute", "acoustic guitar (nylon)"]}


@pytest.mark.parametrize(
    ("text", "right", "claims", "said"),
    [
        ("A flute and a guitar play in B flat major, in 6/8, at about 100 BPM.", 5, 5, 5),
        ("A piano plays in A minor.", 0, 2, 0),
        ("It is in Bb major or C major.", 0.5, 1, 0),
        ("It is not in Bb major.", 0, 1, 0),
        ("No piano, no harp, no drums.", 0, 0, 0),  # nobody could run out of true denials
        ("A lovely tune.", 0, 0, 0),
    ],
)
def test_facts_in_a_caption(text, right, claims, said) -> None:
    count = count_facts(text, TRUE)
    assert (count.right, count.claims, count.said, count.facts) == (right, claims, said, 5)


def test_precision_and_recall_over_captions() -> None:
    counts = [count_facts("A flute in Bb major.", TRUE), count_facts("A piano in 6/8.", TRUE)]
    scores = fact_scores(counts)
    assert scores["fact_precision"] == 3 / 4 and scores["fact_recall"] == 3 / 10
    assert fact_scores([count_facts("", TRUE)])["fact_precision"] == 0
    assert count_facts("It is in A minor.", {"metre": "3/4"}).claims == 0  # what is not known is not judged
