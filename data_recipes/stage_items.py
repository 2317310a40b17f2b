"""The stage that turns public sets and a user's own collections into rows, one item after another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from mllm.audio import SILENCE, load_audio
from mllm.data_recipes.adapters import ADAPTERS, described, load_items
from mllm.data_recipes.adapters_columns import FIRST
from mllm.data_recipes.adapters_sources import Absent
from mllm.data_recipes.augment import normalise
from mllm.data_recipes.choices import Pool
from mllm.data_recipes.clip import write_flac
from mllm.data_recipes.config import Mixture, Recipe
from mllm.data_recipes.ingredients import Ingredients
from mllm.data_recipes.licences import DataError, refusal
from mllm.data_recipes.on_disk import Known
from mllm.data_recipes.plan import draw_font, seed_of
from mllm.data_recipes.roman_rows import roman_talks
from mllm.data_recipes.row import Item, Message, Turn, make_row, messages, sha256_text
from mllm.data_recipes.sources import ITEMS, file_items
from mllm.data_recipes.sources_midi import performance
from mllm.data_recipes.stage import Made, Unit
from mllm.data_recipes.stage_clips import draw_rows, unit_pool
from mllm.data_recipes.store import Store
from mllm.data_recipes.synthesizer import play
from mllm.data_recipes.timeline_cut import cut_facts
from mllm.data_recipes.tune import split_of
from mllm.errors import AudioError

NAME = "sets"
UNIT = 100
PLAYED = ("midi_folder",)
"""Loaders whose items are notes that we play ourselves."""
RING, LEVEL = 0.4, 0.7
"""Seconds that the last notes of an excerpt ring, and its peak."""
SPLITS = ("train", "validation", "test")
_REFUSED = {"unknown licence", "forbidden source"}
"""Reasons that are no mistake in a recipe."""


class ItemStage:
    """Items of all public sets of a mixture, cut and re-encoded where they are recordings."""

    name = NAME
    audio = True

    def __init__(self, config: Mixture, found: Ingredients, share: float):
        self.config, self.share = config, share
        self.recipes, self.sets, self.uses, self.fonts = found.recipes, found.sets, found.uses, found.fonts
        self.weights = {split: found.font_weights(split) for split in SPLITS}
        self.workers, self.left_out = found.workers, found.left_out

    def total(self) -> int | None:
        """Unknown: a stream tells its length at its end."""
        return None

    def units(self) -> Iterator[Unit]:
        """Chunks of every set in the order of its own files; each carries the reasons for what its loader left out.

        Raises:
            DataError: a recipe does not fit its set. Every set is tried before the first chunk comes, so that most of
                these errors cost no work.
        """
        number = 0
        for name in [name for name in self.sets if self._gives(name)]:
            skipped: Counter[str] = Counter()
            chunks: dict[str, list[Item]] = {split: [] for split in SPLITS}
            for item in self._kept(name, skipped):
                split = self._split(item)
                chunks[split].append(item)
                if len(chunks[split]) == UNIT:
                    yield self._unit(name, number, split, chunks[split], skipped)
                    number, chunks[split] = number + 1, []
            for split in SPLITS:
                if chunks[split] or (split == "train" and skipped):
                    yield self._unit(name, number, split, chunks[split], skipped)
                    number += 1

    def _unit(self, recipe: str, number: int, split: str, items: list[Item], skipped: Counter[str]) -> Unit:
        unit = Unit(NAME, number, split, (recipe, tuple(items), Counter(skipped)), len(items))
        skipped.clear()
        return unit

    def _gives(self, name: str) -> bool:
        """Whether a set gives an item; where it is not here or all of it is refused, `left_out` says so."""
        recipe, skipped, refused = self.recipes[name], Counter[str](), set(_REFUSED)
        gives = False
        if recipe.loader not in ADAPTERS:
            return True
        try:
            for n, item in enumerate(self._load(recipe, skipped)):
                if why := refusal(item.licence, self.config.allow_licences):
                    refused.add(why)
                    skipped[why] += 1
                    continue
                gives = True
                # Whether the column of the split is misspelt shows only where no row has it.
                if not recipe.split.column or item.split or n >= FIRST:
                    return True
        except Absent as error:
            if not gives:
                self.left_out[name] = str(error)
            return gives
        if gives:
            return True
        reasons = Counter({why: count for why, count in skipped.items() if not why.endswith(", left out")})
        told = ", ".join(f"{why} ({count} times)" for why, count in reasons.most_common(3)) or "there are no rows"
        # Of a set on the hub the recordings often lie nowhere: without a folder of the user's they cannot be here.
        away = not self.sets[name] and all(why.startswith("missing file") for why in reasons)
        if reasons and (away or set(reasons) <= refused):
            self.left_out[name] = f"none of its items can be used: {told}. {recipe.get}".strip()
            return False
        raise DataError(
            f"{name}: no item of the set can be used: {told}; correct the recipe, or add what is missing. "
            f"{recipe.get}".strip()
        )

    def _kept(self, name: str, skipped: Counter[str]) -> Iterator[Item]:
        """Items whose licence the mixture allows, thinned to the recipe's weight where that is below one."""
        recipe, use, kept = self.recipes[name], self.uses[name], 0
        most = max(1, round(use.limit * self.share)) if use.limit else None
        seen = Known()
        try:
            for item in self._load(recipe, skipped):
                if most is not None and kept >= most:
                    return
                if why := refusal(item.licence, self.config.allow_licences):
                    skipped[why] += 1
                elif use.weight >= 1 or _chance(f"{self.config.seed} {recipe.name} {item.id}") < use.weight:
                    kept += 1
                    if (again := seen.add(item.id)[1]) > 1:  # two captions of one file: rows need names of their own
                        item = replace(item, id=f"{item.id}#{again}", work=item.work or item.id)
                    yield item
        except Absent as error:  # a set that turns out to be gone must not cost the others
            skipped[f"the rest of the set: {error}"] += 1

    def _load(self, recipe: Recipe, skipped: Counter[str]) -> Iterator[Item]:
        root = self.sets[recipe.name]
        if recipe.loader in ITEMS:
            return file_items(recipe, Path(root), skipped, self.workers)
        return load_items(recipe, root, None, skipped)

    def _split(self, item: Item) -> str:
        shares = self.config.splits
        return item.split or split_of(item.work or item.id, shares.train, shares.validation)

    def make(self, unit: Unit, folder: Path) -> Made:
        """Cut and write the recordings, and write the rows."""
        name, items, skipped = unit.payload
        recipe, made, rate = self.recipes[name], Made(), self.config.clips.sampling_rate
        pool = unit_pool(self.config.seed, unit)
        made.skips.update({f"{name}: {why}": count for why, count in skipped.items()})
        for place, item in enumerate(items):
            audio, digest, seconds = "", "", 0.0
            file = folder / f"{place:03d}.flac"
            font = self._font(recipe, item, unit.split)
            if item.audio or font:
                try:
                    samples = self._play(recipe, item, font) if font else self._cut(item)
                    seconds = len(samples) / rate
                    if not font:
                        whole = not item.start and len(samples) < self._longest(item) * rate - 1
                        item = replace(item, facts=cut_facts(item.facts, item.start, seconds, whole))
                except (AudioError, DataError, OSError) as error:
                    made.skips[f"{name}: {_reason(error)}"] += 1
                    continue
                except MemoryError:
                    raise
                except Exception as error:  # libraries of far places have errors of their own
                    made.skips[f"{name}: error in reading a recording: {described(error)}"] += 1
                    continue
                if not np.abs(samples).max(initial=0.0) >= SILENCE:  # which NaN is not either
                    made.skips[f"{name}: silent"] += 1
                    continue
                audio = f"{unit.clips}/{file.name}"
                digest = write_flac(file, samples, rate)
            elif item.score:
                digest = sha256_text(item.score)
            try:
                rows = self._rows(recipe, item, unit.split, audio, digest, seconds, font, pool)
            except (DataError, MemoryError):
                raise
            except Exception as error:  # one odd item must not end an hour's work, and an error of ours must show
                made.skips[f"{name}: error in a maker: {described(error)}"] += 1
                file.unlink(missing_ok=True)
                continue
            if not rows:
                made.skips[f"{name}: no maker asks about what is known of it"] += 1
            made.rows += rows
        return made

    def _font(self, recipe: Recipe, item: Item, split: str) -> str:
        """The soundfont that plays an item which is notes, or nothing for one that is something else."""
        fonts = self.weights[split]
        if recipe.loader not in PLAYED or not fonts:
            return ""
        return draw_font(fonts, seed_of(self.config.seed, f"font {recipe.name} {item.id}"))

    def _play(self, recipe: Recipe, item: Item, font: str) -> np.ndarray:
        events, voices = performance(Path(self.sets[recipe.name], item.facts["path"]), item.start, item.end)
        seconds = min(item.end - item.start + RING, self.config.excerpts.seconds)
        samples = play(events, voices, self.fonts[font], seconds, self.config.clips.sampling_rate)
        return normalise(samples, LEVEL)

    def _cut(self, item: Item) -> np.ndarray:
        rate, longest = self.config.clips.sampling_rate, self._longest(item)
        if "://" not in item.audio:  # read in pieces, where a file that is open already is held as a whole
            return load_audio(item.audio, rate, start=item.start, duration=longest)
        with fsspec.open(item.audio, "rb") as file:
            return load_audio(file, rate, start=item.start, duration=longest)

    def _longest(self, item: Item) -> float:
        """Seconds of an item that are taken at most."""
        longest = self.config.excerpts.seconds
        return min(item.end - item.start, longest) if item.end > item.start else longest

    def _rows(
        self, recipe: Recipe, item: Item, split: str, audio: str, digest: str, seconds: float, font: str, pool: Pool
    ) -> list[dict[str, Any]]:
        rng = seed_of(self.config.seed, f"{recipe.name} {item.id}")
        facts = item.facts | ({"seconds": round(seconds, 3)} if audio else {})
        talks: list[tuple[str, list[Message]]] = []
        if item.messages:
            talks.append(("conversation", _with_audio(item.messages, item.audio, audio)))
        asked: list[tuple[str, list[Turn]]] = []
        if audio or item.score:
            asked = draw_rows(facts, rng, self.config.excerpts.questions, pool, recipe.tasks)
        elif "roman" in facts:
            asked = roman_talks(facts, rng, self.config.excerpts.questions)
        talks += [(task, messages(turns, [audio] if audio else [], item.score)) for task, turns in asked]
        return [
            make_row(
                f"{recipe.name}-{item.id}-{number:02d}",
                task,
                talk,
                facts,
                source=recipe.name,
                licence=item.licence,
                split=split,
                length=seconds,
                source_id=item.id,
                work=f"{recipe.name}/{item.work or item.id}",
                url=item.url or recipe.url,
                sha256=digest or sha256_text(json.dumps(talk)),
                render={"soundfont": font} if font else None,
            )
            for number, (task, talk) in enumerate(talks)
        ]


def _with_audio(talk: list[Message], old: str, new: str) -> list[Message]:
    """The conversation with its audio part naming the clip that the build wrote."""
    if not old:
        return talk
    out = []
    for message in talk:
        content = message["content"]
        if isinstance(content, list):
            content = [{**p, "audio": new} if p.get("type") == "audio" else p for p in content]
        out.append({**message, "content": content})
    return out


def _reason(error: Exception) -> str:
    """What was wrong, without the file it was wrong with, so that reasons can be counted."""
    if isinstance(error, FileNotFoundError):
        return "recording not found"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).partition(": ")[2].partition(";")[0].split()) or type(error).__name__


def _chance(text: str) -> float:
    return int(sha256_text(text)[:13], 16) / 16**13


def plan(config: Mixture, found: Ingredients, store: Store, share: float) -> ItemStage | None:
    """The public sets that are here."""
    return ItemStage(config, found, share) if found.sets else None
