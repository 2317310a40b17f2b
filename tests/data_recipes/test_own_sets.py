"""A collection of the user's own: what is wrong in a recipe is said at once, what is wrong in a row is counted."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from adapter_sets import write

from mllm.data_recipes import makers
from mllm.data_recipes.adapters import load_items
from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.check import check
from mllm.data_recipes.config import Recipe
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.row import FACTS, Item
from mllm.weights import cache_dir

RATE = 8000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settings(fields: dict[str, str], files: Any = "rows.jsonl", **more: Any) -> dict[str, Any]:
    about = {"name": "mine", "title": "Mine", "loader": "table", "licence": "cc0", "terms": "my own", "path": "mine"}
    return {**about, "get": "Ask me.", "fields": fields, "options": {"files": files}, **more}


def items(root: Path | str, *of: Any, **more: Any) -> tuple[list[Item], Counter[str]]:
    skipped: Counter[str] = Counter()
    return list(load_items(Recipe.model_validate(settings(*of, **more)), root, None, skipped)), skipped


def noise(seed: int, seconds: float = 1.0, loud: float = 0.1) -> bytes:
    out = io.BytesIO()
    samples = loud * np.random.default_rng(seed).standard_normal(round(RATE * seconds))
    soundfile.write(out, samples.astype(np.float32), RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()


def recordings(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        (folder / f"{n}.wav").write_bytes(noise(n))
    return folder


def build(
    tmp_path: Path, recipe: dict[str, Any], out: str = "out", use: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """The manifest of a build of this one set."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    mixture = {"name": "m", "seed": 1, "sets_dir": str(tmp_path / "sets"), "deduplicate": False, **more}
    mixture["sources"] = [{"recipe": "mine.yaml", **(use or {})}]
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(mixture))
    build_mixture(tmp_path / "m.yaml", tmp_path / out, workers=1)
    return json.loads((tmp_path / out / "manifest.json").read_text())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted(folder.glob("rows/*.parquet")) for row in pq.read_table(shard).to_pylist()]


def everything(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


# Recordings inside a table.


def test_recordings_of_one_id_stay_apart_and_the_users_folder_as_it_is(tmp_path: Path, cache: Path) -> None:
    sounds = [noise(n) for n in range(3)]
    rows = [
        {"id": id, "audio": {"bytes": data, "path": f"{n}.wav"}}
        for n, (id, data) in enumerate(zip(["x/1", "x_1", "x/1"], sounds, strict=True))
    ]
    root = write(tmp_path / "sets" / "mine", {"a.parquet": rows})
    before = everything(root)
    found, skipped = items(tmp_path / "sets", {"id": "id", "audio": "audio"}, "*.parquet")
    assert not skipped and [Path(i.audio).read_bytes() for i in found] == sounds
    assert all(Path(i.audio).is_relative_to(cache) and i.audio.endswith(".wav") for i in found)
    assert all(Path(i.audio).stem == hashlib.sha256(data).hexdigest() for i, data in zip(found, sounds, strict=True))
    assert everything(root) == before and list(root.iterdir()) == [root / "a.parquet"]
    assert not list(cache.rglob("*.part"))


def test_recordings_inside_a_table_of_any_address(tmp_path: Path) -> None:
    data = noise(7)
    write(tmp_path, {"a.parquet": [{"audio": {"bytes": data, "path": None}}]})
    with fsspec.open("memory://embedded/mine/a.parquet", "wb") as file:
        file.write((tmp_path / "a.parquet").read_bytes())
    found, _ = items("memory://embedded", {"audio": "audio"}, "*.parquet")
    assert Path(found[0].audio).read_bytes() == data and Path(found[0].audio).is_relative_to(cache_dir())


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine", {"a.parquet": [{"audio": {"bytes": noise(7), "path": None}}], "file": "no folder"})
    monkeypatch.setenv("MLLM_CACHE", str(tmp_path / "mine" / "file" / "cache"))
    with pytest.raises(DataError, match="Point MLLM_CACHE at a folder"):
        items(tmp_path, {"audio": "audio"}, "*.parquet")


def test_a_build_of_embedded_recordings_does_not_depend_on_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"caption": f"noise {n}", "audio": {"bytes": noise(n), "path": f"{n}.wav"}} for n in range(4)]
    write(tmp_path / "sets" / "mine", {"a.parquet": rows})
    recipe = settings({"audio": "audio", "caption": "caption"}, "*.parquet")
    first = build(tmp_path, recipe, "first")
    monkeypatch.setenv("MLLM_CACHE", str(tmp_path / "other"))
    assert build(tmp_path, recipe, "second")["hash"] == first["hash"]
    built = rows_of(tmp_path / "first")
    assert len({json.loads(row["provenance"])["sha256"] for row in built}) == 4
    assert not any(str(tmp_path) in str(value) for row in built for value in row.values())


