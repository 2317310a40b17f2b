"""What a mixture is made of, as far as it is on this machine: scores, public sets, soundfonts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mllm.data_recipes.adapters import ADAPTERS
from mllm.data_recipes.config import (
    SPLITS,
    Counts,
    DataError,
    Mixture,
    Recipe,
    Soundfont,
    Use,
    find_soundfont,
    load_recipe,
)
from mllm.data_recipes.plan import split_tunes
from mllm.data_recipes.sources import ITEMS, Progress, collect, locate
from mllm.data_recipes.store import Store
from mllm.data_recipes.tune import Tune, works


@dataclass
class Ingredients:
    """Everything that a mixture names, as far as it is here."""

    config: Mixture
    tunes: list[Tune] = field(default_factory=list)
    uses: dict[str, Use] = field(default_factory=dict)
    """How much of each recipe is wanted, by its name."""
    recipes: dict[str, Recipe] = field(default_factory=dict)
    """All recipes of the mixture by name."""
    sets: dict[str, str] = field(default_factory=dict)
    """Recipe whose loader gives items -> the folder or address that it starts from."""
    fonts: dict[str, Path] = field(default_factory=dict)
    font_hashes: dict[str, str] = field(default_factory=dict)
    """Soundfont -> sha256 of its file."""
    skipped: dict[str, dict[str, int]] = field(default_factory=dict)
    """Recipe -> reason -> how many tunes were unusable."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Recipe or soundfont -> why it is missing."""
    workers: int = 1
    """Processes that read what is not read here."""

    @classmethod
    def find(cls, config: Mixture, workers: int, progress: Progress | None = None) -> Ingredients:
        """Read the scores, look for the sets and soundfonts. DataError where nothing at all can be made."""
        out = cls(config, workers=workers)
        scores: list[Use] = []
        for use in config.sources:
            recipe = load_recipe(use.recipe)
            out.uses[recipe.name] = use
            if recipe.loader in ADAPTERS:
                root, absent = _set_root(config, recipe)
            elif recipe.loader in ITEMS:
                where = locate(recipe, config)
                root, absent = (str(where), "") if isinstance(where, Path) else ("", where)
            else:
                scores.append(use)
                continue
            out.recipes[recipe.name] = recipe
            if absent:
                out.left_out[recipe.name] = absent
            else:
                out.sets[recipe.name] = root
        if scores:
            found = collect(config.model_copy(update={"sources": scores}), workers, progress)
            out.tunes, out.skipped = found.tunes, found.skipped
            out.recipes |= found.recipes
            out.left_out |= found.absent
        for kind in ("clips", "scores", "notation", "score_and_sound", "medleys"):
            wanted = getattr(config, kind)
            if not out.tunes and (wanted.train or wanted.validation or wanted.test):
                out.left_out[f"{kind} of the mixture"] = "no source that is here gives scores to make them from"
        out._find_fonts()
        return out

    def _find_fonts(self) -> None:
        for font in [*self.config.soundfonts, *self.config.test_soundfonts]:
            if (path := find_soundfont(font)) is not None:
                self.fonts[font.name] = path
                with path.open("rb") as file:
                    self.font_hashes[font.name] = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                self.left_out[font.name] = f"soundfont not found ({', '.join(font.path)})"
        if self.config.soundfonts and not any(f.name in self.fonts for f in self.config.soundfonts):
            missing = "; ".join(f"{f.name}: {self.left_out[f.name]}" for f in self.config.soundfonts)
            raise DataError(f"none of the soundfonts exists: {missing}; install one or name yours")
        heard = {self.font_hashes[f.name]: f for f in self.config.soundfonts if f.name in self.fonts}
        for font in self.config.test_soundfonts:
            if (same := heard.get(self.font_hashes.get(font.name, ""))) is not None:
                raise DataError(
                    f"test_soundfonts: {font.name} ({self.fonts[font.name]}) is the same file as {same.name} "
                    f"({self.fonts[same.name]}), which training hears; name another one for the test"
                )
        if self.config.clips.test and not any(f.name in self.fonts for f in self.config.test_soundfonts):
            self.left_out["test split"] = "none of its soundfonts exists, and it must not use one that training hears"

    def font_weights(self, split: str) -> dict[str, float]:
        """Name -> weight of the soundfonts that a split may sound like."""
        fonts: list[Soundfont] = self.config.test_soundfonts if split == "test" else self.config.soundfonts
        return {f.name: f.weight for f in fonts if f.name in self.fonts}

    @cached_property
    def works(self) -> dict[str, str]:
        """Tune id -> the work that it is a version of."""
        return works(self.tunes)

    @cached_property
    def tunes_by_split(self) -> dict[str, list[Tune]]:
        """Tunes of every split; all versions of a work stand in one."""
        return split_tunes(self.tunes, self.config)


def _set_root(config: Mixture, recipe: Recipe) -> tuple[str, str]:
    """What a loader takes as root, and why the set is not here, if it is not; one of the hub needs no folder."""
    given = (config.sets_dir or os.environ.get("MLLM_SETS") or "").rstrip("/")
    place = f"{given}/{recipe.path or recipe.name}"
    if given and Store.at(place).exists(""):
        return Store.at(given if recipe.path else f"{given}/{recipe.name}").address, ""
    if recipe.loader == "hub":
        return "", ""
    how = recipe.get or f"see {recipe.url or recipe.terms}"
    if given:
        return "", f"{place} does not exist (its folder is looked for in `sets_dir` of the mixture or MLLM_SETS); {how}"
    return "", f"set `sets_dir` in the mixture or MLLM_SETS to the folder that holds {place[1:]}; {how}"


def whole_of(config: Mixture) -> int:
    """What `limit` is a limit of: training clips, or where there are none the first other thing that is made.

    Nothing where a mixture only takes items from sets: how many there are shows when they are read.
    """
    kinds = ("clips", "theory", "scores", "medleys", "notation", "score_and_sound")
    return next((count for kind in kinds if (count := getattr(config, kind).train)), 0)


def share_of(config: Mixture, limit: int | None) -> float:
    """The part of a mixture that `limit` is."""
    whole = whole_of(config)
    return 1.0 if limit is None or limit >= whole else limit / whole


def amounts(counts: Counts, share: float) -> Iterator[tuple[str, int]]:
    """(split, how many) of every split that gets some, in the order of work."""
    for split in SPLITS:
        if count := counts.of(split, share):
            yield split, count
