"""Tempo: accuracy 1 and 2 of Gouyon et al., "An experimental comparison of audio tempo induction algorithms" (2006)."""

from __future__ import annotations

NARROW, WIDE = 0.04, 0.08
"""Shares of the true tempo that an answer may be off: that of the paper, and that of MIREX."""
OCTAVES = (1, 2, 3, 1 / 2, 1 / 3)


def tempo_scores(truth: float, said: float | None) -> dict[str, float]:
    """{"acc1_4", "acc2_4", "acc1_8", "acc2_8"}: 1.0 where a tempo is right within 4 or 8 %, else 0.0.

    Args:
        truth, said: beats a minute, both above 0; `said` None: nothing was read.

    Accuracy 2 also takes twice, three times, half and a third of the true tempo.
    """
    return {
        f"acc{kind}_{100 * tolerance:.0f}": float(
            said is not None
            and any(abs(said - truth * factor) <= tolerance * truth * factor + 1e-9 for factor in factors)
        )
        for kind, factors in ((1, OCTAVES[:1]), (2, OCTAVES))
        for tolerance in (NARROW, WIDE)
    }
