"""Ask a model about held-out clips, beside every control: `mllm eval`.

Writes into the output folder results.jsonl (each clip, question, answer, truth and verdict under each condition),
summary.json and table.md. A rerun with the same model and data goes on where the last one stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mllm.audio import load_audio
from mllm.eval.classical import RATE, Tool
from mllm.eval.data import EvalClip, EvalError, data_hash, model_hash, read_clips
from mllm.eval.report import summarise, table
from mllm.eval.task import Task
from mllm.eval.tasks import TASKS

BATCH_CLIPS = 8
POOL_FROM = 64  # clips; below, starting processes costs more than it saves
console = Console(stderr=True)


class Results:
    """results.jsonl: appended record by record, read back on a rerun; a half-written last line is dropped."""

    def __init__(self, path: Path):
        self.path = path
        self.records: dict[tuple[str, str, str], dict[str, Any]] = {}
        whole = b""
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            if not line.endswith(b"\n"):
                break
            record = json.loads(line)
            self.records[record["task"], record["condition"], record["clip"]] = record
            whole += line
        if path.exists() and path.stat().st_size != len(whole):
            path.write_bytes(whole)

    def has(self, task: Task, condition: str, clip: EvalClip) -> bool:
        return (task.name, condition, clip.name) in self.records

    def add(
        self, task: Task, condition: str, clip: EvalClip, answer: str | None, parsed: Any, score: float | None = None
    ):
        """Judge one answer and write it down; what is there already stays."""
        if self.has(task, condition, clip):
            return
        truth = task.truth(clip.facts)
        if score is None:
            score = float(parsed is not None and task.right(parsed, truth))
        record = {
            "task": task.name, "clip": clip.name, "condition": condition, "question": task.question,
            "answer": answer, "parsed": parsed, "truth": truth, "score": score,
            "extras": {k: parsed is not None and bool(f(parsed, truth)) for k, f in task.extras.items()},
        }  # fmt: skip
        self.records[task.name, condition, clip.name] = record
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")

    def of(self, task: Task, clips: Iterable[EvalClip]) -> list[dict[str, Any]]:
        """The records of a task on `clips`."""
        names = {clip.name for clip in clips}
        return [r for (name, _, clip), r in self.records.items() if name == task.name and clip in names]


@dataclass
class Run:
    """What the steps of one evaluation share. `clips`: those that take part in each task."""

    tasks: list[Task]
    clips: dict[str, list[EvalClip]]
    train: list[EvalClip]
    results: Results
    progress: Progress

    def missing(self, task: Task, condition: str) -> list[EvalClip]:
        return [clip for clip in self.clips[task.name] if not self.results.has(task, condition, clip)]


def evaluate(
    model: str,
    tasks: list[str] | None = None,
    data: str | Path = "runs/data/mini",
    output: str | Path = "runs/eval",
    limit: int | None = None,
    *,
    split: str = "test",
    fit_clips: int = 800,
    controls: bool = True,
) -> dict[str, Any]:
    """Measure a model on `tasks` (all by default) and write results.jsonl, summary.json and table.md into `output`.

    Args:
        model: a shipped model's name or the folder of a checkpoint.
        tasks: names in `TASKS`.
        data: a folder that `mllm data build` made.
        output: folder of the results; those of the same model, data and split are gone on with.
        limit: at most so many clips a task.
        split: "test", or "validation" while something is still being chosen.
        fit_clips: TRAIN clips that a fitted classical tool learns from.
        controls: False asks the model alone, without silence, text-only, swapped clip and classical tools.

    Returns:
        What summary.json holds: {"run": settings, "tasks": {task: {condition: {accuracy, low, high, n, …}}}}.

    Raises:
        EvalError: unknown task, no data, or `output` holds another evaluation.
        WeightsError: no such model.
    """
    data, output = Path(data), Path(output)
    wanted = tasks or list(TASKS)
    if unknown := [name for name in wanted if name not in TASKS]:
        raise EvalError(f"unknown task {', '.join(unknown)}: known are {', '.join(TASKS)}")
    if limit is not None and limit < 1:
        raise EvalError("--limit must be at least 1")
    chosen = [TASKS[name] for name in wanted]
    clips = read_clips(data, split)
    taking = {t.name: [c for c in clips if t.truth(c.facts) is not None][:limit] for t in chosen}
    if empty := [name for name, of_task in taking.items() if not of_task]:
        raise EvalError(f"no clip of the split {split!r} in {data} has a truth for {', '.join(empty)}")
    command = f"mllm eval --model {model} --tasks {','.join(wanted)} --data {data} --output {output}"
    command += f" --split {split}" * (split != "test") + (f" --limit {limit}" if limit else "")
    run = {
        "model": model, "model_sha256": model_hash(model), "data_sha256": data_hash(data), "split": split,
        "questions": {name: task.question for name, task in TASKS.items()}, "fit_clips": fit_clips,
    }  # fmt: skip
    _open(output, run)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        work = Run(chosen, taking, read_clips(data, "train"), Results(output / "results.jsonl"), progress)
        _constants(work)
        _ask(work, model, controls)
        if controls:
            _swap(work)
            _classical(work, fit_clips)
    results = {task.name: summarise(work.results.of(task, taking[task.name])) for task in chosen}
    summary: dict[str, Any] = {"run": run | {"command": command, "limit": limit}, "tasks": results}
    (output / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = table(summary["run"], results, {task.name: task.title for task in chosen})
    (output / "table.md").write_text(text, encoding="utf-8")
    return summary


def _open(output: Path, run: dict[str, Any]) -> None:
    """Make the folder, or make sure that it holds this very evaluation."""
    output.mkdir(parents=True, exist_ok=True)
    stamp = output / "run.json"
    if stamp.exists():
        before = json.loads(stamp.read_text(encoding="utf-8"))
        if changed := [key for key in run if before.get(key) != run[key]]:
            raise EvalError(f"{output} holds an evaluation with another {', '.join(changed)}: choose another --output")
    elif (output / "results.jsonl").exists():
        raise EvalError(f"{output}/results.jsonl is there but run.json is not: choose another --output")
    stamp.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _constants(run: Run) -> None:
    """Chance and majority, from the answers that TRAIN's truths call for."""
    for task in run.tasks:
        truths = [truth for clip in run.train if (truth := task.truth(clip.facts)) is not None]
        if not truths:
            raise EvalError(f"no TRAIN clip has a truth for {task.name}: the majority answer cannot be known")
        guesses = sorted({task.guess(truth) for truth in truths})
        best = max(guesses, key=lambda guess: sum(task.right(guess, truth) for truth in truths))
        for clip in run.clips[task.name]:
            truth = task.truth(clip.facts)
            chance = float(np.mean([task.right(guess, truth) for guess in guesses]))
            run.results.add(task, "chance", clip, None, None, chance)
            run.results.add(task, "majority", clip, f"{best:g}" if isinstance(best, float) else str(best), best)


