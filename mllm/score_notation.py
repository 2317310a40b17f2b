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
from typing import Any
from xml.etree import ElementTree

from mllm.errors import ScoreError
from mllm.score_types import DRUM_CHANNEL, DRUMS, MAX_NOTES, MAX_QUARTERS, MODES, Key, Note, Score

MAX_MEMORY = 4 << 30  # bytes of address space
MODE_NAMES = {"ionian": "major", "aeolian": "minor"}


def read_notation(
    data: bytes, kind: str, name: str = "score", *, time_limit: float = 60.0, max_bytes: int = 16_000_000
) -> Score:
    """Read MusicXML (`kind` "musicxml", plain or as an .mxl archive) or Humdrum ("kern").

    `time_limit` is in seconds of processor time, so that a busy machine does not refuse a good score; where the system
    has no such limit, and as a last resort, ten times as long of the clock. Grace notes, chord symbols and unpitched
    notes are left out; repeats are not played out.

    Raises:
        ScoreError: malformed, without notes, more than `max_bytes` when unpacked, or too slow to read.
    """
    if kind == "musicxml":
        data = _unpacked(data, name, max_bytes) if data[:2] == b"PK" else data
        if b"<score-partwise" not in data[:20_000] and b"<score-timewise" not in data[:20_000]:
            # UTF-16 files have zeros between the letters
            if b"s\0c\0o\0r\0e\0" not in data[:40_000]:
                raise ScoreError(f"{name}: not MusicXML (no score-partwise in it); export it again as .musicxml")
    elif b"**kern" not in data:
        raise ScoreError(f"{name}: not Humdrum kern (no **kern in it)")
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
    key, metre = answer.pop("key"), answer.pop("metre")
    if key:
        key[1] = MODE_NAMES.get(key[1], key[1])
    return Score(
        notes=[Note(*n) for n in answer.pop("notes")],
        key=Key(*key) if key and key[1] in MODES else None,
        metre=(metre[0], metre[1]) if metre else None,
        changes=frozenset(answer.pop("changes")),
        bars=tuple(answer.pop("bars")),
        **answer,
    )


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
                for entry in ElementTree.fromstring(archive.read("META-INF/container.xml")).iter():
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


def _read(text: str, kind: str) -> dict[str, Any]:
    """What `Score` needs, as JSON has it."""
    from music21 import chord, converter, harmony, key, meter, stream, tempo

    reading = converter.Converter()
    reading.parseData(text, format="musicxml" if kind == "musicxml" else "humdrum")
    piece = reading.stream
    if isinstance(piece, stream.Opus):
        piece = piece.scores.first()
    parts = list(piece.parts) or [piece]
    notes: list[tuple[float, float, int, int]] = []
    names: list[str] = []
    for part in parts:
        found: list[tuple[float, float, int, int]] = []
        held: dict[int, list[tuple[int, str]]] = {}  # pitch -> what is tied on: places in `found`, and their voices
        voices = {id(one): str(v.id) for v in part.recurse().getElementsByClass(stream.Voice) for one in v.notes}
        for element in part.flatten().notes:
            if isinstance(element, harmony.Harmony) or element.duration.isGrace or not element.quarterLength:
                continue
            for one in element.notes if isinstance(element, chord.Chord) else [element]:
                onset, length = float(element.offset), float(element.quarterLength)
                kind, voice = one.tie.type if one.tie else "", voices.get(id(element), "")
                for pitch in getattr(one, "pitches", ()):
                    number = int(pitch.midi)
                    at = _tied(found, held.get(number, []), onset, voice) if kind in ("stop", "continue") else None
                    if at is None:
                        at = len(found)
                        found.append((onset, length, number, len(names)))
                    else:
                        found[at] = (found[at][0], onset + length - found[at][0], *found[at][2:])
                    if kind in ("start", "continue"):
                        held.setdefault(number, []).append((at, voice))
        if found:
            notes += found
            instrument = part.getInstrument(returnDefault=False)
            drum = instrument is not None and instrument.midiChannel == DRUM_CHANNEL
            names.append(DRUMS if drum else part.partName or (instrument.partName if instrument else "") or "")
        if len(notes) > MAX_NOTES:
            return {"error": f"more than {MAX_NOTES:,} notes"}
    if not notes:
        return {"error": "no notes in it"}
    if max(onset + duration for onset, duration, _, _ in notes) > MAX_QUARTERS:
        return {"error": "note lengths out of all proportion"}
    first = parts[0].flatten()
    keys, metres = list(first[key.KeySignature]), list(first[meter.TimeSignature])
    tempos = list(piece.flatten()[tempo.MetronomeMark])
    quarters = [t.getQuarterBPM() for t in tempos if t.getQuarterBPM()]
    start = [k for k in keys if k.offset == keys[0].offset]  # kern says signature and key one after the other
    named = next((k for k in start if isinstance(k, key.Key)), None)
    later = [k for k in keys if k.offset > keys[0].offset]
    moved = any(k.sharps != start[0].sharps or (isinstance(k, key.Key) and named and k != named) for k in later)
    changes = ["key"] if moved else []
    changes += ["metre"] if len({m.ratioString for m in metres}) > 1 else []
    changes += ["tempo"] if len(set(quarters)) > 1 else []
    measures = list(parts[0].getElementsByClass(stream.Measure))
    pickup = 0.0
    if len(measures) > 1 and metres and measures[1].offset < metres[0].barDuration.quarterLength:
        pickup = float(measures[1].offset)
    title = piece.metadata.bestTitle if piece.metadata else ""
    return {
        "title": title or "",
        "notes": sorted(notes),
        "key": [named.tonic.name.replace("-", "b"), named.mode] if named else None,
        "metre": [metres[0].numerator, metres[0].denominator] if metres else None,
        "tempo": round(float(quarters[0]), 3) if quarters else None,
        "pickup": pickup,
        "instruments": names,
        "changes": changes,
        "signature": start[0].sharps if start and not named else None,
        "bars": [float(m.offset) for m in measures[1:]],
    }


def _tied(
    found: list[tuple[float, float, int, int]], held: list[tuple[int, str]], start: float, voice: str
) -> int | None:
    """Takes the note out of `held` that ends where the one that is tied to it starts, of the same voice if there is."""
    fit = [one for one in held if abs(found[one[0]][0] + found[one[0]][1] - start) < 1e-6]
    if not fit:
        return None
    best = next((one for one in fit if one[1] == voice), fit[0])
    held.remove(best)
    return best[0]


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
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = data.decode("utf-16" if wide else "utf-8-sig", errors="replace")
        answer = _read(text, kind)
    except Exception as error:
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    json.dump(answer, out)


if __name__ == "__main__":
    _child(sys.argv[1], float(sys.argv[2]))
