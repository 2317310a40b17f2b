"""The stage that makes in-context episodes out of the clips and scores that earlier stages wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mllm.data_recipes.config import Mixture
from mllm.data_recipes.episodes import EpisodePool, episodes
from mllm.data_recipes.ingredients import Ingredients, amounts
from mllm.data_recipes.licences import DataError, strictest
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.row import Item, make_row, sha256_text
from mllm.data_recipes.stage import Made, Unit, ranges
from mllm.data_recipes.store import Store

NAME = "episodes"
UNIT = 50
SHARDS = 6
"""Shards that a unit's examples and queries come from: all of a large build would not fit into memory."""
STAGES = ("clips", "scores", "sets")


class EpisodeStage:
    """Episodes whose examples and query are of one split and of different works."""

    name = NAME
    audio = False

    def __init__(self, config: Mixture, store: Store, wanted: dict[str, int]):
        self.config, self.store = config, store
        shards = store.names("rows", ".parquet")
        self.shards = {
            split: {stage: [s for s in shards if s.startswith(f"rows/{split}-{stage}-")] for stage in STAGES}
            for split in wanted
        }
        self.wanted = {split: count for split, count in wanted.items() if any(self.shards[split].values())}

    def total(self) -> int:
        """Episodes."""
        return sum(self.wanted.values())

    def units(self) -> Iterator[Unit]:
        """Some episodes each, out of shards drawn for it."""
        for unit in ranges(NAME, self.wanted, UNIT):
            rng = seed_of(self.config.seed, f"episode shards {unit.split} {unit.payload[0]}")
            drawn: list[str] = []
            for names in self.shards[unit.split].values():
                drawn += [names[int(i)] for i in sorted(rng.permutation(len(names))[:SHARDS])]
            yield replace(unit, payload=(*unit.payload, tuple(drawn)))

    def make(self, unit: Unit, folder: Path) -> Made:
        """The rows of a range of episodes."""
        made, (first, count, shards) = Made(), unit.payload
        items: dict[str, tuple[Item, str, float]] = {}
        for shard in shards:
            items |= _items(self.store, shard)
        rng = seed_of(self.config.seed, f"episodes {unit.split} {first}")
        pool = EpisodePool.of([item for item, _, _ in items.values()], made.skips)
        try:
            told = list(episodes(pool, rng, count, self.config.episodes.most_examples))
        except DataError as error:
            made.skips[f"episodes: {error}"] += count
            return made
        for number, (talk, facts) in enumerate(told, first):
            used = [items[name] for name in _used(talk) if name in items]
            sources = sorted({source for _, source, _ in used})
            made.rows.append(
                make_row(
                    f"episode-{unit.split}-{number:06d}",
                    f"episode_{facts['label_kind'].replace('-', '_')}",
                    talk,
                    facts,
                    source=NAME,
                    made_of=sources,
                    licence=strictest(sorted({item.licence for item, _, _ in used})),
                    split=unit.split,
                    length=sum(seconds for _, _, seconds in used),
                    source_id=f"episode/{unit.split}/{number}",
                    work=f"episode/{'+'.join(sorted({item.work for item, _, _ in used}))}",
                    sha256=sha256_text(json.dumps(talk)),
                )
            )
        return made


def _items(store: Store, shard: str) -> dict[str, tuple[Item, str, float]]:
    """Audio path or ABC text -> (item, recipe, seconds) of the rows about one recording or score in a shard."""
    columns = ["messages", "facts", "source", "licence", "length", "provenance"]
    out: dict[str, tuple[Item, str, float]] = {}
    for row in pq.read_table(pa.BufferReader(store.read(shard)), columns=columns).to_pylist():
        content = json.loads(row["messages"])[0]["content"]
        parts = content if isinstance(content, list) else []
        audio = [part["audio"] for part in parts if part["type"] == "audio"]
        texts = [part["text"] for part in parts if part["type"] == "text"]
        score = texts[0] if not audio and len(texts) > 1 and texts[0].startswith("X:") else ""
        name = audio[0] if len(audio) == 1 else score
        if not name or name in out:
            continue
        origin = json.loads(row["provenance"])
        item = Item(
            id=origin["source_id"] if not audio else name,
            licence=row["licence"],
            url=origin["url"],
            work=origin["work"],
            audio=audio[0] if audio else "",
            score=score,
            facts=json.loads(row["facts"]),
        )
        out[name] = (item, row["source"], row["length"])
    return out


def _used(talk: list[dict[str, Any]]) -> Iterator[str]:
    """Audio paths and ABC texts of a conversation."""
    for message in talk:
        for part in message["content"] if isinstance(message["content"], list) else []:
            yield part["audio"] if part["type"] == "audio" else part["text"]


def plan(config: Mixture, found: Ingredients, store: Store, share: float) -> EpisodeStage | None:
    """The episodes that a mixture wants."""
    wanted = dict(amounts(config.episodes, share))
    return EpisodeStage(config, store, wanted) if wanted else None
