"""How answers to benchmarks are scored: one scorer a kind of answer, by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mllm.eval.caption_figures import for_comparison, judged
from mllm.eval.item import Item
from mllm.eval.metrics.beats import beat_scores, read_times
from mllm.eval.metrics.captions import sacre_scores
from mllm.eval.metrics.key import read_key, weighted_score
from mllm.eval.metrics.multiple_choice import read_label
from mllm.eval.metrics.regression import read_rating, regression_scores
from mllm.eval.metrics.tags import tag_scores
from mllm.eval.task import Figure, Overall, Verdict, chosen, exact, truth_in_words

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Scorer:
    """What an answer is worth.

    Args:
        rule: what makes it right, in words for a title.
        score: (answer, item) -> verdict. tokens: an answer is cut there.
        overall: figures of all answers together. guess: what a guesser would learn from an item.
        version: as in `Task`.
    """

    rule: str
    score: Callable[[str, Item], Verdict]
    tokens: int = 24
    overall: Overall | None = None
    guess: Callable[[Item], str | None] = truth_in_words
    version: str = "1"


def _label(answer: str, item: Item) -> Verdict:
    return exact(read_label(answer, item.meta["labels"]), item)


def _key(answer: str, item: Item) -> Verdict:
    said = read_key(answer)
    score = weighted_score(item.truth, said)
    return Verdict(said, score, {"exact": float(score == 1)})


def _beats(answer: str, item: Item) -> Verdict:
    said = read_times(answer)
    scores = beat_scores(item.truth, said)
    return Verdict(said, scores.pop("f_measure"), scores)


def _rating(answer: str, item: Item) -> Verdict:
    low, high = item.meta["range"]
    said = read_rating(answer, low, high)
    return Verdict(said, 0.0 if said is None else max(0.0, 1 - abs(said - item.truth) / (high - low)))


def _together(records: Records) -> dict[str, Figure]:
    if len(records) < 3:
        return {}
    scores = regression_scores([float(r["truth"]) for r in records], [r["parsed"] for r in records])
    return {"Pearson": scores["pearson"], "R²": scores["r2"]}


def _number(answer: str, item: Item) -> Verdict:
    numbers = {int(number) for number in re.findall(r"(?<![\w.])-?\d+(?![\w.]*\d)", answer)}
    said = numbers.pop() if len(numbers) == 1 else None
    return Verdict(said, float(said == item.truth))


def _order(answer: str, item: Item) -> Verdict:
    """Kendall's tau of the order of what was shuffled, from 0 (unread, or no better than chance) to 1."""
    from scipy.stats import kendalltau

    found = {digits for digits in re.findall(r"\d+", re.sub(r"(?<=\d)[,\s\->→]+(?=\d)", "", answer))}
    fits = [digits for digits in found if sorted(digits) == sorted(item.truth)]
    if len(fits) != 1:
        return Verdict(None, 0.0)
    places = [[digits.index(sign) for sign in sorted(item.truth)] for digits in (item.truth, fits[0])]
    exact = float(fits[0] == item.truth)
    return Verdict(fits[0], max(0.0, float(kendalltau(*places).statistic)), {"exact": exact})


def _tags(answer: str, item: Item) -> Verdict:
    """F1 of the tags named; "no voice" names no "voice"."""
    words, said = " ".join(["", *re.findall(r"[\w#]+", answer.casefold()), ""]), set()
    for tag in sorted(item.meta["tags"], key=len, reverse=True):
        if f" {tag.casefold()} " in words:
            said.add(tag)
            words = words.replace(f" {tag.casefold()} ", " | ")
    true = set(item.truth)
    both = len(said & true)
    score = 2 * both / (len(said) + len(true)) if both else 0.0
    return Verdict(sorted(said) or None, score)


def _tags_together(records: Records) -> dict[str, Figure]:
    tags = sorted({tag for record in records for tag in record["truth"]})
    true = [[tag in record["truth"] for tag in tags] for record in records]
    said = [[_sureness(record["parsed"], tag) for tag in tags] for record in records]
    try:
        scores = tag_scores(true, said)
    except ValueError:
        return {}
    return {"mAP": scores["map"], "ROC-AUC": scores["roc_auc"]}


def _sureness(said: Any, tag: str) -> float:
    """Of a tag, 0 to 1, in a list of tags that were named, or in what a probe makes of each."""
    return float(said.get(tag, 0.0)) if isinstance(said, dict) else float(tag in (said or ()))


def _text(answer: str, item: Item) -> Verdict:
    answer = answer.strip()
    if not answer:
        return Verdict(None, 0.0)
    return Verdict(answer, sacre_scores([answer], [item.truth])["rouge_l_f"])


def _texts_together(records: Records) -> dict[str, Figure]:
    """Retrieval among the references of these items, which judges; n-gram scores, for comparison with papers only."""
    said = [str(record["parsed"] or "") for record in records]
    return judged(said, [_references(record["truth"]) for record in records])


def _caption(answer: str, item: Item) -> Verdict:
    """Whether it finds its own track among all of the set; see `Benchmark.items`."""
    answer = answer.strip()
    found = item.meta["tracks"].figures([answer], [item.meta["track"]])
    figures = {name: value[0] if answer else 0.0 for name, value in found.items()}
    return Verdict(answer or None, figures.pop(next(iter(figures))), figures)


def _captions_together(records: Records) -> dict[str, Figure]:
    if len(records) < 2:
        return {}
    said = [str(record["parsed"] or "") for record in records]
    return for_comparison(said, [_references(record["truth"]) for record in records])


def _references(truth: Any) -> Sequence[str]:
    if isinstance(truth, str):
        truth = json.loads(truth) if truth.startswith("[") else [truth]
    return [str(text) for text in truth]


SCORERS: dict[str, Scorer] = {
    "choice": Scorer("the one option", chosen, tokens=32),
    "label": Scorer("the one label", _label),
    "key": Scorer("MIREX-weighted", _key),
    "beats": Scorer("F-measure of beats, 70 ms", _beats, tokens=512, guess=lambda item: None),
    "rating": Scorer("one less the share of the scale that it is off", _rating, overall=_together),
    "number": Scorer("the one number", _number, guess=lambda item: str(item.truth)),
    "order": Scorer("Kendall's tau of the order", _order, guess=lambda item: None),
    "tags": Scorer("F1 of tags", _tags, tokens=128, overall=_tags_together, guess=lambda item: None, version="2"),
    "caption": Scorer(
        "R@1: nearest to what people wrote of the own track, among all of the set", _caption, tokens=128,
        overall=_captions_together, guess=lambda item: None, version="2",
    ),
    "text": Scorer(
        "ROUGE-L, for comparison only; judged by retrieval", _text, tokens=128, overall=_texts_together,
        guess=lambda item: None,
    ),
}  # fmt: skip
"""Name -> scorer."""
