"""Multiple choice is read strictly: a letter in running text chooses nothing."""

import pytest

from mllm.eval.metrics.multiple_choice import read_choice, read_label

OPTIONS = ["Guitar", "Drums", "Piano", "Electric guitar"]
CHINESE = ["和声排列法   ", "混合排列法", "开放排列法", "密集排列法"]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", 1), ("b", 1), ("(b)", 1), ("B.", 1), ("B) Drums", 1), ("Drums", 1), ("**B**", 1), ("<s> B</s>", 1),
        ("Drums are playing", 1), ("The answer is D.", 3), ("The correct answer is: (C) Piano", 2), ("answer: c", 2),
        ("Option B: Drums", 1), ("B Drums", 1), ("A guitar", 0), ("An electric guitar", 3), ("A piano is heard", 2),
        ("It is not the piano but the drums", 1), ("The best option is Piano, not Drums.", 2),
        ("The answer is B because the drums and the piano play", 1),
    ],
)  # fmt: skip
def test_a_choice_is_read(text, chosen) -> None:
    assert read_choice(text, OPTIONS) == chosen


@pytest.mark.parametrize(
    "text",
    [
        "", "E", "E. Organ", "A and B", "A or B", "B. Piano", "C Drums", "electric guitar and drums",
        "None of the above", "I cannot tell, maybe Drums", "Digital sounds", "D'oh", "Dreamy and Calm", "All of them",
        "guitar, drums, piano",
    ],
)  # fmt: skip
def test_what_chooses_nothing_or_two_is_unread(text) -> None:
    assert read_choice(text, OPTIONS) is None


def test_the_letter_in_a_word_is_no_letter() -> None:
    # MuChoMusic's own rule takes the D of "Drums" for option D
    options = ["A slow waltz", "A march", "Fast jazz", "A lullaby"]
    assert read_choice("Drums and Dance", options) is None


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("D", 3),
        ("答案是D。密集排列法", 3),
        ("答案：Ｄ", 3),
        ("我选择 D", 3),
        ("应该是密集排列法。", 3),
        ("D. 开放排列法", None),
        ("和声排列法", 0),
    ],
)
def test_chinese_answers(text, chosen) -> None:
    assert read_choice(text, CHINESE) == chosen


def test_options_that_are_letters_or_twice_there() -> None:
    assert read_choice("A", ["C minor", "C# minor", "A"]) is None  # the letter, or the note?
    assert read_choice("K:A", ["K:D", "K:A"]) == 1
    assert read_choice("1.63 seconds", ["1.63 seconds", "2.74 seconds", "1.63 seconds"]) == 0
    with pytest.raises(ValueError, match="between 2 and 26"):
        read_choice("A", ["one"])


def test_labels_are_read_by_words_only() -> None:
    labels = {"hiphop": ("hip-hop",), "rock": (), "pop": ()}
    assert read_label("The genre is Hip-Hop.", labels) == "hiphop" and read_label("hip hop", labels) == "hiphop"
    assert read_label("It is pop, not rock", labels) == "pop"
    assert (
        read_label("pop rock", labels) is None
        and read_label("C", labels) is None
        and read_label("rocking", labels) is None
    )
