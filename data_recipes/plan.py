"""Which clip is made of which tune, in which key, on which instruments: balanced, decided before anything renders."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mllm.data_recipes.arrange import choose_second_family
from mllm.data_recipes.config import SPLITS, Mixture, load_recipe
from mllm.data_recipes.instruments import NAMES
from mllm.data_recipes.tune import METRES, Tune, split_of, works

ATTEMPTS = 4
"""Tunes that may stand in for one another in a clip; the later ones are used when the first cannot be."""
_ENOUGH = 60
"""A source with fewer training tunes of one metre and mode than this is drawn less often, so that none is worn out."""


@dataclass(frozen=True)
class ClipPlan:
    """Everything about a clip that balance depends on; the rest is drawn from its own random generator."""

    id: str
    split: str
    candidates: tuple[str, ...]
    """Tune ids, in order of preference."""
    tonic: int
    family: str
    second_family: str | None
    accompanied: bool
    drums: bool
    short: bool
    soundfont: str


@dataclass(frozen=True)
class Batch:
    """Clips that are written together."""

    number: int
    split: str
    clips: tuple[ClipPlan, ...]


def seed_of(seed: int, name: str) -> np.random.Generator:
    """The random generator of one named thing: the same on every machine and in any order of work."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def draw_font(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """A soundfont's name, as often as its weight says."""
    names = sorted(weights)
    weight = np.array([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=weight / weight.sum()))]


class _Deck:
    """Cards dealt without replacement and shuffled anew when they run out."""

    def __init__(self, cards: list[str], rng: np.random.Generator) -> None:
        self.cards, self.rng, self.left = cards, rng, list[str]()

    def deal(self) -> str:
        if not self.left:
            self.left = [self.cards[i] for i in self.rng.permutation(len(self.cards))]
        return self.left.pop()


def _cycle(n: int, rng: np.random.Generator) -> Iterator[int]:
    """0..n-1 in a new random order again and again: any prefix is balanced."""
    while True:
        yield from (int(i) for i in rng.permutation(n))


def split_tunes(tunes: list[Tune], mixture: Mixture) -> dict[str, list[Tune]]:
    """Tunes of every split; all versions of a work stand in one."""
    work = works(tunes)
    out: dict[str, list[Tune]] = {s: [] for s in SPLITS}
    for tune in tunes:
        out[split_of(work[tune.id], mixture.splits.train, mixture.splits.validation)].append(tune)
    return out


def plan_clips(
    mixture: Mixture,
    tunes: list[Tune],
    fonts: dict[str, dict[str, float]],
    share: float = 1.0,
) -> list[Batch]:
    """All batches in the order of work: test, validation, then train.

    Args:
        fonts: split -> soundfont name -> weight, of the soundfonts that exist here.
        share: part of the clips that the mixture asks for.
    """
    batches: list[Batch] = []
    by_split = split_tunes(tunes, mixture)
    weights = {load_recipe(use.recipe).name: use.weight for use in mixture.sources}
    for split in SPLITS:
        wanted = getattr(mixture.clips, split)
        wanted = min(wanted, max(1, round(wanted * share))) if wanted else 0
        if not by_split[split] or not wanted or not fonts[split]:
            continue
        clips = list(_plan_split(mixture, split, wanted, by_split[split], weights, fonts[split]))
        for i in range(0, len(clips), mixture.clips.unit):
            batches.append(Batch(len(batches), split, tuple(clips[i : i + mixture.clips.unit])))
    return batches


def _plan_split(
    mixture: Mixture, split: str, wanted: int, tunes: list[Tune], weights: dict[str, float], fonts: dict[str, float]
) -> Iterator[ClipPlan]:
    rng = seed_of(mixture.seed, f"plan {split}")
    cells: dict[tuple[tuple[int, int], bool], dict[str, list[str]]] = {}
    for tune in tunes:
        minor = tune.mode in ("minor", "dorian")
        cells.setdefault((tune.metre, minor), {}).setdefault(tune.source, []).append(tune.id)
    decks = {(c, s): _Deck(sorted(ids), rng) for c, by in sorted(cells.items()) for s, ids in sorted(by.items())}
    families, keys, metres = _cycle(len(NAMES), rng), _cycle(24, rng), _cycle(len(METRES), rng)
    # A small split has few tunes of everything: what is few there is measured by the split's share of the works.
    enough = _ENOUGH * getattr(mixture.splits, split) / max(mixture.splits.train, 1e-9)
    for i in range(wanted):
        family, key, metre = NAMES[next(families)], next(keys), METRES[next(metres)]
        cell = (metre, key >= 12)
        if cell not in cells:
            cell = sorted(cells)[int(rng.integers(len(cells)))]
        sources = sorted(cells[cell])
        w = np.array([weights[s] * min(1.0, len(cells[cell][s]) / enough) for s in sources])
        source = sources[int(rng.choice(len(sources), p=w / w.sum()))]
        several = split != "test" and rng.random() < mixture.sound.several_families
        yield ClipPlan(
            id=f"{split}-{i:06d}",
            split=split,
            candidates=tuple(decks[(cell, source)].deal() for _ in range(1))
            + tuple(
                cells[cell][s][int(rng.integers(len(cells[cell][s])))] for s in rng.choice(sources, size=ATTEMPTS - 1)
            ),
            tonic=key % 12,
            family=family,
            second_family=choose_second_family(family, rng) if several else None,
            accompanied=bool(rng.random() < mixture.sound.accompanied),
            drums=bool(several and rng.random() < mixture.sound.drums),
            short=bool(split != "test" and rng.random() < mixture.clips.short_share),
            soundfont=draw_font(fonts, rng),
        )
