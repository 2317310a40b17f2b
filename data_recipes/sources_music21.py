"""Loaders that need music21: it is slow, so every collection is parsed once, on all cores, into plain note lists."""

from __future__ import annotations

import gzip
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mllm.data_recipes.config import Recipe
from mllm.data_recipes.sources_scores import (
    SECONDS,
    Job,
    Parsed,
    TooSlow,
    collection,
    parse_score,
    processor_limit,
    sounding,
)
from mllm.data_recipes.tune import METRES, Bar, BarNote, Tune, analysed_key

_EPS = 1e-4
_NATURAL = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_MODES = {
    "": "major",
    "maj": "major",
    "ion": "major",
    "m": "minor",
    "min": "minor",
    "aeo": "minor",
    "dor": "dorian",
    "mix": "mixolydian",
}
_MAX_ABC = 40_000


def abc_jobs(recipe: Recipe, where: Path) -> Iterator[Job]:
    """One job a tune of the ABC files of a recipe."""
    for path, _, why in collection(recipe, where, (".abc",)):
        text = path.read_text(encoding="utf-8", errors="replace")
        for i, tune in enumerate(t for t in re.split(r"(?m)^(?=X:)", text) if t.startswith("X:")):
            yield f"{recipe.name}/{path.stem}/{i + 1}", {"abc": tune, "key": "stated", "skip": why}


def chorale_jobs(recipe: Recipe, where: Path) -> Iterator[Job]:
    """One job a chorale file."""
    for path, _, why in collection(recipe, where, (".mxl",)):
        yield f"{recipe.name}/{path.stem}", {"kind": "chorale", "path": str(path), "skip": why}


