"""MusicXML (plain and compressed) and Humdrum kern to `Score`: music21 reads them, in a process of its own.

A process can be stopped when it takes too long and bounded in memory; a thread cannot. `python -m mllm.score_notation
KIND` is that process: the file on standard input, one JSON object on standard output.
"""

import io
import json
import lzma
import math
import signal
import subprocess
import sys
import zipfile
import zlib
from xml.etree import ElementTree

from pydantic import TypeAdapter

from mllm.errors import ScoreError
from mllm.music21_reading import read_with_music21
from mllm.notation_screening import screen
from mllm.score_types import Score

MAX_MEMORY = 1 << 30  # bytes of address space
SCORE = TypeAdapter(Score)


def read_notation(
    data: bytes, kind: str, name: str = "score", *, time_limit: float = 60.0, max_bytes: int = 16_000_000
) -> Score:
    """Read MusicXML (`kind` "musicxml", plain or as an .mxl archive) or Humdrum ("kern").

    `time_limit` is in seconds of processor time, so that a busy machine does not refuse a good score; where the system
    has no such limit, and as a last resort, ten times as long of the clock. Unpitched notes are left out; repeats are
    not played out.

    Raises:
        ScoreError: malformed, without notes, more than `max_bytes` when unpacked, or too slow to read.
    """
    data = _checked(data, kind, name, max_bytes)
    try:
        # -P: a file of the user's folder must not pass for one of the interpreter's modules
        child = subprocess.run(
            [sys.executable, "-P", "-m", "mllm.score_notation", kind, str(time_limit)],
            input=data, capture_output=True, timeout=10 * time_limit, check=False,
        )  # fmt: skip
        late = child.returncode == -signal.SIGXCPU if hasattr(signal, "SIGXCPU") else False
    except subprocess.TimeoutExpired:
        late = True
    if late:
        raise ScoreError(f"{name}: reading took more than {time_limit:g} s; cut the score into parts")
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        last = (child.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise ScoreError(f"{name}: cannot be read as {kind} ({last[:200]})") from None
    if "error" in answer:
        raise ScoreError(f"{name}: malformed {kind} ({answer['error'][:200]}); export it again")
    return SCORE.validate_python(answer)


def read_notation_here(data: bytes, kind: str, name: str = "score", *, max_bytes: int = 16_000_000) -> Score:
    """As `read_notation`, but in this process: for many files in a row, by one that bounds time and memory itself.

    Raises:
        ScoreError: malformed, without notes, or more than `max_bytes` when unpacked.
    """
    data = _checked(data, kind, name, max_bytes)
    try:
        return read_with_music21(_text(data), kind)
    except Exception as error:  # music21 raises many kinds on what is malformed
        raise ScoreError(f"{name}: malformed {kind} ({_reason(error)[:200]}); export it again") from error


def _checked(data: bytes, kind: str, name: str, max_bytes: int) -> bytes:
    """The file's own bytes, unpacked; ScoreError where they are not what `kind` says."""
    if kind == "musicxml":
        data = _unpacked(data, name, max_bytes) if data[:2] == b"PK" else data
        if b"<score-partwise" not in data[:20_000] and b"<score-timewise" not in data[:20_000]:
            # UTF-16 files have zeros between the letters
            if b"s\0c\0o\0r\0e\0" not in data[:40_000]:
                raise ScoreError(f"{name}: not MusicXML (no score-partwise in it); export it again as .musicxml")
    elif b"**kern" not in data:
        raise ScoreError(f"{name}: not Humdrum kern (no **kern in it)")
    try:
        screen(_text(data), kind)
    except ScoreError as error:
        raise ScoreError(f"{name}: {error}") from error
    return data


def _text(data: bytes) -> str:
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ScoreError) else " ".join(f"{type(error).__name__}: {error}".split())


def _unpacked(data: bytes, name: str, max_bytes: int) -> bytes:
    """The score inside of an .mxl archive: the first root file that its container names."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            root = next(
                (n for n in archive.namelist() if n.endswith((".xml", ".musicxml")) and "META-INF" not in n), ""
            )
            if "META-INF/container.xml" in archive.namelist():
                if archive.getinfo("META-INF/container.xml").file_size > 100_000:
                    raise ScoreError(f"{name}: the archive's container is too large to be one")
                try:
                    entries = list(ElementTree.fromstring(archive.read("META-INF/container.xml")).iter())
                except ElementTree.ParseError:  # some programs write names with an apostrophe between apostrophes
                    entries = []
                for entry in entries:
                    if entry.tag.rpartition("}")[2] == "rootfile":
                        root = entry.get("full-path", root)
                        break
            if archive.getinfo(root).file_size > max_bytes:
                raise ScoreError(f"{name}: more than {max_bytes / 1e6:g} MB when unpacked")
            with archive.open(root) as file:
                return file.read(max_bytes)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ElementTree.ParseError, LookupError, RuntimeError,
            EOFError, OSError) as error:  # fmt: skip
        raise ScoreError(f"{name}: not a readable .mxl archive ({error}); export it again") from error


def _child(kind: str, time_limit: float) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time_limit), math.ceil(time_limit) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # no such limits on this system: the parent's clock remains
    data = sys.stdin.buffer.read()
    out = sys.stdout
    sys.stdout = sys.stderr  # music21 prints now and then; standard output is the answer's alone
    try:
        out.write(SCORE.dump_json(read_with_music21(_text(data), kind)).decode())
    except Exception as error:
        json.dump({"error": _reason(error)}, out)


if __name__ == "__main__":
    _child(sys.argv[1], float(sys.argv[2]))
