"""Works of several parts from music21's corpus: files of a recipe, and each as one tune with voices.

Where a key stands in a tune, the signature and the analysis of the notes agree on it, over the whole and in every eight
bars: what modulates is cut out, so that an excerpt is in the key that its facts name.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm.data_recipes.config import Recipe
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.row import Item
from mllm.data_recipes.tune import METRES, Bar, BarNote, Tune, analysed_key
from mllm.data_recipes.voices import chordal

Job = tuple[str, dict[str, Any]]
"""Tune id and what the parser of its loader needs."""
Parsed = tuple[Tune | None, str]
"""The tune, or None and the reason why it is skipped."""
File = tuple[Path, str, str]
"""A file of a collection, its name inside the collection, and why it is to be skipped or ""."""
Read = tuple[list[Item], Counter[str]]
"""Items of a file, and for what it does not give, reason -> count."""

SECONDS = 20.0
"""Of processor time that one file may take."""
SUFFIXES = (".krn", ".musicxml", ".mxl", ".xml")
WINDOW = 8
"""Bars that must be in the key of the whole."""
_MAX_PARTS = 8
_MAX_BYTES = 16_000_000
_EPS = 1e-4
# Metres that sound like another one once their note values are halved (2/2 stands for 4/4 as it is, felt in quarters).
_HEARD = {(2, 2): ((4, 4), 1.0), (4, 2): ((4, 4), 0.5), (3, 2): ((3, 4), 0.5), (6, 4): ((6, 8), 0.5)}


class TooSlow(BaseException):
    """A file took its whole time. Not an Exception: music21 catches those in many places and would go on."""


@contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Raises TooSlow in the block after `seconds` of processor time, which a busy machine does not change.

    At the latest at the end of the block, as a bare `except:` in music21 may swallow what was raised inside.

    Without effect outside the main thread and where the system has no such timer.
    """
    if not hasattr(signal, "SIGPROF"):
        yield
        return

    over = False

    def late(*_: object) -> None:
        nonlocal over
        over = True
        raise TooSlow

    try:
        before = signal.signal(signal.SIGPROF, late)
    except ValueError:  # not the main thread
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.05)  # again and again: the first may be swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    if over:
        raise TooSlow


def collection(recipe: Recipe, where: Path, suffixes: tuple[str, ...]) -> Iterator[File]:
    """Files of a recipe, sorted by name.

    `recipe.options` may hold `files`, a list of patterns (default: every file with one of `suffixes`), and `skip`: for
    a pattern the reason why its files may not or cannot be used.

    Raises:
        DataError: an option of another shape, or a pattern that leaves the collection.
    """
    patterns, skip = recipe.options.get("files", ["**/*"]), recipe.options.get("skip", {})
    if not isinstance(patterns, list) or not isinstance(skip, dict):
        raise DataError(f"recipe {recipe.name}: options.files must be a list of patterns and options.skip a mapping")
    root = where.resolve()
    found: dict[str, Path] = {}
    for pattern in map(str, patterns):
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise DataError(f"recipe {recipe.name}: pattern {pattern!r} leaves the collection; name files inside it")
        for path in root.glob(pattern):
            if path.suffix.lower() in suffixes and path.is_file() and path.resolve().is_relative_to(root):
                found[path.relative_to(root).as_posix()] = path
    for name in sorted(found):
        why = next((str(reason) for pattern, reason in skip.items() if Path(name).match(str(pattern))), "")
        yield found[name], name, why


def score_jobs(recipe: Recipe, where: Path) -> Iterator[Job]:
    """One job a file of notation."""
    for path, name, why in collection(recipe, where, SUFFIXES):
        if not why and path.stat().st_size > _MAX_BYTES:
            why = "larger than 16 MB"
        stem = name.rsplit(".", 1)[0]
        yield f"{recipe.name}/{stem}", {"kind": "score", "path": str(path), "title": _work(stem), "skip": why}


def _work(stem: str) -> str:
    """The work that a file belongs to: movements of one work are one, as they may not stand in two splits."""
    folders = stem.split("/")
    return " ".join(folders[:-1] if len(folders) > 2 or folders[-1].startswith("movement") else folders)


@dataclass
class _Measure:
    """What all parts have in one measure: notes [part] of (onset, duration, pitch) in quarters, and its length."""

    notes: list[list[tuple[float, float, int]]]
    length: float
    sharps: int
    metre: tuple[int, int]


