"""The stage of public sets under a limit, where a mixture makes nothing else that the limit could be a share of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mllm.data_recipes.config import Mixture
from mllm.data_recipes.ingredients import Ingredients
from mllm.data_recipes.row import Item
from mllm.data_recipes.stage_items import SPLITS, ItemStage

READ_ON = 1000
"""Items that are read of a set for its other splits after its training items are there: it may go on for a million."""


class FewItems(ItemStage):
    """The first items of each set: at most `limit` in training over all sets, in the other splits in proportion."""

    def __init__(self, config: Mixture, found: Ingredients, limit: int):
        super().__init__(config, found, 1.0)
        each, more = divmod(limit, len(self.sets))
        self.quotas = {name: self._quota(each + (place < more)) for place, name in enumerate(self.sets)}

    def _quota(self, train: int) -> dict[str, int]:
        shares = self.config.splits
        others = {split: getattr(shares, split) / (shares.train or 1.0) for split in SPLITS if split != "train"}
        return {"train": train} | {split: min(train, max(1, round(train * of))) for split, of in others.items()}

    def _kept(self, name: str, skipped: Counter[str]) -> Iterator[Item]:
        quota, taken, beyond = self.quotas[name], Counter[str](), 0
        if not quota["train"]:
            return
        for item in super()._kept(name, skipped):
            split = self._split(item)
            if taken[split] < quota[split]:
                taken[split] += 1
                yield item
            elif taken["train"] == quota["train"]:
                beyond += 1
            if taken == quota or beyond == READ_ON:
                return
