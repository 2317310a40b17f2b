"""Write down what is heard as ABC. Right where it sounds the same; beside it the F-measure of its notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mllm.eval.item import Item
from mllm.eval.metrics.notes import heard_by_basic_pitch, note_f1, notes_of
from mllm.eval.row_tasks import exact_task
from mllm.eval.task import Task, Verdict

F1 = "F-measure of notes (50 ms, pitch)"
MOST = 100
_EXACT = exact_task("transcribe", "transcription as ABC (all notes right)", abc=True, most=MOST)


def _played(item: Item) -> list[tuple[float, float, int]]:
    return [tuple(note) for note in item.meta["row"]["facts"]["notes"]]


def score(answer: str, item: Item) -> Verdict:
    """Exact, and by notes at the recording's own tempo (a text says nothing of that)."""
    verdict = _EXACT.score(answer, item)
    body = verdict.parsed or ""
    return replace(verdict, extras={F1: note_f1(_played(item), notes_of(body, item.meta["row"]["facts"]))})


class BasicPitch:
    """The notes that Basic Pitch finds by itself."""

    name = "Basic Pitch"

    def answers(self, train: Sequence[Item], items: Sequence[Item], advance: Callable[[], None]) -> Iterator[Verdict]:
        """See `mllm.eval.task.Tool`."""
        for item in items:
            found = heard_by_basic_pitch(item.audio[0])
            advance()
            yield Verdict("", 0.0, {F1: note_f1(_played(item), found)})


class PerfectText:
    """The true notation at the true tempo: what a perfect answer would reach, for players do not keep to the grid."""

    name = "perfect text"

    def answers(self, train: Sequence[Item], items: Sequence[Item], advance: Callable[[], None]) -> Iterator[Any]:
        """See `mllm.eval.task.Tool`."""
        for item in items:
            advance()
            yield score(item.truth, item)


TASK: Task = replace(_EXACT, score=score, tools=(BasicPitch(), PerfectText()))
