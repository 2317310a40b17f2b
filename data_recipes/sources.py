"""From recipe names to tunes: each collection is parsed once into a cache of plain note lists (JSONL)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from mllm.data_recipes import sources_music21 as m21
from mllm.data_recipes.adapters import ADAPTERS
from mllm.data_recipes.config import DataError, Mixture, Recipe, Use, load_recipe, scores_dir
from mllm.data_recipes.parallel import parallel
from mllm.data_recipes.row import Item
from mllm.data_recipes.sources_midi import read_midi
from mllm.data_recipes.sources_roman import read_roman
from mllm.data_recipes.sources_scores import File, Job, Read, collection, score_jobs
from mllm.data_recipes.store import Store
from mllm.data_recipes.tonal import tonal_tune
from mllm.data_recipes.tune import Tune
from mllm.weights import cache_dir

PARSER_VERSION = 1
"""Raise when the parsing changes: older caches are then not read."""

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


@dataclass
class Collected:
    """Tunes of all sources of a mixture, and why others are missing."""

    tunes: list[Tune] = field(default_factory=list)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    skipped: dict[str, dict[str, int]] = field(default_factory=dict)
    """Recipe -> reason -> number of tunes."""
    absent: dict[str, str] = field(default_factory=dict)
    """Recipe -> why the whole collection is missing."""


def collect(mixture: Mixture, workers: int = 2, progress: Progress | None = None) -> Collected:
    """All usable tunes of `mixture`, in a fixed order. DataError when nothing at all is there."""
    out = Collected()
    for use in mixture.sources:
        recipe = load_recipe(use.recipe)
        out.recipes[recipe.name] = recipe
        if recipe.loader == "tonal":
            out.tunes += [tonal_tune(n, recipe.name) for n in range(use.limit or recipe.count)]
            continue
        if recipe.loader not in JOBS:
            known = ", ".join([*JOBS, "tonal", *ITEMS, *ADAPTERS])
            raise DataError(f"recipe {recipe.name}: unknown loader {recipe.loader!r}; known: {known}")
        where = locate(recipe, mixture)
        if isinstance(where, str):
            out.absent[recipe.name] = where
            continue
        tunes, skipped = _parsed(recipe, use, where, workers, progress)
        out.tunes += tunes
        out.skipped[recipe.name] = skipped
    if not out.tunes:
        raise DataError("no source gave a tune: " + "; ".join(f"{k}: {v}" for k, v in out.absent.items()))
    return out


JOBS: dict[str, Callable[[Recipe, Path], Iterator[Job]]] = {
    "music21_abc": m21.abc_jobs,
    "music21_chorales": m21.chorale_jobs,
    "music21_scores": score_jobs,
    "openewld": m21.openewld_jobs,
    "openscore_lieder": m21.lieder_jobs,
}


ITEMS: dict[str, tuple[Callable[[Recipe, File], Read], tuple[str, ...]]] = {
    "midi_folder": (read_midi, (".mid", ".midi")),
    "music21_roman": (read_roman, (".rntxt",)),
}
"""Loaders of collections that give items of their own instead of scores to arrange: what reads a file, its suffixes."""


def file_items(recipe: Recipe, where: Path, skipped: Counter[str], workers: int = 1) -> Iterator[Item]:
    """Items of all files of a collection, in the order of their names; `skipped` counts why others give none.

    Raises:
        DataError: the recipe's options are not usable.
    """
    read, suffixes = ITEMS[recipe.loader]
    for items, reasons in parallel(partial(read, recipe), collection(recipe, where, suffixes), workers):
        skipped.update(reasons)
        yield from items


def locate(recipe: Recipe, mixture: Mixture) -> Path | str:
    """The folder or file of a collection, or a sentence that says why it is absent."""
    if recipe.loader.startswith("music21"):
        spec = find_spec("music21")
        if not spec or not spec.origin:
            return "music21 is not installed (pip install music21)"
        path = Path(spec.origin).parent / "corpus" / recipe.path
        return path if path.exists() else f"{path} does not exist: this music21 has no corpus"
    root = scores_dir(mixture)
    if root is None:
        return f"set `scores_dir` in the mixture or MLLM_DATA to a folder that holds {recipe.path} ({recipe.terms})"
    path = root / recipe.path
    looked = f"{path} does not exist (looked for in `scores_dir` of the mixture or MLLM_DATA; {recipe.terms})"
    return path if path.exists() else looked


def _parsed(
    recipe: Recipe, use: Use, where: Path, workers: int, progress: Progress | None
) -> tuple[list[Tune], dict[str, int]]:
    jobs = list(JOBS[recipe.loader](recipe, where))
    jobs = jobs[: use.limit or None]
    mark = json.dumps([recipe.loader, PARSER_VERSION, version("music21"), jobs], sort_keys=True)
    cache = cache_dir() / "scores" / f"{recipe.name}-{hashlib.sha256(mark.encode()).hexdigest()[:16]}.jsonl"
    if cache.exists():
        head, *lines = cache.read_text(encoding="utf-8").splitlines()
        return [Tune.from_json(line) for line in lines], json.loads(head)["skipped"]
    tunes: list[Tune] = []
    skipped: Counter[str] = Counter()
    for i, (tune, why) in enumerate(parallel(partial(m21.parse, recipe.name), jobs, workers, chunk=8)):
        if tune:
            tunes.append(tune)
        else:
            skipped[why] += 1
        if progress:
            progress(f"reading {recipe.name}", i + 1, len(jobs))
    text = "\n".join([json.dumps({"skipped": dict(skipped)}), *(t.to_json() for t in tunes)]) + "\n"
    Store.at(cache.parent).write(cache.name, text.encode())
    return tunes, dict(skipped)
