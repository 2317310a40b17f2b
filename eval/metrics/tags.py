"""Tags: how well scores rank what has a tag above what has not, by scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def tag_scores(truth: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """{"map", "roc_auc", "tags"}: mean average precision and area under the ROC curve over tags, and how many count.

    Args:
        truth: 0 or 1, [items, tags]. scores: any numbers, the higher the surer, [items, tags].

    A tag that all items have, or none, has no ROC curve and is left out (as for MagnaTagATune). Raises ValueError where
    shapes differ or where no tag is left.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    true, found = np.asarray(truth, bool), np.asarray(scores, float)
    if true.ndim != 2 or true.shape != found.shape:
        raise ValueError(f"truth {true.shape} and scores {found.shape} must both be [items, tags]")
    usable = true.any(0) & ~true.all(0)
    if not usable.any():
        raise ValueError("no tag that some items have and some have not")
    true, found = true[:, usable], found[:, usable]
    return {
        "map": float(average_precision_score(true, found, average="macro")),
        "roc_auc": float(roc_auc_score(true, found, average="macro")),
        "tags": float(usable.sum()),
    }