def test_rows_of_files_of_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    files = {"train/a.jsonl": [{"t": 1}], "test/a.jsonl": [{"t": 2}], "b.x.jsonl": [{"t": 3}], "b.x.csv": "t\n4\n"}
    write(tmp_path / "mine", files)
    found, _ = items(tmp_path, {"title": "t"}, ["train/*", "test/*", "*.jsonl", "*.csv"])
    assert [i.id for i in found] == ["train/a-0", "test/a-0", "b.x-0", "b.x.csv-0"]


# Values and their types.


@pytest.mark.parametrize(
    "fact, value, is_",
    [
        *[("drums", value, False) for value in ("no", "0", "False", "n", "No", 0, False, 0.0, "off")],
        *[("drums", value, True) for value in ("yes", "1", "TRUE", "y", 1, True)],
        ("genre", ["rock"], "rock"), ("genre", ["rock", "pop"], "rock and pop"),
        ("genre", "['rock', 'pop']", "rock and pop"), ("composer", ["A", "B"], "A and B"),
        ("tags", "['rock', 'pop']", ["rock", "pop"]), ("tags", '["rock", null]', ["rock"]), ("tags", "rock", ["rock"]),
        ("mood", ["calm", "", None], ["calm"]), ("instruments", "['piano']", ["piano"]),
        ("metre", " 3 / 4", "3/4"), ("tempo", "120", 120.0), ("pitch", "60", 60), ("title", 1999, "1999"),
        ("chords", [[2, 3, "G"], [0, 2, "C"]], [[0.0, 2.0, "C"], [2.0, 3.0, "G"]]), ("beats", "[0.5, 1]", [0.5, 1.0]),
        ("sections", [{"start": 0, "end": "2", "label": 1}], [{"start": 0.0, "end": 2.0, "label": "1"}]),
        ("sections", [[0, 2, "A"]], [{"start": 0.0, "end": 2.0, "label": "A"}]),
        ("lowest", "Bb3", "Bb3"), ("contour", "ascending", "ascending"), ("first_notes", ["G", "Bb"], ["G", "Bb"]),
        ("recorded", {"year": 1999}, {"year": 1999}),
    ],
)  # fmt: skip
def test_a_value_takes_the_type_of_its_fact(tmp_path: Path, fact: str, value: Any, is_: Any) -> None:
    write(tmp_path / "mine", {"rows.jsonl": [{"v": value}]})
    found, skipped = items(tmp_path, {fact: "v"})
    assert not skipped and found[0].facts[fact] == is_ and type(found[0].facts[fact]) is type(is_)


WRONG = [
    ("drums", "maybe"), ("drums", 2), ("drums", ["yes"]), ("genre", 3), ("genre", {"name": "rock"}),
    ("genre", [["rock"]]),
    ("tags", {"rock": 1}), ("tags", [{"name": "rock"}]), ("tags", "['rock' 'pop']"), ("tags", "[rock"), ("tags", True),
    ("mood", [["calm"]]), ("instruments", {"piano": 1}), ("metre", 4), ("metre", "four"), ("metre", ["4/4"]),
    ("chords", "C G"), ("chords", ["C"]), ("chords", [[0, 1]]), ("chords", [[1, 0, "C"]]), ("chords", [[0, 1, None]]),
    ("beats", "x"), ("beats", 5), ("beats", [[0.5, 1]]), ("beats", ["a"]), ("sections", 5), ("sections", ["A"]),
    ("sections", [{"start": 0, "end": 1}]), ("sections", [{"start": 0, "end": 1, "label": "A", "key": 3}]),
    ("lowest", 60), ("highest", "high"), ("key", 3), ("key", ["C"]), ("key", "H major"), ("tempo", True),
    ("tempo", [120]),
    ("tempo", 0), ("tempo", 1e9), ("notes", "C"), ("notes", [[0, 1, 200]]), ("notes", [[0, 1]]), ("pitch", 60.5),
    ("pitch", 128), ("bars", "x"), ("bars", 2.5), ("bars", -1), ("contour", "wavy"), ("first_notes", "G A B"),
    ("first_notes", [1, 2, 3]), ("texture", "thick"), ("roman", "I V"), ("roman", [[1, 1, "C"]]),
    ("title", {"en": "T"}),
    ("composer", 5), ("caption", {"en": "T"}), ("caption", ["one", "two"]), ("seconds", -1), ("valence", 2),
    ("arousal", "x"),
    ("start", -1), ("end", "late"), ("id", [1]), ("work", {"a": 1}), ("url", ["u"]),
]  # fmt: skip


