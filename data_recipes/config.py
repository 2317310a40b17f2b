"""One YAML describes one mixture; it is loaded into the typed, checked models of this file."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mllm.errors import MllmError

HERE = Path(__file__).resolve().parent
SPLITS = ("test", "validation", "train")

# Refused by name wherever a name, title, loader, licence text or address of a source says so.
FORBIDDEN = {
    "thesession": "its terms prohibit training language models (2025-10) and any LLM use (2026-06)",
    "irishman": "derived from TheSession, whose terms prohibit training language models",
    "folkrnn": "derived from TheSession, whose terms prohibit training language models",
    "essen": "the Essen collection is for non-commercial use only",
    "noncommercial": "a non-commercial licence does not let trained weights ship",
    "ccbync": "a non-commercial licence does not let trained weights ship",
    "noderivatives": "a no-derivatives licence does not let trained weights ship",
}


class DataError(MllmError):
    """A mixture, recipe or source cannot be used; the message says which and what to do."""


class Strict(BaseModel):
    """A model that refuses unknown fields, so that a typing error in a YAML never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Strict):
    """Where one collection comes from and under what terms."""

    name: str
    title: str
    loader: str
    licence: str
    terms: str
    """Where the terms can be read, or the reason why they hold."""
    path: str = ""
    """Folder or file inside the loader's root."""
    size: int = 0
    """How many tunes a generating loader makes; 0 means all that a collection holds."""


class Use(Strict):
    """How much of one recipe goes into a mixture."""

    recipe: str
    weight: float = Field(gt=0)
    limit: int = Field(0, ge=0)
    """At most so many tunes are read; 0 means all."""


class Soundfont(Strict):
    """A General MIDI sound set; `path` may hold several candidates, the first that exists is taken."""

    name: str
    path: list[str]
    licence: str
    weight: float = Field(1.0, gt=0)


class Clips(Strict):
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


class Sound(Strict):
    """Shares of clips that get an accompaniment, several instrument families, drums, augmentation."""

    accompanied: float = Field(0.6, ge=0, le=1)
    several_families: float = Field(0.3, ge=0, le=1)
    drums: float = Field(0.5, ge=0, le=1)
    """Share among the accompanied clips of several families."""
    clean: float = Field(0.3, ge=0, le=1)
    codec: float = Field(0.1, ge=0, le=1)
    tempo_low: float = Field(50, gt=0)
    tempo_high: float = Field(200, gt=0)


class Splits(Strict):
    """Shares of works."""

    train: float = 0.9
    validation: float = 0.04
    test: float = 0.06

    @model_validator(mode="after")
    def _whole(self) -> Splits:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("the shares of the splits must add up to 1")
        return self


class Mixture(Strict):
    """The whole build."""

    name: str
    seed: int = 1
    scores_dir: str | None = None
    """Folder with openewld/ and openscore_lieder/; also read from $MLLM_DATA."""
    sources: list[Use] = Field(min_length=1)
    soundfonts: list[Soundfont] = Field(min_length=1)
    test_soundfonts: list[Soundfont] = Field(min_length=1)
    clips: Clips
    sound: Sound = Sound()
    splits: Splits = Splits()

    @model_validator(mode="after")
    def _unheard(self) -> Mixture:
        shared = {f.name for f in self.soundfonts} & {f.name for f in self.test_soundfonts}
        shared |= {p for f in self.soundfonts for p in f.path} & {p for f in self.test_soundfonts for p in f.path}
        if shared:
            raise ValueError(f"soundfont {sorted(shared)} is in training and in test; the test must sound unheard")
        return self


def refuse_forbidden(text: str, what: str) -> None:
    """Raise DataError when `text` (names, licence, address) shows a source that may not be used."""
    flat = "".join(c for c in text.lower() if c.isalnum())
    for mark, why in FORBIDDEN.items():
        if mark in flat:
            raise DataError(f"{what} is refused ({mark}): {why}; remove it from the mixture")


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} is not readable YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path} must hold a mapping of fields")
    return loaded


def load_recipe(name: str, folder: Path | None = None) -> Recipe:
    """The recipe `data_recipes/recipes/<name>.yaml`; DataError when unknown, malformed or forbidden."""
    refuse_forbidden(name, f"source {name!r}")
    folder = folder or HERE / "recipes"
    path = folder / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise DataError(f"there is no recipe {name!r}; known: {known}")
    try:
        recipe = Recipe.model_validate(_read_yaml(path))
    except ValidationError as error:
        raise DataError(f"{path}: {_first(error)}") from error
    refuse_forbidden(
        " | ".join([recipe.name, recipe.title, recipe.loader, recipe.path, recipe.licence, recipe.terms]),
        f"source {name!r}",
    )
    return recipe


def load_mixture(path: str | Path) -> Mixture:
    """The checked mixture in `path`; DataError names the field that is wrong."""
    path = Path(path)
    try:
        mixture = Mixture.model_validate(_read_yaml(path))
    except ValidationError as error:
        raise DataError(f"{path}: {_first(error)}") from error
    for use in mixture.sources:
        load_recipe(use.recipe)
    return mixture


def _first(error: ValidationError) -> str:
    entry = error.errors()[0]
    return f"{'.'.join(str(p) for p in entry['loc']) or 'mixture'}: {entry['msg']}"


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
