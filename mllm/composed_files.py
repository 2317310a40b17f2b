"""Files of what a model composed: ABC, MIDI and MusicXML, each with a line that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from mllm.composing import Composition
from mllm.errors import ScoreError
from mllm.score import to_midi, to_musicxml
from mllm.whole_files import write_whole

_IDENTIFICATION = b"<identification>"


def _abc(piece: Composition) -> bytes:
    return piece.abc.encode()


def _midi(piece: Composition) -> bytes:
    """With a marker at the start: of MIDI's text events the one that programs show."""
    from symusic import Score as Midi
    from symusic import TextMeta

    midi: Any = Midi.from_midi(to_midi(piece.score))
    midi.markers.append(TextMeta(0, piece.made_by))
    return bytes(midi.dumps_midi())


def _musicxml(piece: Composition) -> bytes:
    """With a creator, which notation programs print as the composer."""
    data = to_musicxml(piece.score)
    if data.count(_IDENTIFICATION) != 1:
        raise AssertionError("MusicXML without an identification, where the model's name belongs")
    creator = f'<creator type="composer">{escape(piece.made_by)}</creator>'
    return data.replace(_IDENTIFICATION, _IDENTIFICATION + creator.encode())


WRITERS: dict[str, Callable[[Composition], bytes]] = {
    ".abc": _abc, ".mid": _midi, ".midi": _midi, ".musicxml": _musicxml, ".xml": _musicxml,
}  # fmt: skip


def check_suffix(output: Path) -> None:
    """ScoreError for a file that cannot be written: another suffix, no such folder."""
    if output.suffix.lower() not in WRITERS:
        raise ScoreError(
            f"{output}: can write .abc, .mid and .musicxml, not {output.suffix or 'a file without suffix'}"
        )
    if not output.parent.is_dir():
        raise ScoreError(f"{output}: there is no folder {output.parent}")


def write_composition(piece: Composition, output: Path) -> None:
    """Write a file by its suffix: .abc, .mid, .midi, .musicxml or .xml.

    Raises:
        ScoreError: another suffix.
        OSError: it cannot be written; then there is no half a file.
    """
    check_suffix(output)
    write_whole(output, WRITERS[output.suffix.lower()](piece))