def test_every_fact_has_a_wrong_value_here() -> None:
    assert {fact for fact, _ in WRONG} >= set(FACTS)


@pytest.mark.parametrize("fact, value", WRONG)
def test_a_value_of_a_wrong_type_is_an_unusable_field(tmp_path: Path, fact: str, value: Any) -> None:
    write(tmp_path / "mine", {"rows.jsonl": [{"v": value}]})
    assert items(tmp_path, {fact: "v"}) == ([], {f"unusable field {fact}": 1})
    found, skipped = items(tmp_path, {fact: "v ?"})
    assert len(found) == 1 and fact not in found[0].facts and skipped == {f"unusable field {fact}, left out": 1}


def test_a_build_goes_through_wrong_values_of_every_kind(tmp_path: Path) -> None:
    recordings(tmp_path / "sets" / "mine", 1)
    rows = [
        {"f": "0.wav", "caption": "a noise", fact: value}
        for fact, value in WRONG
        if fact in FACTS and fact != "caption"
    ]
    write(tmp_path / "sets" / "mine", {"rows.jsonl": rows})
    fields = {name: f"{name} ?" for name in FACTS} | {"audio": "f", "caption": "caption"}
    manifest = build(tmp_path, settings(fields))
    skips = manifest["skipped_in_clips"]
    assert sum(skips.values()) == len(rows) and all("left out" in why for why in skips), skips
    assert len({json.loads(row["provenance"])["source_id"] for row in rows_of(tmp_path / "out")}) == len(rows)


def test_an_error_of_ours_costs_one_item_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings(tmp_path / "sets" / "mine", 2)
    write(tmp_path / "sets" / "mine", {"rows.jsonl": [{"f": f"{n}.wav", "c": f"noise {n}"} for n in range(2)]})
    drawn = makers.known

    def broken(facts: dict[str, Any]) -> dict[str, Any]:
        if facts["caption"] == "noise 0":
            raise TypeError("a bug")
        return drawn(facts)

    monkeypatch.setattr(makers, "known", broken)
    manifest = build(tmp_path, settings({"id": "f", "audio": "f", "caption": "c"}))
    assert manifest["skipped_in_clips"] == {"mine: error in a maker: TypeError: a bug": 1}
    assert {json.loads(row["provenance"])["source_id"] for row in rows_of(tmp_path / "out")} == {"1.wav"}
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 1


# Recipes that do not fit their set.


@pytest.mark.parametrize("files", ["nowhere/*.csv", {"train": "rows.jsonl", "test": "nowhere/*.csv"}])
def test_a_pattern_without_a_file_is_named_with_its_folder(tmp_path: Path, files: Any) -> None:
    write(tmp_path / "sets" / "mine", {"rows.jsonl": [{"t": "x"}]})
    with pytest.raises(DataError) as caught:
        build(tmp_path, settings({"title": "t"}, files))
    assert f"'nowhere/*.csv' in {tmp_path / 'sets' / 'mine'}" in str(caught.value) and "Ask me." in str(caught.value)


@pytest.mark.parametrize(
    "loader, files, more",
    [("score_folder", "*.mid", {}), ("hub", {"train": "a.jsonl", "test": "b.jsonl"}, {"repo": "no/such"})],
)
def test_so_it_is_for_other_loaders(tmp_path: Path, loader: str, files: Any, more: dict[str, str]) -> None:
    write(tmp_path / "mine", {"a.jsonl": [{"t": "x"}]})
    with pytest.raises(DataError, match="no file matches"):
        items(tmp_path, {"title": "t"}, loader=loader, options={"files": files, **more})


@pytest.mark.parametrize("field", ["captoin", "captoin.text", "{captoin}: {file}", "captoin | lower"])
def test_a_misspelt_column_is_named_with_the_nearest(tmp_path: Path, field: str) -> None:
    recordings(tmp_path / "sets" / "mine", 1)
    write(tmp_path / "sets" / "mine", {"rows.jsonl": [{"file": "0.wav", "caption": "a noise", "more": 1}]})
    with pytest.raises(DataError) as caught:
        build(tmp_path, settings({"audio": "file", "caption": field}))
    text = str(caught.value)
    assert "fields.caption names the column 'captoin'" in text and "did you mean 'caption'?" in text
    assert "file, caption, more" in text


