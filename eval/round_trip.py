"""Whether real scores survive: each is read, written as ABC, MIDI and MusicXML, and read again.

python -m mllm.eval.round_trip [FOLDER...] --report report.jsonl --time-limit 30 --workers 2

Without a folder the corpus of music21 goes through: every tune of its ABC books and every MusicXML, kern and MIDI file.
The report has one line of JSON for each score and format that it was written in, and one ("target": "read") for each
that could not be read; the same command goes on where a report ends. What is refused here is given to music21, to know
whether that reads it. Played MIDI files are quantized first (`mllm.quantization`).
"""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from mllm.errors import MllmError, ScoreError
from mllm.score import MAX_BYTES, MAX_XML_BYTES, quantize, read_abc, read_midi, sounding, to_abc, to_midi, to_musicxml
from mllm.score_midi import TICKS_PER_QUARTER
from mllm.score_notation import read_notation_here
from mllm.score_types import Note, Score

NOT_COUNTED = ("unreadable by music21 too",)  # what the share of whole scores is not taken of
FORMATS = {
    ".abc": "abc", ".mid": "midi", ".midi": "midi", ".musicxml": "musicxml", ".xml": "musicxml", ".mxl": "musicxml",
    ".krn": "kern",
}  # fmt: skip
MAX_MEMORY = 4 << 30  # bytes of address space of a worker
_BUSY = 10  # how much longer than the processor's time the clock's may be
_START_SECONDS = 120  # that a worker may take to import music21 on a busy machine
_MUSIC21_NAMES = {"abc": "abc", "midi": "midi", "musicxml": "musicxml", "kern": "humdrum"}
Heard = set[tuple[float, float, int]]
Line = dict[str, Any]
console = Console(stderr=True)


@dataclass(frozen=True)
class Piece:
    """One score: a file, or a tune of an ABC book, which is the `index`-th of them."""

    path: str
    kind: str
    number: str = ""  # its X: field
    index: int = -1

    @property
    def name(self) -> str:
        """What the report calls it."""
        return f"{self.path}#{self.number}" if self.index >= 0 else self.path