def openewld_jobs(recipe: Recipe, where: Path) -> Iterator[Job]:
    """Lead sheets that state their key and keep one key and metre signature."""
    with gzip.open(where, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            one = row["n_key_sigs"] <= 1 and row["n_time_sigs"] <= 1
            yield (
                f"{recipe.name}/{row['id']}",
                {
                    "abc": first_voice(row["abc"]),
                    "key": "stated" if row["mode"] else "signature",
                    "title": row["title"],
                    "mode": row["mode"],
                    "skip": "" if one else "several keys or metres",
                },
            )


def lieder_jobs(recipe: Recipe, where: Path) -> Iterator[Job]:
    """The voice part of every song; its mode comes from analysis and must fit the stated signature."""
    with gzip.open(where, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield (
                f"{recipe.name}/{row['id']}",
                {"abc": first_voice(row["abc"]), "key": "signature", "title": f"{row['composer']}: {row['title']}"},
            )


def first_voice(abc: str) -> str:
    """Only the header and the first voice of a multi-voice ABC text, without words, chord names and decorations."""
    head, voice, current, body = [], "", "", []
    for line in abc.splitlines():
        if line.startswith("w:") or line.startswith("%%") or line.startswith("U:"):
            continue
        if match := re.match(r"V:\s*(\S+)", line):
            voice = voice or match.group(1)
            current = match.group(1)
            continue
        if not voice:
            head.append(line)
        elif current == voice:
            body.append(re.sub(r'"[^"]*"|![^!]*!|\$|%.*', "", line))
    return "\n".join(head + body)


def parse(source: str, job: Job, seconds: float = SECONDS) -> Parsed:
    """The tune of one job; every reason for a skip is text, never an exception.

    `seconds` of processor time are the most that one file may take, where the system can measure that (Unix).
    """
    name, what = job
    warnings.filterwarnings("ignore")
    if what.get("skip"):
        return None, what["skip"]
    try:
        with processor_limit(seconds):
            return _PARSERS[what.get("kind", "abc")](source, name, what)
    except TooSlow:
        return None, f"took longer than {seconds:g} s"
    except Exception as error:  # music21 raises almost anything on odd scores
        return None, f"music21 cannot read it ({type(error).__name__})"


def stated_key(abc: str) -> tuple[int, str] | None:
    """(tonic pitch class, mode) of the first K: field; None for other modes and for bagpipe keys."""
    match = re.search(r"(?m)^K:[ \t]*([A-G])([#b]?)[ \t]*([A-Za-z]*)", abc)
    if not match:
        return None
    mode = match.group(3).lower()
    mode = _MODES.get(mode if mode == "m" else mode[:3])
    if mode is None:
        return None
    return (_NATURAL[match.group(1)] + {"#": 1, "b": -1, "": 0}[match.group(2)]) % 12, mode


def _parse_abc(source: str, name: str, what: dict[str, Any]) -> Parsed:
    from music21 import converter

    abc = what["abc"]
    if len(abc) > _MAX_ABC:
        return None, "longer than 40,000 characters"
    metres = re.findall(r"(?m)^M:\s*([^\s%]+)|\[M:\s*([^\]]+)\]", abc)
    if len({a or b for a, b in metres}) != 1:
        return None, "no metre or several metres"
    if len(set(re.findall(r"(?m)^K:[ \t]*([^%\s][^%\n]*?)[ \t]*(?:%.*)?$", abc))) + len(re.findall(r"\[K:", abc)) != 1:
        return None, "no key or several keys"
    abc = re.sub(r"(?m)^K:[ \t]*\n", "", abc)
    score = converter.parse(abc, format="abc", forceSource=True)
    part = score.parts[0] if score.parts else score
    return _finish(source, name, [part], stated_key(abc), what.get("title") or _title(abc), what["key"])


def _title(abc: str) -> str:
    match = re.search(r"(?m)^T:\s*(.+)$", abc)
    return match.group(1).strip() if match else ""


def _parse_chorale(source: str, name: str, what: dict[str, Any]) -> Parsed:
    from music21 import converter

    path = Path(what["path"])
    score = converter.parse(path, forceSource=True)
    parts = list(score.parts)
    if len(parts) != 4:
        return None, "not four voices"
    flats = [k.sharps for p in parts for k in p.recurse().getElementsByClass("KeySignature")]
    if len(set(flats)) != 1:
        return None, "no key or several keys"
    return _finish(source, name, parts, (flats[0] * 7 % 12, "major"), path.stem, "signature")


def _finish(source: str, name: str, parts: list[Any], key: tuple[int, str] | None, title: str, truth: str) -> Parsed:
    """Bars, metre and a key that two witnesses agree on."""
    if key is None:
        return None, "key or mode outside major, minor, dorian, mixolydian"
    metre = _metre(parts[0])
    if metre not in METRES:
        return None, f"metre {metre} is not used"
    length = metre[0] * 4 / metre[1]
    voices = [_bars(p, v, length) for v, p in enumerate(parts)]
    runs = voices[0] if len(voices) == 1 else _together(voices)
    runs = [part for run in runs for part in _without_rests(run)]
    runs = [run for run in runs if len(run) >= 4]
    if sum(len(r) for r in runs) < 8:
        return None, "fewer than 8 whole bars"
    tune = Tune(name, title, source, key[0], key[1], metre, runs)
    final = list(parts[-1].flatten().notes)[-1]
    agreed = _agreed(tune, truth, min(p.midi for p in final.pitches) % 12, len(parts))
    if agreed is None:
        return None, "stated and analysed key disagree"
    tune.tonic, tune.mode = agreed
    return tune, ""


def _without_rests(run: list[Bar]) -> list[list[Bar]]:
    """The run cut where a whole bar is silent (instrumental bars of a song)."""
    out: list[list[Bar]] = [[]]
    for bar in run:
        if bar:
            out[-1].append(bar)
        elif out[-1]:
            out.append([])
    return [r for r in out if r]


def _agreed(tune: Tune, truth: str, last: int, voices: int) -> tuple[int, str] | None:
    """Key that statement and analysis share: same tonic and mode, or (signature only) same signature."""
    stated = (tune.tonic, tune.mode)
    if truth == "stated":
        modes = ("major", "minor") if tune.mode in ("major", "minor") else ("major", "minor", tune.mode)
        return stated if analysed_key(tune.melody(), modes) == stated else None
    # The two keys of a signature are told apart by the last melody note (last bass note in a chorale).
    signature = tune.tonic if tune.mode == "major" else (tune.tonic + 3) % 12
    if last not in (signature, (signature + 9) % 12):
        return None
    found = (last, "major" if last == signature else "minor")
    # A bass line that ends on the tonic of its signature is witness enough; a single voice needs the profile too.
    return found if voices > 1 or analysed_key(tune.melody()) == found else None


def _metre(part: Any) -> tuple[int, int]:
    found = {s.ratioString for s in part.recurse().getElementsByClass("TimeSignature")}
    if len(found) != 1:
        return (0, 0)
    top, bottom = found.pop().split("/")
    # Cut time and common time sound alike: bars of the same length, felt here in quarters.
    return (4, 4) if (top, bottom) == ("2", "2") else (int(top), int(bottom))


def _bars(part: Any, voice: int, length: float) -> list[list[Bar]]:
    """Runs of whole bars. A pickup is left out; two short bars that make a whole one (at a repeat) are joined."""
    from music21 import stream

    runs: list[list[Bar]] = [[]]
    waiting: tuple[float, Bar] | None = None
    held: BarNote | None = None
    for measure in part.getElementsByClass(stream.Measure):
        bar: Bar = []
        elements, end = sounding(measure)
        for element, onset, duration in elements:
            bar.append((onset, duration, max(p.midi for p in element.pitches), voice))
            tie = element.tie.type if element.tie else None
            if tie in ("stop", "continue") and held and held[2] == bar[-1][2]:
                bar.pop()
        if end < _EPS:
            continue
        if abs(end - length) < _EPS:
            runs[-1].append(bar)
            waiting = None
        elif end < length and waiting and abs(waiting[0] + end - length) < _EPS:
            runs[-1].append(waiting[1] + [(o + waiting[0], d, p, v) for o, d, p, v in bar])
            waiting = None
        else:
            waiting = (end, bar) if end < length else None
            if not waiting or runs[-1] and len(runs[-1]) % 4:
                runs.append([])
        held = bar[-1] if bar else None
    return [run for run in runs if run]


def _together(voices: list[list[list[Bar]]]) -> list[list[Bar]]:
    """Bars of several voices merged; only when all have the same run lengths."""
    shapes = {tuple(len(r) for r in runs) for runs in voices}
    if len(shapes) != 1:
        return []
    return [[[n for v in voices for n in v[r][b]] for b in range(len(run))] for r, run in enumerate(voices[0])]


_PARSERS: dict[str, Callable[[str, str, dict[str, Any]], Parsed]] = {
    "abc": _parse_abc,
    "chorale": _parse_chorale,
    "score": parse_score,
}