@dataclass
class _Stretch:
    """Measures under one key signature and one metre."""

    sharps: int
    metre: tuple[int, int]
    measures: list[_Measure] = field(default_factory=list)


def parse_score(source: str, name: str, what: dict[str, Any]) -> Parsed:
    """The longest usable stretch of a score under one signature and metre, as a tune; its first part is the melody.

    Chords stay in the parts that are made of them; other parts are lines. A first part of chords (the right hand) gives
    its top notes to the melody and the others to a voice of their own.
    """
    from music21 import converter

    path = Path(what["path"])
    score = converter.parse(path, forceSource=True)
    score.toSoundingPitch(inPlace=True)
    parts = [p for p in score.parts if any(n.pitches for n in p.recurse().notes)]
    if not parts:
        return None, "no notes"
    if len(parts) > _MAX_PARTS:
        return None, f"more than {_MAX_PARTS} parts"
    measures = _measures(parts)
    if not measures:
        return None, "parts of different length, or no bars"
    longest_first = sorted(_stretches(measures), key=lambda s: -len(s.measures))
    found = [_of_stretch(s) for s in longest_first if len(s.measures) >= WINDOW] or ["fewer than 8 whole bars"]
    good = next((f for f in found if not isinstance(f, str)), None)
    if good is None:
        return None, str(found[0])
    key, metre, runs = good
    return Tune(name, _kern_work(path) or what["title"], source, *key, metre, runs), ""


def _of_stretch(stretch: _Stretch) -> tuple[tuple[int, str], tuple[int, int], list[list[Bar]]] | str:
    """(key, metre, runs of bars in that key) of a stretch, or why it gives none."""
    metre, scale = _HEARD.get(stretch.metre, (stretch.metre, 1.0))
    if metre not in METRES:
        return f"metre {metre} is not used"
    runs = _runs(stretch, metre, scale)
    if sum(map(len, runs)) < WINDOW:
        return "fewer than 8 whole bars"
    key = _key(runs, stretch.sharps)
    if key is None:
        return "signature and analysed key disagree"
    runs = [part for run in runs for part in _in_key(run, key)]
    return (key, metre, runs) if sum(map(len, runs)) >= WINDOW else "fewer than 8 bars stay in the key"


def _kern_work(path: Path) -> str:
    """The work that a kern file names in its OPR record (Humdrum reference records), which movements share."""
    if path.suffix != ".krn":
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("!!!OPR:")), "")


def _measures(parts: list[Any]) -> list[_Measure]:
    from music21 import stream

    columns = [list(p.getElementsByClass(stream.Measure)) for p in parts]
    if len({len(c) for c in columns}) != 1:
        return []
    held: list[dict[int, int]] = [{} for _ in parts]
    sharps, metre, out = 0, (0, 0), []
    for row in zip(*columns, strict=True):
        if row[0].keySignature is not None:
            sharps = row[0].keySignature.sharps
        if row[0].timeSignature is not None:
            metre = (row[0].timeSignature.numerator, row[0].timeSignature.denominator)
        notes, ends = zip(*(_part(m, h) for m, h in zip(row, held, strict=True)), strict=True)
        out.append(_Measure(list(notes), max(ends), sharps, metre))
    return out


def sounding(measure: Any) -> tuple[list[tuple[Any, float, float]], float]:
    """What sounds in a music21 measure, as (element, onset, duration) in quarters, and where the measure ends.

    Grace notes and chord symbols take no time; rests only count for the end.
    """
    out, end = [], 0.0
    for element in measure.flatten().notesAndRests:
        if element.duration.isGrace or type(element).__name__ == "ChordSymbol":
            continue
        onset, duration = float(element.offset), float(element.quarterLength)
        end = max(end, onset + duration)
        if not element.isRest and duration > 0:
            out.append((element, onset, duration))
    return out, end


def _part(measure: Any, held: dict[int, int]) -> tuple[list[tuple[float, float, int]], float]:
    """The notes of one part's measure and where it ends; a note tied over the bar line sounds in its first bar only."""
    notes = []
    tied: dict[int, int] = {}
    elements, end = sounding(measure)
    for element, onset, duration in elements:
        for note in element.notes if element.isChord else (element,):
            pitch = getattr(note, "pitch", None)
            if pitch is None:  # unpitched percussion
                continue
            kind = note.tie.type if note.tie else None
            if kind in ("start", "continue"):
                tied[pitch.midi] = 1
            if kind not in ("stop", "continue") or pitch.midi not in held:
                notes.append((onset, duration, pitch.midi))
            elif kind == "stop":
                held.pop(pitch.midi)
    held.clear()
    held.update(tied)
    return notes, end


