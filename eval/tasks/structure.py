"""What happens when, in recordings of minutes: the section, key, metre and instruments at a moment; starts of sections.

The recordings are a build's medleys; the questions are made here from their facts, so that truth is exact.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mllm.eval.data import rows_of_task
from mllm.eval.item import Item
from mllm.eval.task import Task, Verdict, exact
from mllm.eval.tasks import key, metre
from mllm.rows import row_audios

MARGIN = 1.5
"""Seconds that a moment keeps from the borders of its section."""
TOLERANCE = 3.0
"""Seconds that a start may be off (the tolerance of segmentation in the literature)."""
_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):([0-5]\d)(?![\d:])")
ASKED = {"label": "Which section is playing at {time}, and what is it like?",
         "key": "What key is the music in at {time}?", "metre": "What is the metre at {time}?",
         "start": "When does section {label} start? Answer as m:ss."}  # fmt: skip


def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
    """For each section of each medley one question, the kinds by turns."""
    found: dict[str, Item] = {}
    medleys = {row_audios(r)[0]: r for r in rows_of_task(data, split, lambda kind: kind.startswith("medley_"))}
    for path, row in sorted(medleys.items()):
        sections = row["facts"]["sections"]
        labels = [s["label"] for s in sections]
        for number, section in enumerate(sections):
            of = list(ASKED)[number % len(ASKED)]
            if of == "start" and labels.count(section["label"]) > 1:
                of = "label"
            rng = np.random.default_rng([seed, number])
            at = int(rng.uniform(section["start"] + MARGIN, section["end"] - MARGIN))
            clock = f"{at // 60}:{at % 60:02d}"
            question = ASKED[of].format(time=clock, label=section["label"])
            truth = f"{section['start']:.2f}" if of == "start" else str(section[of])
            name = f"{Path(path).stem}-{number}-{of}"
            found[name] = Item(name, question, truth, (Path(path),), group=Path(path).stem, strata={"of": of})
    return list(found.values())[:limit]


def score(answer: str, item: Item) -> Verdict:
    """A label by itself or behind "Section", a key or metre as in their own tasks, a start within 3 seconds."""
    of = item.strata["of"]
    if of == "label":
        named = set(re.findall(r"\b[Ss]ection ([A-L]'*)(?![A-Za-z])|^([A-L]'*)\.?$", answer.strip()))
        labels = {one or other for one, other in named}
        return Verdict(", ".join(sorted(labels)) or None, float(labels == {item.truth}))
    if of == "start":
        times = {60 * int(m) + int(s) for m, s in _CLOCK.findall(answer)}
        right = len(times) == 1 and abs(min(times) - float(item.truth)) <= TOLERANCE
        return Verdict(sorted(times) or None, float(right))
    parsed = key.parse(answer) if of == "key" else metre.parse(answer)
    if of == "key":
        return Verdict(parsed, float(parsed is not None and key.split(parsed) == key.split(item.truth)))
    return exact(parsed, item)


TASK = Task("structure", "what happens when (long recordings)", items, score, max_new_tokens=40)
