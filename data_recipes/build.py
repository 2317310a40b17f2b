"""Recipes -> clips and instruction rows, on all cores, resumable.

A unit (some 50 clips) is the piece of work: its clips are written into a folder of their own that gets its name only
when complete, then its rows as one parquet shard, renamed into place last. A build that was killed goes on with the
first unit without a shard and ends with the same bytes, because every clip draws from a generator of its own.

    DIR/clips/012/train-000123.flac   DIR/rows/train-012.parquet   DIR/build.json   DIR/manifest.json
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mllm.data_recipes.clip import UnusableTune, make_clip, rows_of, write_flac
from mllm.data_recipes.config import DataError, Mixture, Recipe, Soundfont, find_soundfont, load_mixture
from mllm.data_recipes.manifest import write_manifest
from mllm.data_recipes.plan import Unit, plan_clips, plan_hash
from mllm.data_recipes.sources import collect
from mllm.data_recipes.tune import Tune

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("messages", pa.string()),
        ("facts", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("split", pa.string()),
        ("length", pa.float64()),
    ]
)
"""`messages` and `facts` are JSON texts: their shape differs from row to row, which parquet columns do not bear."""


@dataclass
class _Work:
    """What a worker process needs; set once per process."""

    mixture: Mixture
    tunes: dict[str, Tune]
    recipes: dict[str, Recipe]
    fonts: dict[str, Path]
    output: Path


_work: _Work | None = None


def build_mixture(path: str | Path, output: str | Path, workers: int = 2, limit: int | None = None) -> Path:
    """Build the mixture that the YAML `path` describes into the folder `output`; returns the manifest's path."""
    return build(load_mixture(path), output, workers, limit)


def build(config: Mixture, output: str | Path, workers: int = 2, limit: int | None = None) -> Path:
    """Render all clips and write their rows.

    Args:
        config: the mixture.
        output: a folder; one that holds a part of this very build is completed.
        workers: processes, one thread each.
        limit: at most so many training clips (the other splits shrink in proportion).

    Returns:
        The path of manifest.json.

    Raises:
        DataError: unusable configuration, no source, no soundfont, another build in `output`, disk full.
    """
    if workers < 1 or (limit is not None and limit < 1):
        raise DataError("workers and limit must be at least 1")
    output = Path(output).expanduser().absolute()
    began = time.monotonic()
    console = Console(stderr=True)
    fonts, missing = _fonts(config)
    with _progress(console) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        found = collect(config, workers, report)
    for name, why in {**found.absent, **missing}.items():
        console.print(f"[yellow]left out: {name}: {why}[/yellow]", highlight=False)
    weights = {
        split: _weights(config.test_soundfonts if split == "test" else config.soundfonts, fonts)
        for split in ("train", "validation", "test")
    }
    units = plan_clips(config, found.tunes, found.recipes, weights, limit)
    mark = plan_hash(config, units)
    _prepare(output, mark)
    _run(units, _Work(config, {t.id: t for t in found.tunes}, found.recipes, fonts, output), workers, console)
    return write_manifest(
        output, config, units, found, fonts, {**found.absent, **missing}, mark, time.monotonic() - began
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _fonts(config: Mixture) -> tuple[dict[str, Path], dict[str, str]]:
    found, missing = {}, {}
    for font in [*config.soundfonts, *config.test_soundfonts]:
        if (path := find_soundfont(font)) is not None:
            found[font.name] = path
        else:
            missing[font.name] = f"soundfont not found ({', '.join(font.path)})"
    if not any(f.name in found for f in config.soundfonts):
        raise DataError(f"none of the soundfonts exists: {'; '.join(missing.values())}; install one or name yours")
    if config.clips.test and not any(f.name in found for f in config.test_soundfonts):
        missing["test split"] = "none of its soundfonts exists, and it must not use one that training hears"
    return found, missing


def _weights(fonts: list[Soundfont], found: dict[str, Path]) -> dict[str, float]:
    return {f.name: f.weight for f in fonts if f.name in found}


def _prepare(output: Path, mark: str) -> None:
    """Make the folders; refuse a folder with another build; remove what a kill left half-written."""
    try:
        (output / "clips").mkdir(parents=True, exist_ok=True)
        (output / "rows").mkdir(exist_ok=True)
        stamp = output / "build.json"
        if stamp.exists():
            if json.loads(stamp.read_text(encoding="utf-8")).get("plan") != mark:
                raise DataError(
                    f"{output} holds another build (other mixture, sources, soundfonts or limit); "
                    "choose another folder or delete it"
                )
        else:
            _atomic(stamp, json.dumps({"plan": mark}) + "\n")
        for left in [*output.glob("clips/*.part"), *output.glob("rows/*.part")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    except OSError as error:
        raise DataError(f"{output} cannot be written: {error.strerror}") from error


def _atomic(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _start(work: _Work) -> None:
    global _work
    _work = work


def _run(units: list[Unit], work: _Work, workers: int, console: Console) -> None:
    """Make every unit that has no shard yet, in order."""
    todo = [u for u in units if not (work.output / u.shard).exists()]
    total = sum(len(u.clips) for u in units)
    done = total - sum(len(u.clips) for u in todo)
    began, fresh = time.monotonic(), 0
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(work,)) as pool, _progress(console) as bar:
        task = bar.add_task("clips", total=total, completed=done)
        pending = [pool.submit(_make_unit, unit) for unit in todo]
        try:
            for future in as_completed(pending):
                count = future.result()
                fresh += count
                bar.update(task, advance=count, description=f"clips ({fresh / (time.monotonic() - began):.1f}/s)")
                if not console.is_terminal:
                    console.print(f"{done + fresh}/{total} clips, {fresh / (time.monotonic() - began):.1f} clips/s")
        except (OSError, soundfile.LibsndfileError) as error:
            for future in pending:
                future.cancel()
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"writing to {work.output} failed: {reason}; run the same command again to go on"
            ) from error


def _make_unit(unit: Unit) -> int:
    """Write the clips of a unit, then its shard. Runs in a worker process."""
    assert _work is not None
    work, name = _work, f"{unit.number:03d}"
    folder = work.output / "clips" / name
    part = folder.with_name(f"{name}.part")
    for old in (folder, part):
        if old.exists():
            shutil.rmtree(old)
    part.mkdir()
    rows: list[dict[str, Any]] = []
    skips: Counter[str] = Counter()
    for plan in unit.clips:
        for tune_id in plan.candidates:
            tune = work.tunes[tune_id]
            try:
                clip = make_clip(plan, tune, work.mixture, work.fonts[plan.soundfont])
            except UnusableTune as why:
                skips[f"{tune.source}: {why}"] += 1
                continue
            write_flac(part / f"{plan.id}.flac", clip, work.mixture.clips.sampling_rate)
            rows += rows_of(plan, clip, f"clips/{name}/{plan.id}.flac", work.recipes[tune.source], work.mixture.seed)
            break
        else:
            skips["clip left out: no candidate tune could be used"] += 1
    os.replace(part, folder)
    for row in rows:
        row["messages"] = json.dumps(row["messages"], ensure_ascii=False)
    table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({"skipped": json.dumps(skips)})
    shard = work.output / unit.shard
    pq.write_table(table, shard.with_name(shard.name + ".part"), compression="zstd")
    os.replace(shard.with_name(shard.name + ".part"), shard)
    return len(unit.clips)
