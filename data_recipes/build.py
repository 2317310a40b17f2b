"""Recipes -> clips and instruction rows, on all cores, resumable, into a folder or an object store.

A unit (some 50 clips, some 1,000 rows of text) is the piece of work: its clips are written into a folder of their own,
which gets its name only when complete, then its rows as one parquet shard. A build that was killed goes on with the
first unit without a shard (or without its clips) and ends with the same bytes, because everything is drawn from a
generator of its own. In a folder on this machine only one build runs at a time.

    DIR/clips/clips-00012/train-000123.flac   DIR/rows/train-clips-00012.parquet   DIR/build.json   DIR/manifest.json
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mllm.data_recipes.build_mark import go_on
from mllm.data_recipes.config import DataError, Mixture, load_mixture
from mllm.data_recipes.ingredients import Ingredients
from mllm.data_recipes.manifest import NAME as MANIFEST
from mllm.data_recipes.manifest import write_manifest
from mllm.data_recipes.parallel import AHEAD, WorkerError, process_pool
from mllm.data_recipes.removal import WHY, remove_duplicates
from mllm.data_recipes.row import SCHEMA, shard_bytes
from mllm.data_recipes.stage import Stage, Unit
from mllm.data_recipes.stages import READERS, plan_stages
from mllm.data_recipes.store import Store

DEDUPLICATION = "deduplication"
_TOLD = 5
"""Reasons for what was skipped that a build tells at its end."""
_stages: dict[str, Stage] = {}
_store: Store | None = None


def build_mixture(path: str | Path, output: str | Path, workers: int = 2, limit: int | None = None) -> str:
    """Build the mixture that the YAML `path` describes into `output`; returns the manifest's path or address."""
    return build(load_mixture(path), output, workers, limit)


def build(config: Mixture, output: str | Path, workers: int = 2, limit: int | None = None) -> str:
    """Make all clips and rows.

    Args:
        config: the mixture.
        output: a folder or an fsspec address; one that holds a part of this very build is completed.
        workers: processes, one thread each.
        limit: at most so many training clips, and counts and limits of everything else shrink in proportion. Where
            there are no clips, rows of theory are meant, else rows of scores, else medleys; and where a mixture only
            takes items from sets, at most so many of those in training, over all sets.

    Returns:
        The path or address of manifest.json.

    Raises:
        DataError: unusable configuration, no source, no soundfont, another build in `output` (or one that is running
            there), not one row, disk full, a worker process killed.
    """
    if workers < 1 or (limit is not None and limit < 1):
        raise DataError("workers and limit must be at least 1")
    store = Store.at(output)
    if store.passing:
        raise DataError(f"{output} lives in the memory of this process and would be gone at its end; choose a folder")
    try:
        with store.held():
            return _build(config, store, workers, limit)
    except WorkerError as error:
        raise DataError(str(error)) from error


def _build(config: Mixture, store: Store, workers: int, limit: int | None) -> str:
    began = time.monotonic()
    console = Console(stderr=True)
    with _progress(console) as bar:
        found = Ingredients.find(config, workers, _reporter(bar, console))
    told = dict(found.left_out)
    _tell_left_out(console, told)
    try:
        mark = go_on(store, config, found, limit)
        for folder in ("clips", "rows"):  # what a kill left half-written
            store.clear_parts(folder)
        seconds: dict[str, float] = {}
        for stage in plan_stages(config, found, store, limit):
            if stage.name in READERS:
                _refuse_nothing(store, found)
                if config.deduplicate:  # what it reads must not be left out afterwards
                    _deduplicate(store, workers, seconds, console)
            started = time.monotonic()
            _run(stage, store, workers, console)
            seconds[stage.name] = time.monotonic() - started
        _refuse_nothing(store, found)
        if config.deduplicate and DEDUPLICATION not in seconds:
            _deduplicate(store, workers, seconds, console)
    except (OSError, soundfile.LibsndfileError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"writing to {store.address} failed: {reason}; run the same command again to go on") from error
    manifest = write_manifest(store, config, found, mark, seconds, time.monotonic() - began)
    _tell_left_out(console, {name: why for name, why in found.left_out.items() if name not in told})
    _tell_skips(console, store, manifest)
    return f"{store.address}/{MANIFEST}"


