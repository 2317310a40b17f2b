"""Is a build what it says it is, wherever it lies: licences, splits, leaks into benchmarks, rows, audio, hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from rich.console import Console
from rich.table import Table

from mllm.data_recipes.config import SPLITS
from mllm.data_recipes.leakage import Item, TextIndex, read_benchmark
from mllm.data_recipes.licences import SHIPPABLE, DataError
from mllm.data_recipes.on_disk import Known, Texts
from mllm.data_recipes.shard_contents import Contents, rows_of, shards
from mllm.data_recipes.store import Store
from mllm.data_recipes.survey import BEYOND, Media, Survey, seen_twice, survey

EXAMPLES = 20
FORMULA = 20
"""A melody that more works than this share is a formula (a scale, a cadence), not somebody's score."""

KINDS: dict[str, str] = {
    "licence": "licences that may not be here",
    "forbidden": "sources that nobody may use with a language model",
    "work": "works in two splits",
    "same audio": "recordings in two splits, byte for byte",
    "similar audio": "recordings in two splits, re-encoded or cut",
    "same score": "scores in two splits, letter for letter",
    "similar score": "scores in two splits, transposed or changed a little",
    "leak by id": "training rows made of a benchmark's item",
    "leak by audio": "training recordings that a benchmark has",
    "leak by score": "training scores that a benchmark has",
    "leak by text": "training texts that a benchmark has",
    "row": "rows that are not in the house format",
    "score": "scores that cannot be read",
    "audio": "recordings that are missing or broken",
    "length": "lengths that disagree",
    "shard": "shards that cannot be read",
    "benchmark": "recordings of a benchmark that cannot be read",
    "manifest": "manifest and folder disagree",
}
NOTES: dict[str, str] = {
    "audio twice": "recordings twice in one split",
    "score twice": "scores twice in one split (other keys and excerpts count)",
    "formula": "pairs of scores in two splits that are formulas of many works",
}
_SPLIT_KINDS = {"audio": ("same audio", "similar audio"), "score": ("same score", "similar score")}


class Finding(BaseModel):
    """One kind of fault (or remark)."""

    title: str
    count: int = 0
    examples: list[str] = []
    ids: list[str] = Field(default=[], exclude=True)
    """Every row that it concerns."""


class Report(BaseModel):
    """What a check found. `ok` is what the exit code of `mllm data check` says."""

    folder: str
    against: list[str] = []
    rows: int = 0
    audio: int = 0
    scores: int = 0
    faults: dict[str, Finding] = {}
    remarks: dict[str, Finding] = {}
    """What is worth knowing but no fault."""
    share: float = 0.0
    """Faulty rows (and faults of no row) in all rows."""
    threshold: float = 0.0
    ok: bool = True

    def write(self, path: Path) -> Path:
        """Write the report as JSON, whole or not at all."""
        Store.at(path.parent).write(path.name, (self.model_dump_json(indent=1) + "\n").encode())
        return path

    def show(self, console: Console | None = None) -> None:
        """Print it as a table, with the first examples of each fault below."""
        console = console or Console()
        table = Table(title=f"{self.folder}: {self.rows} rows, {self.audio} recordings, {self.scores} scores")
        table.add_column("what")
        table.add_column("count", justify="right")
        for kind, title in KINDS.items():
            count = self.faults[kind].count if kind in self.faults else 0
            table.add_row(title, f"[red]{count}[/red]" if count else "0")
        for finding in self.remarks.values():
            table.add_row(f"[dim]{finding.title}[/dim]", f"[dim]{finding.count}[/dim]")
        console.print(table)
        for finding in self.faults.values():
            console.print(f"{finding.title}:", style="bold", highlight=False, markup=False)
            for example in finding.examples:
                console.print(f"  {example}", highlight=False, markup=False)
        verdict = "fine" if self.ok else "not fine"
        console.print(
            f"{self.share:.4%} of the rows are faulty (allowed {self.threshold:.4%}): {verdict}", highlight=False
        )


