"""`--limit`: what of a mixture it limits."""

import json
from collections import Counter
from pathlib import Path

import pytest
from small_set import rows_of, write_mixture, write_set

from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.licences import DataError


def items_of(folder: Path) -> dict[str, Counter[str]]:
    """Split -> set -> how many of its items are there."""
    seen: dict[str, set[tuple[str, str]]] = {}
    for row in rows_of(folder):
        seen.setdefault(row["split"], set()).add((row["source"], json.loads(row["provenance"])["source_id"]))
    return {split: Counter(source for source, _ in items) for split, items in seen.items()}


def test_a_mixture_of_sets_alone_takes_so_many_training_items_over_all_of_them(tmp_path: Path) -> None:
    write_set(tmp_path, 60, "mine")
    write_set(tmp_path, 60, "yours")
    write_set(tmp_path, 2, "few")
    mixture = write_mixture(tmp_path, "mine", "yours", "few", splits={"train": 0.6, "validation": 0.2, "test": 0.2})
    build_mixture(mixture, tmp_path / "out", workers=1, limit=20)
    items = items_of(tmp_path / "out")
    assert items["train"]["mine"] == items["train"]["yours"] == 7 and items["train"].total() <= 20
    for split in ("validation", "test"):  # a third of the training items
        assert items[split]["mine"] == items[split]["yours"] == 2
    build_mixture(mixture, tmp_path / "one", workers=1, limit=1)
    assert items_of(tmp_path / "one")["train"] == {"mine": 1}
    build_mixture(mixture, tmp_path / "all", workers=1, limit=1000)
    assert sum(split.total() for split in items_of(tmp_path / "all").values()) == 122


def test_medleys_alone_are_limited_too(tmp_path: Path) -> None:
    font = {"name": "TimGM6mb", "path": ["pretty_midi:TimGM6mb.sf2"], "licence": "gpl-2.0"}
    medleys = {"train": 4, "shortest_minutes": 1, "longest_minutes": 1}
    sources = [{"recipe": "tonal", "limit": 100}]
    mixture = write_mixture(tmp_path, sources=sources, medleys=medleys, soundfonts=[font])
    build_mixture(mixture, tmp_path / "out", workers=1, limit=1)
    assert items_of(tmp_path / "out") == {"train": {"medleys": 1}}


def test_a_limit_does_not_hide_that_the_column_of_the_split_is_misspelt(tmp_path: Path) -> None:
    write_set(tmp_path, 9, split={"column": "spilt"})
    for output, use, limit in (("a", {"limit": 2}, None), ("b", {}, 2)):
        sources = [{"recipe": "mine.yaml", **use}]
        with pytest.raises(DataError, match="split.column names the column 'spilt'"):
            build_mixture(write_mixture(tmp_path, sources=sources), tmp_path / output, workers=1, limit=limit)