def abc_text(data: bytes) -> str:
    """ABC as text; most books of the 1990s are Latin-1."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def tunes(text: str) -> list[str]:
    """The tunes of a book, each from its X: line on; the whole text where there is none."""
    starts = [m.start() for m in re.finditer(r"^X:", text, re.MULTILINE)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)] or [text]


def pieces_in(folders: Iterable[Path]) -> list[Piece]:
    """All scores of folders (or files), in order. Raises MllmError for a folder that is not there."""
    found: list[Piece] = []
    for folder in folders:
        if not folder.exists():
            raise MllmError(f"{folder}: no such folder")
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            kind = FORMATS.get(path.suffix.lower())
            if kind is None or not path.is_file():
                continue
            if kind != "abc":
                found.append(Piece(str(path), kind))
                continue
            for index, tune in enumerate(tunes(abc_text(path.read_bytes()))):
                number = tune.splitlines()[0].removeprefix("X:").strip() if tune.startswith("X:") else ""
                found.append(Piece(str(path), kind, f"{index + 1} X:{number}", index))
    return found


def spread(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """At most `limit` pieces, evenly from the whole list, so that a sample has something of every collection."""
    return list(pieces) if len(pieces) <= limit else [pieces[i * len(pieces) // limit] for i in range(limit)]


def read(piece: Piece, data: bytes) -> Score:
    """The piece as a Score. Raises ScoreError."""
    limit = MAX_BYTES if piece.kind in ("abc", "midi") else MAX_XML_BYTES
    if len(data) > limit:
        raise ScoreError(f"more than {limit / 1e6:g} MB")
    return READERS[piece.kind](piece, data)


READERS: dict[str, Callable[[Piece, bytes], Score]] = {
    "abc": lambda piece, data: read_abc(tunes(abc_text(data))[piece.index]),
    "midi": lambda piece, data: quantize(read_midi(data))[0],
    "musicxml": lambda piece, data: read_notation_here(data, "musicxml"),
    "kern": lambda piece, data: read_notation_here(data, "kern"),
}


def ticks(notes: Iterable[Note]) -> Heard:
    """Onset, end and pitch of each note in ticks of MIDI."""
    starts = [(n, round(n.onset * TICKS_PER_QUARTER)) for n in notes]
    return {(s, max(round((n.onset + n.duration) * TICKS_PER_QUARTER), s + 1), n.pitch) for n, s in starts}


# what a score is written as: writer, reader, and what is compared
TARGETS: dict[str, tuple[Callable[[Score], Any], Callable[[Any], Score], Callable[[Iterable[Note]], Any]]] = {
    "abc": (to_abc, read_abc, sounding),
    "midi": (to_midi, read_midi, ticks),
    "musicxml": (to_musicxml, lambda data: read_notation_here(data, "musicxml"), sounding),
}


def compare(before: Heard, after: Heard) -> tuple[str, str, int]:
    """Status, reason and number of notes that are gone, of what sounds before and after.

    "lost notes": a pitch no longer starts where it did. "other lengths": all do, but some sound longer or shorter.
    """
    if before == after:
        return "ok", "", 0
    onsets = {(onset, pitch) for onset, _, pitch in after}
    gone = sorted({(onset, pitch) for onset, _, pitch in before} - onsets)
    if gone:
        return "lost notes", f"{len(gone)} of {len(before)}, first {gone[0]}", len(gone)
    added = onsets - {(onset, pitch) for onset, _, pitch in before}
    if added:
        return "added notes", f"{len(added)} to {len(before)}, first {min(added)}", 0
    return "other lengths", f"{len(before - after)} of {len(before)}, first {min(before - after)}", 0


def music21_reads(piece: Piece, data: bytes) -> bool:
    """Whether music21 itself finds notes in it."""
    from music21 import converter

    text: Any = data
    if piece.kind == "abc":
        text = tunes(abc_text(data))[piece.index]
    elif piece.kind != "midi" and data[:2] != b"PK":
        text = data.decode("utf-8-sig", errors="replace")
    try:
        with warnings.catch_warnings(action="ignore"):  # it warns of much that it reads
            if data[:2] == b"PK":
                stream = converter.parse(piece.path, forceSource=True)
            else:
                stream = converter.parseData(text, format=_MUSIC21_NAMES[piece.kind])
            return bool(stream.recurse().notes)
    except Exception:  # it raises many kinds
        return False


def through(piece: Piece) -> Iterator[Line]:
    """The lines of the report for one piece, each as soon as it is known."""
    start = time.process_time()

    def line(target: str, status: str, reason: str = "", **more: Any) -> Line:
        seconds = round(time.process_time() - start, 2)
        known = {"file": piece.name, "format": piece.kind, "target": target, "status": status}
        return known | {"reason": " ".join(reason.split())[:300], "seconds": seconds} | more

    data = b""
    try:
        data = Path(piece.path).read_bytes()
        score = read(piece, data)
    except ScoreError as error:
        both = not music21_reads(piece, data)
        yield line("read", "unreadable by music21 too" if both else "refused by us", str(error))
        return
    except Exception as error:
        yield line("read", "crash", f"{type(error).__name__}: {error}")
        return
    for target, (write, read_again, heard) in TARGETS.items():
        start = time.process_time()
        try:
            back = read_again(write(score))
            status, reason, lost = compare(set(heard(score.notes)), set(heard(back.notes)))
            yield line(target, status, reason, notes=len(score.notes), lost=lost)
        except ScoreError as error:
            yield line(target, "refused by us", str(error), notes=len(score.notes))
        except Exception as error:
            yield line(target, "crash", f"{type(error).__name__}: {error}", notes=len(score.notes))


def _work(pipe: Connection, time_limit: float) -> None:
    """A worker: takes pieces, gives lines, and None behind the last one of a piece; ends with its parent.

    It ends by SIGPROF where a piece takes more than `time_limit` seconds of processor time.
    """
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # no such limit on this system
    from music21 import converter, musicxml  # noqa: F401  # so that no piece's time has the import in it

    pipe.send(None)
    try:
        while True:
            piece = pipe.recv()
            _let(time_limit)
            for line in through(piece):
                pipe.send(line)
            _let(0)
            pipe.send(None)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass


def _let(seconds: float) -> None:
    """This process may take so many seconds of processor time from here on, 0: as many as it likes."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


class _Worker:
    """A process that is ended when a piece takes longer than it may."""

    def __init__(self, time_limit: float) -> None:
        self.time_limit = time_limit
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, time_limit), daemon=True)
        self.process.start()
        theirs.close()
        self.piece: Piece | None = None
        self.lines: list[Line] = []
        self.idle, self.deadline = False, time.monotonic() + _START_SECONDS

    def give(self, piece: Piece) -> None:
        self.piece, self.lines, self.idle = piece, [], False
        self.deadline = time.monotonic() + self.time_limit * (_BUSY if hasattr(signal, "setitimer") else 1)
        self.pipe.send(piece)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(pieces: Sequence[Piece], workers: int, time_limit: float) -> Iterator[list[Line]]:
    """The lines of each piece, in the order in which they are done.

    Args:
        pieces: what goes through.
        workers: processes.
        time_limit: seconds of processor time for a piece, so that a busy machine does not make a score slow: behind
            them its process is ended. As a last resort ten times as long of the clock.
    """
    waiting, slow = iter(pieces), f"more than {time_limit:g} s"
    crew = [_Worker(time_limit) for _ in range(min(workers, len(pieces)))]
    try:
        while crew:
            for worker in list(crew):
                if worker.idle and (piece := next(waiting, None)) is not None:
                    worker.give(piece)
                elif worker.idle:
                    crew.remove(worker)
                    worker.end()
            ready = wait([w.pipe for w in crew], timeout=0.2) if crew else []
            for place, worker in enumerate(crew):
                failed = ""
                if worker.pipe in ready:
                    try:
                        line = worker.pipe.recv()
                    except (EOFError, OSError):  # OSError: ended within a line
                        worker.process.join(5)
                        late = hasattr(signal, "SIGPROF") and worker.process.exitcode == -signal.SIGPROF
                        failed = slow if late else f"the process ended with code {worker.process.exitcode}"
                    else:
                        if line is not None:
                            worker.lines.append(line)
                            continue
                        worker.idle = True
                        if worker.piece is not None:
                            yield worker.lines
                elif time.monotonic() > worker.deadline:
                    failed = slow
                if failed:
                    worker.end()
                    if worker.piece is None:
                        raise MllmError(f"a worker did not start: {failed}")
                    crew[place] = _Worker(time_limit)
                    yield [*worker.lines, _unfinished(worker.piece, worker.lines, failed, time_limit)]
    finally:
        for worker in crew:
            worker.end()


