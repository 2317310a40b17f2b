"""A whole build, merged from its shards and its audio files: who is in which split, and what resembles what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mllm.data_recipes.config import SPLITS
from mllm.data_recipes.duplicates import SHINGLES, Pair, Prints, exact_duplicates, find_duplicates
from mllm.data_recipes.parallel import parallel
from mllm.data_recipes.shard_contents import Contents, Fault, File, Heard, Named, hear, inside, read_shard, shards
from mllm.data_recipes.store import Store

BEYOND = len(SPLITS)
"""The place of what is not of this build: benchmarks."""
_TOLERANCE = 0.06
"""Seconds by which a file may be longer or shorter than its row says: codecs pad."""


@dataclass
class Media:
    """Audio files, or scores: each once, however many rows name it."""

    names: list[str] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    """Index into SPLITS of the most held-out split that names it, or BEYOND."""
    rows: list[list[int]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """What equal files have in common; empty where that is unknown."""
    prints: Prints = field(default_factory=lambda: Prints.gather([]))
    shapes: Prints | None = None
    index: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, row: int, place: int) -> bool:
        """Note that a row names this; True where it was unknown until now."""
        fresh = name not in self.index
        if fresh:
            self.index[name] = len(self.names)
            self.names.append(name)
            self.place.append(place)
            self.rows.append([])
        at = self.index[name]
        self.place[at] = min(self.place[at], place)
        self.rows[at].append(row)
        return fresh

    def pairs(self) -> list[Pair]:
        """Equal and similar ones, sorted; equal ones with likeness 1."""
        equal = exact_duplicates(self.digests)
        known = {(a, b) for a, b, _ in equal}
        near = find_duplicates(self.prints, self.shapes)
        # A transposed score holds all of the other's shingles and is still not equal to it.
        return sorted([*equal, *((a, b, min(score, 0.9999)) for a, b, score in near if (a, b) not in known)])


@dataclass
class Survey:
    """The build; rows are numbered over all shards in the order of their names."""

    store: Store
    ids: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Index into SPLITS of every row (an unknown split counts as train)."""
    works: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    """Rows in them are rows of the build, or -1."""
    unread: list[str] = field(default_factory=list)
    """Shards and recordings of which nothing is known, for reading them failed."""
    audio: Media = field(default_factory=Media)
    scores: Media = field(default_factory=Media)


def survey(
    store: Store,
    allow: Sequence[str],
    workers: int = 2,
    each: Callable[[Contents, int], None] | None = None,
    beyond: Sequence[tuple[str, File]] = (),
    beyond_scores: Sequence[tuple[str, np.ndarray]] = (),
    unheard: tuple[str, ...] = (),
) -> Survey:
    """Read a build, wherever it lies.

    Args:
        store: with rows/*.parquet.
        allow: licences that may be in it.
        workers: processes that read shards and audio.
        each: is called with every shard's contents and the number of its first row, in order.
        beyond, beyond_scores: audio files and shingles of other collections that are compared with those of the build.
        unheard: beginnings of the names of recordings that are not opened: they equal none.

    Raises:
        DataError: there is no shard in it. Whatever is broken inside becomes a fault.
    """
    out = Survey(store)
    found = shards(store)
    stated: dict[int, list[tuple[int, float]]] = {}

    def _score_prints() -> Iterator[np.ndarray]:
        read = partial(read_shard, store, allow=tuple(allow), texts=each is not None)
        for contents in parallel(read, found, workers, chunk=1):
            first = len(out.ids)
            out.ids += contents.ids
            out.places += [SPLITS.index(s) if s in SPLITS else BEYOND - 1 for s in contents.splits]
            out.works += contents.works
            out.unread += [why for kind, _, why in contents.faults if kind == "shard"]
            out.faults += [(kind, first + row if row >= 0 else -1, why) for kind, row, why in contents.faults]
            for named in contents.audio:
                row = first + named.row
                out.audio.add(named.name, row, out.places[row])
                if named.seconds:
                    stated.setdefault(out.audio.index[named.name], []).append((row, named.seconds))
            for named in contents.scores:
                row = first + named.row
                if out.scores.add(named.name, row, out.places[row]):
                    yield _score(out.scores, named)
            if each:
                each(contents, first)
        for label, shingles in beyond_scores:
            yield _score(out.scores, Named(-1, label, print=shingles), beyond=True)

    out.scores.prints = Prints.gather(_score_prints())
    _hear_all(out, workers, beyond, stated, unheard)
    _seen_twice(out)
    return out


