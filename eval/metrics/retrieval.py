"""Does a caption fit its own recording better than others? Retrieval, and own less other similarity.

Unlike n-gram overlap this tells a caption from a sentence that fits everything: on Song Describer one fixed sentence
reaches the BLEU and METEOR of a human's caption, but finds a track no more often than chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from mllm.eval.metrics.text_similarity import EMBEDDERS, Embed

FIRST = (1, 10)


class Tracks:
    """Tracks by what people wrote of each: what captions are searched in.

    A track is the mean of its references' vectors, brought to length 1; they are made when a first caption asks.
    """

    def __init__(self, references: Sequence[Sequence[str]], embed: str | Embed = "minilm"):
        """`references`: at least one text a track; `embed`: a name in `EMBEDDERS` (fitted on them), or an embedder.

        Raises ValueError for a track without a text, or no track.
        """
        if not len(references) or not all(map(len, references)):
            raise ValueError("give at least one track, and at least one reference for every track")
        self._references, self._embed = references, embed

    def __len__(self) -> int:
        return len(self._references)

    @cached_property
    def _vectors(self) -> tuple[Embed, np.ndarray]:
        """The embedder, and the tracks' vectors [tracks, size]."""
        flat = [text for texts in self._references for text in texts]
        embed = EMBEDDERS[self._embed](flat) if isinstance(self._embed, str) else self._embed
        of = np.repeat(np.arange(len(self)), [len(texts) for texts in self._references])
        vectors = embed(flat)
        tracks = np.zeros((len(self), vectors.shape[1]), np.float32)
        np.add.at(tracks, of, vectors)
        return embed, tracks / np.maximum(np.linalg.norm(tracks, axis=1, keepdims=True), 1e-12)

    def scores(self, said: Sequence[str], own: Sequence[int]) -> dict[str, np.ndarray]:
        """{"r1", "r10", "own_minus_other", "similarity"}, each [captions]; `own`: the track of each caption.

        r1, r10: whether the own track is the nearest, or among the ten nearest; where k tracks are equally near, each
        of their places has 1/k. own_minus_other: cosine with the own track less the mean of that with all others. An
        empty caption is equally far from all.

        Raises ValueError for a track that is not there.
        """
        places = np.asarray(own, int)
        if len(places) != len(said) or not len(said) or places.min() < 0 or places.max() >= len(self):
            raise ValueError("give captions, and one of the tracks for each")
        embed, tracks = self._vectors
        queries = embed(list(said))
        queries[[not text.strip() for text in said]] = 0
        cosines = queries @ tracks.T
        mine = cosines[np.arange(len(cosines)), places]
        before = (cosines > mine[:, None] + 1e-6).sum(1)
        level = (np.abs(cosines - mine[:, None]) <= 1e-6).sum(1)
        found = {f"r{first}": np.clip((first - before) / level, 0, 1) for first in FIRST}
        others = (cosines.sum(1) - mine) / max(len(self) - 1, 1)
        return found | {"own_minus_other": mine - others, "similarity": mine}


def retrieval_scores(
    said: Sequence[str],
    references: Sequence[Sequence[str]],
    own: Sequence[int] | None = None,
    *,
    embed: str | Embed = "minilm",
) -> dict[str, float]:
    """{"r1", "r10", "own_minus_other", "similarity", "tracks"}: whether captions find their tracks among all; means.

    Args:
        said: captions, one a query; an empty one finds nothing.
        references: captions that people wrote of each track, at least one a track: what is searched in.
        own: the track of each caption; None: the first caption is about the first track, and so on.
        embed: as in `Tracks`, which says what the figures are.
    """
    tracks = Tracks(references, embed)
    scores = tracks.scores(said, range(len(said)) if own is None else own)
    return {name: float(values.mean()) for name, values in scores.items()} | {"tracks": float(len(tracks))}