def _unfinished(piece: Piece, lines: list[Line], reason: str, time_limit: float) -> Line:
    """The line for what a worker was at when it was ended."""
    done = [line["target"] for line in lines]
    target = next((t for t in TARGETS if t not in done), "read") if done else "read"
    status = "too slow" if reason.startswith("more than") else "crash"
    known = {"file": piece.name, "format": piece.kind, "target": target, "status": status}
    return known | {"reason": reason, "seconds": time_limit}


def known_lines(report: Path) -> list[Line]:
    """The lines of a report; a last one that was not written to its end is taken off the file."""
    if not report.exists():
        return []
    data = report.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        report.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def summary(lines: Iterable[Line]) -> Table:
    """A row for each source format and target: how many came back whole, and what became of the others."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for line in lines:
        counts.setdefault((line["format"], line["target"]), Counter())[line["status"]] += 1
    table = Table("read", "written as", "scores", "whole", "share", "others", title="round trips")
    for kind in sorted({kind for kind, _ in counts}):
        unread = counts.get((kind, "read"), Counter())
        for target in TARGETS:
            here = counts.get((kind, target), Counter()) + unread
            total = sum(n for status, n in here.items() if status not in NOT_COUNTED)
            others = ", ".join(f"{n} {status}" for status, n in here.most_common() if status != "ok")
            share = f"{here['ok'] / total:.2%}" if total else ""
            table.add_row(kind, target, f"{total:,}", f"{here['ok']:,}", share, others)
    return table


def main(
    folders: Annotated[list[Path] | None, typer.Argument(help="folders or files; none: the corpus of music21")] = None,
    report: Annotated[Path, typer.Option(help="JSON lines; what it has already is not done again")] = Path(
        "round_trip.jsonl"
    ),
    time_limit: Annotated[float, typer.Option(min=1, help="seconds of processor time for a score")] = 30,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many scores, evenly from all")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
    kinds: Annotated[str, typer.Option("--format", help="comma-separated: abc, midi, musicxml, kern")] = "",
) -> None:
    """Take scores through ABC, MIDI and MusicXML and back, and report what became of each."""
    wanted = [kind.strip() for kind in kinds.split(",") if kind.strip()] or list(dict.fromkeys(FORMATS.values()))
    if unknown := set(wanted) - set(FORMATS.values()):
        raise typer.BadParameter(f"unknown format {', '.join(sorted(unknown))}")
    try:
        pieces = [p for p in pieces_in(folders or [corpus()]) if p.kind in wanted]
        pieces = spread(pieces, limit or len(pieces))
        lines = known_lines(report)
        done = {line["file"] for line in lines}
        left = [piece for piece in pieces if piece.name not in done]
        report.parent.mkdir(parents=True, exist_ok=True)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with report.open("a", encoding="utf-8") as file, Progress(*columns, console=console) as progress:
            task = progress.add_task("scores", total=len(pieces), completed=len(pieces) - len(left))
            for found in run(left, workers, time_limit):
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found))
                file.flush()
                lines += found
                progress.advance(task)
    except MllmError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(1) from None
    names = {piece.name for piece in pieces}
    chosen = [line for line in lines if line["file"] in names]
    Console(width=None if console.is_terminal else 160).print(summary(chosen))
    for line in islice((one for one in chosen if one["status"] in ("crash", "too slow")), 20):
        console.print(f"{line['status']}: {line['file']} as {line['target']}: {line['reason']}", markup=False)


def corpus() -> Path:
    """The folder of music21's own scores."""
    import music21

    return Path(music21.__file__).parent / "corpus"


if __name__ == "__main__":
    typer.run(main)
