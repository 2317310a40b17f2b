"""What whoever runs the server decides: who may ask, how much, how long."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mllm.settings import Settings


class ServeSettings(Settings):
    """Limits and keys of the API; each is an option of `mllm serve` or has a default that suits one machine."""

    name: str = ""
    """What the model is called in requests; empty: the last part of the name it was loaded by."""
    api_keys: list[str] = Field(default_factory=list, repr=False)
    """Any of these opens `/v1`; none at all leaves it open."""
    audio_hosts: list[str] = Field(default_factory=list)
    """Hosts that `audio_url` may name, `media.example.org` or `host:8443`; none at all refuses http(s)."""
    max_body_bytes: int = Field(128 << 20, ge=1024)
    """Bytes of one request's body. Half an hour as `mini` hears it is 106 MB in base64, 22,050 samples a second of 16
    bits; flac makes less of music and not of noise."""
    max_held_bytes: int = Field(512 << 20, ge=1024)
    """Bytes of all bodies that are held at one time; beyond it requests get a 429, and beyond half of it (or one body)
    those of one client."""
    body_seconds: float = Field(60.0, gt=0)
    """In which a body has to arrive."""
    head_seconds: float = Field(10.0, gt=0)
    """In which the head of a request has to arrive."""
    send_seconds: float = Field(60.0, gt=0)
    """For which a reader of a stream may take nothing before the stream ends."""
    max_connections: int = Field(2048, ge=1)
    """Open connections; beyond it the server answers 503 without reading."""
    max_audio_seconds: float = Field(1800.0, gt=0, le=1800.0)
    """Length of one recording."""
    max_audios: int = Field(16, ge=1)
    """Recordings and scores in one conversation."""
    max_fetch_bytes: int = Field(64 << 20, ge=1024)
    """Bytes of a recording that an `audio_url` names."""
    fetch_seconds: float = Field(30.0, gt=0)
    """In which it has to arrive."""
    max_choices: int = Field(8, ge=1)
    """The largest `n`."""
    max_tokens: int = Field(512, ge=1)
    """Longest answer where a request does not say."""
    deadline: float = Field(300.0, gt=0)
    """Seconds that an answer may take, waiting included."""
    drain_seconds: float = Field(60.0, ge=0)
    """For which running answers may go on after SIGTERM."""
    max_preparing: int = Field(4, ge=1)
    """Recordings and scores that are decoded, read or verified at one time."""

    def model_id(self, loaded: str) -> str:
        """The model's name in the API; `loaded` is what it was loaded by, of which no folder is told."""
        return self.name or Path(loaded).name or "model"
