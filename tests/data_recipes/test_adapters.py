"""Every recipe of a public set reads a miniature of that set; what is broken in a set is counted, not fatal."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fsspec
import pytest
from adapter_sets import ABC, SETS, WAV, write

from mllm.data_recipes import adapters_sources
from mllm.data_recipes.adapters import ADAPTERS, load_items
from mllm.data_recipes.adapters_fields import key_name
from mllm.data_recipes.config import HERE, Recipe, SplitRule, load_recipe
from mllm.data_recipes.licences import DataError, family
from mllm.data_recipes.row import Item

RECIPES = sorted(p.stem for p in (HERE / "recipes").glob("*.yaml"))
PUBLIC = [name for name in RECIPES if load_recipe(name).loader in ADAPTERS]


def recipe(loader: str = "table", licence: str = "cc0", split: SplitRule | None = None, **more: object) -> Recipe:
    return Recipe.model_validate(
        {"name": "mine", "title": "Mine", "loader": loader, "licence": licence, "terms": "t", "get": "Get it there.",
         "split": split or SplitRule(), "url": "https://example.org", **more}
    )  # fmt: skip


def items(of: Recipe, root: object, limit: int | None = None) -> tuple[list[Item], Counter[str]]:
    skipped: Counter[str] = Counter()
    return list(load_items(of, str(root), limit, skipped)), skipped


def test_every_public_set_has_a_miniature() -> None:
    assert set(SETS) == set(PUBLIC)


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_recipe_reads_its_set(name: str, tmp_path: Path) -> None:
    files, attributes, facts, talk = SETS[name]
    found, skipped = items(load_recipe(name), write(tmp_path, files))
    assert found, skipped
    item = found[0]
    assert {k: getattr(item, k) for k in attributes} == attributes
    assert {k: item.facts.get(k) for k in facts} == facts
    assert family(item.licence) and item.url.startswith("http") and item.work
    sound = [content for content in files.values() if content is WAV]
    assert bool(item.audio) == bool(sound)
    assert not item.audio or Path(item.audio).is_file()
    if load_recipe(name).loader == "score_folder":
        assert item.score.startswith("X:")
    if talk is None:
        assert item.messages == []
        return
    question, answer = item.messages
    parts = [{"type": "audio", "audio": item.audio}] if item.audio else []
    assert question == {"role": "user", "content": [*parts, {"type": "text", "text": talk[0]}]}
    assert answer == {"role": "assistant", "content": talk[1]}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_recipe_is_small_and_complete(name: str) -> None:
    mine = load_recipe(name)
    assert len((HERE / "recipes" / f"{name}.yaml").read_text().splitlines()) <= 60
    assert mine.name == name and mine.fields and mine.options
    for field in (mine.title, mine.url, mine.licence, mine.terms, mine.citation, mine.size, mine.get):
        assert field.strip()


def test_what_is_refused_by_name_has_no_recipe_and_no_way_in(tmp_path: Path) -> None:
    for name in ("thesession", "irishman", "folkrnn"):
        assert name not in RECIPES
        with pytest.raises(DataError, match="refused"):
            load_recipe(name)
    files = {"a.jsonl": [{"id": 1, "src": "IrishMAN"}, {"id": 2, "src": "own"}]}
    found, skipped = items(
        recipe(fields={"id": "id", "origin": "src"}, options={"files": "a.jsonl"}), write(tmp_path, files)
    )
    assert [i.id for i in found] == ["2"] and skipped == {"forbidden source": 1}
    tune = ABC.replace("M:6/8", "S:https://thesession.org/tunes/1\nM:6/8")
    wikimt = {"wikimusictext.jsonl": [{**SETS["wikimt"][0]["wikimusictext.jsonl"][0], "music": tune}]}
    assert items(load_recipe("wikimt"), write(tmp_path, wikimt)) == ([], {"forbidden source": 1})


def test_musicpile_leaves_the_refused_part_out(tmp_path: Path) -> None:
    found, skipped = items(load_recipe("musicpile"), write(tmp_path, SETS["musicpile"][0]))
    assert [i.facts["origin"] for i in found] == ["kern"] and skipped == {"src not wanted": 1}


def test_a_book_of_tunes_gives_every_tune(tmp_path: Path) -> None:
    found, _ = items(load_recipe("nottingham"), write(tmp_path, SETS["nottingham"][0]))
    assert [(i.id, i.facts["key"]) for i in found] == [
        ("ABC_cleaned/jigs-1", "G major"), ("ABC_cleaned/jigs-2", "E minor")]  # fmt: skip


@pytest.mark.parametrize("name", ["musiccaps", "ballroom", "nottingham", "deam"])
def test_a_set_that_is_not_there_says_what_to_download(name: str, tmp_path: Path) -> None:
    if load_recipe(name).loader == "hub":
        return_to = tmp_path / "audio-only"
        return_to.mkdir()
        code = (
            "from mllm.data_recipes.adapters import load_items\nfrom mllm.data_recipes.config import load_recipe\n"
            f"list(load_items(load_recipe({name!r}), {str(return_to)!r}))"
        )
        env = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        message = done.stderr.splitlines()[-1]
        assert "Absent" in message and "no copy in" in message and "Put musiccaps-public.csv" in message
        return
    with pytest.raises(DataError) as caught:
        items(load_recipe(name), tmp_path / "none")
    assert load_recipe(name).get in str(caught.value) and "\n" not in str(caught.value)


def test_an_absent_index_of_mirdata_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"initialize\('ballroom'\)\.download\(\['index'\]\)"):
        items(load_recipe("ballroom"), write(tmp_path, {"B/Waltz/1.wav": WAV}))


def test_an_unknown_loader_and_an_unknown_filter_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown loader 'magic'"):
        items(recipe("magic"), tmp_path)
    with pytest.raises(DataError, match="unknown filter 'shout'"):
        items(recipe(fields={"title": "t | shout"}), tmp_path)
    with pytest.raises(DataError, match="leaves the root"):
        items(recipe(path="../other"), tmp_path)


def test_broken_rows_are_counted_and_the_others_come(tmp_path: Path) -> None:
    lines = (
        '{"f": "a.wav", "l": "CC BY 4.0", "t": 100}\n{"f": "a.wav", \n[1]\n{"f": "../../etc/passwd", "l": "cc0"}\n'
        '{"f": "/etc/passwd", "l": "cc0"}\n{"f": "https://x.org/a.wav", "l": "cc0"}\n{"f": "gone.wav", "l": "cc0"}\n'
        '{"l": "cc0"}\n{"f": "a.wav", "l": "ask me"}\n{"f": "a.wav", "l": "cc0", "t": "quick"}\n'
    )
    root = write(tmp_path / "set", {"a.jsonl": lines, "a.wav": WAV})
    mine = recipe(
        licence="per-track", fields={"audio": "f", "licence": "l", "tempo": "t ?"}, options={"files": "*.jsonl"}
    )
    found, skipped = items(mine, root)
    assert [(i.licence, i.facts) for i in found] == [("cc-by-4.0", {"tempo": 100.0}), ("cc0", {})]
    assert skipped == {
        "corrupt line": 2, "file outside the folder": 3, "missing file (.wav)": 1, "missing field audio": 1,
        "unknown licence": 1, "unusable field tempo, left out": 1,
    }  # fmt: skip


def test_a_link_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"a.wav": WAV}) / "a.wav"
    root = write(tmp_path / "set", {"a.jsonl": [{"f": "a.wav"}]})
    (root / "a.wav").symlink_to(outside)
    found, skipped = items(recipe(fields={"audio": "f"}, options={"files": "a.jsonl"}), root)
    assert found == [] and skipped == {"file outside the folder": 1}


def test_a_corrupt_line_of_a_csv_and_a_corrupt_parquet_are_counted(tmp_path: Path) -> None:
    files = {"a.csv": "id,t\n007,x\n8\n9,y,z\n10,w\n", "b.parquet": [{"id": "1", "t": "z"}], "c.parquet": []}
    root = write(tmp_path, {k: v for k, v in files.items() if k != "c.parquet"})
    (root / "c.parquet").write_bytes(b"PAR1 not really")
    mine = recipe(fields={"id": "id", "title": "t"}, options={"files": ["*.csv", "*.parquet"]})
    found, skipped = items(mine, root)
    assert [(i.id, i.facts["title"]) for i in found] == [("007", "x"), ("10", "w"), ("1", "z")]
    assert skipped == {"corrupt line": 2, "unreadable file: c": 1}


def test_a_damaged_annotation_of_mirdata_costs_only_its_track(tmp_path: Path) -> None:
    files = dict(SETS["ballroom"][0])
    tracks = files["ballroom_full_index_1.0.json"]["tracks"]
    more = {**tracks, "2": {**tracks["1"], "tempo": ["2.bpm", "0"]}, "3": {**tracks["1"], "tempo": ["gone", "0"]}}
    files["ballroom_full_index_1.0.json"] = {"version": "1.0", "tracks": more}
    found, skipped = items(load_recipe("ballroom"), write(tmp_path, {**files, "2.bpm": "quick\n"}))
    assert [i.id for i in found] == ["1"]
    assert skipped == {"unreadable annotation tempo": 1, "missing field tempo": 1}


def test_an_index_of_mirdata_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    files = dict(SETS["ballroom"][0])
    paths = {**files["ballroom_full_index_1.0.json"]["tracks"]["1"], "beats": ["../1.beats", "0"]}
    files["ballroom_full_index_1.0.json"] = {"version": "1.0", "tracks": {"1": paths}}
    found, skipped = items(load_recipe("ballroom"), write(tmp_path / "set", files))
    assert found == [] and skipped == {"file outside the folder": 1}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_read_element_by_element(tmp_path: Path, indent: int | None) -> None:
    rows = [{"t": f"{n} é ]}}", "long": "x" * (200_000 if n == 3 else 30_000)} for n in range(6)]
    mine = recipe(fields={"title": "t"}, options={"files": "rows.json"})
    text = json.dumps([*rows, 12, None], indent=indent)
    root = write(tmp_path, {"rows.json": text})
    found, skipped = items(mine, root)
    assert [i.facts["title"] for i in found] == [row["t"] for row in rows] and skipped == {"corrupt line": 2}
    write(tmp_path, {"rows.json": text[: len(text) // 2]})
    found, skipped = items(mine, root)
    assert [i.facts["title"] for i in found] == [row["t"] for row in rows[:3]], "what stands before the break"
    assert skipped == {"file breaks off: rows": 1}


def test_a_damaged_json_file_is_counted_and_the_next_is_read(tmp_path: Path) -> None:
    root = write(tmp_path, {"a.json": '[{"id": 1}, {"id"', "b.json": '[{"id', "c.json": [{"id": 2}]})
    found, skipped = items(recipe(fields={"id": "id"}, options={"files": "*.json"}), root)
    assert [i.id for i in found] == ["1", "2"]
    assert skipped == {"file breaks off: a": 1, "unreadable file: b": 1}


@pytest.mark.parametrize(
    "talk",
    [[], [{"from": "human", "value": "?"}], [{"from": "gpt", "value": "!"}, {"from": "human", "value": "?"}], ["?"]],
)
def test_a_malformed_conversation_is_counted(talk: list, tmp_path: Path) -> None:
    root = write(tmp_path, {"a.jsonl": [{"c": talk or None}]})
    found, skipped = items(recipe(fields={"conversations": "c"}, options={"files": "a.jsonl"}), root)
    assert found == [] and sum(skipped.values()) == 1


def test_a_table_streams_from_any_address_and_stops_at_the_limit() -> None:
    with fsspec.open("memory://sets/mine/a.jsonl", "w") as file:
        file.write("".join(f'{{"id": {i}, "f": "{i}.wav", "s": "dev"}}\n' for i in range(1000)))
    mine = recipe(
        path="mine", fields={"id": "id", "audio": "f"}, options={"files": "*.jsonl"}, split=SplitRule(column="s")
    )
    found, _ = items(mine, "memory://sets", limit=3)
    assert [(i.id, i.audio, i.split) for i in found] == [
        (str(n), f"memory://sets/mine/{n}.wav", "validation") for n in range(3)
    ]


def test_the_same_set_gives_the_same_items(tmp_path: Path) -> None:
    for name in ("musiccaps", "nottingham", "guitarset"):
        root = write(tmp_path / name, SETS[name][0])
        assert items(load_recipe(name), root) == items(load_recipe(name), root)


@pytest.mark.parametrize(
    "text, name",
    [("F#:min", "F# minor"), ("f# minor", "F# minor"), ("Gbm", "Gb minor"), ("C", "C major"), ("a", "A minor"),
     ("Eb:mixolydian", "Eb mixolydian"), ("D major\n", "D major"), ("Gb:maj", "Gb major")],
)  # fmt: skip
def test_keys_get_one_spelling(text: str, name: str) -> None:
    assert key_name(text) == name


@pytest.mark.parametrize("text", ["", "H major", "none", "C:modal", "12"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        key_name(text)


@pytest.mark.parametrize("ending, content", [("jsonl", [{"t": "x"}]), ("csv", "t\nx\n"), ("json", [{"t": "x"}]),
                                             ("parquet", [{"t": "x"}])])  # fmt: skip
def test_names_may_hold_what_a_pattern_means_by_something(tmp_path: Path, ending: str, content: object) -> None:
    write(tmp_path / "my [set] 1?", {f"songs [live]*.{ending}": content})
    found, skipped = items(recipe(fields={"title": "t"}, options={"files": f"*.{ending}"}), tmp_path / "my [set] 1?")
    assert [item.facts["title"] for item in found] == ["x"] and not skipped


def test_memory_that_runs_out_is_not_taken_for_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(address: str, source: object) -> object:
        raise MemoryError

    monkeypatch.setitem(adapters_sources._READERS, ".jsonl", full)
    write(tmp_path, {"a.jsonl": [{"t": "x"}]})
    with pytest.raises(MemoryError):
        items(recipe(fields={"title": "t"}, options={"files": "*.jsonl"}), tmp_path)


def test_values_of_a_list_in_json_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"t": "x"}, {"t": 3}, {"t": "2020-01-01"}, {"t": "007", "more": [1, "a"]}, "no object"]
    write(tmp_path, {"a.json": rows})
    found, skipped = items(recipe(fields={"title": "t", "more": "more ?"}, options={"files": "*.json"}), tmp_path)
    assert [item.facts["title"] for item in found] == ["x", "3", "2020-01-01", "007"]
    assert found[3].facts["more"] == [1, "a"] and skipped == {"corrupt line": 1}


def test_a_text_in_another_encoding_is_counted_and_never_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("t,q\nGrüße,Gruß\nx,Gruß\n".encode("cp1252"))
    options = {"files": "*.csv"}
    found, skipped = items(recipe(fields={"title": "t ?", "caption": "q ?"}, options=options), tmp_path)
    assert [item.facts for item in found] == [{}, {"title": "x"}] and skipped == {"text that is not UTF-8, left out": 3}
    assert items(recipe(fields={"caption": "t"}, options=options), tmp_path)[1] == {"text that is not UTF-8": 1}
