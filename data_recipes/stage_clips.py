"""The stage that renders clips of ten seconds and asks about them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mllm.data_recipes.choices import Pool
from mllm.data_recipes.clip import Clip, UnusableTune, make_clip, write_flac
from mllm.data_recipes.config import Mixture
from mllm.data_recipes.ingredients import Ingredients
from mllm.data_recipes.makers import dialogue, draw_turns
from mllm.data_recipes.plan import Batch, ClipPlan, plan_clips, seed_of
from mllm.data_recipes.row import Turn, make_row, messages
from mllm.data_recipes.stage import Made, Unit
from mllm.data_recipes.store import Store
from mllm.data_recipes.templates import conversations
from mllm.data_recipes.tune import Tune

NAME = "clips"
DIALOGUES = 0.3
"""Share of clips that get a dialogue of mixed styles among their rows."""


class PlannedStage:
    """Recordings by plan: which tune, key, instruments and soundfont is decided before anything renders."""

    name: str
    audio = True

    def __init__(self, config: Mixture, found: Ingredients, batches: list[Batch]):
        self.config, self.batches = config, batches
        self.fonts, self.recipes = found.fonts, found.recipes
        self.tunes = {t.id: t for t in found.tunes}
        self.works = found.works

    def total(self) -> int:
        """Recordings."""
        return sum(len(batch.clips) for batch in self.batches)

    def units(self) -> Iterator[Unit]:
        """One a batch of the plan."""
        for batch in self.batches:
            yield Unit(self.name, batch.number, batch.split, batch.clips, len(batch.clips))


class ClipStage(PlannedStage):
    """Clips, each with several rows."""

    name = NAME

    def make(self, unit: Unit, folder: Path) -> Made:
        """Perform, render, augment and write each clip, and its rows."""
        made, pool = Made(), unit_pool(self.config.seed, unit)
        for plan in unit.payload:
            for tune_id in plan.candidates:
                tune = self.tunes[tune_id]
                try:
                    clip = make_clip(plan, tune, self.config, self.fonts[plan.soundfont])
                except UnusableTune as why:
                    made.skips[f"{tune.source}: {why}"] += 1
                    continue
                digest = write_flac(folder / f"{plan.id}.flac", clip.samples, self.config.clips.sampling_rate)
                made.rows += self.rows(plan, tune, clip, f"{unit.clips}/{plan.id}.flac", digest, pool)
                break
            else:
                made.skips["clip left out: no candidate tune could be used"] += 1
        return made

    def rows(self, plan: ClipPlan, tune: Tune, clip: Clip, audio: str, digest: str, pool: Pool) -> list[dict[str, Any]]:
        """The instruction rows of a clip; `audio` is its path inside the build."""
        config, recipe = self.config, self.recipes[tune.source]
        rng = seed_of(config.seed, f"words {plan.id}")
        asked = conversations(plan.split, clip.facts, rng)
        if config.clips.questions:
            asked += draw_rows(clip.facts, rng, config.clips.questions, pool)
        rows = []
        for number, (task, turns) in enumerate(asked):
            rows.append(
                make_row(
                    f"{plan.id}-{number:02d}-{task}",
                    task,
                    messages(turns, [audio]),
                    clip.facts,
                    source=recipe.name,
                    licence=recipe.licence,
                    split=plan.split,
                    length=clip.facts["seconds"],
                    source_id=tune.id,
                    work=self.works[tune.id],
                    url=recipe.url,
                    sha256=digest,
                    render=render_settings(clip, plan),
                )
            )
        return rows


def unit_pool(seed: int, unit: Unit) -> Pool:
    """The decks that balance the answers of a unit: by unit, so that it is made alike whenever it is made."""
    return Pool(zlib.crc32(f"{seed} {unit.shard}".encode()))


def draw_rows(
    facts: dict[str, Any], rng: np.random.Generator, count: int, pool: Pool, only: Sequence[str] = ()
) -> list[tuple[str, list[Turn]]]:
    """(task, turns) of `count` rows about these facts: each by another maker, now and then a dialogue instead."""
    out: list[tuple[str, list[Turn]]] = []
    if not only and rng.random() < DIALOGUES and (turns := dialogue(facts, rng, pool=pool)):
        out.append(("dialogue_mixed", turns))
    for task, style, turns in draw_turns(facts, rng, count - len(out), only, pool):
        out.append((task if style in (task, "honest") else f"{task}_{style}", turns))
    return out


def render_settings(clip: Clip, plan: ClipPlan) -> dict[str, Any]:
    """How the audio of a clip was made."""
    kept = ("soundfont", "programs", "transposition", "augmentation", "start_bar", "tempo")
    return {"plan": plan.id, **{key: clip.facts[key] for key in kept}}


def plan(config: Mixture, found: Ingredients, store: Store, share: float) -> ClipStage | None:
    """The clips that a mixture wants, of the tunes and soundfonts that are here."""
    if not found.tunes:
        return None
    fonts = {split: found.font_weights(split) for split in ("train", "validation", "test")}
    batches = plan_clips(config, found.tunes, fonts, share)
    return ClipStage(config, found, batches) if batches else None
