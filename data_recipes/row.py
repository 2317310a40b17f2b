"""The one instruction row that every recipe gives, and the item that every loader gives."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("messages", pa.string()),
        ("facts", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("split", pa.string()),
        ("length", pa.float64()),
        ("provenance", pa.string()),
    ]
)
"""`messages`, `facts` and `provenance` are JSON texts: their shape differs from row to row, and columns bear one."""

Turn = tuple[str, str]
"""A question and its answer."""
Message = dict[str, Any]
"""One message in the OpenAI/HF format: role, and content as text or as a list of parts."""


@dataclass
class Item:
    """What a loader gives: one recording, score or text with all that is known to be true of it."""

    id: str
    """Unique inside its source."""
    licence: str
    """Canonical (`mllm.data_recipes.licences`)."""
    url: str = ""
    """Where the item itself, or else its collection, can be found."""
    work: str = ""
    """What may not stand in two splits (a track, a tune, an album); empty means the item itself."""
    split: str = ""
    """The split that the source's authors gave it: train, validation or test; empty where they gave none."""
    audio: str = ""
    """Path or fsspec address of a recording, or empty."""
    start: float = 0.0
    end: float = 0.0
    """Seconds of the recording that are meant; `end` 0 means to its end."""
    score: str = ""
    """ABC text, or empty."""
    facts: dict[str, Any] = field(default_factory=dict)
    """See FACTS."""
    messages: list[Message] = field(default_factory=list)
    """A conversation that the source brings ready made; the audio part holds the item's own `audio`."""


FACTS = {
    "instruments": "list of names",
    "key": "tonic and mode, 'F# minor'",
    "tempo": "felt beats a minute",
    "metre": "'6/8'",
    "caption": "what a person wrote about it",
    "tags": "list of words",
    "genre": "one name",
    "mood": "list of words",
    "valence": "-1..1",
    "arousal": "-1..1",
    "pitch": "MIDI number of the only note",
    "chords": "list of [start, end, label in Harte's syntax], seconds",
    "beats": "list of seconds",
    "sections": "list of {start, end, label, and what is true of it: key, tempo, metre, instruments}, seconds",
    "notes": "list of [onset, end, MIDI number], seconds",
    "lowest": "note name with octave, C4 = 60",
    "highest": "note name with octave",
    "contour": "rising, falling, arch, valley or level",
    "first_notes": "list of three note names",
    "texture": "solo, duet, voices or accompanied",
    "drums": "whether drums play",
    "bars": "count",
    "roman": "list of [bar, beat, key, Roman numeral]",
    "title": "name of the work",
    "composer": "name",
    "seconds": "length",
}
"""Names of the facts that makers read; a source may keep others beside them."""


def messages(turns: Sequence[Turn], audio: Sequence[str] = (), score: str = "") -> list[Message]:
    """A conversation about `audio` and `score`, which stand in the first user turn only."""
    out: list[Message] = []
    for i, (question, answer) in enumerate(turns):
        parts: list[dict[str, str]] = []
        if i == 0:
            parts = [{"type": "audio", "audio": a} for a in audio]
            parts += [{"type": "text", "text": score.rstrip("\n") + "\n"}] if score else []
        out.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
        out.append({"role": "assistant", "content": answer})
    return out


def make_row(
    id: str,
    task: str,
    talk: Sequence[Message],
    facts: Mapping[str, Any],
    *,
    source: str,
    licence: str,
    split: str,
    length: float,
    source_id: str,
    work: str = "",
    url: str = "",
    sha256: str = "",
    render: Mapping[str, Any] | None = None,
    made_of: Sequence[str] = (),
) -> dict[str, Any]:
    """A row of SCHEMA.

    Args:
        talk: the conversation.
        facts: the truth that the answers were made from.
        source, licence: the recipe's name and the item's canonical licence.
        split: train, validation or test.
        length: seconds of all audio in the conversation.
        source_id, work, url: what the item is called in its source, what it is a version of, where it is found.
        sha256: of the audio file or the score text that the conversation is about.
        render: settings with which the audio was made, where we made it.
        made_of: recipes of several collections that went into one row.
    """
    provenance: dict[str, Any] = {
        "source_id": source_id,
        "work": work or source_id,
        "licence": licence,
        "url": url,
        "sha256": sha256,
    }
    if render is not None:
        provenance["render"] = dict(render)
    if made_of:
        provenance["made_of"] = list(made_of)
    return {
        "id": id,
        "task": task,
        "messages": json.dumps(list(talk), ensure_ascii=False),
        "facts": json.dumps(dict(facts), ensure_ascii=False),
        "source": source,
        "licence": licence,
        "split": split,
        "length": float(length),
        "provenance": json.dumps(provenance, ensure_ascii=False),
    }


def shard_bytes(table: pa.Table, skips: Mapping[str, int]) -> bytes:
    """Rows as the bytes of a parquet file that also says what was left out; the same bytes for the same rows."""
    buffer = io.BytesIO()
    text = json.dumps(dict(sorted(skips.items())))
    pq.write_table(table.replace_schema_metadata({"skipped": text}), buffer, compression="zstd")
    return buffer.getvalue()


def skips_of(schema: pa.Schema) -> Counter[str]:
    """Reason -> count of what a shard left out."""
    return Counter(json.loads((schema.metadata or {}).get(b"skipped", b"{}")))


def sha256_text(text: str) -> str:
    """Hex sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
