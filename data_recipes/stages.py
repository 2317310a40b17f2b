"""The stages of a build, in the order of work: a later one may read what an earlier one wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mllm.data_recipes import stage_clips, stage_episodes, stage_items, stage_medleys, stage_rows, stage_score_and_sound
from mllm.data_recipes.config import Mixture
from mllm.data_recipes.ingredients import Ingredients, share_of, whole_of
from mllm.data_recipes.stage import Stage
from mllm.data_recipes.stage_few_items import FewItems
from mllm.data_recipes.store import Store

STAGES: dict[str, Callable[[Mixture, Ingredients, Store, float], Stage | None]] = {
    "clips": stage_clips.plan,
    "scores": stage_rows.plan_scores,
    "notation": stage_rows.plan_notation,
    "score_and_sound": stage_score_and_sound.plan,
    "theory": stage_rows.plan_theory,
    "medleys": stage_medleys.plan,
    "sets": stage_items.plan,
    "episodes": stage_episodes.plan,
}
"""Name -> what makes the stage, or None where the mixture wants nothing of it or nothing is there to make it from."""


READERS = (stage_episodes.NAME,)
"""Stages that are made out of the rows of earlier ones."""


def plan_stages(config: Mixture, found: Ingredients, store: Store, limit: int | None) -> Iterator[Stage]:
    """The stages of a mixture; each is made only when the one before is done."""
    share = share_of(config, limit)
    for plan in STAGES.values():
        if (stage := plan(config, found, store, share)) is not None:
            if isinstance(stage, stage_items.ItemStage) and limit is not None and not whole_of(config):
                stage = FewItems(config, found, limit)
            yield stage
