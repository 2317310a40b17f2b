"""Does a caption fit its own recording better than others? Retrieval, and own less other similarity.

Unlike n-gram overlap this tells a caption from a sentence that fits everything: on Song Describer one fixed sentence
reaches the BLEU and METEOR of a human's caption, but finds a track no more often than chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllm.eval.metrics.text_similarity import EMBEDDERS, Embed

FIRST = (1, 10)


def retrieval_scores(
    said: Sequence[str],
    references: Sequence[Sequence[str]],
    own: Sequence[int] | None = None,
    *,
    embed: str | Embed = "minilm",
) -> dict[str, float]:
    """{"r1", "r10", "own_minus_other", "similarity", "tracks"}: whether captions find their tracks among all.

    Args:
        said: captions, one a query; an empty one finds nothing.
        references: captions that people wrote of each track, at least one a track: what is searched in.
        own: the track of each caption; None: the first caption is about the first track, and so on.
        embed: a name in `EMBEDDERS` (fitted on `references`), or what gives texts their vectors.

    A track is the mean of its references' vectors, brought to length 1. r1, r10: the share of captions whose own track
    is the nearest, or among the ten nearest; where k tracks are equally near, each of their places has 1/k.
    own_minus_other: mean cosine with the own track less that with all others; similarity: that with the own track.
    """
    places = np.arange(len(said)) if own is None else np.asarray(own)
    if not len(said) or len(places) != len(said) or places.max() >= len(references) or not all(map(len, references)):
        raise ValueError("give captions, a track for each, and at least one reference for every track")
    flat = [text for texts in references for text in texts]
    vectors_of = EMBEDDERS[embed](flat) if isinstance(embed, str) else embed
    of = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
    vectors = vectors_of(flat)
    tracks = np.zeros((len(references), vectors.shape[1]), np.float32)
    np.add.at(tracks, of, vectors)
    tracks /= np.maximum(np.linalg.norm(tracks, axis=1, keepdims=True), 1e-12)
    queries = vectors_of(list(said))
    queries[[not text.strip() for text in said]] = 0
    return _scores(queries @ tracks.T, places)


def _scores(cosines: np.ndarray, own: np.ndarray) -> dict[str, float]:
    mine = cosines[np.arange(len(cosines)), own]
    before = (cosines > mine[:, None] + 1e-6).sum(1)
    level = (np.abs(cosines - mine[:, None]) <= 1e-6).sum(1)
    scores = {f"r{first}": float(np.mean(np.clip((first - before) / level, 0, 1))) for first in FIRST}
    others = (cosines.sum(1) - mine) / max(cosines.shape[1] - 1, 1)
    return scores | {
        "own_minus_other": float(np.mean(mine - others)), "similarity": float(mine.mean()),
        "tracks": float(cosines.shape[1]),
    }  # fmt: skip