def _tell_left_out(console: Console, left_out: Mapping[str, str]) -> None:
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}", style="yellow", highlight=False, markup=False)


def _tell_skips(console: Console, store: Store, manifest: Mapping[str, Any]) -> None:
    """What of the sources gave no row, the most frequent reasons; raises DataError where nothing gave one."""
    skips = [skip for skip in Counter(manifest["skipped_in_clips"]).most_common() if skip[0] != WHY]
    for why, count in skips[:_TOLD]:
        console.print(f"skipped: {why} ({count} times)", style="yellow", highlight=False, markup=False)
    if len(skips) > _TOLD:
        console.print(f"and {len(skips) - _TOLD} more reasons in {store.where(MANIFEST)}", style="yellow", markup=False)
    if not manifest["rows"]:
        raise DataError(f"{store.address}: not one row came of it; `skipped_in_clips` of its {MANIFEST} says why")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _reporter(bar: Progress, console: Console) -> Any:
    """Shows how far reading is; where no bar can be seen, a line each tenth."""
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total, visible=console.is_terminal)
        bar.update(tasks[what], completed=done)
        if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
            console.print(f"{what}: {done}/{total}", highlight=False)

    return report


def _refuse_nothing(store: Store, found: Ingredients) -> None:
    if not store.names("rows", ".parquet"):
        why = "; ".join(f"{name}: {why}" for name, why in found.left_out.items()) or "the mixture asks for nothing"
        raise DataError(f"there is nothing to build from: {why}")


def _deduplicate(store: Store, workers: int, seconds: dict[str, float], console: Console) -> None:
    started = time.monotonic()
    with console.status("looking for duplicates"):
        dropped = remove_duplicates(store, workers)
    seconds[DEDUPLICATION] = time.monotonic() - started
    if dropped:
        console.print(f"{dropped} {WHY}", highlight=False)


def _start(stage: Stage, store: Store) -> None:
    global _store
    _stages[stage.name], _store = stage, store


def _run(stage: Stage, store: Store, workers: int, console: Console) -> None:
    """Make every unit of a stage that is not there yet, a bounded number at a time."""
    have, clips = set(store.names("rows", ".parquet")), set(store.names("clips"))
    began, done, fresh = time.monotonic(), 0, 0
    with process_pool(workers, _start, stage, store) as pool, _progress(console) as bar:
        task = bar.add_task(stage.name, total=stage.total())
        pending: set[Future[int]] = set()
        units = stage.units()
        while True:
            while len(pending) < workers * AHEAD and (unit := next(units, None)) is not None:
                # Clips can be gone without their rows: deleted by hand, or by another build at an address elsewhere.
                lost = stage.audio and unit.clips not in clips and unit.shard in have and _has_clips(store, unit)
                if unit.shard in have and not lost:
                    done += unit.size
                    bar.update(task, completed=done)
                else:
                    pending.add(pool.submit(_make, unit))
            if not pending:  # and no unit is left, however many in a row were there already
                break
            ready, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in ready:
                fresh += future.result()
            rate = f"{fresh / (time.monotonic() - began):.1f}/s"
            bar.update(task, completed=done + fresh, description=f"{stage.name} ({rate})")
            if not console.is_terminal:
                console.print(f"{stage.name}: {done + fresh}/{stage.total() or '?'}, {rate}", highlight=False)


def _has_clips(store: Store, unit: Unit) -> bool:
    """Whether rows of a unit name clips of it; text alone has none."""
    with store.open(unit.shard) as file:
        talks = pq.read_table(file, columns=["messages"])["messages"].to_pylist()
    return any(f'"{unit.clips}/' in talk for talk in talks)


def _make(unit: Unit) -> int:
    """Write the clips of a unit, then its shard. Runs in a worker process."""
    assert _store is not None
    stage = _stages[unit.stage]
    with _store.folder(unit.clips) if stage.audio else nullcontext(Path()) as folder:
        made = stage.make(unit, folder)
    _store.write(unit.shard, shard_bytes(pa.Table.from_pylist(made.rows, schema=SCHEMA), made.skips))
    return unit.size
