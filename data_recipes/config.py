"""One YAML describes one mixture; it is loaded into the typed, checked models of this file."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mllm.data_recipes.licences import (
    LICENCES,
    OURS,
    PER_TRACK,
    SHIPPABLE,
    DataError,
    family,
    font_refusal,
    normalise,
    refusal,
    refuse_forbidden,
)
from mllm.data_recipes.options import OPTIONS, ItemOptions
from mllm.settings import Settings, check_settings, nearest, read_settings

HERE = Path(__file__).resolve().parent
SPLITS = ("test", "validation", "train")


class Frozen(Settings, frozen=True, allow_inf_nan=False):
    """Settings that nothing changes once they are read."""


class SplitRule(Frozen):
    """Whose split counts: a column of the source, or (without one) the hash of the work."""

    column: str = ""
    values: dict[str, Literal["train", "validation", "test", "skip"]] = {}
    """Their name of a split (`*`: any other) -> train, validation, test, or skip."""


class Recipe(Frozen):
    """Where one collection comes from, under what terms, and what its rows are made of."""

    name: str
    title: str
    loader: str
    """A name in `adapters.ADAPTERS`, which give items, or in `sources.JOBS`, which give scores."""
    licence: str
    """As licences.py understands it and then its canonical name, or `per-track` where every item names its own."""
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
    """What the loader needs to know beyond that (options.py)."""
    split: SplitRule = SplitRule()
    tasks: list[str] = []
    """Makers that ask about it; empty means all whose facts it has."""
    get: str = ""
    """What to download and where to put it."""

    @field_validator("licence")
    @classmethod
    def _known(cls, licence: str) -> str:
        return licence if licence == PER_TRACK else _canonical(licence)


def _canonical(licence: str) -> str:
    try:
        return normalise(licence)
    except DataError as error:
        raise ValueError(str(error)) from error


class Use(Frozen):
    """How much of one recipe goes into a mixture."""

    recipe: str
    """Name of one that ships, or a YAML file of your own (a path seen from the mixture's folder)."""
    weight: float = Field(1.0, gt=0, le=1e6)
    limit: int = Field(0, ge=0)
    """At most so many tunes are read; 0 means all."""


class Soundfont(Frozen):
    """A General MIDI sound set; `path` may hold several candidates, the first that exists is taken."""

    name: str
    path: list[str]
    licence: str
    weight: float = Field(1.0, gt=0, le=1e6)

    @field_validator("licence")
    @classmethod
    def _known(cls, licence: str) -> str:
        _canonical(licence)
        return licence


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


class ScoreAndSound(Counts):
    """How many short recordings beside scores each split gets."""

    transcribe: int = Field(0, ge=0)
    """Training recordings of at most so many bars are also to be transcribed, whatever else is asked of them: each note
    is something to learn from, where other answers are one word. 0 for none."""


class Episodes(Counts):
    """In-context episodes made of the clips of one split."""

    most_examples: int = Field(8, ge=0)


class Medleys(Counts):
    """Long recordings of several tunes after one another."""

    shortest_minutes: float = Field(1.0, ge=1, le=30)
    longest_minutes: float = Field(4.0, ge=1, le=30)

    @model_validator(mode="after")
    def _ordered(self) -> Medleys:
        if self.shortest_minutes > self.longest_minutes:
            raise ValueError(
                f"shortest_minutes ({self.shortest_minutes:g}) is more than longest_minutes "
                f"({self.longest_minutes:g}): change one of them"
            )
        return self


class Excerpts(Frozen):
    """How recordings of public sets and of the user are cut."""

    seconds: float = Field(30.0, gt=0.5, le=1800)
    """Longer ones are cut to this."""
    questions: int = Field(3, ge=1)
    """Rows an item gives at most, each by another maker."""


class Splits(Frozen):
    """Shares of works."""

    train: float = Field(0.9, ge=0, le=1)
    validation: float = Field(0.04, ge=0, le=1)
    test: float = Field(0.06, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> Splits:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("the shares of the splits must add up to 1")
        return self


class Mixture(Frozen):
    """The whole build."""

    name: str
    seed: int = Field(1, ge=0)
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
    notation: Counts = Counts()
    """Rows of reasoning about scores as ABC text: counting, errors, transposition and so on."""
    score_and_sound: ScoreAndSound = ScoreAndSound()
    """Short recordings, each with one question that sets it beside a score."""
    theory: Counts = Counts()
    """Rows of music theory in words alone."""
    episodes: Episodes = Episodes()
    medleys: Medleys = Medleys()
    excerpts: Excerpts = Excerpts()
    deduplicate: bool = True
    """Whether recordings and scores that are there twice are left out, across splits and sets."""
    splits: Splits = Splits()

    @field_validator("allow_licences")
    @classmethod
    def _families(cls, allow: list[str]) -> list[str]:
        for name in allow:
            try:
                family(name)
            except DataError:
                try:
                    hint = f": did you mean {normalise(name)!r}?"
                except DataError:
                    hint = nearest(name, LICENCES)
                raise ValueError(f"{name!r} is no licence and no family of licences{hint}") from None
        return allow

    @model_validator(mode="after")
    def _own_rows(self) -> Mixture:
        # Their licence is checked like any other: whoever reads the rows must be able to rely on the list.
        if sum(map(self.theory.of, SPLITS)) and refusal(OURS, self.allow_licences):
            line = f"allow_licences: [{', '.join([*self.allow_licences, family(OURS)])}]"
            raise ValueError(
                f"theory: its rows are under {OURS}, which is not allowed: write `{line}`, or ask for none"
            )
        return self

    @model_validator(mode="after")
    def _unheard(self) -> Mixture:
        for kind, fonts in (("soundfonts", self.soundfonts), ("test_soundfonts", self.test_soundfonts)):
            names = [font.name for font in fonts]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{kind}: {twice[0]} stands there twice; give each a name of its own")
            for font in fonts:
                if why := font_refusal(font.licence, self.allow_licences):
                    raise ValueError(f"{kind}: {font.name} is refused: {why}; remove it, or allow its licence")
        shared = {f.name for f in self.soundfonts} & {f.name for f in self.test_soundfonts}
        shared |= {p for f in self.soundfonts for p in f.path} & {p for f in self.test_soundfonts for p in f.path}
        if shared:
            raise ValueError(f"soundfont {sorted(shared)} is in training and in test; the test must sound unheard")
        rendered = [c.train + c.validation + c.test for c in (self.clips, self.medleys, self.score_and_sound)]
        if any(rendered) and not self.soundfonts:
            raise ValueError("soundfonts: clips, medleys and score_and_sound are rendered with one, name some")
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
    if path.parent == folder and not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise DataError(f"there is no recipe {name!r}; known: {known}")
    recipe = read_settings(Recipe, path, DataError)
    refuse_forbidden(
        " | ".join([recipe.name, recipe.title, recipe.path, recipe.licence, recipe.terms, recipe.url]),
        f"source {name!r}",
    )
    _check_names(recipe, path)
    return recipe


def _check_names(recipe: Recipe, path: Path) -> None:
    """Refuse options that the loader does not know, fields that cannot be read or are missing, tasks of no maker."""
    if recipe.loader not in OPTIONS:
        raise DataError(f"{path}: unknown loader {recipe.loader!r}{nearest(recipe.loader, OPTIONS)}")
    check_settings(OPTIONS[recipe.loader], recipe.options, f"{path}: options", DataError)
    if (
        recipe.licence == PER_TRACK
        and issubclass(OPTIONS[recipe.loader], ItemOptions)
        and "licence" not in recipe.fields
    ):
        raise DataError(f"{path}: licence: per-track means that every item has its own: say where in `fields.licence`")
    if recipe.fields or recipe.split.column:  # imported here, because what reads recipes imports this file
        from mllm.data_recipes.adapters_facts import SHAPES
        from mllm.data_recipes.adapters_fields import parse_field

        for name in recipe.fields:  # other facts may be kept, but one letter off nobody would ask about it
            if name not in SHAPES and (near := difflib.get_close_matches(name, SHAPES, n=1, cutoff=0.75)):
                raise DataError(f"{path}: fields.{name}: did you mean {near[0]!r}? No maker asks about {name!r}")
        fields = {f"fields.{name}": text for name, text in recipe.fields.items()}
        for place, text in (fields | {"split.column": recipe.split.column}).items():
            try:
                for filter, argument in parse_field(text).filters:
                    if filter == "match":
                        re.compile(argument)
            except (ValueError, re.error) as error:
                raise DataError(f"{path}: {place}: {text!r} cannot be read: {error}") from None
    if recipe.tasks:
        from mllm.data_recipes.makers import MAKERS

        known = list(dict.fromkeys([*(maker.task for maker in MAKERS.values()), *MAKERS]))
        if unknown := [task for task in recipe.tasks if task not in known]:
            raise DataError(f"{path}: tasks: no maker asks {unknown[0]!r}{nearest(unknown[0], known)}")


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
