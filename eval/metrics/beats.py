"""Beats in time, by mir_eval.beat (Raffel et al., ISMIR 2014)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

MEASURES = ("f_measure", "cmlt", "amlt")
"""F-measure within 70 ms; share in step with the annotated metric level, and with any (Davies et al. 2009)."""
LATEST = 30_000.0  # seconds; mir_eval refuses times beyond
_MINUTES = re.compile(r"(?<![\d.:])(\d{1,3}):(\d{2}(?:\.\d{1,6})?)(?![\d:])")
_NUMBER = re.compile(r"(?<![\w.:/])(\d{1,5}(?:\.\d{1,6})?)\s?(?:s{1,2}\b|sec(?:onds?)?\b)?(?![\w:/%]|\.\d)")
_RANGE = re.compile(r"\d\s?s?\s?(?:-|–|to)\s?\d")


def read_times(text: str) -> list[float] | None:
    """The list of times in an answer, in seconds, sorted, none twice: "0.0s,0.54s", "[0.5, 1.0]", "0:01.5".

    None where there are no two of them, or where they are spans ("0.0s-2.1s"), which say when something lasts.
    """
    if _RANGE.search(text):
        return None
    minutes = [60 * int(m[1]) + float(m[2]) for m in _MINUTES.finditer(text)]
    seconds = [float(m[1]) for m in _NUMBER.finditer(_MINUTES.sub(" ", text))]
    times = sorted({time for time in (*minutes, *seconds) if time < LATEST})
    return times if len(times) > 1 else None


def beat_scores(truth: Sequence[float], said: Sequence[float] | None) -> dict[str, float]:
    """The values of `MEASURES`, 0 to 1, of beats in seconds; all 0 where nothing was read.

    As mir_eval.beat.evaluate does, beats in the first five seconds are left out of both.
    """
    from mir_eval.beat import continuity, f_measure, trim_beats

    if said is None or not len(said) or not len(truth):
        return dict.fromkeys(MEASURES, 0.0)
    reference, estimate = (trim_beats(np.sort(np.asarray(beats, float))) for beats in (truth, said))
    if not len(reference) or not len(estimate):
        return dict.fromkeys(MEASURES, 0.0)
    _, cmlt, _, amlt = continuity(reference, estimate)
    return {"f_measure": float(f_measure(reference, estimate)), "cmlt": float(cmlt), "amlt": float(amlt)}
