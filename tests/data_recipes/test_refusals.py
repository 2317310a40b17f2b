"""Sources that may not be used and configurations that cannot work are refused with one clear line."""

import math
import shutil
from pathlib import Path

import pytest
import yaml

from mllm.data_recipes.adapters import ADAPTERS
from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.config import HERE, DataError, find_soundfont, load_mixture, load_recipe
from mllm.data_recipes.licences import normalise
from mllm.data_recipes.options import OPTIONS
from mllm.data_recipes.sources import ITEMS, JOBS, collect


def mixture_file(tmp_path: Path, **changes: object) -> Path:
    content = yaml.safe_load((HERE / "mixtures" / "tiny.yaml").read_text()) | changes
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", ["thesession", "The Session", "IrishMAN", "folk-rnn"])
def test_forbidden_sources_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="refused"):
        load_mixture(mixture_file(tmp_path, sources=[{"recipe": name, "weight": 1.0}]))


@pytest.mark.parametrize(
    "field, value",
    [
        ("path", "irishman"),
        ("url", "https://huggingface.co/datasets/sander-wood/irishman"),
        ("title", "tunes from TheSession"),
        ("terms", "https://thesession.org/tunes - CC BY 4.0"),
    ],
)
def test_a_recipe_cannot_hide_a_forbidden_source(tmp_path: Path, field: str, value: str) -> None:
    recipe = {
        "name": "mine",
        "title": "t",
        "loader": "music21_abc",
        "licence": "cc0-1.0",
        "terms": "none",
        field: value,
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(DataError, match="refused"):
        load_recipe("mine", tmp_path)


def recipe_file(tmp_path: Path, **changes: object) -> Path:
    recipe = {"name": "mine", "title": "t", "loader": "table", "licence": "cc0", "terms": "none"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe | changes))
    return tmp_path / "mine.yaml"


@pytest.mark.parametrize("licence", ["CC BY 4.0 for research only", "ask my uncle", "unknown", "", "cc-by-nc-xx"])
def test_a_recipe_says_its_licence_by_a_known_name(tmp_path: Path, licence: str) -> None:
    recipe_file(tmp_path, licence=licence)
    with pytest.raises(DataError, match=r"mine.yaml: licence: licence .* is not one that we know"):
        load_recipe("mine", tmp_path)


