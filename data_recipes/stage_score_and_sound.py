"""The stage that renders short recordings and asks one question of each that sets it beside a score.

One, because training may join the rows of a recording into one dialogue, where one score would tell another's answer.
The mixture may want training recordings to be transcribed besides: no other answer follows from that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm.data_recipes.clip import UnusableTune, write_flac
from mllm.data_recipes.config import Clips, Mixture
from mllm.data_recipes.ingredients import Ingredients
from mllm.data_recipes.plan import Batch, ClipPlan, plan_clips, seed_of
from mllm.data_recipes.row import make_row
from mllm.data_recipes.score_and_sound import DECK, Heard, compose, facts_of, question, sound, transcription
from mllm.data_recipes.score_questions import pose
from mllm.data_recipes.score_rows import shown
from mllm.data_recipes.stage import Made, Unit
from mllm.data_recipes.stage_clips import PlannedStage, unit_pool
from mllm.data_recipes.store import Store
from mllm.data_recipes.tune import Tune

NAME = "score_and_sound"
_OTHER = 1
"""Added to the seed of a plan: these recordings are not of the same tunes and instruments as the clips."""


class ScoreAndSoundStage(PlannedStage):
    """Recordings with one question each; tasks come in turn."""

    name = NAME

    def __init__(self, config: Mixture, found: Ingredients, batches: list[Batch]):
        super().__init__(config, found, batches)
        self.alike: dict[tuple[str, str, tuple[int, int], str], list[Tune]] = {}
        for split, tunes in found.tunes_by_split.items():
            for tune in tunes:
                self.alike.setdefault((split, tune.source, tune.metre, tune.mode), []).append(tune)

    def make(self, unit: Unit, folder: Path) -> Made:
        """Perform, render and write each recording, and its row."""
        made, pool = Made(), unit_pool(self.config.seed, unit)
        for plan in unit.payload:
            task = DECK[pool.deal("task", len(DECK))]
            for tune_id in plan.candidates:
                tune = self.tunes[tune_id]
                rng = seed_of(self.config.seed, f"score and sound {plan.id} {tune_id}")
                others = self.alike[plan.split, tune.source, tune.metre, tune.mode]
                alike = [t for t in others if self.works[t.id] != self.works[tune_id]]
                try:
                    heard = compose(task, plan, tune, alike, self.config, rng, pool)
                    samples, done = sound(heard, self.config, self.fonts[plan.soundfont], rng)
                    asked = question(heard, rng, pool)
                except UnusableTune as why:
                    made.skips[f"{tune.source}: {why}"] += 1
                    continue
                digest = write_flac(folder / f"{plan.id}.flac", samples, self.config.clips.sampling_rate)
                questions = [(task, asked)]
                most = self.config.score_and_sound.transcribe
                if task != "transcribe" and plan.split == "train" and heard.piece.bars <= most:
                    questions.append(("transcribe", transcription(heard)))
                for name, one in questions:
                    _, turn, facts = pose(name, one, rng, pool)
                    talk = shown([turn], one.scores, [f"{unit.clips}/{plan.id}.flac"])
                    made.rows.append(self._row(heard, plan, name, talk, facts_of(heard, done) | facts, digest))
                break
            else:
                made.skips["score_and_sound: no candidate tune could be used"] += 1
        return made

    def _row(
        self, heard: Heard, plan: ClipPlan, task: str, talk: list[dict[str, Any]], facts: dict[str, Any], digest: str
    ) -> dict[str, Any]:
        tune = self.tunes[heard.about["tune_id"]]
        recipe = self.recipes[tune.source]
        kept = ("soundfont", "programs", "transposition", "augmentation", "tempo")
        return make_row(
            f"{NAME}-{plan.id}-{task}",
            task,
            talk,
            facts,
            source=recipe.name,
            licence=recipe.licence,
            split=plan.split,
            length=facts["seconds"],
            source_id=tune.id,
            work=self.works[tune.id],
            url=recipe.url,
            sha256=digest,
            render={"plan": plan.id, **{name: facts[name] for name in kept}},
        )


def plan(config: Mixture, found: Ingredients, store: Store, share: float) -> ScoreAndSoundStage | None:
    """The recordings that a mixture wants, of the tunes and soundfonts that are here."""
    wanted = config.score_and_sound
    if not found.tunes or not wanted.train + wanted.validation + wanted.test:
        return None
    fonts = {split: found.font_weights(split) for split in ("train", "validation", "test")}
    clips = Clips(train=wanted.train, validation=wanted.validation, test=wanted.test, unit=config.clips.unit)
    like = config.model_copy(update={"clips": clips, "seed": config.seed + _OTHER})
    batches = plan_clips(like, found.tunes, fonts, share)
    return ScoreAndSoundStage(config, found, batches) if batches else None
