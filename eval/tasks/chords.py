"""The chords of a recording, bar by bar. The score is the share of the time in which major or minor triads are right.

mir_eval.chord judges ("majmin"). The recordings are made by the harness (`mllm.eval.chord_recordings`), because the
clips of a build say nothing of their chords; so their truth is exact, and the music plainer than music is.
"""

from __future__ import annotations

import re
from pathlib import Path

from mllm.eval.chord_recordings import BARS, progression, recording
from mllm.eval.chord_templates import Templates, judged
from mllm.eval.item import Item
from mllm.eval.metrics.chords import harte_label
from mllm.eval.task import Task, Verdict, refuses

COUNT = 60
_SPLITS = {"train": 0, "validation": 1, "test": 2}
QUESTION = (
    f"These are {BARS} bars with one chord in each. Name the {BARS} chords in order, nothing else, "
    "major by the letter alone, minor with m, as in: Eb, Cm, F#m, B7."
)
_CHORD = re.compile(r"(?<![A-Za-z#])([A-G])([#b♯♭]?):?([ -]?(?:major|minor)\b|[A-Za-z0-9+°øΔ]*)(?:/[A-G][#b♯♭]?)?")


def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
    """Progressions by seed; those of "train", which only majority and chance are taken from, are not rendered."""
    found = []
    for number in range(COUNT if limit is None else min(limit, COUNT)):
        chords = progression((seed, _SPLITS.get(split, 2), number))
        audio = () if split == "train" else (recording(chords),)
        meta, strata = {"words": ", ".join(chords.symbols)}, {"mode": chords.key.split()[1]}
        found.append(Item(f"{split}-{number:03d}", QUESTION, chords.truth, audio, strata=strata, meta=meta))
    return found


def parse(answer: str) -> list[str] | None:
    """Harte's labels of the chords that are named, in order; None unless just one a bar is named, each known."""
    if refuses(answer):
        return None
    labels = []
    for letter, sign, kind in _CHORD.findall(answer):
        kind = {"major": "", "minor": "m"}.get(kind.strip(" -"), kind)
        labels.append(harte_label(letter + {"♯": "#", "♭": "b"}.get(sign, sign) + kind))
    return labels if len(labels) == BARS and None not in labels else None  # type: ignore[return-value]


def score(answer: str, item: Item) -> Verdict:
    """The chords named stand in the bars in order."""
    labels = parse(answer)
    spans = [(start, end, name) for (start, end, _), name in zip(item.truth, labels or [], strict=False)]
    return judged(item, spans, labels)


TASK = Task(
    "chords", "chords of four bars (share of time, major or minor triad)", items, score, max_new_tokens=32,
    guess=lambda item: item.meta["words"], tools=(Templates(),),
)  # fmt: skip