class _Findings:
    """Faults and remarks as they come in; a row counts once for each kind."""

    def __init__(self, found: Survey | None = None) -> None:
        self.faults: dict[str, Finding] = {}
        self.remarks: dict[str, Finding] = {}
        self.ids: Sequence[str] | Texts = found.ids if found else []
        self.bad: set[int] = set()
        self.other = 0
        self._seen: set[tuple[str, int]] = set()

    def fault(self, kind: str, row: int, why: str) -> None:
        if row >= 0:
            if (kind, row) in self._seen:
                return
            self._seen.add((kind, row))
            self.bad.add(row)
        else:
            self.other += 1
        _count(self.faults.setdefault(kind, Finding(title=KINDS[kind])), self.ids[row] if row >= 0 else "", why)

    def remark(self, kind: str, why: str) -> None:
        _count(self.remarks.setdefault(kind, Finding(title=NOTES[kind])), "", why)


def _count(finding: Finding, id: str, why: str) -> None:
    finding.count += 1
    if id:
        finding.ids.append(id)
    if len(finding.examples) < EXAMPLES:
        finding.examples.append(f"{id}: {why}" if id else why)


def check(folder: str | Path, against: Sequence[str | Path] = (), threshold: float = 0.0, workers: int = 2) -> Report:
    """Check a build.

    Args:
        folder: that `mllm data build` made, or its fsspec address.
        against: benchmarks that training must not have seen (`leakage.read_benchmark` says in which forms).
        threshold: share of faulty rows that is still fine, 0..1.
        workers: processes that read shards and audio.

    Raises:
        DataError: there is no build, it has no rows, or a benchmark cannot be read. All other trouble is counted in
            the report.
    """
    store = Store.at(folder)
    if workers < 1 or not 0 <= threshold <= 1:
        raise DataError("workers must be at least 1 and threshold between 0 and 1")
    found_shards = shards(store)
    manifest, trouble = _manifest(store)
    config = manifest.get("config")
    allow = config.get("allow_licences") if isinstance(config, dict) else None
    benchmarks = [item for place in against for item in read_benchmark(place)]
    leaks = _Leaks(benchmarks, sum(_rows(store, shard) for shard in found_shards)) if benchmarks else None
    found = survey(
        store,
        allow if isinstance(allow, list) else list(SHIPPABLE),
        workers,
        leaks.look if leaks else None,
        [(item.label, item.audio) for item in benchmarks if item.audio],
        [(item.label, item.notes) for item in benchmarks if len(item.notes)],
    )
    out = _Findings(found)
    for kind, row, why in chain(found.faults, seen_twice(found)):
        out.fault(kind, row, why)
    if not found.ids and "shard" not in out.faults:
        raise DataError(f"{store.address}: no rows: nothing to check; `left_out` of its manifest.json may say why")
    for what, media in (("audio", found.audio), ("score", found.scores)):
        _judge_pairs(what, media, found, out)
    if leaks:
        leaks.report(out)
    for why in [*trouble, *_hashes(store, manifest, found_shards)]:
        out.fault("manifest", -1, why)
    share = (len(out.bad) + out.other) / max(len(found.ids), 1)
    return Report(
        folder=str(folder),
        against=[str(place) for place in against],
        rows=len(found.ids),
        audio=sum(place != BEYOND for place in found.audio.place),
        scores=sum(place != BEYOND for place in found.scores.place),
        faults={kind: out.faults[kind] for kind in KINDS if kind in out.faults},
        remarks={kind: out.remarks[kind] for kind in NOTES if kind in out.remarks},
        share=share,
        threshold=threshold,
        ok=share <= threshold,
    )


def check_folder(
    folder: str | Path,
    against: Sequence[str | Path] = (),
    threshold: float = 0.0,
    workers: int = 2,
    output: Path | None = None,
    console: Console | None = None,
) -> bool:
    """What `mllm data check` does: check, print, write the JSON if `output` is given; True where all is fine."""
    report = check(folder, against, threshold, workers)
    report.show(console)
    if output:
        report.write(output)
    return report.ok