def _score(scores: Media, named: Named, beyond: bool = False) -> np.ndarray:
    if beyond:
        scores.names.append(named.name)
        scores.place.append(BEYOND)
        scores.rows.append([])
    # What has too few notes is a formula, and equal formulas are no copies.
    scores.digests.append(named.name if len(named.print) >= SHINGLES and not beyond else "")
    return named.print


def _hear_all(
    out: Survey,
    workers: int,
    beyond: Sequence[tuple[str, File]],
    stated: dict[int, list[tuple[int, float]]],
    unheard: tuple[str, ...],
) -> None:
    audio = out.audio
    files = [(out.store, name) if inside(out.store, name) else None for name in audio.names]
    passed = [name.startswith(unheard) for name in audio.names] if unheard else [False] * len(files)
    own = len(files)
    for label, file in beyond:
        audio.names.append(label)
        audio.place.append(BEYOND)
        audio.rows.append([])
        files.append(file)
        passed.append(False)

    def both() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i, heard in enumerate(parallel(_hear_or_not, zip(passed, files, strict=True), workers, chunk=16)):
            _note(out, i, heard, stated.get(i, []) if i < own and not passed[i] else [])
            yield heard.landmarks, heard.shape

    audio.prints, audio.shapes = Prints.gather_both(both())


def _hear_or_not(job: tuple[bool, File | None]) -> Heard:
    passed_over, file = job
    return Heard() if passed_over else hear(file)


def _note(out: Survey, i: int, heard: Heard, stated: list[tuple[int, float]]) -> None:
    out.audio.digests.append(heard.sha256)
    if heard.error:
        why = f"{out.audio.names[i]} {heard.error}"
        out.unread += [why] * heard.unread
        out.faults += [("audio", row, why) for row in out.audio.rows[i]] or [("benchmark", -1, why)]
        return
    for row, seconds in stated:
        if abs(seconds - heard.seconds) > _TOLERANCE:
            why = f"{out.audio.names[i]} has {heard.seconds:.2f} s, the row says {seconds:.2f} s"
            out.faults.append(("length", row, why))


def _seen_twice(out: Survey) -> None:
    """Faults of whatever is in two splits under its own name: row ids, works, files, scores."""
    seen: dict[str, int] = {}
    for row, id in enumerate(out.ids):
        if id in seen:
            out.faults.append(("row", row, "another row has the same id"))
        seen[id] = row
    works = [_works(work) for work in out.works]
    held: dict[str, int] = {}
    for several, place in zip(works, out.places, strict=True):
        held |= {work: min(held.get(work, BEYOND), place) for work in several}
    for row, (several, place) in enumerate(zip(works, out.places, strict=True)):
        if earlier := [work for work in several if held[work] < place]:
            out.faults.append(("work", row, f"work {earlier[0]} is in {SPLITS[held[earlier[0]]]} too"))
    for kind, media in (("same audio", out.audio), ("same score", out.scores)):
        for i, rows in enumerate(media.rows):
            if kind == "same score" and not media.digests[i]:
                continue
            for row in rows:
                if out.places[row] > media.place[i]:
                    out.faults.append((kind, row, f"{media.names[i][:80]} is in {SPLITS[media.place[i]]} too"))


_MADE_OF = ("medleys/medley/", "episodes/episode/")
"""How the works of rows begin that are made of several, with a plus between them."""


def _works(work: str) -> list[str]:
    """A row's work; of one made of several also those, which are named without a source that stands there twice."""
    if made := next((start for start in _MADE_OF if work.startswith(start)), ""):
        return [work, *(part for part in work.removeprefix(made).split("+") if "/" in part)]
    source, _, rest = work.partition("/")
    return [rest if rest.startswith(f"{source}/") else work] if work else []
