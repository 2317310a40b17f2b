"""What a build is made from, by parts: a folder goes on only with the same build, and says what is another.

Nothing here depends on where things lie, so that a build may be moved, with its sets, and go on elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mllm.data_recipes.adapters import ADAPTERS
from mllm.data_recipes.config import Mixture
from mllm.data_recipes.ingredients import Ingredients
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.removal import NAME as DUPLICATES
from mllm.data_recipes.store import Store
from mllm.whole_files import PART

NAME = "build.json"
_READ_WHOLE = 1_000_000
"""Bytes of a file up to which its content counts; of a longer one, and of recordings, size and time of change do."""
_READ_AT_MOST = 256_000_000
"""Bytes of a set that are read for this: half a million small files would take as long as the build."""
_SOUND = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma")
_SAYS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "sha256", "blob_id", "LastModified", "mtime")
"""What file systems tell of a file that changes with its content; the first that is there counts."""


def go_on(store: Store, config: Mixture, found: Ingredients, limit: int | None) -> str:
    """The mark of this build, written into a place where nothing was made yet; one with another build is refused.

    Raises:
        DataError: the place holds another build, and what of it is another; or clips and rows of we know not what.
    """
    for name, place in _places(found):
        if _within(store, place):
            raise DataError(
                f"{store.address} lies in the folder of {name} ({place}), whose files are only read; "
                "choose a folder outside of it"
            )
    parts = parts_of(config, found, limit)
    mark = _hash(parts)
    if store.exists(NAME):
        there = _read(store)
        if there.get("plan") == mark:
            return mark
        # An earlier try may have come to nothing.
        if "plan" not in there or store.names("rows") or store.names("clips") or store.exists(DUPLICATES):
            says = "parts" in there
            what = ", ".join(_differences(there["parts"], parts)) if says else f"{NAME} does not say of what"
            raise DataError(f"{store.address} holds another build ({what}); choose another folder or delete it")
    elif strange := [name for name in ("rows", "clips", DUPLICATES) if store.exists(name)]:
        raise DataError(
            f"{store.address} holds {strange[0]} but no {NAME}, so it is none of our builds; choose another folder"
        )
    store.write(NAME, (json.dumps({"plan": mark, "parts": parts}, indent=1) + "\n").encode())
    return mark


def parts_of(config: Mixture, found: Ingredients, limit: int | None) -> dict[str, str]:
    """Name of a part -> what identifies it; together all that decides the bytes of a build.

    Raises:
        DataError: the files of a set cannot be listed.
    """
    parts = {f"{name} of the mixture": _hash(value) for name, value in _settings(config, found).items()}
    parts["limit"] = str(limit)
    tunes: dict[str, Any] = {}
    for tune in found.tunes:
        tunes.setdefault(tune.source, hashlib.sha256()).update(tune.to_json().encode())
    parts |= {f"scores of {name}": digest.hexdigest() for name, digest in tunes.items()}
    for name, recipe in found.recipes.items():
        if name not in found.left_out:
            parts[f"recipe {name}"] = _hash(recipe.model_dump())
    for name, place in _places(found):
        parts[f"files of {name}"] = files_mark(place)
    parts |= {f"soundfont {name}": digest for name, digest in found.font_hashes.items()}
    return dict(sorted(parts.items()))


def _places(found: Ingredients) -> Iterator[tuple[str, str]]:
    """Sets that are here, and where the files of each lie."""
    for name, root in found.sets.items():
        recipe = found.recipes[name]
        if root:  # else it is read from the hub, which keeps what it published
            # A collection of scores was found where its files are, a public set is given by what its path starts from.
            inside = recipe.path if recipe.loader in ADAPTERS else ""
            yield name, f"{root.rstrip('/')}/{inside}" if inside else root


def _within(store: Store, place: str) -> bool:
    """Whether a build would lie among the files of a set: it would become a part of it."""
    here, folder = store.local, Store.at(place).local
    if here is None or folder is None:
        return f"{store.address.rstrip('/')}/".startswith(f"{place.rstrip('/')}/")
    return Path(os.path.realpath(here)).is_relative_to(os.path.realpath(folder))


def _settings(config: Mixture, found: Ingredients) -> dict[str, Any]:
    settings = config.model_dump(exclude={"scores_dir", "sets_dir", "sources", "soundfonts", "test_soundfonts"})
    settings["sources"] = [[name, use.weight, use.limit] for name, use in found.uses.items()]
    for kind in ("soundfonts", "test_soundfonts"):
        settings[kind] = [[font.name, font.licence, font.weight] for font in getattr(config, kind)]
    return settings


def files_mark(address: str) -> str:
    """Hash of the relative names, sizes and contents (or what stands for them) of the files at a path or address.

    Raises:
        DataError: they cannot be listed or read.
    """
    fs, root = fsspec.core.url_to_fs(address)
    digest = hashlib.sha256()
    try:
        lines = _local_lines(Path(root)) if isinstance(fs, LocalFileSystem) else _far_lines(fs, root)
        for line in lines:
            digest.update(json.dumps(line, ensure_ascii=True).encode())
    except Exception as error:  # each file system has errors of its own
        raise DataError(f"the files in {address} cannot be read: {error or type(error).__name__}") from error
    return digest.hexdigest()


def _local_lines(root: Path) -> Iterator[list[Any]]:
    if root.is_file():
        files = {root.name: root}
    else:
        walk = os.walk(root)
        files = {}
        for folder, folders, names in walk:
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith(".") and not name.endswith(PART):
                    path = Path(folder, name)
                    files[path.relative_to(root).as_posix()] = path
    read = 0
    for name, path in sorted(files.items()):
        try:
            about = path.stat()
        except FileNotFoundError:  # a link to nothing
            continue
        small = about.st_size <= _READ_WHOLE and not name.lower().endswith(_SOUND)
        if small and (read := read + about.st_size) <= _READ_AT_MOST:
            yield [name, hashlib.sha256(path.read_bytes()).hexdigest()]
        else:
            yield [name, about.st_size, about.st_mtime_ns]


def _far_lines(fs: Any, root: str) -> Iterator[list[Any]]:
    fs.invalidate_cache()
    root = root.rstrip("/")
    for path, about in sorted(fs.find(root, detail=True).items()):
        says = next((str(about[key]) for key in _SAYS if about.get(key)), "")
        yield [str(path).removeprefix(root).lstrip("/"), about.get("size"), says]


def _read(store: Store) -> dict[str, Any]:
    try:
        there = json.loads(store.read(NAME))
    except ValueError:
        there = None
    if not isinstance(there, dict) or not isinstance(there.get("parts", {}), dict):
        raise DataError(
            f"{store.where(NAME)} is broken, so what build the folder holds is not known; "
            "choose another folder or delete it"
        )
    return there


def _differences(was: Mapping[str, Any], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(was.keys() | now.keys()):
        if name not in now:
            yield f"{name} is not here now"
        elif name not in was:
            yield f"{name} was not there then"
        elif was[name] != now[name]:
            yield f"{name} changed"


def _hash(value: Any) -> str:
    # In the order that it was written in: of patterns of files, for one, the first that fits counts.
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()
