"""A whole build, merged from its shards and its audio files: who is in which split, and what resembles what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mllm.data_recipes.config import SPLITS
from mllm.data_recipes.duplicates import SHINGLES, Pair, Prints, exact_duplicates, find_duplicates
from mllm.data_recipes.on_disk import Known, Lists, Texts
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

    names: Texts = field(default_factory=Texts)
    place: bytearray = field(default_factory=bytearray)
    """Index into SPLITS of the most held-out split that names it, or BEYOND."""
    rows: Lists = field(default_factory=Lists)
    """Rows that name it, with the seconds they say it has."""
    digests: Texts = field(default_factory=Texts)
    """What equal files have in common; empty where that is unknown."""
    prints: Prints = field(default_factory=lambda: Prints.gather([]))
    shapes: Prints | None = None
    _known: Known = field(default_factory=Known)

    def add(self, named: Named, row: int, place: int) -> bool:
        """Note that a row names this; True where it was unknown until now."""
        at, times = self._known.add(named.name)
        if times == 1:
            self.names.append(named.name)
            self.place.append(place)
        self.place[at] = min(self.place[at], place)
        self.rows.add(at, row, named.seconds)
        return times == 1

    def add_beyond(self, name: str) -> None:
        """Note what is of another collection."""
        self.names.append(name)
        self.place.append(BEYOND)

    def pairs(self) -> list[Pair]:
        """Equal and similar ones, sorted; equal ones with likeness 1."""
        equal = exact_duplicates(self.digests)
        known = {(a, b) for a, b, _ in equal}
        # benchmarks before test before validation; in training copies are a waste, elsewhere a leak
        held = [3 if place == BEYOND else 2 - place for place in self.place]
        near = find_duplicates(self.prints, self.shapes, held=held)
        # A transposed score holds all of the other's shingles and is still not equal to it.
        return sorted([*equal, *((a, b, min(score, 0.9999)) for a, b, score in near if (a, b) not in known)])


@dataclass
class Survey:
    """The build; rows are numbered over all shards in the order of their names."""

    store: Store
    ids: Texts = field(default_factory=Texts)
    places: bytearray = field(default_factory=bytearray)
    """Index into SPLITS of every row (an unknown split counts as train)."""
    works: Texts = field(default_factory=Texts)
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

    def _score_prints() -> Iterator[np.ndarray]:
        read = partial(read_shard, store, allow=tuple(allow), texts=each is not None)
        for contents in parallel(read, found, workers, chunk=1):
            first = len(out.ids)
            out.ids.extend(contents.ids)
            out.places += bytes(SPLITS.index(s) if s in SPLITS else BEYOND - 1 for s in contents.splits)
            out.works.extend(contents.works)
            out.unread += [why for kind, _, why in contents.faults if kind == "shard"]
            out.faults += [(kind, first + row if row >= 0 else -1, why) for kind, row, why in contents.faults]
            for named in contents.audio:
                row = first + named.row
                out.audio.add(named, row, out.places[row])
            for named in contents.scores:
                row = first + named.row
                if out.scores.add(named, row, out.places[row]):
                    yield _score(out.scores, named)
            if each:
                each(contents, first)
        for label, shingles in beyond_scores:
            yield _score(out.scores, Named(-1, label, print=shingles), beyond=True)

    out.scores.prints = Prints.gather(_score_prints())
    _hear_all(out, workers, beyond, unheard)
    return out


def _score(scores: Media, named: Named, beyond: bool = False) -> np.ndarray:
    if beyond:
        scores.add_beyond(named.name)
    # What has too few notes is a formula, and equal formulas are no copies.
    scores.digests.append(named.name if len(named.print) >= SHINGLES and not beyond else "")
    return named.print


def _hear_all(out: Survey, workers: int, beyond: Sequence[tuple[str, File]], unheard: tuple[str, ...]) -> None:
    audio = out.audio
    own = len(audio.names)
    for label, _ in beyond:
        audio.add_beyond(label)

    def jobs() -> Iterator[tuple[bool, File | None]]:
        for i, name in enumerate(audio.names):
            if i >= own:
                yield False, beyond[i - own][1]
            else:
                yield name.startswith(unheard), (out.store, name) if inside(out.store, name) else None

    def both() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i, heard in enumerate(parallel(_hear_or_not, jobs(), workers, chunk=16)):
            _note(out, i, heard)
            yield heard.landmarks, heard.shape

    audio.prints, audio.shapes = Prints.gather_both(both())


def _hear_or_not(job: tuple[bool, File | None]) -> Heard:
    passed_over, file = job
    return Heard() if passed_over else hear(file)


def _note(out: Survey, i: int, heard: Heard) -> None:
    out.audio.digests.append(heard.sha256)
    if heard.error:
        why = f"{out.audio.names[i]} {heard.error}"
        out.unread += [why] * heard.unread
        out.faults += [("audio", row, why) for row in out.audio.rows[i]] or [("benchmark", -1, why)]
    elif heard.sha256:
        for row, seconds in out.audio.rows.pairs(i):
            if seconds and abs(seconds - heard.seconds) > _TOLERANCE:
                why = f"{out.audio.names[i]} has {heard.seconds:.2f} s, the row says {seconds:.2f} s"
                out.faults.append(("length", row, why))


def seen_twice(found: Survey) -> Iterator[Fault]:
    """Faults of whatever is there twice, or in two splits, under its own name: row ids, works, files, scores."""
    ids, known, held = Known(), Known(), bytearray()
    for row, id in enumerate(found.ids):
        if ids.add(id)[1] > 1:
            yield "row", row, "another row has the same id"
    for work, place in zip(found.works, found.places, strict=True):
        for one in _works(work):
            number, times = known.add(one)
            if times == 1:
                held.append(place)
            held[number] = min(held[number], place)
    for row, (work, place) in enumerate(zip(found.works, found.places, strict=True)):
        for one in _works(work):
            if (first := held[known.add(one)[0]]) < place:
                yield "work", row, f"work {one} is in {SPLITS[first]} too"
                break
    for kind, media in (("same audio", found.audio), ("same score", found.scores)):
        for i, place in enumerate(media.place):
            if place == BEYOND or (kind == "same score" and not media.digests[i]):
                continue
            for row in media.rows[i]:
                if found.places[row] > place:
                    yield kind, row, f"{media.names[i][:80]} is in {SPLITS[place]} too"


_MADE_OF = ("medleys/medley/", "episodes/episode/")
"""How the works of rows begin that are made of several, with a plus between them."""


def _works(work: str) -> list[str]:
    """A row's work; of one made of several also those, which are named without a source that stands there twice."""
    if made := next((start for start in _MADE_OF if work.startswith(start)), ""):
        return [work, *(part for part in work.removeprefix(made).split("+") if "/" in part)]
    source, _, rest = work.partition("/")
    return [rest if rest.startswith(f"{source}/") else work] if work else []
