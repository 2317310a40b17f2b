"""What a build holds, read shard by shard: who the rows are, what they name, and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from mllm.data_recipes.config import HERE, SPLITS
from mllm.data_recipes.fingerprints import RATE, audio_fingerprint, audio_shape, narrow, note_fingerprints
from mllm.data_recipes.licences import DataError, normalise, refusal, refuse_forbidden
from mllm.data_recipes.row import SCHEMA
from mllm.data_recipes.store import Store
from mllm.errors import ScoreError

NEEDED = tuple(name for name in SCHEMA.names if name != "provenance")
"""Columns without which a shard is no shard; builds from before 0.2 lack `provenance`."""
LONGEST = 900.0
"""Seconds of a recording that are read; what follows is not compared."""
_ROLES = ("system", "user", "assistant")

Row = dict[str, Any]
Fault = tuple[str, int, str]
"""Kind (`check.KINDS`), row of the shard or -1, what is wrong."""
File = tuple[Store, str]
"""Where it lies, and its name there."""


@dataclass
class Named:
    """What one row of a shard names."""

    row: int
    name: str
    seconds: float = 0.0
    """Length that the row states, where one audio file is all its audio; otherwise 0."""
    print: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Shingles of notes, of scores."""


@dataclass
class Contents:
    """One shard, ready to be merged with the others; rows are counted inside the shard."""

    shard: str
    ids: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    works: list[str] = field(default_factory=list)
    identities: list[tuple[str, ...]] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)
    audio: list[Named] = field(default_factory=list)
    scores: list[Named] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def shards(store: Store) -> list[str]:
    """Names `rows/…` of the shards of a build, sorted; DataError where there is none."""
    try:
        found = store.names("rows", ".parquet")
    except OSError as error:
        raise DataError(f"{store.address} cannot be read: {error}") from error
    if not found:
        raise DataError(f"{store.address} holds no rows/*.parquet: give a folder that `mllm data build` made")
    return found


def rows_of(store: Store, shard: str, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of a shard, a few hundred in memory at a time; raises OSError or ArrowException where it is broken."""
    with store.open(shard) as opened, pq.ParquetFile(opened) as file:
        have = set(file.schema_arrow.names)
        if missing := [name for name in (columns or NEEDED) if name not in have and name != "provenance"]:
            raise pa.ArrowInvalid(f"no column {', '.join(missing)}")
        wanted = [name for name in (columns or SCHEMA.names) if name in have]
        for batch in file.iter_batches(256, columns=wanted):
            yield from batch.to_pylist()


def provenance_of(row: Row) -> dict[str, Any]:
    """The row's provenance; of builds that have none, what their facts say. Raises ValueError for broken JSON."""
    given = row.get("provenance")
    if given:
        loaded = json.loads(given)
        if not isinstance(loaded, dict):
            raise ValueError("provenance is not an object")
        return loaded
    facts = json.loads(row["facts"])
    tune = str(facts.get("tune_id", "")) if isinstance(facts, dict) else ""
    return {"source_id": tune, "work": tune}


def messages_of(row: Row) -> list[dict[str, Any]]:
    """The conversation of a row. Raises ValueError, saying what is wrong, where it is not one in the house format."""
    talk = json.loads(row["messages"])
    if not isinstance(talk, list) or not talk:
        raise ValueError("messages: not a list of messages")
    turns = [m for m in talk if not (isinstance(m, dict) and m.get("role") == "system")]
    for i, message in enumerate(turns):
        if not isinstance(message, dict) or message.get("role") != ("user", "assistant")[i % 2]:
            raise ValueError("messages: user and assistant must take turns, user first")
        if not any(text.strip() for text in _texts(message)) and not _audio(message):
            raise ValueError(f"messages: message {i} is empty")
    if len(turns) % 2 or not turns:
        raise ValueError("messages: the last message must be the assistant's")
    return talk


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("messages: content is neither text nor a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "audio") or not isinstance(part.get(kind), str):
            raise ValueError("messages: a part is neither text nor audio")
    return content


def _texts(message: Mapping[str, Any]) -> list[str]:
    return [str(p["text"]) for p in _parts(message) if p["type"] == "text"]


def _audio(message: Mapping[str, Any]) -> list[str]:
    return [str(p["audio"]) for p in _parts(message) if p["type"] == "audio"]


def is_abc(text: str) -> bool:
    """Whether a text is a tune in ABC: it begins with a header and has a key."""
    return text.lstrip().startswith(("X:", "M:", "L:", "T:", "K:")) and "\nK:" in "\n" + text


def row_texts(talk: Sequence[Mapping[str, Any]]) -> list[str]:
    """Question and answer of every turn, joined, without scores."""
    out, question = [], ""
    for message in talk:
        plain = " ".join(t for t in _texts(message) if not is_abc(t))
        if message["role"] == "assistant":
            out.append(f"{question}\n{plain}")
        else:
            question = plain
    return out


@lru_cache(maxsize=1)
def source_names() -> frozenset[str]:
    """Names of all recipes: tune ids begin with one of them."""
    return frozenset(path.stem for path in (HERE / "recipes").glob("*.yaml"))


def work_key(source: str, work: str) -> str:
    """One name for a work: works of different collections that share a number are not one, unless they say so."""
    if not work:
        return ""
    return work if work.split("/", 1)[0] in source_names() else f"{source}/{work}"


def inside(store: Store, name: str) -> bool:
    """Whether a file that a row names would lie in the build; on this machine also where links lead."""
    for way in (name, unquote(name)):  # a web server reads %2e%2e as two dots
        steps = re.split(r"[/\\]", way)
        if "://" in way or "\0" in way or ".." in steps or (way and not steps[0]):
            return False
    folder = store.local
    if folder is None:
        return True
    try:
        return Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))
    except ValueError:  # no file can have such a name
        return False


