"""Questions out of a folder that `mllm data build` made: clips with their facts, and rows of a kind."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm.eval.item import Item
from mllm.eval.task import EvalError, Facts, Task, Tool, Verdict, truth_in_words
from mllm.rows import Row, RowsError, is_whole_clip, iter_rows, row_audios

__all__ = ["EvalClip", "EvalError", "clip_task", "data_hash", "read_clips", "rows_of_task", "works"]

OTHERS = ("clips/sets-", "clips/score_and_sound-")
"""Recordings of public sets, of one this is known and of another that, so they are no sample to compare tools on; and
the short ones that are set beside scores, which have tasks of their own."""
TRAIN_ROWS = 1000
"""Rows of a task that are kept of TRAIN: enough to know its answers."""


@dataclass(frozen=True)
class EvalClip:
    """One recording; `name` is its path inside the data folder, `facts` what the row says is true of it."""

    name: str
    path: Path
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Split:
    """A split, read once for all tasks."""

    clips: tuple[EvalClip, ...]
    rows: dict[str, list[Row]]
    works: frozenset[str]


def _read(data: Path, split: str) -> _Split:
    return _read_once(data, split, data_hash(data))


@functools.lru_cache(4)
def _read_once(data: Path, split: str, digest: str) -> _Split:
    clips: dict[str, EvalClip] = {}
    rows: dict[str, list[Row]] = defaultdict(list)
    works = set()
    for row in iter_rows(data, split):
        if is_whole_clip(row):
            path = Path(row_audios(row)[0])
            name = str(path.relative_to(data)) if path.is_relative_to(data) else path.name
            if not name.startswith(OTHERS) and name not in clips:
                clips[name] = EvalClip(name, path, row["facts"])
        works.add(work_of(row))
        of_task = rows[row.get("task") or ""]
        if split != "train" or len(of_task) < TRAIN_ROWS:
            of_task.append(row)
    return _Split(
        tuple(sorted(clips.values(), key=lambda c: (c.path.name, c.name))), dict(rows), frozenset(works - {""})
    )


def read_clips(data: Path, split: str) -> list[EvalClip]:
    """Every clip of `split`, once, in the order of its name; rows are parquet shards anywhere under `data`.

    Raises EvalError where there is none.
    """
    try:
        clips = list(_read(data, split).clips)
    except RowsError as error:
        raise EvalError(str(error)) from error
    if not clips:
        raise EvalError(f"{data} has no clips of the split {split!r} to ask about")
    return clips


def rows_of_task(data: Path, split: str, wanted: Callable[[str], bool]) -> list[Row]:
    """Rows of a split whose task is `wanted`, kind by kind in the order of the files; nothing where there are none."""
    try:
        rows = _read(data, split).rows
    except RowsError as error:
        if split == "train":
            return []
        raise EvalError(str(error)) from error
    return [row for task in sorted(rows) if wanted(task) for row in rows[task]]


def works(data: Path, split: str) -> frozenset[str]:
    """Names of the works that a split is made of, where its rows tell."""
    try:
        return _read(data, split).works
    except RowsError:
        return frozenset()


def work_of(row: Row) -> str:
    """What a row is a version of: rows of one work depend on one another."""
    facts = row.get("facts") or {}
    return str(facts.get("tune_id") or facts.get("work") or "")


def data_hash(data: Path) -> str:
    """sha256 of manifest.json, or of all shards where there is no manifest, or of the JSONL."""
    manifest = data / "manifest.json"
    files = [data] if data.is_file() else [manifest] if manifest.is_file() else sorted(data.rglob("*.parquet"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def clip_task(
    name: str,
    title: str,
    question: str,
    truth: Callable[[Facts], Any],
    parse: Callable[[str], Any],
    right: Callable[[Any, Any], bool],
    guess: Callable[[Item], str | None] = truth_in_words,
    extras: dict[str, Callable[[Any, Any], bool]] | None = None,
    tools: Iterable[Tool] = (),
) -> Task:
    """A task that asks one fixed question about every clip of a build.

    Args:
        truth: facts of a clip -> the right answer, or None where the clip does not take part.
        parse: what was said -> its answer, or None where it gives none or hedges between several.
        right: (parsed answer, truth) -> whether it is right.
        extras: further, more lenient verdicts by name.
        guess, tools: as in `Task`.
    """

    def items(data: Path, split: str, limit: int | None, seed: int) -> list[Item]:
        try:
            clips = read_clips(data, split)
        except EvalError:
            if split == "train":
                return []
            raise
        found = [
            Item(clip.name, question, truth(clip.facts), (clip.path,), group=clip.facts.get("tune_id", clip.name))
            for clip in clips
            if truth(clip.facts) is not None
        ]
        return found[:limit]

    def score(answer: str, item: Item) -> Verdict:
        parsed = parse(answer)
        judged = {k: float(parsed is not None and f(parsed, item.truth)) for k, f in (extras or {}).items()}
        return Verdict(parsed, float(parsed is not None and right(parsed, item.truth)), judged)

    return Task(name, title, items, score, guess=guess, tools=tuple(tools))