def _stretches(measures: list[_Measure]) -> Iterator[_Stretch]:
    stretch: _Stretch | None = None
    for m in measures:
        if stretch is None or (m.sharps, m.metre) != (stretch.sharps, stretch.metre):
            if stretch:
                yield stretch
            stretch = _Stretch(m.sharps, m.metre)
        stretch.measures.append(m)
    if stretch:
        yield stretch


def _runs(stretch: _Stretch, metre: tuple[int, int], scale: float) -> list[list[Bar]]:
    """Runs of whole bars that sound, with one voice a line and the chords of a part in one voice."""
    length = metre[0] * 4 / metre[1]
    whole = [m for m in stretch.measures if abs(m.length * scale - length) < _EPS]
    of_chords = [_is_chordal([m.notes[p] for m in whole]) for p in range(len(whole[0].notes) if whole else 0)]
    runs: list[list[Bar]] = [[]]
    for m in stretch.measures:
        bar = _bar(m, of_chords, scale) if abs(m.length * scale - length) < _EPS else []
        if bar:
            runs[-1].append(bar)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) >= 4]


def _is_chordal(bars: list[list[tuple[float, float, int]]]) -> bool:
    return chordal([(1000.0 * b + o, d, p) for b, bar in enumerate(bars) for o, d, p in bar])


def _bar(measure: _Measure, of_chords: list[bool], scale: float) -> Bar:
    bar: Bar = []
    voice = 0
    for p, notes in enumerate(measure.notes):
        notes = [(o * scale, d * scale, pitch) for o, d, pitch in notes]
        line = notes if of_chords[p] and p else _line(notes, top=p + 1 < len(measure.notes) or p == 0)
        bar += [(o, d, pitch, voice) for o, d, pitch in line]
        voice += 1
        if of_chords[p] and p == 0:
            under = [(o, d, pitch) for o, d, pitch in notes if (o, pitch) not in {(o, q) for o, _, q in line}]
            bar += [(o, d, pitch, voice) for o, d, pitch in under]
            voice += 1
    return bar


def _line(notes: list[tuple[float, float, int]], top: bool) -> list[tuple[float, float, int]]:
    """One note at a time: the highest (or lowest) of those that begin together, ended by the next.

    What begins under a note that still sounds (over it, for the lowest) belongs to another line and is left out.
    """
    side = 1 if top else -1
    line: list[tuple[float, float, int]] = []
    for onset, duration, pitch in sorted(notes, key=lambda n: (n[0], -side * n[2])):
        if line:
            last_onset, last_duration, last_pitch = line[-1]
            if onset < last_onset + last_duration - _EPS:
                if onset - last_onset < _EPS or side * (last_pitch - pitch) > 0:
                    continue
                line[-1] = (last_onset, onset - last_onset, last_pitch)
        line.append((onset, duration, pitch))
    return line


def _in_order(bars: list[Bar]) -> list[BarNote]:
    """All notes in time, the lowest of those together last: the bass is what a key ends on."""
    return [n for bar in bars for n in sorted(bar, key=lambda n: (n[0], -n[2]))]


def _key(runs: list[list[Bar]], sharps: int) -> tuple[int, str] | None:
    """The key that signature and analysis agree on, if the bass also begins or ends on its tonic."""
    notes = [n for run in runs for n in _in_order(run)]
    major = sharps * 7 % 12
    found = analysed_key(notes)
    if found not in ((major, "major"), ((major + 9) % 12, "minor")):
        return None
    first = min((n for n in runs[0][0]), key=lambda n: (n[0], n[2]))
    return found if found[0] in (first[2] % 12, notes[-1][2] % 12) else None


def _in_key(run: list[Bar], key: tuple[int, str]) -> Iterator[list[Bar]]:
    """The parts of a run whose every WINDOW bars are in `key`."""
    kept: list[Bar] = []
    cuts = list(range(0, max(len(run) - WINDOW // 2, 1), WINDOW))
    for a, b in zip(cuts, [*cuts[1:], len(run)], strict=True):
        if analysed_key(_in_order(run[a:b])) == key:
            kept += run[a:b]
        elif kept:
            yield kept
            kept = []
    if kept:
        yield kept
