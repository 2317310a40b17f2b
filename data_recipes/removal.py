"""Taking the duplicates out of a build: found once, written down, then left out of every shard that holds them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mllm.data_recipes.duplicates import deduplicate
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.row import shard_bytes, skips_of
from mllm.data_recipes.store import Store

NAME = "duplicates.json"
WHY = "rows left out as duplicates"
RENDERED = ("clips/clips-", "clips/medleys-", "clips/score_and_sound-")
"""Recordings that a build makes itself: each is performed by a plan of its own."""


def remove_duplicates(store: Store, workers: int) -> int:
    """Leave out of the shards what is there twice, across splits and sets; returns how many rows that are.

    The list is written first: a kill while shards are rewritten is made good by the next run, which does not search
    again. Every recording that the build did not render itself is heard: one that lies elsewhere is fetched once.
    """
    if not store.exists(NAME):
        drops = deduplicate(store.address, workers, RENDERED)
        found = [{"id": d.id, "instead": d.instead, "why": d.why} for d in drops]
        store.write(NAME, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    try:
        drop = {entry["id"] for entry in json.loads(store.read(NAME))}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{store.where(NAME)} is broken: delete it and build again") from error
    if drop:
        for shard in store.names("rows", ".parquet"):
            _filter(store, shard, drop)
    return len(drop)


def _filter(store: Store, shard: str, drop: set[str]) -> None:
    table = pq.read_table(pa.BufferReader(store.read(shard)))
    keep = pc.invert(pc.is_in(table["id"], pa.array(sorted(drop))))
    kept = table.filter(keep)
    if len(kept) == len(table):
        return
    skips = skips_of(table.schema)
    skips[WHY] += len(table) - len(kept)
    store.write(shard, shard_bytes(kept, skips))
