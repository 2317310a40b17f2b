"""Files of what a model composed: ABC, MIDI and MusicXML, each with a line that says so and that conversion keeps."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, unescape

from mllm.abc_validation import split_header
from mllm.errors import ScoreError
from mllm.score import MIDI, Score, to_midi, to_musicxml
from mllm.whole_files import write_whole

if TYPE_CHECKING:
    from mllm.composing import Composition

_IDENTIFICATION = b"<identification>"
_MARK = re.compile(r"by the language model \S.*\(mllm [^\s(),]+, provenance [0-9a-f]{16}\)$")  # of `composing.made_by`
_LONGEST = 1000  # letters of a mark
_HEAD = 200_000  # bytes of MusicXML: the identification stands before the parts
_CREATOR = re.compile(r"<creator\b[^<>]*>([^<>]*)</creator>")


def mark_of(file: Path, score: Score) -> str | None:
    """The words with which a file says that a model wrote it, as `write_composition` puts them there; else None.

    Args:
        file: abc, mid, musicxml, mxl or krn (which has no place for them).
        score: what was read from it: of a book of ABC tunes the one that is meant.
    """
    suffix = file.suffix.lower()
    if suffix == ".abc":
        said: Iterable[str] = _notes_of_abc(score.abc or "")
    elif suffix in MIDI:
        said = _markers(file.read_bytes())
    elif suffix in (".musicxml", ".xml", ".mxl"):
        said = (unescape(words, {"&quot;": '"', "&apos;": "'"}) for words in _CREATOR.findall(_head(file)))
    else:
        said = ()
    lines = (" ".join(words.split()) for words in said)
    return next((line for line in lines if len(line) <= _LONGEST and _MARK.search(line)), None)


def with_mark(data: bytes, suffix: str, mark: str) -> bytes:
    """A file as `to_abc`, `to_midi` or `to_musicxml` writes it, with the words that a model wrote it.

    They are an `N:` field of ABC; a marker at the start of MIDI, of its text events the one that programs show; and a
    creator of MusicXML, which notation programs print as the composer.
    """
    if suffix == ".abc":
        header, body = split_header(data.decode())
        lines = header.splitlines(keepends=True)
        place = 1 + max(i for i, line in enumerate(lines) if line[:2] in ("X:", "T:"))
        return "".join([*lines[:place], f"N:{mark}\n".replace("%", "\\%"), *lines[place:], body]).encode()
    if suffix in MIDI:
        from symusic import Score as Midi
        from symusic import TextMeta

        midi: Any = Midi.from_midi(data)
        midi.markers.append(TextMeta(0, mark))
        return bytes(midi.dumps_midi())
    if data.count(_IDENTIFICATION) != 1:
        raise AssertionError("MusicXML without an identification, where the model's name belongs")
    creator = f'<creator type="composer">{escape(mark)}</creator>'
    return data.replace(_IDENTIFICATION, _IDENTIFICATION + creator.encode())


def _notes_of_abc(tune: str) -> Iterable[str]:
    return (line[2:].replace("\\%", "%") for line in tune.splitlines() if line.startswith("N:"))


def _markers(data: bytes) -> Iterable[str]:
    from symusic import Score as Midi

    midi: Any = Midi.from_midi(data)
    return (marker.text for marker in midi.markers)


def _head(file: Path) -> str:
    """The beginning of MusicXML, plain or in an archive that `read_score` has read."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = [n for n in archive.namelist() if n.endswith((".xml", ".musicxml")) and "META-INF" not in n]
            with archive.open(names[0]) as inside:
                data = inside.read(_HEAD)
    else:
        with file.open("rb") as plain:
            data = plain.read(_HEAD)
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", errors="replace")


def _abc(piece: Composition) -> bytes:
    return piece.abc.encode()  # the model's own layout, with the mark in its header


def _midi(piece: Composition) -> bytes:
    return with_mark(to_midi(piece.score), ".mid", piece.made_by)


def _musicxml(piece: Composition) -> bytes:
    return with_mark(to_musicxml(piece.score), ".musicxml", piece.made_by)


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
