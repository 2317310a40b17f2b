"""Benchmarks that others made, in their own record formats. A new one needs a loader and an entry.

Files are looked for in $MLLM_BENCHMARKS (else `bench` in or beside $MLLM_DATA), a folder a benchmark; recordings in
$MLLM_BENCHMARK_AUDIO, likewise, or beside the files. `python -m mllm.eval.benchmarks` lists what is here, and where the
rest is to be had.
"""

from __future__ import annotations

from pathlib import Path

from mllm.eval.benchmarks.annotations import ANNOTATIONS
from mllm.eval.benchmarks.benchmark import Benchmark
from mllm.eval.benchmarks.open_answers import OPEN_ANSWERS
from mllm.eval.benchmarks.probes import PROBES
from mllm.eval.benchmarks.questions import QUESTIONS
from mllm.eval.benchmarks.scorers import SCORERS
from mllm.eval.benchmarks.texts import TEXTS
from mllm.eval.item import Item
from mllm.eval.task import Task

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (*QUESTIONS, *TEXTS, *OPEN_ANSWERS, *ANNOTATIONS, *PROBES)
}
"""Name -> benchmark."""
MOST = 500
"""Questions of a benchmark in a run without a limit of its own: the first in the order drawn by the seed."""


def task_of(benchmark: Benchmark) -> Task:
    """A benchmark as a task of the harness. Where the set, or its TRAIN, is not here, it has no items."""
    scorer = SCORERS[benchmark.scorer]

    def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
        if split == "train":
            return benchmark.train_items(limit=limit, seed=seed)
        return [] if benchmark.missing() else benchmark.items(limit=limit, seed=seed)

    return Task(
        name=benchmark.name,
        title=f"{benchmark.title} ({scorer.rule})",
        items=items,
        score=scorer.score,
        version=scorer.version,
        max_new_tokens=scorer.tokens,
        guess=scorer.guess,
        most=MOST,
        overall=scorer.overall,
        source=benchmark.sha256,
    )


TASKS: dict[str, Task] = {name: task_of(benchmark) for name, benchmark in BENCHMARKS.items()}
"""Name -> task of the harness."""
