"""Which of many fingerprints belong to the same recording or score: exactly, or nearly; and which rows to drop then.

Nearly: an inverted index, kept as one sorted array of (hash, row), gives the candidates; each candidate is then
compared with all that is kept of it. The index has at most 1 GiB and a block of queries some 300 MB, however many rows
there are. The fingerprints lie in a temporary file: 7 KB for a clip of ten seconds.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllm.data_recipes.fingerprints import SHAPE_FRAME, mix
from mllm.data_recipes.on_disk import Known

Pair = tuple[int, int, float]
"""Rows a < b and how alike they are, 0..1."""

_BUDGET = 1 << 27
"""Entries of the index (8 bytes each); of more, a sample is kept that is the same for every copy."""
_BLOCK = 1 << 18
"""Entries that are looked up together."""
_CROWD = 64
"""Of the rows that share a hash, one row is compared with so many before it: common hashes stay cheap, and the copies
of a much copied row still form a chain."""
_HELD_CROWD = 1024
"""The same of held-out rows, the most held-out first: a tune in training that a test has is no matter of chance."""
_TOGETHER = 1 << 24
"""Pairs that are counted together."""


SHINGLES = 6
"""Least shingles of notes in common."""
LANDMARKS = 8
"""Least landmarks in common, at one shift in time, for the shapes of two recordings to be compared. On the clips below,
copies have 17 or more; of 151,000 pairs of clips of `mini`, one in 22 has 10 at any shift."""
_CANDIDATE = {True: 10, False: SHINGLES}
"""Least hashes in common, of audio and of scores, for two to be looked at."""
OVERLAP = 0.4
"""Least share of the shorter recording that the other one must cover."""
ALIKE = 0.72
"""Least correlation of shapes. Measured on 4 s of clips of `mini`: copies (mp3, ogg, trimmed, resampled, equalised,
noise at 20 dB) 0.79 or more; other tunes played on the same piano in the same key to one metronome, two of 17,000 pairs
above 0.65, the worst 0.77."""
SAME_NOTES = 0.4
"""Least share of the shorter score's shingles; one changed note in twenty takes six shingles away."""
_LEAST_FRAMES = 20
_SHIFTS = 3
"""Music repeats itself: so many shifts in time are tried."""


