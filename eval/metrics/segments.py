"""Structure in time, by mir_eval.segment (Raffel et al., ISMIR 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Segments = Sequence[tuple[float, float, str]]
"""Start and end in seconds and a label, in order, each starting where the last one ended."""
MEASURES = {
    "hit_0.5": "F-measure@0.5",
    "hit_3": "F-measure@3.0",
    "pairwise": "Pairwise F-measure",
    "nce": "NCE F-measure",
}


def segment_scores(truth: Segments, said: Segments | None) -> dict[str, float]:
    """The values of `MEASURES`, 0 to 1; all 0 where nothing was read.

    hit_0.5, hit_3: F-measure of boundaries within half a second and within three, the outermost two left out;
    pairwise: F-measure of pairs of frames under the same label; nce: of normalized conditional entropies (labels may be
    called otherwise). `said` is cut or filled up to the length of `truth`.
    """
    from mir_eval.segment import detection, nce, pairwise

    if not said or not truth:
        return dict.fromkeys(MEASURES, 0.0)
    reference, labels = _split(truth)
    estimate, estimated = _fitted(said, float(reference[0, 0]), float(reference[-1, 1]))
    scores = {}
    for name, window in (("hit_0.5", 0.5), ("hit_3", 3.0)):
        scores[name] = float(detection(reference, estimate, window=window, trim=True)[2])
    scores["pairwise"] = float(pairwise(reference, labels, estimate, estimated)[2])
    scores["nce"] = float(nce(reference, labels, estimate, estimated)[2])
    return scores


def _split(segments: Segments) -> tuple[np.ndarray, list[str]]:
    return np.array([[start, end] for start, end, _ in segments], float), [label for *_, label in segments]


def _fitted(segments: Segments, start: float, end: float) -> tuple[np.ndarray, list[str]]:
    from mir_eval.util import adjust_intervals

    intervals, labels = _split(segments)
    return adjust_intervals(intervals, labels, t_min=start, t_max=end)
