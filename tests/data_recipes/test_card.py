"""The data card says what the shards hold, is the same each time, and never breaks on odd input."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from planted import Folder, clean, elsewhere

from mllm.data_recipes.card import write_card
from mllm.data_recipes.licences import DataError

MINI = Path(__file__).parents[2] / "runs" / "data" / "mini"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    out = Folder(tmp_path / "built")
    list(clean(out, 4, 6, 6))
    out.add("rich", "describe", json.loads(out.rows[-1]["messages"]), split="train", licence="cc-by-nc-4.0",
            facts={"key": "F# minor", "tempo": 93.0, "instruments": ["kora", "voice"], "genre": "griot"})  # fmt: skip
    out.write()
    return out


def header(card: Path) -> dict:
    _, head, _ = card.read_text().split("---\n", 2)
    return yaml.safe_load(head)


def test_counts_sources_licences_and_plots(folder: Folder) -> None:
    card = Path(write_card(folder.path))
    text = card.read_text()
    head = header(card)
    assert head["license"] == "other" and "cc-by-nc-4.0" in head["license_details"]
    assert head["size_categories"] == ["n<1K"] and head["task_categories"]
    for split in {row["split"] for row in folder.rows}:
        rows = sum(row["split"] == split for row in folder.rows)
        assert f"| {split} | {rows} |" in text
    assert "our own generator" in text or "tonal" in text
    assert "NonCommercial" in text
    for name in ("keys", "instruments", "tempi", "genres", "licences", "tasks", "sources", "lengths"):
        assert f"(card/{name}.svg)" in text
        assert ET.parse(folder.path / "card" / f"{name}.svg").getroot().tag.endswith("svg")
    assert "kora" in (folder.path / "card" / "instruments.svg").read_text()
    assert not list(folder.path.rglob("*.part"))


def test_the_same_folder_gives_the_same_bytes(folder: Folder) -> None:
    first = {p: p.read_bytes() for p in [Path(write_card(folder.path)), *folder.path.glob("card/*.svg")]}
    write_card(folder.path)
    assert {p: p.read_bytes() for p in first} == first


def test_odd_names_do_not_break_the_card(folder: Folder) -> None:
    folder.caption("odd", "Words.", source="a|b <script> $x$ [l](http://e)", split="train", licence="my own | terms")
    folder.write()
    text = Path(write_card(folder.path)).read_text()
    assert "<script>" not in text and "a\\|b &lt;script>" in text
    assert "Licences in words of their own" in text


def test_a_broken_shard_is_named_and_a_missing_manifest_refused(folder: Folder, tmp_path: Path) -> None:
    (folder.path / "rows" / "train-z-00000.parquet").write_bytes(b"nothing")
    assert "train-z-00000.parquet" in Path(write_card(folder.path)).read_text()
    (folder.path / "manifest.json").unlink()
    with pytest.raises(DataError, match="manifest.json"):
        write_card(folder.path)
    with pytest.raises(DataError, match="holds no rows"):
        write_card(tmp_path / "nowhere")


def test_the_card_of_a_build_elsewhere_is_the_same(folder: Folder, tmp_path: Path) -> None:
    far = tmp_path / "far"
    shutil.copytree(folder.path, far)
    write_card(folder.path)
    assert write_card(elsewhere(far)) == elsewhere(far).replace("far::", "far/README.md::")
    files = {p.relative_to(far) for p in far.rglob("*") if p.is_file()}
    assert Path("README.md") in files and len(list(far.glob("card/*.svg"))) > 5
    assert files == {p.relative_to(folder.path) for p in folder.path.rglob("*") if p.is_file()}
    assert all((far / name).read_bytes() == (folder.path / name).read_bytes() for name in files)
    (far / "manifest.json").unlink()
    with pytest.raises(DataError, match=re.escape("dir://far/manifest.json::file://")):
        write_card(elsewhere(far))
    with pytest.raises(DataError, match="memory://nowhere holds no rows"):
        write_card("memory://nowhere")
