"""Multiple choice: plausible options in which neither a place nor a length gives the answer away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.properties import Vocabulary

LETTERS = "ABCDE"
_DRAWS = 8
"""Sets of options that are drawn, of which the one that keeps lengths fairest is taken."""


class Pool:
    """What the questions of one run share: decks that keep answers balanced, and words that other items use.

    Deal one pool to one shard of work: its decks depend on the order of the questions, so a shard repeated with a
    new pool of the same seed gives the same bytes.
    """

    def __init__(self, seed: int = 0, vocabulary: Vocabulary | None = None) -> None:
        """`seed`: of the decks; `vocabulary`: property -> values seen in the source, to draw wrong options from."""
        self.seed = seed
        self.vocabulary: Vocabulary = vocabulary or {}
        self._decks: dict[tuple[str, int], Iterator[int]] = {}
        self._drift: dict[tuple[str, int], np.ndarray] = defaultdict(lambda: np.zeros(2))

    def deal(self, name: str, count: int) -> int:
        """0..count-1; every `count` deals of one name hold each number once, so any run is balanced exactly."""
        deck = self._decks.get((name, count))
        if deck is None:
            deck = self._decks[name, count] = _cycle(count, seed_of(self.seed, f"deck {name} {count}"))
        return next(deck)

    def fairest(self, name: str, truth: str, draws: Sequence[list[str]]) -> list[str]:
        """The draw of wrong options after which `truth` has been longest and shortest as often as chance has it."""
        drift = self._drift[name, len(draws[0])]
        after = [drift + _extremes(truth, wrong) for wrong in draws]
        best = min(range(len(draws)), key=lambda i: (float(np.sum(after[i] ** 2)), i))
        self._drift[name, len(draws[0])] = after[best]
        return draws[best]


def _cycle(count: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(i) for i in rng.permutation(count))


def _extremes(truth: str, wrong: list[str]) -> np.ndarray:
    """How much more than chance a guesser of the longest, and one of the shortest option would win [2]."""
    lengths = [len(truth), *map(len, wrong)]
    gains = [1 / lengths.count(x) if lengths[0] == x else 0.0 for x in (max(lengths), min(lengths))]
    return np.array(gains) - 1 / len(lengths)


def options(
    name: str, truth: str, others: Callable[[int], list[str]], rng: np.random.Generator, pool: Pool
) -> tuple[list[str], int] | None:
    """Two to five options and the place of the true one, or None where there is no wrong value.

    Args:
        name: the question's name; places and lengths are balanced among the questions of one name.
        truth: the true option.
        others: count -> up to so many false options, drawn anew with each call.
    """
    draws = [list(dict.fromkeys(w for w in others(4) if w != truth)) for _ in range(_DRAWS)]
    most = max(map(len, draws))
    if most == 0:
        return None
    count = int(rng.integers(1, most + 1)) if most < 3 else int(rng.integers(min(2, most), most + 1))
    if rng.random() < 0.15:
        count = 1
    # Of a sorted ladder of numbers the first `count` would all lie on one side of the truth.
    enough = [[d[int(i)] for i in sorted(rng.permutation(len(d))[:count])] for d in draws if len(d) >= count]
    wrong = pool.fairest(name, truth, enough)
    place = pool.deal(f"place {name}", count + 1)
    shuffled = [wrong[int(i)] for i in rng.permutation(count)]
    return [*shuffled[:place], truth, *shuffled[place:]], place


def listed(options: Sequence[str]) -> str:
    """The options as lines, `A. flute`."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))
