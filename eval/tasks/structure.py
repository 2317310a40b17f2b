"""What happens when, in a build's medleys of minutes: the section, key and metre at a moment; starts of sections."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mllm.eval.data import rows_of_task
from mllm.eval.item import Item
from mllm.eval.task import Task, Verdict
from mllm.eval.tasks import key, metre
from mllm.rows import row_audios

MARGIN = 1.5
"""Seconds that a moment keeps from the borders of its section."""
TOLERANCE = 3.0
"""Seconds that a start may be off (the tolerance of segmentation in the literature)."""
_LABEL = re.compile(r"\b[Ss]ection ([A-L]'*)(?![A-Za-z])|^([A-L]'*)\.?$")
_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):([0-5]\d)(?![\d:])")
ASKED = {"label": "Which section is playing at {time}, and what is it like?",
         "key": "What key is the music in at {time}?", "metre": "What is the metre at {time}?",
         "start": "When does section {label} start? Answer as m:ss."}  # fmt: skip


def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
    """For each section of each medley one question, the kinds by turns."""
    found: dict[str, Item] = {}
    medleys = {row_audios(r)[0]: r for r in rows_of_task(data, split, lambda kind: kind.startswith("medley_"))}
    for path, row in sorted(medleys.items()):
        labels = [section["label"] for section in row["facts"]["sections"]]
        for number, section in enumerate(row["facts"]["sections"]):
            of = list(ASKED)[number % len(ASKED)]
            of = "label" if of == "start" and labels.count(section["label"]) > 1 else of
            rng = np.random.default_rng([seed, number])
            at = int(rng.uniform(section["start"] + MARGIN, section["end"] - MARGIN))
            question = ASKED[of].format(time=f"{at // 60}:{at % 60:02d}", label=section["label"])
            truth = f"{section['start']:.2f}" if of == "start" else str(section[of])
            name, stem = f"{Path(path).stem}-{number}-{of}", Path(path).stem
            found[name] = Item(name, question, truth, (Path(path),), group=stem, strata={"of": of})
    return list(found.values())[:limit]


def score(answer: str, item: Item) -> Verdict:
    """A label by itself or behind "Section", a key or metre as in their own tasks, a start within 3 seconds."""
    of = item.strata["of"]
    if of == "label":
        labels = {one or other for one, other in _LABEL.findall(answer.strip())}
        return Verdict(", ".join(sorted(labels)) or None, float(labels == {item.truth}))
    if of == "start":
        times = {60 * int(m) + int(s) for m, s in _CLOCK.findall(answer)}
        right = len(times) == 1 and abs(min(times) - float(item.truth)) <= TOLERANCE
        return Verdict(sorted(times) or None, float(right))
    said = key.parse(answer) if of == "key" else metre.parse(answer)
    same = key.split if of == "key" else str
    return Verdict(said, float(said is not None and same(said) == same(item.truth)))


TASK = Task("structure", "what happens when (long recordings)", items, score, max_new_tokens=40)
