"""The scoring rules of CMI-Bench (arXiv 2506.12285), written anew from its evaluate.py: for comparison only.

Ours differ on purpose; docs/published_answers.md sets both beside each other and says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

NOTES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_FLATS = {"c#": "db", "d#": "eb", "f#": "gb", "g#": "ab", "a#": "bb"}


def key_by_substring(text: str) -> str | None:
    """The first of the 24 keys, C major to B minor, that is contained in the letters of the answer."""
    letters = "".join(sign for sign in text.lower().replace(" ", "").replace("♯", "#") if not sign.isdigit())
    if len(letters) <= 3 and letters.endswith("m"):
        letters += "inor"
    elif len(letters) <= 2:
        letters += "major"
    letters = _FLATS.get(letters[:2], letters[:2]) + letters[2:]
    keys = [f"{note} {mode}" for mode in ("major", "minor") for note in NOTES]
    return next((key for key in keys if key.lower().replace(" ", "") in letters), None)


def _bare(text: str) -> str:
    return re.sub(r"[_\-' .]", "", text).replace("#", "♯").lower()


def right_by_substring(texts: Sequence[str], truths: Sequence[str]) -> list[float]:
    """1.0 where the true label is contained in the letters of the answer and no other label is."""
    labels = {_bare(truth) for truth in truths}
    return [
        float(_bare(truth) in _bare(text) and not any(o in _bare(text) for o in labels if o != _bare(truth)))
        for text, truth in zip(texts, truths, strict=True)
    ]


def rating_first(text: str) -> float | None:
    """The first whole number from 1 to 9 in an answer, whatever else it says; None for none."""
    text = re.sub(r"1-9 scale|from 1 to 9|\d-point scale|\d/\d (?:time signature|beat)|Example \d|out of 9", " ", text)
    numbers = [number for number in re.findall(r"\d+", text) if 0 < int(number) < 10]
    if len(numbers) == 2 and ".".join(numbers) in text:
        return float(".".join(numbers))
    return float(numbers[0]) if numbers else None


def rating_r2(texts: Sequence[str], truths: Sequence[float]) -> float:
    """R² of the answers after standardizing them, against truths that are standardized already; unread: at the mean."""
    read = [rating_first(text) for text in texts]
    known = np.array([value for value in read if value is not None], float)
    if not len(known) or known.std() == 0:
        return float("nan")
    said = (np.array([known.mean() if value is None else value for value in read]) - known.mean()) / known.std()
    true = np.asarray(truths, float)
    return float(1 - ((said - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())


def caption_rules(said: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """{"bleu_chars", "rouge_recall"}: BLEU-4 that is given strings, and so counts characters; ROUGE-L recall.

    One reference a row, mean over rows, 0 to 1. (Its METEOR is NLTK's, whose WordNet is not in a package.)
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    bleu = [sentence_bleu([list(true)], list(text), smoothing_function=SmoothingFunction().method0) if text else 0.0
            for text, true in zip(said, references, strict=True)]  # fmt: skip
    recall = [scorer.score(true, text)["rougeL"].recall for text, true in zip(said, references, strict=True)]
    return {"bleu_chars": float(np.mean(bleu)), "rouge_recall": float(np.mean(recall))}
