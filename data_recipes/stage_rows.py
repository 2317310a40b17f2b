"""Stages without sound: dialogues and reasoning about scores as ABC text, and music theory in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from mllm.data_recipes.config import Counts, Mixture
from mllm.data_recipes.ingredients import Ingredients, amounts
from mllm.data_recipes.notation_tasks import notation_question
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.row import make_row, messages, sha256_text
from mllm.data_recipes.score_rows import score_talk, shown
from mllm.data_recipes.stage import Made, Unit, ranges
from mllm.data_recipes.stage_clips import unit_pool
from mllm.data_recipes.store import Store
from mllm.data_recipes.theory import theory_question

UNIT = 1000
CANDIDATES = 8
"""Tunes that are tried for one row of reasoning."""


class RowStage:
    """Numbered rows: a unit is a range of numbers, so that a million of them cost no memory."""

    name = ""
    audio = False

    def __init__(self, seed: int, counts: Counts, share: float):
        self.seed, self.amounts = seed, dict(amounts(counts, share))

    def total(self) -> int:
        """Rows."""
        return sum(self.amounts.values())

    def units(self) -> Iterator[Unit]:
        """Ranges (first, count) of each split."""
        return ranges(self.name, self.amounts, UNIT)


class TheoryStage(RowStage):
    """Music theory, made from the number of the row; no two splits share a question."""

    name = "theory"

    def make(self, unit: Unit, folder: Path) -> Made:
        """Questions whose text falls into this split by its hash."""
        made, (first, count) = Made(), unit.payload
        for number in range(first, first + count):
            rng = seed_of(self.seed, f"theory {unit.split} {number}")
            task, turn, facts = theory_question(rng)
            while _split_of_question(turn[0]) != unit.split:
                task, turn, facts = theory_question(rng)
            made.rows.append(
                make_row(
                    f"theory-{unit.split}-{number:07d}",
                    task,
                    messages([turn]),
                    facts,
                    source="theory",
                    licence="apache-2.0",
                    split=unit.split,
                    length=0.0,
                    source_id=f"theory/{unit.split}/{number}",
                    work=turn[0],
                    sha256=sha256_text(turn[0]),
                )
            )
        return made


def _split_of_question(text: str) -> str:
    # Some kinds have few questions (78 key signatures); each of them belongs to one split whoever asks.
    place = int(sha256_text(text)[:8], 16) % 20
    return "test" if place == 0 else "validation" if place == 1 else "train"


class TuneStage(RowStage):
    """Numbered rows about tunes in a random order; a tune comes again when all had their turn."""

    def __init__(self, config: Mixture, counts: Counts, found: Ingredients, share: float):
        super().__init__(config.seed, counts, share)
        self.recipes, self.works = found.recipes, found.works
        self.tunes = {
            split: [tunes[i] for i in seed_of(config.seed, f"score order {split}").permutation(len(tunes))]
            for split, tunes in found.tunes_by_split.items()
        }
        self.amounts = {split: count for split, count in self.amounts.items() if self.tunes[split]}


OfTunes = TypeVar("OfTunes", bound=TuneStage)


class ScoreStage(TuneStage):
    """Dialogues about excerpts of tunes as ABC."""

    name = "scores"

    def make(self, unit: Unit, folder: Path) -> Made:
        """One row a number; a tune without a usable excerpt leaves its row out."""
        made, (first, count) = Made(), unit.payload
        tunes = self.tunes[unit.split]
        for number in range(first, first + count):
            tune = tunes[number % len(tunes)]
            talk = score_talk(tune, seed_of(self.seed, f"score {tune.id} {number}"))
            if talk is None:
                made.skips[f"{tune.source}: no excerpt of two whole bars with four notes"] += 1
                continue
            abc, turns, truth = talk
            recipe = self.recipes[tune.source]
            made.rows.append(
                make_row(
                    f"score-{unit.split}-{number:06d}",
                    "score",
                    messages(turns, score=abc),
                    truth,
                    source=recipe.name,
                    licence=recipe.licence,
                    split=unit.split,
                    length=0.0,
                    source_id=tune.id,
                    work=self.works[tune.id],
                    url=recipe.url,
                    sha256=sha256_text(abc),
                )
            )
        return made


class NotationStage(TuneStage):
    """Questions that take reasoning over a score (notation_tasks.py), one a row."""

    name = "notation"

    def make(self, unit: Unit, folder: Path) -> Made:
        """One row a number; where none of a few tunes decides the task whose turn it is, the row is left out."""
        made, (first, count) = Made(), unit.payload
        tunes, pool = self.tunes[unit.split], unit_pool(self.seed, unit)
        for number in range(first, first + count):
            rng = seed_of(self.seed, f"notation {unit.split} {number}")
            asked = notation_question([tunes[(number + i) % len(tunes)] for i in range(CANDIDATES)], rng, pool)
            if asked is None:
                made.skips["notation: no tune gives the passage that a task needs"] += 1
                continue
            recipe = self.recipes[asked.tune.source]
            made.rows.append(
                make_row(
                    f"notation-{unit.split}-{number:06d}",
                    asked.task,
                    shown([asked.turn], asked.scores),
                    asked.facts,
                    source=recipe.name,
                    licence=recipe.licence,
                    split=unit.split,
                    length=0.0,
                    source_id=asked.tune.id,
                    work=self.works[asked.tune.id],
                    url=recipe.url,
                    sha256=sha256_text(asked.scores[0]),
                )
            )
        return made


def plan_theory(config: Mixture, found: Ingredients, store: Store, share: float) -> TheoryStage | None:
    """The theory rows that a mixture wants."""
    stage = TheoryStage(config.seed, config.theory, share)
    return stage if stage.amounts else None


def plan_scores(config: Mixture, found: Ingredients, store: Store, share: float) -> ScoreStage | None:
    """The score rows that a mixture wants, where there are tunes."""
    return _of_tunes(ScoreStage, config, config.scores, found, share)


def plan_notation(config: Mixture, found: Ingredients, store: Store, share: float) -> NotationStage | None:
    """The rows of reasoning over scores that a mixture wants, where there are tunes."""
    return _of_tunes(NotationStage, config, config.notation, found, share)


def _of_tunes(
    stage: type[OfTunes], config: Mixture, counts: Counts, found: Ingredients, share: float
) -> OfTunes | None:
    if not found.tunes or not any(True for _ in amounts(counts, share)):
        return None
    made = stage(config, counts, found, share)
    return made if made.amounts else None
