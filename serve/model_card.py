"""What `GET /v1/models` tells of a model beside OpenAI's fields: licences, parts, what it can be given to hear.

The server writes it, the chat page reads it; nothing here loads a model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openai.types import Model
from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from mllm.chat import MusicLM

_ADDRESS = re.compile(r"pypi:[^=]+==(?P<release>[^/]+)|hf:[^@]+@(?P<commit>.+)")


class ModelPart(BaseModel):
    """Weights that a model was made from, or that were trained for it."""

    name: str
    version: str | None = None
    """The release of the package or the commit of the repository that they come from."""
    licence: str | None = None
    sha256: str | None = None
    """Of the file; null for a repository, which its commit names."""
    source: str | None = None
    """Its address, `pypi:…` or `hf:…`; null for what is nowhere but here."""


class ServedModel(Model):
    """OpenAI's fields and ours; null is what is not known."""

    licence: str | None = None
    """Of the model as it is served; its parts have their own."""
    parts: list[ModelPart] | None = None
    sampling_rate: int | None = None
    """Hz at which the model listens: a recording at this rate, in one channel, loses nothing that it hears."""
    max_audio_seconds: float | None = None
    """The longest recording."""
    max_body_bytes: int | None = None
    """The largest request."""


def describe(music: MusicLM) -> dict[str, Any]:
    """The fields of `ServedModel` that a loaded model's provenance tells; of no folder on this machine."""
    record = music.provenance
    licence = record.get("licence")
    weights = [row for row in (record.get("bases") or {}).get("weights") or () if row.get("name")]
    parts = [_part(row) for row in weights]
    for name, digest in (record.get("files") or {}).items():
        parts.append(ModelPart(name=Path(name).name, licence=licence, sha256=digest))
    return {"licence": licence, "parts": parts, "sampling_rate": music.sampling_rate}


def _part(row: dict[str, Any]) -> ModelPart:
    source = str(row.get("uri") or "")
    address = _ADDRESS.match(source)
    name = str(row["name"])
    return ModelPart(
        name=name if address else Path(name.removeprefix("file:")).name,
        version=row.get("revision") or (address and (address["release"] or address["commit"])) or None,
        licence=row.get("licence"), sha256=row.get("sha256"), source=source if address else None,
    )  # fmt: skip


def read_card(model: Model) -> ServedModel:
    """A model of anybody's `GET /v1/models`; what is not told in this form is left open."""
    try:
        return ServedModel.model_validate(model.to_dict())
    except ValidationError:
        return ServedModel(id=model.id, created=0, object="model", owned_by="")