class _Leaks:
    """Training rows against the ids and words of benchmarks; sound and scores go through the survey."""

    def __init__(self, items: list[Item], rows: int) -> None:
        self.items = items
        self.known = {key: i for i, item in reversed(list(enumerate(items))) for key in item.identities if key}
        self.texts = TextIndex(items, rows)
        self.by_id: list[tuple[int, int, str]] = []
        self._works = Known()

    def look(self, contents: Contents, first: int) -> None:
        for i, split in enumerate(contents.splits):
            if split != "train":
                continue
            work = contents.works[i] or f"row {first + i}"
            for key in (*contents.identities[i], work):
                if key in self.known:
                    self.by_id.append((first + i, self.known[key], key))
                    break
            grams = self.texts.grams_of(contents.texts[i])
            if len(grams):
                self.texts.add(grams, self._works.add(work)[0], first + i)

    def report(self, out: _Findings) -> None:
        for row, item, key in self.by_id:
            out.fault("leak by id", row, f"{key} is item {self.items[item].label}")
        for row, item, share in self.texts.leaks():
            out.fault("leak by text", row, f"{share:.0%} of a text of item {self.items[item].label}")


def _judge_pairs(what: str, media: Media, found: Survey, out: _Findings) -> None:
    pairs = media.pairs()
    works = _neighbours(media, found, pairs) if what == "score" else {}
    for a, b, score in pairs:
        held, other = sorted((a, b), key=lambda i: media.place[i])
        if media.place[held] == media.place[other]:
            if media.place[held] != BEYOND:
                out.remark(f"{what} twice", f"{media.names[b][:80]} is like {media.names[a][:80]} ({score:.2f})")
            continue
        beyond = media.place[other] == BEYOND
        if beyond and media.place[held] != SPLITS.index("train"):
            continue
        if max(works.get(a, 0), works.get(b, 0)) > FORMULA:
            out.remark("formula", f"{media.names[held][:80]} and {media.names[other][:80]}")
            continue
        kind = f"leak by {what}" if beyond else _SPLIT_KINDS[what][score < 1]
        stays, goes = (other, held) if beyond else (held, other)
        where = "" if beyond else f" of {SPLITS[media.place[held]]}"
        for row in media.rows[goes]:
            out.fault(kind, row, f"{media.names[goes][:80]} is like {media.names[stays][:80]}{where} ({score:.2f})")


def _neighbours(media: Media, found: Survey, pairs: Sequence[tuple[int, int, float]]) -> dict[int, int]:
    """Of every score that resembles others: how many other works they belong to."""
    near: dict[int, set[str]] = {}
    for a, b, _ in pairs:
        for one, other in ((a, b), (b, a)):
            near.setdefault(one, set()).update(found.works[row] for row in media.rows[other][:1])
    return {i: len(works) for i, works in near.items()}


def _rows(store: Store, shard: str) -> int:
    try:
        return sum(1 for _ in rows_of(store, shard, ["id"]))
    except Exception:  # A broken shard is counted by the survey.
        return 0


def _manifest(store: Store) -> tuple[dict[str, Any], list[str]]:
    """manifest.json, and what is wrong with it."""
    try:
        loaded = json.loads(store.read("manifest.json"))
    except (OSError, ValueError) as error:
        return {}, [f"manifest.json cannot be read ({str(error).splitlines()[0]})"]
    if not isinstance(loaded, dict):
        return {}, ["manifest.json is not an object"]
    return loaded, [] if loaded.get("complete", True) else ["the build is not complete: run `mllm data build` again"]


def _hashes(store: Store, manifest: dict[str, Any], found: Sequence[str]) -> list[str]:
    listed = manifest.get("shards")
    if not isinstance(listed, dict):
        return ["manifest.json lists no shards"] if manifest else []
    out = []
    here = set(found)
    for name in sorted(listed.keys() | here):
        if name not in here:
            out.append(f"{name} is missing")
        elif name not in listed:
            out.append(f"{name} is not in manifest.json")
        else:
            try:
                with store.open(name) as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                out.append(f"{name} cannot be read ({str(error).splitlines()[0]})")
                continue
            stated = listed[name]["sha256"] if isinstance(listed[name], dict) else listed[name]
            if digest != stated:
                out.append(f"{name} differs from its hash")
    return out
