"""The one way to configure: a typed model, loaded from one YAML, that refuses what it does not know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mllm.errors import MllmError


class Settings(BaseModel):
    """Base of all settings: an unknown key is an error, so that a typing error in a YAML never passes silently."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], path: str | Path, error: type[MllmError]) -> S:
    """The settings in a YAML file.

    Raises:
        error: no such file, not YAML, a value of the wrong type, or a key that nobody knows (the nearest known one is
            named).
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"cannot read {path}: {problem.strerror}") from problem
    except (UnicodeDecodeError, yaml.YAMLError) as problem:
        raise error(f"{path} is not YAML: {' '.join(str(problem).split())}") from problem
    if not isinstance(raw, dict):
        raise error(f"{path}: expected keys and values, not {type(raw).__name__}")
    return check_settings(kind, raw, str(path), error)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that it is most like, or else all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"


def check_settings(kind: type[S], raw: dict[str, Any], where: str, error: type[MllmError]) -> S:
    """The same for what was read already; `where` names it in messages."""
    try:
        return kind.model_validate(raw)
    except ValidationError as problem:
        raise error(f"{where}: {_first(problem, kind)}") from problem


def _first(problem: ValidationError, kind: type[Settings]) -> str:
    """The first thing that is wrong, as one line for people."""
    # A misspelt key before the one that is missing because of it.
    entry = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
    place = [str(part) for part in entry["loc"]]
    if entry["type"] == "extra_forbidden":
        known = _fields(kind, entry["loc"][:-1])
        return f"unknown key {'.'.join(place)!r}{nearest(place[-1], known)}"
    message = entry["msg"].removeprefix("Value error, ")
    name = ".".join(place)
    if entry["type"].endswith(("_type", "_parsing")):
        return f"{name}: {message}, not {entry['input']!r}"
    return f"{name}: {message}" if name else message


def _fields(kind: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the model that stands at `place` inside `kind`."""
    found: Any = kind
    for part in place:
        if isinstance(part, int):  # an element of a list, whose type is already at hand
            continue
        annotation = found.model_fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
        if not inner:
            return []
        found = inner[0]
    return list(found.model_fields)