@dataclass(frozen=True)
class Prints:
    """Fingerprints in the order of their rows, one after the other."""

    data: np.ndarray
    """(total, 2) uint32 landmarks, (total, bands) int8 shapes of audio, or (total,) uint64 shingles of notes."""
    starts: np.ndarray
    """(rows + 1,) int64: row i is `data[starts[i]:starts[i + 1]]`."""

    @staticmethod
    def gather(prints: Iterable[np.ndarray]) -> Prints:
        """Write a stream of fingerprints (all of one kind) into a temporary file and map it."""
        with _Pile() as pile:
            for one in prints:
                pile.add(one)
            return pile.mapped()

    @staticmethod
    def gather_both(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[Prints, Prints]:
        """The same for a stream of landmarks and shapes."""
        with _Pile() as left, _Pile() as right:
            for one, other in pairs:
                left.add(one)
                right.add(other)
            return left.mapped(), right.mapped()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return np.asarray(self.data[self.starts[row] : self.starts[row + 1]])

    @property
    def audio(self) -> bool:
        """Whether these are landmarks with their times."""
        return self.data.ndim == 2

    def entries(self, first: int, last: int, share: float) -> np.ndarray:
        """Sorted, distinct `hash << 32 | row` of rows first..last-1, of a `share` of all hashes: (m,) uint64."""
        part = np.asarray(self.data[self.starts[first] : self.starts[last]])
        hashes = part[:, 0].astype(np.uint64) if self.audio else part >> np.uint64(32)
        sizes = np.diff(self.starts[first : last + 1])
        rows = np.repeat(np.arange(first, last, dtype=np.uint64), sizes)
        if share < 1:
            kept = mix(hashes) < np.uint64(int(share * 2**64))
            hashes, rows = hashes[kept], rows[kept]
        return np.unique(hashes << np.uint64(32) | rows)

    def blocks(self, size: int = _BLOCK) -> Iterator[tuple[int, int]]:
        """Stretches of rows with about `size` hashes each."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self.starts, self.starts[first] + size))
            last = min(max(last, first + 1), len(self))
            yield first, last
            first = last


class _Pile:
    """Arrays written one after the other into a file that has no name, so that nothing is left after a kill."""

    def __init__(self) -> None:
        self.file, self.starts = tempfile.TemporaryFile(prefix="mllm-prints-"), array("q", [0])
        self.kind: np.ndarray | None = None

    def add(self, one: np.ndarray) -> None:
        self.kind = one[:0] if self.kind is None else self.kind
        self.file.write(np.ascontiguousarray(one, self.kind.dtype).tobytes())
        self.starts.append(self.starts[-1] + len(one))

    def mapped(self) -> Prints:
        self.file.flush()
        kind = np.zeros(0, np.uint64) if self.kind is None else self.kind
        shape = (self.starts[-1], *kind.shape[1:])
        # The map keeps the file alive after it is closed.
        data = np.memmap(self.file, kind.dtype, "r", shape=shape) if self.starts[-1] else kind
        return Prints(data, np.array(self.starts, np.int64))

    def __enter__(self) -> _Pile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def find_duplicates(
    prints: Prints, shapes: Prints | None = None, budget: int = _BUDGET, held: Sequence[int] | None = None
) -> list[Pair]:
    """Pairs of rows that are nearly the same, sorted by (a, b).

    Args:
        prints: landmarks of audio, or shingles of notes, of less than 2**32 rows; empty ones have no duplicate.
        shapes: of audio, the shapes of the same rows.
        budget: most entries of the index.
        held: of each row, how held-out it is, 0 for training: with the most held-out rows all others are compared,
            however many share a hash with them (up to `_HELD_CROWD`).
    """
    if prints.audio and (shapes is None or len(shapes) != len(prints)):
        raise ValueError("landmarks are compared together with the shapes of the same rows")
    share = min(1.0, budget / max(len(prints.data), 1))
    least = _CANDIDATE[prints.audio]
    # Of a sample of the hashes two copies share fewer, with some scatter.
    least = least if share == 1 else max(2, int(least * share / 2))
    found: list[Pair] = []
    for a, b in _candidates(prints, share, least, np.zeros(len(prints), int) if held is None else np.array(held, int)):
        if shapes is None:
            shared = len(np.intersect1d(prints[a], prints[b], assume_unique=True))
            score = shared / min(len(prints[a]), len(prints[b]))
            same = shared >= SHINGLES and score >= SAME_NOTES
        else:
            score = likeness(prints[a], prints[b], shapes[a], shapes[b])
            same = score >= ALIKE
        if same:
            found.append((a, b, round(score, 4)))
    return sorted(found)


def _index(prints: Prints, share: float, rank: np.ndarray) -> np.ndarray:
    """All entries in one sorted array, made in its place; rows by their rank."""
    sizes = [len(prints.entries(first, last, share)) for first, last in prints.blocks()]
    index = np.empty(sum(sizes), np.uint64)
    at = 0
    for (first, last), size in zip(prints.blocks(), sizes, strict=True):
        index[at : at + size] = _ranked(prints.entries(first, last, share), rank)
        at += size
    index.sort()
    return index


_LOW, _HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)


def _ranked(entries: np.ndarray, rank: np.ndarray) -> np.ndarray:
    return entries >> _HIGH << _HIGH | rank[entries & _LOW]


def _candidates(prints: Prints, share: float, least: int, held: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs a < b with at least `least` indexed hashes in common."""
    rows = np.argsort(-held, kind="stable")
    rank = np.empty(len(rows), np.uint64)
    rank[rows] = np.arange(len(rows), dtype=np.uint64)
    index = _index(prints, share, rank)
    for first, last in prints.blocks():
        own = _ranked(prints.entries(first, last, share), rank)
        shared = _Counter()
        _with_those_before(own, index, shared)
        _with_held_out(own, index, np.uint64((held > 0).sum()), shared)
        for pair in shared.with_at_least(least):
            one, other = int(rows[pair & _LOW]), int(rows[pair >> _HIGH])
            yield min(one, other), max(one, other)


class _Counter:
    """How often each pair `rank << 32 | lower rank` was seen."""

    def __init__(self) -> None:
        self.pairs, self.counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._new: list[np.ndarray] = []

    def add(self, pairs: np.ndarray) -> None:
        self._new.append(pairs)
        if sum(map(len, self._new)) > _TOGETHER:
            self._count()

    def _count(self) -> None:
        pairs, counts = np.unique(np.concatenate([self.pairs[:0], *self._new]), return_counts=True)
        if len(self.pairs):
            both, places = np.unique(np.concatenate([self.pairs, pairs]), return_inverse=True)
            counts = np.bincount(places, np.concatenate([self.counts, counts])).astype(np.int64)
            pairs = both
        self.pairs, self.counts, self._new = pairs, counts, []

    def with_at_least(self, least: int) -> np.ndarray:
        self._count()
        return self.pairs[self.counts >= least]


def _with_those_before(own: np.ndarray, index: np.ndarray, shared: _Counter) -> None:
    at = np.searchsorted(index, own)
    for back in range(1, _CROWD + 1):
        inside = at >= back
        own, at = own[inside], at[inside]
        other = index[at - back]
        same = other >> _HIGH == own >> _HIGH
        own, at = own[same], at[same]
        if not len(own):
            break
        shared.add((own & _LOW) << _HIGH | (other[same] & _LOW))


def _with_held_out(own: np.ndarray, index: np.ndarray, held: np.uint64, shared: _Counter) -> None:
    """With the most held-out rows of each hash, which come first in it, but for those compared already."""
    at = np.searchsorted(index, own)
    start = np.searchsorted(index, own >> _HIGH << _HIGH)
    for step in range(_HELD_CROWD):
        other = index[np.minimum(start + step, len(index) - 1)]
        more = (start + step < at - _CROWD) & ((other & _LOW) < held)
        own, at, start, other = own[more], at[more], start[more], other[more]
        if not len(own):
            break
        shared.add((own & _LOW) << _HIGH | (other & _LOW))


def likeness(a: np.ndarray, b: np.ndarray, shape_a: np.ndarray, shape_b: np.ndarray) -> float:
    """Correlation (0..1) of two recordings where they overlap best; 0 where no shift in time explains their landmarks.

    Args:
        a, b: landmarks (`audio_fingerprint`).
        shape_a, shape_b: (frames, bands) shapes (`audio_shape`).
    """
    best = 0.0
    for shift in _shifts(a, b):
        # Landmark frames -> frames of the shape, which lie on a coarser grid.
        middle = shift // SHAPE_FRAME
        for s in (middle, middle + 1):
            first, last = max(0, s), min(len(shape_a), len(shape_b) + s)
            if last - first < max(_LEAST_FRAMES, OVERLAP * min(len(shape_a), len(shape_b))):
                continue
            x = shape_a[first:last].astype(np.float32).ravel()
            y = shape_b[first - s : last - s].astype(np.float32).ravel()
            power = float(np.sqrt((x @ x) * (y @ y)))
            best = max(best, float(x @ y) / power if power else 0.0)
    return best


def _shifts(a: np.ndarray, b: np.ndarray) -> list[int]:
    """Frames by which b must be moved so that at least LANDMARKS landmarks fall on those of a, the best ones first."""
    left = np.searchsorted(b[:, 0], a[:, 0], "left")
    count = np.searchsorted(b[:, 0], a[:, 0], "right") - left
    if count.sum() < LANDMARKS:
        return []
    which = np.repeat(np.arange(len(a)), count)
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(left, count)
    shift = a[which, 1].astype(np.int64) - b[place, 1].astype(np.int64)
    low = int(shift.min())
    histogram = np.bincount(shift - low, minlength=3)
    # A cut between two frames puts landmarks into either.
    votes = histogram[:-2] + histogram[1:-1] + histogram[2:]
    best = np.argsort(-votes, kind="stable")[:_SHIFTS]
    return [int(s) + 1 + low for s in best if votes[s] >= LANDMARKS]


def exact_duplicates(digests: Iterable[str]) -> list[Pair]:
    """Each row with the first one of the same digest; empty digests are unknown and equal to none."""
    known, firsts, found = Known(), array("q"), []
    for row, digest in enumerate(digests):
        if digest:
            number, times = known.add(digest)
            if times == 1:
                firsts.append(row)
            else:
                found.append((firsts[number], row, 1.0))
    return sorted(found)


@dataclass(frozen=True)
class Drop:
    """A row that is to go, and the file or score that stays for it."""

    id: str
    instead: str
    why: str


def deduplicate(folder: str | Path, workers: int = 2, unheard: tuple[str, ...] = ()) -> list[Drop]:
    """Which rows of a build, here or at an fsspec address, to drop so that no recording or score is there twice.

    Of copies, the one in the most held-out split stays (test before validation before train), there the first in the
    order of shards and rows. Scores are dropped only where another split has them: one tune in another key is no copy
    in training. Nothing is written. Recordings whose names begin with one of `unheard` are not opened: what a build
    rendered itself, each by a plan of its own, is no copy of anything.

    Raises:
        DataError: there is no build.
        OSError: a shard or a recording could not be read, so that copies might stay.
    """
    from mllm.data_recipes.licences import SHIPPABLE
    from mllm.data_recipes.store import Store
    from mllm.data_recipes.survey import survey

    found = survey(Store.at(folder), SHIPPABLE, workers, unheard=unheard)
    if found.unread:
        raise OSError(f"{found.unread[0]}; duplicates were not looked for")
    drops: dict[int, Drop] = {}
    for what, media in (("recording", found.audio), ("score", found.scores)):
        keep = _groups(len(media.names), media.pairs(), media.place)
        for i, first in enumerate(keep):
            of_first = {found.works[row] for row in media.rows[first]}  # several captions of one work are no copies
            for row in media.rows[i]:
                elsewhere = found.places[row] > media.place[first]
                again = what == "recording" and first != i and found.works[row] not in of_first
                if elsewhere or again:
                    drops.setdefault(row, Drop(found.ids[row], media.names[first][:80], f"the same {what}"))
    return [drops[row] for row in sorted(drops)]


def _groups(size: int, pairs: Iterable[Pair], place: Sequence[int]) -> Sequence[int]:
    """For each of `size` things the one that stays for it: of all that are alike the most held-out, then the first."""
    stays = array("q", range(size))

    def root(i: int) -> int:
        while stays[i] != i:
            stays[i] = stays[stays[i]]
            i = stays[i]
        return i

    for a, b, _ in pairs:
        first, second = sorted((root(a), root(b)), key=lambda i: (place[i], i))
        stays[second] = first
    return array("q", map(root, range(size)))