def _ask(run: Run, model: str, controls: bool) -> None:
    """The model's answers: to the clip, and as controls to silence of its length and to the bare question."""
    conditions = ("model", "silence", "text") if controls else ("model",)
    lacking = {(task.name, c.name) for task in run.tasks for cond in conditions for c in run.missing(task, cond)}
    if not lacking:
        return
    from mllm.eval.answers import Answerer

    answerer = Answerer(model)
    groups: dict[tuple[str, ...], list[EvalClip]] = {}
    for clip in {c.name: c for of_task in run.clips.values() for c in of_task}.values():
        asked = tuple(t.name for t in run.tasks if (t.name, clip.name) in lacking)
        if asked:
            groups.setdefault(asked, []).append(clip)
    bar = run.progress.add_task("asking", total=sum(map(len, groups.values())))
    for names, clips in groups.items():
        tasks = [task for task in run.tasks if task.name in names]
        for i in range(0, len(clips), BATCH_CLIPS):
            batch = clips[i : i + BATCH_CLIPS]
            waves = [answerer.load(clip.path) for clip in batch]
            answers = answerer.ask(waves, [task.question for task in tasks])
            for task, row in zip(tasks, answers, strict=True):
                for clip, wave, answer in zip(batch, waves, row, strict=True):
                    run.results.add(task, "model", clip, answer, task.parse(answer))
                    if controls:
                        silent, bare = answerer.silence(len(wave), task.question), answerer.text_only(task.question)
                        run.results.add(task, "silence", clip, silent, task.parse(silent))
                        run.results.add(task, "text", clip, bare, task.parse(bare))
            run.progress.advance(bar, len(batch))


def _swap(run: Run) -> None:
    """The model's answer to another clip, judged as if it were about this one: neighbours exchange answers."""
    for task in run.tasks:
        clips = run.clips[task.name]
        for i, clip in enumerate(clips):
            other = clips[i ^ 1] if i ^ 1 < len(clips) else clips[i - 1]
            if other is not clip:
                heard = run.results.records[task.name, "model", other.name]
                run.results.add(task, "swapped", clip, heard["answer"], heard["parsed"])


def _classical(run: Run, fit_clips: int) -> None:
    """Every task's classical tools, fitted on TRAIN where they need it."""
    for task in run.tasks:
        for tool in task.tools:
            condition = f"tool: {tool.name}"
            clips = run.missing(task, condition)
            if not clips:
                continue
            learn = [c for c in run.train if task.truth(c.facts) is not None][:fit_clips] if tool.fitted else []
            measured = _measure([*learn, *clips], tool, run.progress)
            truths = [task.truth(clip.facts) for clip in learn]
            estimate = tool.fit(measured[: len(learn)], truths)
            for clip, features in zip(clips, measured[len(learn) :], strict=True):
                answer = estimate(features)
                run.results.add(task, condition, clip, str(answer), answer)


def _measure(clips: list[EvalClip], tool: Tool, progress: Progress) -> np.ndarray:
    """A tool's features of clips [clips, features], on all cores where there are many clips."""
    bar = progress.add_task(tool.name, total=len(clips))
    rows = []
    jobs = [(tool.measure, clip.path) for clip in clips]
    # The first clip always here: librosa's compiled functions go into a cache on disk, and two processes that write it
    # at the same time leave one that crashes whoever loads it (numba 0.68).
    here = len(jobs) if len(jobs) < POOL_FROM else 1
    for job in jobs[:here]:
        rows.append(_measure_one(job))
        progress.advance(bar)
    if jobs[here:]:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            for row in pool.map(_measure_one, jobs[here:], chunksize=8):
                rows.append(row)
                progress.advance(bar)
    return np.stack(rows)


def _measure_one(job: tuple[Callable[[np.ndarray], np.ndarray], Path]) -> np.ndarray:
    measure, path = job
    return measure(load_audio(path, RATE))