def test_a_misspelt_column_of_the_split_or_of_keep_is_named_too(tmp_path: Path) -> None:
    write(tmp_path / "mine", {"rows.jsonl": [{"t": "x", "split": "test"}]})
    with pytest.raises(DataError, match="split.column names the column 'spilt'.* did you mean 'split'"):
        items(tmp_path, {"title": "t"}, split={"column": "spilt"})
    with pytest.raises(DataError, match="keep.*'tt'.* did you mean 't'"):
        items(tmp_path, {"title": "t"}, options={"files": "rows.jsonl", "keep": {"tt": "x"}})


def test_columns_that_only_some_rows_have_are_no_mistake(tmp_path: Path) -> None:
    write(tmp_path / "mine", {"rows.jsonl": [{"a": 1}, {"t": "x"}, {"n.m": "y", "t": "z"}]})
    assert [i.facts["title"] for i in items(tmp_path, {"title": "t"})[0]] == ["x", "z"]
    assert [i.facts["title"] for i in items(tmp_path, {"title": "n.m"})[0]] == ["y"]


def test_a_misspelt_column_of_an_optional_field_is_told(tmp_path: Path) -> None:
    write(tmp_path / "mine", {"rows.jsonl": [{"t": "x", "caption": "y", "more": 1}]})
    found, skipped = items(tmp_path, {"title": "t", "caption": "captoin?", "tempo": "more?"})
    assert len(found) == 1
    reason = "fields.caption: no row has the column 'captoin' (did you mean 'caption'?), left out"
    assert [why for why in skipped if "no row has" in why] == [reason]


def test_a_set_that_gives_nothing_says_why(tmp_path: Path) -> None:
    rows = [{"f": "a.wav"}, {"f": "b.wav"}, {"f": "../c.wav"}]
    write(tmp_path / "sets" / "mine", {"rows.jsonl": rows})
    with pytest.raises(DataError, match=r"mine: no item .* missing file \(.wav\) \(2 times\), file outside"):
        build(tmp_path, settings({"audio": "f"}))
    write(tmp_path / "sets" / "mine", {"rows.jsonl": ""})
    with pytest.raises(DataError, match="mine: no item of the set can be used"):
        build(tmp_path, settings({"audio": "f"}), "empty")


@pytest.mark.parametrize("licence, why", [("CC BY-NC 4.0", "cc-by-nc-4.0"), ("ask me", "unknown licence")])
def test_a_set_that_is_refused_as_a_whole_is_left_out_with_the_reason(tmp_path: Path, licence: str, why: str) -> None:
    write(tmp_path / "sets" / "mine", {"rows.jsonl": [{"q": "What?", "a": "That.", "l": licence}]})
    fields = {"question": "q", "answer": "a", "licence": "l"}
    recipe = settings(fields, licence="per-track")
    manifest = build(tmp_path, recipe, theory={"train": 1})
    assert why in manifest["left_out"]["mine"] and set(manifest["rows_by_source"]) == {"theory"}
    with pytest.raises(DataError, match=why):
        build(tmp_path, recipe, "nothing else")


def test_thinning_to_nothing_is_no_error(tmp_path: Path) -> None:
    write(tmp_path / "sets" / "mine", {"rows.jsonl": [{"q": "What?", "a": "That."}]})
    manifest = build(tmp_path, settings({"question": "q", "answer": "a"}), use={"weight": 1e-9}, theory={"train": 1})
    assert set(manifest["rows_by_source"]) == {"theory"} and not manifest["left_out"]


# Splits.


def test_the_usual_names_of_splits_are_known_in_any_case(tmp_path: Path) -> None:
    names = {
        "train": ["train", "Training", "TR", " train "],
        "validation": ["valid", "Val", "dev", "va", "VALIDATION"],
        "test": ["Test", "testing", "te", "eval", "Evaluation"],
    }
    rows = [{"s": theirs, "is": ours} for ours, many in names.items() for theirs in many]
    write(tmp_path / "mine", {"rows.jsonl": rows})
    found, _ = items(tmp_path, {"title": "is"}, split={"column": "s"})
    assert [i.split for i in found] == [row["is"] for row in rows]


