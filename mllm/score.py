"""One score, whatever it was written in: ABC, MIDI, MusicXML and kern all become a `Score`.

This is the door to the modules that do the work: `score_types` (what a score is), `abc_reading`, `score_notation`
(MusicXML and kern) and `score_midi`, which read, `measures`, `abc_writing` and `musicxml_writing`, which write,
`quantization`, which moves played notes to notated moments, `transposition` and `score_facts`.
"""

import os
from pathlib import Path
from typing import AnyStr

from mllm.abc_reading import read_abc, tune_numbers
from mllm.abc_writing import to_abc
from mllm.errors import ScoreError
from mllm.measures import sounding
from mllm.musicxml_writing import to_musicxml
from mllm.quantization import Moved, quantize
from mllm.score_bars import bar_contents
from mllm.score_facts import AllFacts, Facts, all_facts, facts
from mllm.score_midi import read_midi, to_midi
from mllm.score_notation import read_notation
from mllm.score_repeats import unfold as play_out
from mllm.score_types import DRUMS, Key, Note, Score, instrument_name, program_of
from mllm.transposition import transpose

__all__ = [
    "DRUMS", "MIDI", "SUFFIXES", "AllFacts", "Facts", "Key", "Moved", "Note", "Score", "ScoreError", "all_facts",
    "bar_contents", "facts", "instrument_name", "program_of", "quantize", "read_abc", "read_midi", "read_notation",
    "read_notated", "read_score", "sounding", "to_abc", "to_midi", "to_musicxml", "transpose", "tune_numbers",
]  # fmt: skip

MIDI = (".mid", ".midi")
SUFFIXES = (".abc", *MIDI, ".musicxml", ".xml", ".mxl", ".krn")
MAX_BYTES = 1_000_000  # of ABC and MIDI
MAX_XML_BYTES = 16_000_000  # of MusicXML once unpacked, and of kern


def read_score(
    source: str | Path, *, number: int | None = None, unfold: bool = False, time_limit: float = 60.0
) -> Score:
    """Read a score from a file, or from ABC text.

    Args:
        source: path of an .abc, .mid, .midi, .musicxml, .xml, .mxl or .krn file; or ABC text, which is a string with
            more than one line.
        number: of an ABC tune book, the X: field of the tune (default: the first tune).
        unfold: play repeats out; otherwise each bar comes once, as written.
        time_limit: seconds of processor time that MusicXML and kern may take.

    Raises:
        ScoreError: no such file, unknown or malformed format, too large, too slow to read, no notes.
    """
    score = _read(source, number, time_limit)
    return play_out(score) if unfold else score


def read_notated(source: str | Path, *, number: int | None = None) -> tuple[Score, Moved | None]:
    """A score as it would be written down: of a MIDI file the quantized notes, and how far those were moved.

    What is asked about bars, lengths and notation is asked of this one; `read_score` has what sounds. Other formats are
    as they are, and None. Arguments and errors as in `read_score`.
    """
    score = read_score(source, number=number)
    return quantize(score) if not _is_abc(source) and Path(source).suffix.lower() in MIDI else (score, None)


def _is_abc(source: str | Path) -> bool:
    """Whether it is a text and not the path of one."""
    return isinstance(source, str) and "\n" in source


def _read(source: str | Path, number: int | None, time_limit: float) -> Score:
    if _is_abc(source):
        return read_abc(_sized(str(source), "ABC", MAX_BYTES), number=number)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ScoreError(f"{path}: not a score that is read here; readable are {' '.join(SUFFIXES)}")
    try:
        size = os.stat(path).st_size
        if path.is_dir():
            raise ScoreError(f"{path}: not a file")
        if size > MAX_XML_BYTES:
            raise ScoreError(f"{path}: {size / 1e6:.0f} MB is too large for a score")
        data = path.read_bytes()
    except OSError as error:
        raise ScoreError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise ScoreError(f"{path}: the file is empty (0 bytes)")
    if suffix == ".abc":
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")  # most tune books of the 1990s
        return read_abc(_sized(text, str(path), MAX_BYTES), number=number, name=str(path))
    if suffix in MIDI:
        return read_midi(_sized(data, str(path), MAX_BYTES), str(path))
    kind = "kern" if suffix == ".krn" else "musicxml"
    return read_notation(data, kind, str(path), time_limit=time_limit, max_bytes=MAX_XML_BYTES)


def _sized(data: AnyStr, name: str, limit: int) -> AnyStr:
    if len(data) > limit:
        raise ScoreError(f"{name}: {len(data) / 1e6:.1f} MB is too large, at most {limit / 1e6:g} MB of it are read")
    return data
