"""The stage that renders long recordings of several tunes, each with its own key, tempo, metre and instruments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllm.data_recipes.choices import Pool
from mllm.data_recipes.clip import write_flac
from mllm.data_recipes.config import Mixture
from mllm.data_recipes.ingredients import Ingredients, amounts
from mllm.data_recipes.licences import DataError, strictest
from mllm.data_recipes.medley import make_medley, plan_medley
from mllm.data_recipes.plan import draw_font, seed_of
from mllm.data_recipes.row import make_row, messages
from mllm.data_recipes.stage import Made, Unit, ranges
from mllm.data_recipes.stage_clips import draw_rows, unit_pool
from mllm.data_recipes.store import Store

NAME = "medleys"
UNIT = 4
QUESTIONS = 6
CANDIDATES = 60
"""Tunes that one medley chooses from."""


class MedleyStage:
    """Medleys of tunes of one split; a medley's work is the set of its tunes' works."""

    name = NAME
    audio = True

    def __init__(self, config: Mixture, found: Ingredients, wanted: dict[str, int]):
        self.config, self.wanted = config, wanted
        self.recipes, self.fonts, self.tunes = found.recipes, found.fonts, found.tunes_by_split
        self.weights = {split: found.font_weights(split) for split in wanted}
        self.works = found.works

    def total(self) -> int:
        """Medleys."""
        return sum(self.wanted.values())

    def units(self) -> Iterator[Unit]:
        """A few medleys each: one takes seconds."""
        return ranges(NAME, self.wanted, UNIT)

    def make(self, unit: Unit, folder: Path) -> Made:
        """Render each medley and ask about its sections."""
        made, (first, count), shape = Made(), unit.payload, self.config.medleys
        pool = unit_pool(self.config.seed, unit)
        for number in range(first, first + count):
            name = f"{unit.split}-{number:05d}"
            rng = seed_of(self.config.seed, f"medley {name}")
            tunes = self.tunes[unit.split]
            some = [tunes[int(i)] for i in sorted(rng.permutation(len(tunes))[:CANDIDATES])]
            minutes = float(rng.uniform(shape.shortest_minutes, shape.longest_minutes))
            font = draw_font(self.weights[unit.split], rng)
            try:
                plan = plan_medley(rng, some, minutes)
                samples, facts = make_medley(plan, some, self.fonts[font], self.config.clips.sampling_rate)
            except DataError as error:
                made.skips[f"medley: {error}"] += 1
                continue
            digest = write_flac(folder / f"{name}.flac", samples, self.config.clips.sampling_rate)
            made.rows += self._rows(name, unit, f"{unit.clips}/{name}.flac", digest, facts, font, pool)
        return made

    def _rows(
        self, name: str, unit: Unit, audio: str, digest: str, facts: dict[str, Any], font: str, pool: Pool
    ) -> list[dict[str, Any]]:
        rng = seed_of(self.config.seed, f"medley words {name}")
        sources = {tune.split("/")[0] for tune in facts["tunes"]}
        licences = sorted({self.recipes[source].licence for source in sources if source in self.recipes})
        return [
            make_row(
                f"medley-{name}-{number:02d}-{task}",
                f"medley_{task}",
                messages(turns, [audio]),
                facts,
                source=NAME,
                made_of=sorted(sources),
                licence=strictest(licences),
                split=unit.split,
                length=facts["seconds"],
                source_id=f"medley/{name}",
                work=f"medley/{'+'.join(sorted({self.works[t] for t in facts['tunes']}))}",
                sha256=digest,
                render={"soundfont": font, "tunes": facts["tunes"]},
            )
            for number, (task, turns) in enumerate(draw_rows(facts, rng, QUESTIONS, pool))
        ]


def plan(config: Mixture, found: Ingredients, store: Store, share: float) -> MedleyStage | None:
    """The medleys that a mixture wants, of the tunes and soundfonts that are here."""
    wanted = {
        split: count
        for split, count in amounts(config.medleys, share)
        if found.tunes and found.tunes_by_split[split] and found.font_weights(split)
    }
    return MedleyStage(config, found, wanted) if wanted else None
