"""What a report says of captions: do they find their own track, are their claims true; n-gram scores for comparison."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

from mllm.errors import WeightsError
from mllm.eval.metrics.captions import FOR_COMPARISON_ONLY, JavaError, References, coco_scores, sacre_scores
from mllm.eval.metrics.facts_in_text import Facts, count_facts
from mllm.eval.metrics.retrieval import Tracks
from mllm.eval.metrics.text_similarity import EMBEDDERS, minilm, remembered
from mllm.eval.task import Figure

LOG = logging.getLogger("mllm.eval")
_TITLES = {"minilm": "MiniLM", "tf-idf": "TF-IDF"}
_COCO = {"bleu1": "BLEU-1", "bleu4": "BLEU-4", "meteor": "METEOR", "rouge_l": "ROUGE-L", "cider": "CIDEr"}
_SACRE = {"sacre_bleu1": "BLEU-1 of sacrebleu", "sacre_bleu4": "BLEU-4 of sacrebleu", "rouge_l_f": "ROUGE-L"}


@lru_cache(maxsize=1)
def embedder() -> str:
    """MiniLM, or where its weights cannot be had (asked once: it takes a minute to give up) the words alone."""
    try:
        minilm(["music"])
    except WeightsError as error:
        LOG.warning("captions are compared by TF-IDF, for the weights of MiniLM cannot be had: %s", error)
        return "tf-idf"
    return "minilm"


class OwnTrack:
    """Whether a caption is nearer to what people wrote of its own track than to what they wrote of the others."""

    def __init__(self, references: References):
        """`references`: texts of each track, at least one. Nothing is read and fetched before `figures` is asked."""
        self.references = references
        self._tracks: Tracks | None = None

    def figures(self, said: Sequence[str], own: Sequence[int]) -> dict[str, list[float]]:
        """R@1, R@10 and own minus other similarity of each caption, by names that a table shows."""
        how = embedder()
        if self._tracks is None:
            flat = [text for texts in self.references for text in texts]
            self._tracks = Tracks(self.references, remembered(EMBEDDERS[how](flat)))
        scores = self._tracks.scores(said, own)
        names = {"r1": "R@1 of the own", "r10": "R@10 of the own", "own_minus_other": "own minus other similarity"}
        return {f"{title} ({_TITLES[how]})": scores[name].tolist() for name, title in names.items()}


def for_comparison(said: Sequence[str], references: References) -> dict[str, Figure]:
    """n-gram scores of all captions together, marked as such; less METEOR and CIDEr, and why, where Java is not."""
    said = [text or "." for text in said]
    lacking: dict[str, Figure] = {}
    try:
        scores, names = coco_scores(said, references), _COCO
    except JavaError as error:
        scores, names = sacre_scores(said, references), _SACRE
        lacking[f"METEOR, CIDEr ({FOR_COMPARISON_ONLY})"] = str(error)
    return {f"{title} ({FOR_COMPARISON_ONLY})": scores[name] for name, title in names.items()} | lacking


def judged(said: Sequence[str], references: References, facts: Sequence[Facts] | None = None) -> dict[str, Figure]:
    """All that a report says of captions; `references`: of the own track of each; `facts`: what is true of each."""
    figures: dict[str, Figure] = {}
    if facts is not None:
        counts = [count_facts(text, truth) for text, truth in zip(said, facts, strict=True)]
        figures["precision of all claims"] = [c.right / c.claims if c.claims else 0.0 for c in counts]
        figures["recall by all claims"] = [c.said / c.facts if c.facts else 0.0 for c in counts]
    if len(said) > 1:
        figures |= OwnTrack(references).figures(said, range(len(said)))
        figures |= for_comparison(said, references)
    return figures
