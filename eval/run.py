"""Ask a model the questions of tasks, beside every control: `mllm eval`.

Writes into the output folder answers.jsonl (as they come; a rerun asks nothing twice), results.jsonl (every prompt,
answer, truth and verdict under every condition), summary.json, table.md and report.html.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mllm.eval.answers import Answers, prompt_key
from mllm.eval.commands import command as in_words
from mllm.eval.commands import controls, named, unless
from mllm.eval.controls import CONDITIONS, constants, medium_of, prompts
from mllm.eval.data import data_hash, works
from mllm.eval.html_report import write_report
from mllm.eval.item import Item
from mllm.eval.kernels import answers_may_differ
from mllm.eval.report import summarise, table
from mllm.eval.respondents import Failure, Respondent, respondent, weighs_options
from mllm.eval.sounds import Sound
from mllm.eval.task import EvalError, Messages, Task, Verdict, without_options
from mllm.eval.tasks import PUBLIC, TASKS
from mllm.settings import nearest
from mllm.whole_files import write_whole

WEIGHED = ("model", "silence")
"""Conditions under which the options of a multiple choice are weighed too."""
FIT_CLIPS = 800
"""TRAIN items that a fitted tool learns from."""
console = Console(stderr=True)
Record = dict[str, Any]


@dataclass
class Run:
    """What the steps of one evaluation share."""

    tasks: list[Task]
    items: dict[str, list[Item]]
    train: dict[str, list[Item]]
    data: Path
    answers: Answers
    progress: Progress
    records: list[Record] = field(default_factory=list)
    seen: frozenset[str] = frozenset()

    def add(self, task: Task, item: Item, condition: str, answer: str | None, verdict: Verdict, **more: Any) -> None:
        """Write one verdict down."""
        self.records.append({
            "task": task.name, "version": task.version, "item": item.id, "condition": condition, "group": item.group,
            "strata": dict(item.strata), "audio": [_inside(path, self.data) for path in item.audio],
            "question": item.question, "options": list(item.options), "truth": item.truth, "answer": answer,
            "parsed": verdict.parsed, "score": float(verdict.score),
            "extras": {k: float(v) for k, v in verdict.extras.items()}, **more,
        })  # fmt: skip


def evaluate(
    model: str | Respondent,
    tasks: Sequence[str] | None = None,
    data: str | Path = "runs/data/mini",
    output: str | Path = "runs/eval",
    limit: int | None = None,
    *,
    model_name: str = "",
    split: str = "test",
    seed: int = 0,
    beside: Sequence[str | Respondent] = (),
    fit_clips: int = FIT_CLIPS,
    conditions: Sequence[str] = tuple(CONDITIONS),
    tools: bool = True,
    registry: Mapping[str, Task] = TASKS,
    command: str = "",
) -> dict[str, Any]:
    """Measure a model on `tasks` and write answers, results, summary, table and report into `output`.

    Args:
        model: what `mllm.eval.respondents.respondent` takes, or a respondent.
        tasks: names in `registry`; None: all that the data has questions for, public benchmarks left out.
        data: a folder that `mllm data build` made, or a JSONL of rows.
        output: folder of the results; those of the same model, data and split are gone on with.
        limit: at most so many items a task.
        model_name: what an API calls the model.
        split: "test", or "validation" while something is still being chosen.
        seed: of whatever a task draws.
        beside: further respondents that are asked the same questions, such as "text:smollm2".
        fit_clips: TRAIN items that a fitted classical tool learns from.
        conditions: names in `mllm.eval.controls.CONDITIONS`; ("model",) asks nothing beside the questions themselves.
        tools: whether classical tools answer too.
        registry: name -> task.
        command: what the report says made it, where that is not `mllm eval`.

    Returns:
        What summary.json holds: {"run": settings, "tasks": {task: {condition: {accuracy, low, high, n, …}}}}.

    Raises:
        EvalError: unknown task, no data, or `output` holds another evaluation; a server that answers nothing.
        WeightsError: no such model.
    """
    data, output = Path(data), Path(output)
    asked = model if not isinstance(model, str) else respondent(model, model_name)
    others = [other if not isinstance(other, str) else respondent(other) for other in beside]
    if unknown := [name for name in conditions if name not in CONDITIONS]:
        raise EvalError(f"unknown condition {', '.join(unknown)}{nearest(unknown[0], CONDITIONS)}")
    chosen, items = _items(registry, tasks, data, split, limit, seed)
    settings = {
        "model": asked.name, "model_sha256": asked.sha256, "data": str(data), "data_sha256": data_hash(data),
        "benchmarks_sha256": {task.name: task.source() for task in chosen if task.source}, "split": split,
        "seed": seed, "fit_clips": fit_clips,
        "rounding": "fast" if answers_may_differ() else "alike",
    }  # fmt: skip
    _open(output, settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        train = {task.name: task.items(data, "train", None, seed) for task in chosen}
        seen = works(data, "train") if split != "train" else frozenset()
        run = Run(chosen, items, train, data, Answers(output / "answers.jsonl"), progress, seen=seen)
        _constants(run)
        _ask(run, asked, conditions)
        for other in others:
            _ask(run, other, ["model"], beside=other.name)
        if tools:
            _tools(run, fit_clips)
    command = command or in_words("mllm eval", {
        **named(model, model_name), "--tasks": ",".join(task.name for task in chosen), "--data": data,
        "--output": output, "--limit": limit, "--split": unless(split, "test"), "--seed": unless(seed, 0),
        "--fit-clips": unless(fit_clips, FIT_CLIPS), **controls(conditions, tuple(CONDITIONS), tools),
        "--beside": [other if isinstance(other, str) else other.name for other in beside],
        "--fast": answers_may_differ(),
    })  # fmt: skip
    return _write(run, settings | {"command": command, "limit": limit}, output)


def _items(
    registry: Mapping[str, Task], wanted: Sequence[str] | None, data: Path, split: str, limit: int | None, seed: int
) -> tuple[list[Task], dict[str, list[Item]]]:
    if unknown := [name for name in wanted or () if name not in registry]:
        raise EvalError(f"unknown task {', '.join(unknown)}{nearest(unknown[0], registry)}")
    if limit is not None and limit < 1:
        raise EvalError("--limit must be at least 1")
    chosen = [registry[name] for name in wanted or (name for name in registry if name not in PUBLIC)]
    items = {task.name: task.items(data, split, limit or task.most, seed) for task in chosen}
    if wanted and (empty := [name for name, of_task in items.items() if not of_task]):
        raise EvalError(f"nothing of the split {split!r} in {data} has a truth for {', '.join(empty)}")
    chosen = [task for task in chosen if items[task.name]]
    if not chosen:
        raise EvalError(f"{data} has no questions of the split {split!r} for any task")
    for name, of_task in items.items():
        if len({item.id for item in of_task}) != len(of_task):
            raise EvalError(f"task {name}: two items have the same id")
    return chosen, items


def _open(output: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or make sure that it holds this very evaluation."""
    output.mkdir(parents=True, exist_ok=True)
    stamp = output / "run.json"
    same = ("model_sha256", "data_sha256", "split", "seed", "fit_clips", "rounding")
    if stamp.exists():
        before = json.loads(stamp.read_text(encoding="utf-8"))
        changed = [key for key in same if before.get(key, settings[key]) != settings[key]]
        files = before.get("benchmarks_sha256", {})
        now = settings["benchmarks_sha256"]
        if changed := changed + [f"version of {name}" for name in now if files.get(name, now[name]) != now[name]]:
            raise EvalError(f"{output} holds an evaluation with another {', '.join(changed)}: choose another --output")
        settings = settings | {"benchmarks_sha256": files | now}
    elif (output / "results.jsonl").exists():
        raise EvalError(f"{output}/results.jsonl is there but run.json is not: choose another --output")
    write_whole(stamp, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")


def _constants(run: Run) -> None:
    """What answers without a model."""
    for task in run.tasks:
        items = run.items[task.name]
        for condition, rows in constants(task, items, run.train[task.name]).items():
            for item, (answer, verdict) in zip(items, rows, strict=True):
                run.add(task, item, condition, answer, verdict)


@dataclass
class _Job:
    task: Task
    item: Item
    condition: str
    messages: Messages
    key: str
    weigh: str = ""
    """Key of the weighed options; "" where they are not weighed."""


def _ask(run: Run, asked: Respondent, conditions: Sequence[str], beside: str = "") -> None:
    """The respondent's answers under each condition; equal prompts are asked once."""
    weighs = weighs_options(asked)
    jobs: list[_Job] = []
    for task in run.tasks:
        for condition, item, messages in prompts(task, run.items[task.name], conditions):
            job = _Job(task, item, condition, messages, prompt_key(asked.sha256, messages, most=task.max_new_tokens))
            if weighs and item.options and condition in WEIGHED:
                job.weigh = prompt_key(asked.sha256, without_options(messages), options=item.options)
            jobs.append(job)
    failed, unweighed = _answers(run, asked, jobs), _weighed(run, asked, jobs) if weighs else {}
    for job in jobs:
        more: dict[str, Any] = {"medium": medium_of(job.item, job.task.prompt(job.item))}
        answer = run.answers[job.key] if job.key in run.answers else None
        verdict = job.task.score(answer, job.item) if answer is not None else Verdict(None, 0.0)
        if answer is None:
            more["failed"] = failed[job.key].reason
        if job.weigh:
            weights = run.answers[job.weigh] if job.weigh in run.answers else None
            more |= {"unweighed": unweighed[job.weigh].reason} if weights is None else {"loglikelihoods": weights}
            verdict = Verdict(verdict.parsed, verdict.score, {**verdict.extras, **_likeliest(job.item, weights)})
        name = f"beside {beside}" if beside else job.condition
        run.add(job.task, job.item, name, answer, verdict, prompt=_written(job.messages), **more)


def _answers(run: Run, asked: Respondent, jobs: Sequence[_Job]) -> dict[str, Failure]:
    """Ask what is not known yet; the failures by key."""
    missing = {job.key: job for job in jobs if job.key not in run.answers}
    # questions about one recording together, for it is read once; else alike prompts: a batch is as slow as its longest
    order = sorted(missing.values(), key=lambda job: (job.task.max_new_tokens, *_alike(job.messages)))
    bar = run.progress.add_task(f"asking {asked.name}", total=len(order), visible=bool(order))
    failed: dict[str, Failure] = {}
    for batch in _slices(order, asked.at_once):
        most = batch[0].task.max_new_tokens
        said = asked.answer([job.messages for job in batch], most)
        run.answers.add({j.key: a for j, a in zip(batch, said, strict=True) if not isinstance(a, Failure)})
        failed |= {job.key: a for job, a in zip(batch, said, strict=True) if isinstance(a, Failure)}
        if len(failed) == len(batch) and batch[0] is order[0] and len(order) > len(batch):
            raise EvalError(f"{asked.name} answered none of the first {len(batch)} questions: {said[0].reason}")  # type: ignore[union-attr]
        run.progress.advance(bar, len(batch))
    return failed


def _slices(jobs: Sequence[_Job], size: int) -> list[list[_Job]]:
    """Up to `size` jobs that are cut at the same number of tokens."""
    out: list[list[_Job]] = []
    for job in jobs:
        if out and len(out[-1]) < size and out[-1][0].task.max_new_tokens == job.task.max_new_tokens:
            out[-1].append(job)
        else:
            out.append([job])
    return out


def _weighed(run: Run, asked: Any, jobs: Sequence[_Job]) -> dict[str, Failure]:
    """Find the log-likelihoods of options that are not known yet; the failures by key."""
    missing = list({job.weigh: job for job in jobs if job.weigh and job.weigh not in run.answers}.values())
    bar = run.progress.add_task("weighing options", total=len(missing), visible=bool(missing))
    missing.sort(key=lambda job: (len(job.item.options), len(str(_written(job.messages)))))
    failed: dict[str, Failure] = {}
    for i in range(0, len(missing), asked.at_once):
        batch = missing[i : i + asked.at_once]
        weighed = asked.option_loglikelihoods(
            [without_options(job.messages) for job in batch], [list(job.item.options) for job in batch]
        )
        run.answers.add({j.weigh: w for j, w in zip(batch, weighed, strict=True) if not isinstance(w, Failure)})
        failed |= {job.weigh: w for job, w in zip(batch, weighed, strict=True) if isinstance(w, Failure)}
        run.progress.advance(bar, len(batch))
    return failed


def _likeliest(item: Item, weights: Sequence[Sequence[float]] | None) -> dict[str, float]:
    """Whether the likeliest option is the true one: by the sum, and by the mean over tokens; unweighed, none is."""

    def right(weigh: Callable[[Sequence[float]], float]) -> float:
        if weights is None:
            return 0.0
        return float(item.options[max(range(len(weights)), key=lambda i: weigh(weights[i]))] == item.truth)

    return {
        "likeliest option (sum)": right(lambda pair: pair[0]),
        "likeliest option (per token)": right(lambda pair: pair[0] / pair[1]),
    }


def _written(messages: Messages) -> Messages:
    """Messages as JSON holds them: a sound by its key."""
    return json.loads(json.dumps(messages, default=lambda value: value.key if isinstance(value, Sound) else str(value)))


def _alike(messages: Messages) -> tuple[int, str, int]:
    """Parts of a prompt that are sounds, the first one's key, and the length of it all."""
    parts = [part for m in messages if not isinstance(m["content"], str) for part in m["content"]]
    sounds = [part["audio"].key for part in parts if part["type"] == "audio"]
    return len(sounds), sounds[0] if sounds else "", len(str(_written(messages)))


def _tools(run: Run, fit_clips: int) -> None:
    """Every task's classical tools, fitted on TRAIN where they need it, on the items whose recordings are there."""
    for task in run.tasks:
        items = [item for item in run.items[task.name] if all(path.is_file() for path in item.audio)]
        train = run.train[task.name][:fit_clips]
        for tool in task.tools if items else ():
            fit = [item.id for item in train]
            keys = [
                prompt_key("tool", [], task=task.name, version=task.version, tool=tool.name, item=item.id, fit=fit)
                for item in items
            ]
            lacking = [item for item, key in zip(items, keys, strict=True) if key not in run.answers]
            bar = run.progress.add_task(tool.name, total=len(train) + len(lacking), visible=bool(lacking))
            said = iter(tool.answers(train, lacking, lambda bar=bar: run.progress.advance(bar)) if lacking else ())  # type: ignore[misc]
            found: dict[str, Any] = {}
            for key, answer in zip([k for k in keys if k not in run.answers], said, strict=True):
                judged = isinstance(answer, Verdict)
                found[key] = [answer.parsed, answer.score, dict(answer.extras)] if judged else str(answer)  # type: ignore[union-attr]
            run.answers.add(found)
            run.progress.update(bar, completed=len(train) + len(lacking))
            for item, key in zip(items, keys, strict=True):
                known = run.answers[key]
                words = known if isinstance(known, str) else None
                verdict = Verdict(*known) if words is None else task.score(words, item)
                run.add(task, item, f"tool: {tool.name}", words, verdict)


def _write(run: Run, settings: dict[str, Any], output: Path) -> dict[str, Any]:
    """Everything that stands in the folder beside the answers."""
    of_task: dict[str, list[Record]] = {task.name: [] for task in run.tasks}
    for record in run.records:
        of_task[record["task"]].append(record)
    tasks = {task.name: summarise(of_task[task.name], task.overall) for task in run.tasks}
    about = {
        task.name: {
            "title": task.title, "version": task.version,
            "question": next(iter({item.question for item in run.items[task.name]}))
            if len({item.question for item in run.items[task.name]}) == 1 else "",
            "works_in_train": len({i.group for i in run.items[task.name]} & run.seen),
            "guessed_on_items": not run.train[task.name] and "majority" in tasks[task.name],
        }
        for task in run.tasks
    }  # fmt: skip
    summary: dict[str, Any] = {"run": settings, "about": about, "tasks": tasks}
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in run.records)
    write_whole(output / "results.jsonl", lines)
    write_whole(output / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_whole(output / "table.md", table(summary))
    write_report(output / "report.html", summary, run.records, run.data)
    return summary


def _inside(path: Path, data: Path) -> str:
    return str(path.relative_to(data)) if path.is_relative_to(data) else str(path)