def read_shard(store: Store, shard: str, allow: Sequence[str], texts: bool) -> Contents:
    """Everything about a shard that needs no other shard: parses, checks and fingerprints its scores.

    Args:
        store, shard: the build and the name of the shard there.
        allow: licences that may be here.
        texts: whether texts are wanted, to be compared with benchmarks.
    """
    from mllm.data_recipes.leakage import identities

    out = Contents(PurePosixPath(shard).name)
    try:
        for i, row in enumerate(rows_of(store, shard)):
            out.ids.append(str(row["id"]))
            out.splits.append(str(row["split"]))
            out.works.append("")
            out.identities.append(())
            out.texts.append([])
            try:
                _read_row(i, row, out, texts)
                where = provenance_of(row)
                source, work = str(row["source"]), str(where.get("work") or where.get("source_id") or "")
                out.works[i] = work_key(source, work)
                names = [str(where.get(k) or "") for k in ("source_id", "work", "url")]
                out.identities[i] = identities(names, source)
                _check_licence(i, row, where, allow, out)
            except (ValueError, TypeError, AttributeError) as error:
                out.faults.append(("row", i, str(error).splitlines()[0][:200]))
    except (OSError, pa.ArrowException) as error:
        out.faults.append(("shard", -1, f"{out.shard}: {str(error).splitlines()[0][:200]}"))
    return out


def _read_row(i: int, row: Row, out: Contents, texts: bool) -> None:
    talk = messages_of(row)
    facts = json.loads(row["facts"])
    if not isinstance(facts, dict):
        raise ValueError("facts is not an object")
    if row["split"] not in SPLITS:
        raise ValueError(f"split {row['split']!r} is not one of {', '.join(SPLITS)}")
    length = row["length"]
    if length is None or not 0 <= length < float("inf"):
        raise ValueError(f"length {length} is no length")
    audio = [name for message in talk for name in _audio(message)]
    if bool(audio) != bool(length):
        out.faults.append(("length", i, f"length {length} with {len(audio)} audio parts"))
    for name in audio:
        out.audio.append(Named(i, name, float(length) if len(audio) == 1 else 0.0))
    scores = [text for message in talk for text in _texts(message) if is_abc(text)]
    for text in scores:
        try:
            out.scores.append(Named(i, hashlib.sha256(text.strip().encode()).hexdigest(), 0.0, note_fingerprints(text)))
        except (ScoreError, ArithmeticError) as error:
            out.faults.append(("score", i, str(error).splitlines()[0][:200]))
    if isinstance(notes := facts.get("notes"), list) and notes and not scores:
        digest = hashlib.sha256(json.dumps(notes).encode()).hexdigest()
        out.scores.append(Named(i, digest, 0.0, note_fingerprints(notes)))
    if texts:
        out.texts[i] = row_texts(talk)


def _check_licence(i: int, row: Row, where: Mapping[str, Any], allow: Sequence[str], out: Contents) -> None:
    try:
        refuse_forbidden(
            " | ".join(str(v or "") for v in (row["source"], row["licence"], *_named(where))),
            f"source {row['source']!r}",
        )
    except DataError as error:
        out.faults.append(("forbidden", i, str(error)))
    for licence in {str(row["licence"] or ""), str(where.get("licence") or row["licence"] or "")}:
        try:
            why = refusal(normalise(licence), allow)
        except DataError as error:
            why = str(error).split(":", 1)[0]
        if why:
            out.faults.append(("licence", i, why))
            return


def _named(where: Mapping[str, Any]) -> list[Any]:
    """What names a collection: not the item, which may be called The Irishman's Heart."""
    collections = [
        str(where.get(key) or "").partition("/")[0] for key in ("source_id", "work") if "/" in str(where.get(key))
    ]
    return [*collections, where.get("url"), where.get("licence")]


@dataclass
class Heard:
    """What is known of one audio file once it was read."""

    error: str = ""
    unread: bool = False
    """Whether it is unknown what the file holds: reading failed, perhaps only this time."""
    seconds: float = 0.0
    sha256: str = ""
    landmarks: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint32))
    shape: np.ndarray = field(default_factory=lambda: np.zeros((0, 32), np.int8))


def hear(recording: File | None) -> Heard:
    """Read an audio file once, measure and fingerprint it; what is wrong with it comes back as `error`."""
    if recording is None:
        return Heard("lies outside the folder")
    store, name = recording
    try:
        with store.open(name) as raw:
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
            raw.seek(0)
            with sf.SoundFile(raw) as file:
                rate = file.samplerate
                samples = file.read(int(LONGEST * rate), dtype="float32", always_2d=True).mean(axis=1)
                seconds = max(file.frames, len(samples)) / rate
                if len(samples) < min(file.frames, int(LONGEST * rate)):
                    return Heard("ends before its stated length")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return Heard("is missing")
    except OSError as error:
        return Heard(f"cannot be read ({str(error).splitlines()[0][:120]})", unread=True)
    except (sf.LibsndfileError, ValueError) as error:
        # Libsndfile's own words: what soundfile puts before them names the copy that was read.
        why = str(getattr(error, "error_string", error))
        return Heard(f"cannot be read ({why.splitlines()[0][:120]})")
    if not len(samples):
        return Heard("has no samples")
    if not np.isfinite(samples).all():
        return Heard("holds NaN or infinite samples")
    low = narrow(samples, rate)
    return Heard("", False, seconds, digest, audio_fingerprint(low, RATE), audio_shape(low, RATE))
