"""What every source gives: a tune as runs of whole bars, and what is known about its key."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mllm.score_types import Key

METRES = ((2, 4), (3, 4), (4, 4), (6, 8))
MAJOR_NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}

BarNote = tuple[float, float, int, int]
"""Onset in the bar and duration (quarters), MIDI pitch, voice (0 = melody)."""
Bar = list[BarNote]


@dataclass
class Tune:
    """One work: `runs` are stretches of consecutive whole bars."""

    id: str
    title: str
    source: str
    tonic: int
    mode: str
    metre: tuple[int, int]
    runs: list[list[Bar]]

    @property
    def bar_quarters(self) -> float:
        """Length of a bar in quarter notes."""
        return self.metre[0] * 4 / self.metre[1]

    @property
    def beat_quarters(self) -> float:
        """Length of the felt beat in quarter notes: a dotted quarter in 6/8, otherwise a quarter."""
        return 1.5 if self.metre == (6, 8) else 1.0

    def melody(self) -> list[BarNote]:
        """All notes of the melody in order, with onsets counted from the first bar."""
        out, start = [], 0.0
        for run in self.runs:
            for bar in run:
                out += [(start + o, d, p, v) for o, d, p, v in bar if v == 0]
                start += self.bar_quarters
        return out

    def to_json(self) -> str:
        """One line of the cache."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(line: str) -> Tune:
        """The tune of one cache line."""
        raw = json.loads(line)
        raw["metre"] = tuple(raw["metre"])
        raw["runs"] = [[[(o, d, int(p), int(v)) for o, d, p, v in bar] for bar in run] for run in raw["runs"]]
        return Tune(**raw)


def key_name(tonic: int, mode: str) -> str:
    """Usual name of a key, for example `F# minor`; `tonic` is a pitch class, 0 = C."""
    names = MAJOR_NAMES if mode in ("major", "mixolydian") else MINOR_NAMES
    return f"{names[tonic % 12]} {mode}"


def note_name(pitch: int, tonic: int, mode: str) -> str:
    """Name with octave (60 = C4) as `Key.spell` has it in this key: 65 is E#4 in F# major."""
    return Key(*key_name(tonic, mode).split()).spell(pitch)


# Key profiles of D. Temperley, "What's key for key?", Music Perception 17 (1999), table 1.
_PROFILES = {
    "major": (5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0),
    "minor": (5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0),
    "dorian": (5.0, 1.5, 3.5, 4.5, 1.5, 4.0, 1.5, 4.5, 1.5, 3.5, 4.0, 1.5),
    "mixolydian": (5.0, 1.5, 3.5, 1.5, 4.5, 4.0, 1.5, 4.5, 1.5, 3.5, 4.0, 1.5),
}


def analysed_key(notes: Iterable[BarNote], modes: Iterable[str] = ("major", "minor")) -> tuple[int, str]:
    """The (tonic, mode) whose profile correlates best with the durations of the pitch classes; weighs the last note."""
    weight = [0.0] * 12
    last = None
    for note in notes:
        weight[note[2] % 12] += note[1]
        last = note
    if last is None:
        return 0, "major"
    weight[last[2] % 12] += 2.0
    best = (-2.0, 0, "major")
    for mode in modes:
        for tonic in range(12):
            profile = [_PROFILES[mode][(pc - tonic) % 12] for pc in range(12)]
            best = max(best, (_correlation(weight, profile), tonic, mode))
    return best[1], best[2]


def _correlation(x: list[float], y: list[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / (math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y)) or 1.0)


def fingerprint(tune: Tune) -> str:
    """The same for every transposition of one opening: intervals of the first 16 notes."""
    pitches = [n[2] for n in tune.melody()][:17]
    return ",".join(str(b - a) for a, b in zip(pitches, pitches[1:], strict=False))


def works(tunes: list[Tune]) -> dict[str, str]:
    """Tune id -> work id: tunes of one title or one opening are one work, in whichever collection they stand."""
    parent = {t.id: t.id for t in tunes}

    def root(x: str) -> str:
        while parent[x] != x:
            x = parent[x] = parent[parent[x]]
        return x

    seen: dict[str, str] = {}
    for tune in sorted(tunes, key=lambda t: t.id):
        title = "".join(c for c in tune.title.lower() if c.isalnum()).removeprefix("the").removesuffix("the")
        for mark in ("f" + fingerprint(tune), "t" + title):
            if mark.startswith("t") and (tune.source == "tonal" or len(title) < 6):
                continue
            if mark in seen:
                a, b = sorted((root(seen[mark]), root(tune.id)))
                parent[b] = a
            else:
                seen[mark] = tune.id
    return {t.id: root(t.id) for t in tunes}


def split_of(work: str, train: float, validation: float) -> str:
    """The split of a work, from the hash of its id alone, so that new works never move old ones."""
    x = int.from_bytes(hashlib.sha256(work.encode()).digest()[:8], "big") / 2**64
    return "train" if x < train else "validation" if x < train + validation else "test"
