"""n-gram scores are those of the libraries, on their own examples; without Java there is one clear line."""

import shutil

import pytest

from mllm.eval.metrics.captions import JavaError, coco_scores, sacre_scores

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")


def test_bleu_of_sacrebleus_own_example() -> None:
    # the README of sacrebleu: BLEU = 48.53
    said = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    assert 100 * sacre_scores(said, references)["sacre_bleu4"] == pytest.approx(48.53, abs=0.01)


def test_rouge_l_of_lins_example() -> None:
    # Lin, ROUGE (2004), section 3.1: "police killed the gunman" against "the gunman kill police" is 2/4
    scores = sacre_scores(["the gunman kill police"], [["police killed the gunman"]])
    assert scores["rouge_l_f"] == 0.5 == scores["rouge_l_recall"]


def test_recall_grows_with_the_length_of_an_answer() -> None:
    short, long = (
        sacre_scores([text], [["a flute plays"]]) for text in ("a flute plays", "a flute plays " + "la " * 30)
    )
    assert short["rouge_l_recall"] == long["rouge_l_recall"] == 1 and long["rouge_l_f"] < 0.3


@needs_java
def test_cider_by_hand() -> None:
    # Vedantam et al. (2015), CIDEr-D: ten times the mean over n = 1 to 4 of the cosines of TF-IDF weighted n-grams.
    # All n-grams here stand in one set of references of two, or in none, so all weigh log 2. "flute solo" is its
    # reference: (1 + 1 + 0 + 0) / 4. "loud flute" shares one word of two: (1/2 + 0 + 0 + 0) / 4.
    scores = coco_scores(["flute solo", "loud flute"], [["flute solo"], ["loud drums"]])
    assert scores["cider"] == pytest.approx(10 * (2 / 4 + 0.5 / 4) / 2)


@needs_java
def test_meteor_by_hand() -> None:
    # Denkowski and Lavie (2014): alpha 0.85, beta 0.2, gamma 0.6, and all words here are content words (delta cancels).
    # "drums loud" has both words of "loud drums" in two chunks: 1 - 0.6 (2/2)^0.2.
    assert coco_scores(["drums loud"], [["loud drums"]])["meteor"] == pytest.approx(0.4)
    # "loud drums" of "loud drums play": P = 1, R = 2/3, one chunk of two words
    mean = (2 / 3) / (0.85 * 1 + 0.15 * 2 / 3)
    part = coco_scores(["loud drums"], [["loud drums play"]])["meteor"]
    assert part == pytest.approx(mean * (1 - 0.6 * (1 / 2) ** 0.2), abs=1e-4)


@needs_java
def test_coco_scores_of_equal_and_of_strange_captions() -> None:
    references = [["a calm piano piece", "slow piano"], ["loud drums and guitars play"]]
    same = coco_scores(["a calm piano piece", "loud drums and guitars play"], references)
    assert same["bleu4"] == pytest.approx(1) and same["rouge_l"] == pytest.approx(1) and same["meteor"] == 1.0
    other = coco_scores(["x ||| y\nz", ""], references)  # METEOR's own separator, a line break, nothing
    assert other["meteor"] < 0.1 and other["bleu1"] < 0.1


def test_without_java_a_line_says_so(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JavaError, match="default-jre-headless"):
        coco_scores(["a"], [["a"]])
