"""One YAML describes one mixture; it is loaded into the typed, checked models of this file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from mllm.data_recipes.licences import PER_TRACK, SHIPPABLE, DataError, family, refusal, refuse_forbidden
from mllm.settings import Settings, read_settings

HERE = Path(__file__).resolve().parent
SPLITS = ("test", "validation", "train")


class Frozen(Settings, frozen=True):
    """Settings that nothing changes once they are read."""


class SplitRule(Frozen):
    """Whose split counts: a column of the source, or (without one) the hash of the work."""

    column: str = ""
    values: dict[str, str] = {}
    """Their name of a split (`*`: any other) -> train, validation, test, or skip."""


class Recipe(Frozen):
    """Where one collection comes from, under what terms, and what its rows are made of."""

    name: str
    title: str
    loader: str
    """A name in `adapters.ADAPTERS`, which give items, or in `sources.JOBS`, which give scores."""
    licence: str
    """Canonical (licences.py), or `per-track` where every item names its own."""
    terms: str
    """Where the terms can be read, or the reason why they hold."""
    url: str = ""
    citation: str = ""
    size: str = ""
    """How much there is, in words: hours, tracks, gigabytes."""
    path: str = ""
    """Folder or file inside the loader's root."""
    count: int = Field(0, ge=0)
    """How many items a generating loader makes."""
    fields: dict[str, str] = {}
    """Field of an Item, or fact of it, -> column of the source; dots reach into nested columns."""
    options: dict[str, Any] = {}
    """What the loader needs to know beyond that."""
    split: SplitRule = SplitRule()
    tasks: list[str] = []
    """Makers that ask about it; empty means all whose facts it has."""
    get: str = ""
    """What to download and where to put it."""

    @field_validator("licence")
    @classmethod
    def _known(cls, licence: str) -> str:
        if licence != PER_TRACK:
            family(licence)
        return licence


class Use(Frozen):
    """How much of one recipe goes into a mixture."""

    recipe: str
    """Name of one that ships, or a YAML file of your own (a path seen from the mixture's folder)."""
    weight: float = Field(1.0, gt=0)
    limit: int = Field(0, ge=0)
    """At most so many tunes are read; 0 means all."""


class Soundfont(Frozen):
    """A General MIDI sound set; `path` may hold several candidates, the first that exists is taken."""

    name: str
    path: list[str]
    licence: str
    weight: float = Field(1.0, gt=0)


class Clips(Frozen):
    """How many clips a split has and what they look like."""

    train: int = Field(ge=0)
    validation: int = Field(ge=0)
    test: int = Field(ge=0)
    seconds: float = Field(10.0, gt=1)
    short_share: float = Field(0.15, ge=0, le=1)
    short_seconds: float = Field(5.0, gt=1)
    sampling_rate: int = Field(22050, ge=8000)
    unit: int = Field(50, ge=1)
    """Clips that are written (and, after a kill, redone) together."""
    questions: int = Field(0, ge=0)
    """Rows of every training clip beside its dialogue and its description, each by another maker."""


class Sound(Frozen):
    """Shares of clips that get an accompaniment, several instrument families, drums, augmentation."""

    accompanied: float = Field(0.6, ge=0, le=1)
    several_families: float = Field(0.3, ge=0, le=1)
    drums: float = Field(0.5, ge=0, le=1)
    """Share among the accompanied clips of several families."""
    ensembles: float = Field(0.0, ge=0, le=1)
    """Share that an ensemble plays: a lead sheet a band, a chorale a choir, strings, brass, an organ, or a mixture."""
    clean: float = Field(0.3, ge=0, le=1)
    codec: float = Field(0.1, ge=0, le=1)
    tempo_low: float = Field(50, gt=0)
    tempo_high: float = Field(200, gt=0)


class Counts(Frozen):
    """How many of something each split gets."""

    train: int = Field(0, ge=0)
    validation: int = Field(0, ge=0)
    test: int = Field(0, ge=0)

    def of(self, split: str, share: float = 1.0) -> int:
        """The count of a split, shrunk to a share of it but never to nothing."""
        count = int(getattr(self, split))
        return max(1, round(count * share)) if count else 0


class Episodes(Counts):
    """In-context episodes made of the clips of one split."""

    most_examples: int = Field(8, ge=0)


class Medleys(Counts):
    """Long recordings of several tunes after one another."""

    shortest_minutes: float = Field(1.0, gt=0)
    longest_minutes: float = Field(4.0, gt=0, le=30)


class Excerpts(Frozen):
    """How recordings of public sets and of the user are cut."""

    seconds: float = Field(30.0, gt=0.5, le=1800)
    """Longer ones are cut to this."""
    questions: int = Field(3, ge=1)
    """Rows an item gives at most, each by another maker."""