@pytest.mark.parametrize(
    "text, name", [("CC BY-NC 4.0", "cc-by-nc-4.0"), ("Apache-2.0", "apache-2.0"), ("per-track", "per-track")]
)
def test_a_recipe_may_say_its_licence_as_people_write_it(tmp_path: Path, text: str, name: str) -> None:
    recipe_file(tmp_path, licence=text, fields={"licence": "l"})
    assert load_recipe("mine", tmp_path).licence == name


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"options": {"file": "a.csv"}}, "options: unknown key 'file': did you mean 'files'?"),
        ({"loader": "tabel"}, "unknown loader 'tabel': did you mean 'table'?"),
        ({"loader": "hub", "options": {"files": "a.csv", "repro": "a/b"}}, "did you mean 'repo'?"),
        ({"loader": "hub", "options": {"files": "a.csv"}}, "options: repo: Field required"),
        ({"loader": "mirdata", "options": {"dataset": "gtzan", "of": "things"}}, "options: of"),
        ({"loader": "midi_folder", "options": {"excerpt": 3}}, "did you mean 'excerpts'?"),
        ({"loader": "openewld", "options": {"files": ["*"]}}, "unknown key 'files'"),
        ({"options": {"join": {"files": "b.csv", "by": ["a", "b"], "takes": []}}}, "did you mean 'take'?"),
        ({"options": {"files": "a.csv", "keep": {"title": "("}}}, "keep.title"),
        ({"fields": {"id": "name", "tmepo": "bpm"}}, "fields.tmepo: did you mean 'tempo'?"),
        ({"fields": {"id": "name | match ("}}, "fields.id: 'name | match (' cannot be read"),
        ({"fields": {"id": "name | mach x"}}, "unknown filter 'mach'"),
        ({"split": {"column": "s | match [", "values": {"a": "train"}}}, "split.column"),
        ({"split": {"column": "s", "values": {"dev": "valid"}}}, "split.values.dev"),
        (
            {"licence": "per-track"},
            "licence: per-track means that every item has its own: say where in `fields.licence`",
        ),
        ({"tasks": ["instrumnt"]}, "tasks: no maker asks 'instrumnt': did you mean 'instrument'?"),
    ],
)
def test_a_recipe_with_a_name_or_pattern_that_is_none_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    recipe_file(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        load_recipe("mine", tmp_path)
    assert words in str(caught.value) and "mine.yaml: " in str(caught.value) and "\n" not in str(caught.value)


def test_every_loader_says_which_options_it_knows() -> None:
    assert set(OPTIONS) == {*ADAPTERS, *ITEMS, *JOBS, "tonal"}


@pytest.mark.parametrize(
    "allowed, refused",
    [
        (None, True),
        (["cc-by-nc"], False),
        (["cc-by-nc-4.0"], False),
        (["cc-by-nc-3.0"], True),
        (["cc-by", "cc0"], True),
    ],
)
def test_a_mixture_lets_in_only_the_licences_it_allows(
    tmp_path: Path, allowed: list[str] | None, refused: bool
) -> None:
    recipe = {"name": "mine", "title": "t", "loader": "table", "licence": "cc-by-nc-4.0", "terms": "none"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    changes = {"sources": [{"recipe": "mine.yaml"}]} | ({"allow_licences": allowed} if allowed else {})
    path = mixture_file(tmp_path, **changes)
    if refused:
        with pytest.raises(DataError, match="not among those allowed"):
            load_mixture(path)
    else:
        assert load_mixture(path).sources


def test_essen_is_refused_for_what_its_own_file_says(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="non-commercial is not among those allowed"):
        load_mixture(mixture_file(tmp_path, sources=[{"recipe": "essen", "weight": 1.0}]))


@pytest.mark.parametrize(
    "text, name",
    [
        ("http://creativecommons.org/licenses/by-nc-sa/3.0/us/", "cc-by-nc-sa-3.0"),
        ("CC BY-SA 4.0", "cc-by-sa-4.0"),
        ("Attribution-NonCommercial-ShareAlike 3.0 International", "cc-by-nc-sa-3.0"),
        ("cc_by_nc", "cc-by-nc"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("Public Domain", "public-domain"),
        ("Apache-2.0", "apache-2.0"),
        ("Attribution-No Derivative Works 3.0", "cc-by-nd-3.0"),
        ("Attribution-Noncommercial-Share Alike 3.0 United States", "cc-by-nc-sa-3.0"),
        ("Attribution-Noncommercial-No Derivative Works 3.0 Unported", "cc-by-nc-nd-3.0"),
        ("Public Domain Mark 1.0", "public-domain"),
        ("CC BY 4.0 for research only", None),
        ("CC BY, not for commercial use", None),
        ("stand by me", None),
        ("mitten", None),
        ("free for all", None),
        ("CC", None),
        ("", None),
    ],
)
def test_licence_texts_are_understood_or_refused_but_never_guessed(text: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(DataError):
            normalise(text)
    else:
        assert normalise(text) == name


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"sources": [{"recipe": "no-such", "weight": 1}]}, "known:"),
        ({"sources": [{"recipe": "mien.yaml"}]}, "cannot read .*/mien.yaml: No such file"),
        ({"soundfonts": [{"name": "sf_GMbank", "path": ["x.sf2"], "licence": "mit"}]}, "unheard"),
        ({"soundfonts": [{"name": "a", "path": ["x.sf2"], "licence": "ask my uncle"}]}, "soundfonts.0.licence"),
        ({"soundfonts": [{"name": "a", "path": ["x.sf2"], "licence": "CC BY-NC 4.0"}]}, "a is refused: .*cc-by-nc"),
        ({"test_soundfonts": [{"name": "a", "path": ["x.sf2"], "licence": "cc-by-nd"}]}, "a is refused"),
        ({"soundfonts": [{"name": "a", "path": [f"{n}"], "licence": "mit"} for n in "xy"]}, "stands there twice"),
        ({"test_soundfonts": [{"name": "a", "path": [n], "licence": "mit"} for n in "xy"]}, "stands there twice"),
        ({"sources": [{"recipe": "tonal", "weight": math.inf}]}, "weight: Input should be a finite number"),
        ({"sources": [{"recipe": "tonal", "weight": math.nan}]}, "weight"),
        ({"seed": -1}, "seed"),
        ({"splits": {"train": 1.2, "validation": -0.1, "test": -0.1}}, "splits.train"),
        ({"splits": {"train": 0.9, "validation": 0.2, "test": -0.1}}, "splits.test"),
        ({"medleys": {"train": 1, "longest_minutes": 31}}, "longest_minutes"),
        ({"medleys": {"train": 1, "shortest_minutes": 5, "longest_minutes": 2}}, "shortest_minutes"),
        ({"medleys": {"train": 1, "shortest_minutes": 0.5}}, "shortest_minutes"),
        ({"allow_licences": ["cc-bye", "apache"]}, "did you mean 'cc-by'"),
        ({"allow_licences": ["CC BY 4.0"]}, "did you mean 'cc-by-4.0'"),
        (
            {"theory": {"train": 5}, "sources": [{"recipe": "oneill"}], "allow_licences": ["public-domain"]},
            r"write `allow_licences: \[public-domain, apache\]`",
        ),
        ({"clips": {"train": 1, "validation": 1, "test": 1, "colour": 3}}, "colour"),
        ({"sources": []}, "sources"),
        ({"splits": {"train": 0.5, "validation": 0.1, "test": 0.1}}, "add up"),
    ],
)
def test_wrong_configuration_is_one_line_that_names_the_field(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_mixture(mixture_file(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_copy_of_a_training_soundfont_is_no_unheard_one(tmp_path: Path) -> None:
    found = find_soundfont(load_mixture(HERE / "mixtures" / "tiny.yaml").soundfonts[0])
    assert found is not None
    shutil.copy(found, tmp_path / "other.sf2")
    fonts = [{"name": "other", "path": [str(tmp_path / "other.sf2")], "licence": "gpl-2.0"}]
    with pytest.raises(DataError, match="other .* is the same file as TimGM6mb") as caught:
        build_mixture(mixture_file(tmp_path, test_soundfonts=fonts), tmp_path / "out", workers=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("licence, allow", [("cc-by-nc-4.0", ["cc-by-nc", "apache"]), ("GPL-2.0", ["apache"])])
def test_a_soundfont_that_is_allowed_or_forbids_nothing_may_be_used(tmp_path: Path, licence: str, allow: list) -> None:
    fonts = [{"name": "a", "path": ["x.sf2"], "licence": licence}]
    assert load_mixture(mixture_file(tmp_path, soundfonts=fonts, allow_licences=allow)).soundfonts


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_mixture(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(DataError, match="is not YAML"):
        load_mixture(tmp_path / "broken.yaml")


def test_absent_user_collection_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLLM_DATA", raising=False)
    sources = [{"recipe": "tonal", "weight": 1.0, "limit": 5}, {"recipe": "openewld", "weight": 1.0}]
    found = collect(load_mixture(mixture_file(tmp_path, sources=sources)))
    assert len(found.tunes) == 5 and "MLLM_DATA" in found.absent["openewld"]


def test_every_shipped_mixture_and_recipe_loads() -> None:
    for path in (HERE / "mixtures").glob("*.yaml"):
        load_mixture(path)
    for path in (HERE / "recipes").glob("*.yaml"):
        recipe = load_recipe(path.stem)
        assert recipe.name == path.stem and recipe.licence and recipe.terms
