"""The data card says what the shards hold, is the same each time, and never breaks on odd input."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from planted import Folder, clean, elsewhere

from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.card import write_card
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.manifest import Counted, Distinct
from mllm.data_recipes.row import SCHEMA, messages
from mllm.data_recipes.store import Store

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


def built(tmp_path: Path, theory: dict[str, int]) -> Path:
    """A build of a user's own mixture: words only."""
    mixture = tmp_path / "my own.yaml"
    mixture.write_text(yaml.safe_dump({"name": "my own", "seed": 3, "theory": theory}))
    build_mixture(mixture, tmp_path / "built", workers=1)
    return tmp_path / "built"


def test_the_commands_of_the_card_build_a_mixture_of_ones_own_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = built(tmp_path, {"train": 5, "test": 2})
    text = Path(write_card(folder)).read_text()
    commands = text.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert commands[-2:] == ["mllm data build mixture.yaml --output rebuilt", "mllm data check rebuilt"]
    assert "mllm data build my own" not in text
    monkeypatch.chdir(folder)
    python, command = commands[-3].split(" ", 1)
    assert python == "python"
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, check=True)
    again = json.loads(Path(build_mixture("mixture.yaml", "rebuilt", workers=1)).read_text())
    assert again["hash"] == json.loads((folder / "manifest.json").read_text())["hash"]


def test_the_card_of_a_mixture_that_ships_names_it(tiny_build: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_build, folder)
    assert "mllm data build tiny\nmllm data check runs/data/tiny\n```" in Path(write_card(folder)).read_text()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["seed"] += 1  # another mixture of the same name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = Path(write_card(folder)).read_text()
    assert "mllm data build tiny\n" not in text and "mllm data build mixture.yaml" in text


def test_an_empty_build_has_a_card_that_says_so(tmp_path: Path) -> None:
    folder = built(tmp_path, {"train": 3})
    for shard in folder.glob("rows/*.parquet"):
        pq.write_table(pq.read_table(shard)[:0], shard)
    text = Path(write_card(folder)).read_text()
    assert "This build is empty: it has no rows." in text and "pretty_name: my own" in text
    assert "license" not in header(folder / "README.md") and "configs" not in header(folder / "README.md")


def test_a_recording_counts_once_however_many_rows_and_shards_it_has(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "built")
    for i, (sha, source) in enumerate([("a", "tonal"), ("b", "tonal"), ("a", "tonal"), ("a", "ryan"), ("b", "ryan")]):
        folder.add(f"set-{i:02d}", "key", folder_talk(f"clips/{sha}.flac"), split="train", source=source,
                   length=1800.0, sha256=sha * 64, facts={"key": "C major"})  # fmt: skip
    two = [folder_talk("clips/a.flac"), folder_talk("clips/b.flac")]
    folder.add("episode-0", "episode_ordinary", [m for t in two for m in t], split="train", source="episodes",
               length=3600.0, sha256="e" * 64)  # fmt: skip
    folder.add("score-0", "score", folder_talk(""), split="train", sha256="c" * 64)
    rows = folder.rows
    folder.write()
    for number, some in enumerate((rows[:2], rows[2:5], rows[5:])):
        pq.write_table(pa.Table.from_pylist(some, schema=SCHEMA), folder.path / f"rows/train-y-{number:05d}.parquet")
    (folder.path / "rows" / "train-x-00000.parquet").unlink()
    assert "| train | 7 | 2 | 1.00 | 1 |" in Path(write_card(folder.path)).read_text()
    counted = Counted()
    store = Store.at(folder.path)
    for shard in store.names("rows", ".parquet"):
        counted.add(store, shard)
    assert counted.clips == {"train": 2} and counted.seconds == {"train": 3600.0}


def folder_talk(audio: str) -> list[dict]:
    """One question about a recording, or about none."""
    return messages([("Name the key.", "C major")], [audio] if audio else [])


def test_counting_forgets_rather_than_grow() -> None:
    few = Distinct(most=3)
    assert [few.add(name) for name in "abcabc"] == [True] * 3 + [False] * 3
    assert few.add("d") and not few.add("d") and few.add("a")