@pytest.mark.parametrize("values", [{}, {"train": "train"}])
def test_an_unknown_split_is_never_guessed(tmp_path: Path, values: dict[str, str]) -> None:
    sets = tmp_path / "sets"
    write(sets / "mine", {"rows.jsonl": [{"t": "x", "s": "train"}, {"t": "y", "s": "public"}]})
    rule = {"column": "s", "values": values}
    with pytest.raises(DataError, match=r"the split 'public' .* values: \{public: SPLIT\}\}.*skip"):
        items(sets, {"title": "t"}, split=rule)
    with pytest.raises(DataError, match="'public'"):
        build(tmp_path, settings({"question": "t", "answer": "s"}, split=rule))
    found, skipped = items(sets, {"title": "t"}, split={"column": "s", "values": {"Public": "skip"}})
    assert [i.split for i in found] == ["train"] and skipped == {"split public left out": 1}
    assert [i.split for i in items(sets, {"title": "t"}, split={"column": "s", "values": {"*": "test"}})[0]] == [
        "test"
    ] * 2


def test_a_split_that_is_mapped_to_none_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "mine", {"rows.jsonl": [{"t": "x", "s": "train"}]})
    with pytest.raises((DataError, ValueError), match="trian"):
        items(tmp_path, {"title": "t"}, split={"column": "s", "values": {"train": "trian"}})
    with pytest.raises(DataError, match="'trian' is no split"):
        items(tmp_path, {"title": "t"}, {"trian": "rows.jsonl"})


def test_no_split_means_by_the_hash_and_an_unusable_one_no_item(tmp_path: Path) -> None:
    write(
        tmp_path / "mine",
        {"rows.jsonl": [{"t": "x"}, {"t": "y", "s": ""}, {"t": "z", "s": ["test"]}, {"t": "w", "s": True}]},
    )
    found, skipped = items(tmp_path, {"title": "t"}, split={"column": "s", "values": {"true": "test"}})
    assert [(i.facts["title"], i.split) for i in found] == [("x", ""), ("y", ""), ("w", "test")]
    assert skipped == {"unusable field split": 1}
    found, skipped = items(tmp_path, {"title": "t"}, split={"column": "s | match ^te", "values": {"te": "test"}})
    assert [i.facts["title"] for i in found] == ["x", "y"] and skipped == {"unusable field split": 2}


def test_a_work_that_its_source_divides_is_found_by_the_check(tmp_path: Path) -> None:
    recordings(tmp_path / "sets" / "mine", 2)
    rows = [{"f": f"{n}.wav", "c": f"noise {n}", "s": s, "w": "one"} for n, s in enumerate(("train", "test"))]
    write(tmp_path / "sets" / "mine", {"rows.jsonl": rows})
    build(tmp_path, settings({"audio": "f", "caption": "c", "work": "w"}, split={"column": "s"}))
    assert check(tmp_path / "out", workers=1).faults["work"].count


# Recordings that nothing can be said of.


def test_what_cannot_be_heard_gives_no_row(tmp_path: Path) -> None:
    mine = recordings(tmp_path / "sets" / "mine", 1)
    (mine / "silent.wav").write_bytes(noise(0, loud=0))
    (mine / "faint.wav").write_bytes(noise(0, loud=1e-6))
    (mine / "nan.wav").write_bytes(noise(0, loud=float("nan")))
    (mine / "short.wav").write_bytes(noise(0, seconds=0.05))
    late = np.concatenate([np.zeros(2 * RATE), 0.1 * np.ones(RATE)])
    soundfile.write(mine / "late.wav", late, RATE)
    rows = [{"f": f"{name}.wav", "k": "C major"} for name in ("0", "silent", "faint", "nan", "short")]
    rows += [{"f": "late.wav", "k": "C major", "a": 0, "e": 1.5}, {"f": "late.wav", "k": "C major", "a": 1.5, "e": 3}]
    write(mine, {"rows.jsonl": rows})
    fields = {"id": "{f}", "audio": "f", "key": "k", "start": "a ?", "end": "e ?"}
    manifest = build(tmp_path, settings(fields))
    assert {json.loads(row["provenance"])["source_id"] for row in rows_of(tmp_path / "out")} == {"0.wav", "late.wav#2"}
    skips = manifest["skipped_in_clips"]
    assert skips.pop("mine: silent") == 3
    assert sorted(" ".join(skips).count(word) for word in ("NaN", "0.05 s of sound")) == [1, 1] and len(skips) == 2


def test_what_ends_before_it_starts_is_skipped(tmp_path: Path) -> None:
    write(tmp_path / "mine", {"rows.jsonl": [{"a": 5, "e": 3}, {"a": 5, "e": 5}, {"a": 5, "e": 0}, {"a": 5, "e": 6}]})
    found, skipped = items(tmp_path, {"start": "a", "end": "e"})
    assert [(i.start, i.end) for i in found] == [(5, 0), (5, 6)] and skipped == {"end is not after start": 2}