class Splits(Frozen):
    """Shares of works."""

    train: float = 0.9
    validation: float = 0.04
    test: float = 0.06

    @model_validator(mode="after")
    def _whole(self) -> Splits:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("the shares of the splits must add up to 1")
        return self


class Mixture(Frozen):
    """The whole build."""

    name: str
    seed: int = 1
    scores_dir: str | None = None
    """Folder with openewld/ and openscore_lieder/; also read from $MLLM_DATA."""
    sets_dir: str | None = None
    """Folder or fsspec address with one folder a public set (`path` of its recipe); also read from $MLLM_SETS."""
    allow_licences: list[str] = list(SHIPPABLE)
    """Families (`cc-by`) or exact names (`cc-by-4.0`); by default those under which trained weights may ship."""
    sources: list[Use] = []
    soundfonts: list[Soundfont] = []
    test_soundfonts: list[Soundfont] = []
    clips: Clips = Clips(train=0, validation=0, test=0)
    sound: Sound = Sound()
    scores: Counts = Counts()
    """Rows about scores as ABC text."""
    theory: Counts = Counts()
    """Rows of music theory in words alone."""
    episodes: Episodes = Episodes()
    medleys: Medleys = Medleys()
    excerpts: Excerpts = Excerpts()
    deduplicate: bool = True
    """Whether recordings and scores that are there twice are left out, across splits and sets."""
    splits: Splits = Splits()

    @model_validator(mode="after")
    def _unheard(self) -> Mixture:
        shared = {f.name for f in self.soundfonts} & {f.name for f in self.test_soundfonts}
        shared |= {p for f in self.soundfonts for p in f.path} & {p for f in self.test_soundfonts for p in f.path}
        if shared:
            raise ValueError(f"soundfont {sorted(shared)} is in training and in test; the test must sound unheard")
        rendered = [c.train + c.validation + c.test for c in (self.clips, self.medleys)]
        if any(rendered) and not self.soundfonts:
            raise ValueError("soundfonts: clips and medleys are rendered with one, name some")
        if not self.sources and not (self.theory.train + self.theory.validation + self.theory.test):
            raise ValueError("sources: name at least one recipe, or ask for `theory` rows")
        return self


def load_recipe(name: str, folder: Path | None = None) -> Recipe:
    """The recipe `data_recipes/recipes/<name>.yaml`, or that of a YAML file of any place.

    Raises DataError when it is unknown, malformed or forbidden.
    """
    refuse_forbidden(name, f"source {name!r}")
    folder = folder or HERE / "recipes"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise DataError(f"there is no recipe {name!r}; known: {known}")
    recipe = read_settings(Recipe, path, DataError)
    refuse_forbidden(
        " | ".join([recipe.name, recipe.title, recipe.path, recipe.licence, recipe.terms, recipe.url]),
        f"source {name!r}",
    )
    return recipe


def load_mixture(path: str | Path) -> Mixture:
    """The checked mixture in `path`; DataError names the field that is wrong."""
    path = Path(path)
    mixture = read_settings(Mixture, path, DataError)
    own = {
        use.recipe: str(path.parent / use.recipe) for use in mixture.sources if use.recipe.endswith((".yaml", ".yml"))
    }
    uses = [use.model_copy(update={"recipe": own.get(use.recipe, use.recipe)}) for use in mixture.sources]
    mixture = mixture.model_copy(update={"sources": uses})
    names: set[str] = set()
    for use in mixture.sources:
        recipe = load_recipe(use.recipe)
        if recipe.name in names:
            raise DataError(f"{path}: sources: {recipe.name} stands there twice")
        names.add(recipe.name)
        if recipe.licence != PER_TRACK and (why := refusal(recipe.licence, mixture.allow_licences)):
            raise DataError(f"source {recipe.name!r} is refused: {why}; remove it, or allow its licence in {path}")
    return mixture


def scores_dir(mixture: Mixture) -> Path | None:
    """The folder with user-given score collections, or None when neither the field nor $MLLM_DATA is set."""
    given = mixture.scores_dir or os.environ.get("MLLM_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    return folder / "scores" if (folder / "scores").is_dir() else folder


def find_soundfont(font: Soundfont) -> Path | None:
    """The first existing candidate of `font`; `pretty_midi:` means inside the wheel of that name."""
    for candidate in font.path:
        if candidate.startswith("pretty_midi:"):
            from importlib.util import find_spec

            spec = find_spec("pretty_midi")
            found = Path(spec.origin).parent / candidate.split(":", 1)[1] if spec and spec.origin else None
        else:
            found = Path(candidate).expanduser()
        if found and found.is_file():
            return found
    return None
