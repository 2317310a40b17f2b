"""Chords in time, by mir_eval.chord (Raffel et al., ISMIR 2014; Pauwels and Peeters, ICASSP 2013)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllm.chord_symbols import NO_CHORD, parts_of

Chords = Sequence[tuple[float, float, str]]
"""Start and end in seconds and a label of Harte et al. (2005), "A:min7/b7" or "N" for none, in order, without gaps."""
MEASURES = ("root", "majmin", "thirds", "triads", "sevenths", "mirex", "seg")
KINDS = {
    "": "maj", "M": "maj", "maj": "maj", "m": "min", "min": "min", "-": "min", "dim": "dim", "o": "dim", "°": "dim",
    "aug": "aug", "+": "aug", "7": "7", "maj7": "maj7", "M7": "maj7", "Δ": "maj7", "m7": "min7", "min7": "min7",
    "-7": "min7", "dim7": "dim7", "o7": "dim7", "°7": "dim7", "m7b5": "hdim7", "ø": "hdim7", "ø7": "hdim7",
    "mMaj7": "minmaj7", "6": "maj6", "m6": "min6", "9": "9", "maj9": "maj9", "m9": "min9", "sus": "sus4",
    "sus4": "sus4", "sus2": "sus2",
}  # fmt: skip
"""How chord symbols are written -> the shorthands of Harte's labels; basses are left out."""


def harte_label(symbol: str) -> str | None:
    """ "A:min7" of the chord symbol "Am7/G", "N" of "N.C."; None for what is neither or has a kind not in `KINDS`."""
    if symbol == NO_CHORD:
        return "N"
    try:
        root, kind, _ = parts_of(symbol)
    except ValueError:
        return None
    return f"{root}:{KINDS[kind]}" if kind in KINDS else None


def chord_scores(truth: Chords, said: Chords | None) -> dict[str, float]:
    """The values of `MEASURES`: shares of the time, 0 to 1, in which chords agree; all 0 where nothing was read.

    root: its root; majmin: major and minor triads; thirds, triads, sevenths: up to that; mirex: three notes in common;
    seg: how well the boundaries match. `said` is cut or filled with "N" to the length of `truth`.
    """
    from mir_eval.chord import evaluate

    if not said or not truth:
        return dict.fromkeys(MEASURES, 0.0)
    found = evaluate(*_split(truth), *_split(said))
    return {name: float(found[name]) for name in MEASURES}


def _split(chords: Chords) -> tuple[np.ndarray, list[str]]:
    return np.array([[start, end] for start, end, _ in chords], float), [label for *_, label in chords]
