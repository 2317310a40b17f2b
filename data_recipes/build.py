"""Recipes -> clips and instruction rows, on all cores, resumable, into a folder or an object store.

A unit (some 50 clips, some 1,000 rows of text) is the piece of work: its clips are written into a folder of their own,
which gets its name only when complete, then its rows as one parquet shard. A build that was killed goes on with the
first unit without a shard and ends with the same bytes, because everything is drawn from a generator of its own.

    DIR/clips/clips-00012/train-000123.flac   DIR/rows/train-clips-00012.parquet   DIR/build.json   DIR/manifest.json
"""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import soundfile
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mllm.data_recipes.config import DataError, Mixture, load_mixture
from mllm.data_recipes.ingredients import Ingredients
from mllm.data_recipes.manifest import write_manifest
from mllm.data_recipes.parallel import AHEAD
from mllm.data_recipes.removal import remove_duplicates
from mllm.data_recipes.row import SCHEMA, shard_bytes
from mllm.data_recipes.stage import Stage, Unit
from mllm.data_recipes.stages import READERS, plan_stages
from mllm.data_recipes.store import Store

DEDUPLICATION = "deduplication"
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
        limit: at most so many training clips (everything else shrinks in proportion).

    Returns:
        The path or address of manifest.json.

    Raises:
        DataError: unusable configuration, no source, no soundfont, another build in `output`, disk full.
    """
    if workers < 1 or (limit is not None and limit < 1):
        raise DataError("workers and limit must be at least 1")
    store = Store.at(output)
    began = time.monotonic()
    console = Console(stderr=True)
    with _progress(console) as bar:
        found = Ingredients.find(config, workers, _reporter(bar))
    for name, why in found.left_out.items():
        console.print(f"[yellow]left out: {name}: {why}[/yellow]", highlight=False)
    try:
        mark = build_mark(config, found, limit)
        _prepare(store, mark)
        seconds: dict[str, float] = {}
        for stage in plan_stages(config, found, store, limit):
            if config.deduplicate and stage.name in READERS:  # what it reads must not be left out afterwards
                _deduplicate(store, workers, seconds, console)
            started = time.monotonic()
            _run(stage, store, workers, console)
            seconds[stage.name] = time.monotonic() - started
        if config.deduplicate and DEDUPLICATION not in seconds:
            _deduplicate(store, workers, seconds, console)
    except (OSError, soundfile.LibsndfileError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"writing to {output} failed: {reason}; run the same command again to go on") from error
    return write_manifest(store, config, found, mark, seconds, time.monotonic() - began)


def build_mark(config: Mixture, found: Ingredients, limit: int | None) -> str:
    """Identifies a build: another mixture, other sources or soundfonts, or another limit give another mark."""
    text = json.dumps([config.model_dump(exclude={"scores_dir", "sets_dir"}), found.mark(), limit], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _reporter(bar: Progress) -> Any:
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done)

    return report


def _prepare(store: Store, mark: str) -> None:
    """Refuse a place with another build; remove what a kill left half-written."""
    if store.exists("build.json"):
        if json.loads(store.read("build.json")).get("plan") != mark:
            raise DataError(
                f"{store.address} holds another build (other mixture, sources, soundfonts or limit); "
                "choose another folder or delete it"
            )
    else:
        store.write("build.json", (json.dumps({"plan": mark}) + "\n").encode())
    for folder in ("clips", "rows"):
        store.clear_parts(folder)


def _deduplicate(store: Store, workers: int, seconds: dict[str, float], console: Console) -> None:
    started = time.monotonic()
    with console.status("looking for duplicates"):
        dropped = remove_duplicates(store, workers)
    seconds[DEDUPLICATION] = time.monotonic() - started
    if dropped:
        console.print(f"{dropped} rows left out as duplicates", highlight=False)


def _start(stage: Stage, store: Store) -> None:
    global _store
    _stages[stage.name], _store = stage, store


def _run(stage: Stage, store: Store, workers: int, console: Console) -> None:
    """Make every unit of a stage that has no shard yet, a bounded number at a time."""
    have = set(store.names("rows", ".parquet"))
    began, done, fresh = time.monotonic(), 0, 0
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(stage, store)) as pool, _progress(console) as bar:
        task = bar.add_task(stage.name, total=stage.total())
        pending: set[Future[int]] = set()
        units = stage.units()
        try:
            while True:
                while len(pending) < workers * AHEAD and (unit := next(units, None)) is not None:
                    if unit.shard in have:
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
        except BaseException:
            for future in pending:
                future.cancel()
            raise


def _make(unit: Unit) -> int:
    """Write the clips of a unit, then its shard. Runs in a worker process."""
    assert _store is not None
    stage = _stages[unit.stage]
    with _store.folder(unit.clips) if stage.audio else nullcontext(Path()) as folder:
        made = stage.make(unit, folder)
    _store.write(unit.shard, shard_bytes(pa.Table.from_pylist(made.rows, schema=SCHEMA), made.skips))
    return unit.size
