"""General MIDI files as items: excerpts, with what the file itself says of them, and the notes to play."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm.data_recipes.config import Recipe
from mllm.data_recipes.instruments import DRUMS, PROGRAM_FAMILY
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.perform import Event
from mllm.data_recipes.row import Item
from mllm.data_recipes.sources_scores import File, Read
from mllm.data_recipes.tune import analysed_key, key_name
from mllm.data_recipes.voices import Voice
from mllm.errors import ScoreError

_MAX_BYTES = 1_000_000
_MAX_NOTES = 100_000
_FEWEST_NOTES = 8
_PARTS = 16
# Programs beside those that we play ourselves: their families by the General MIDI groups of eight, or one by one.
_NEAR = {3: "piano", 9: "mallets", 14: "mallets", 17: "organ", 18: "organ", 20: "organ", 28: "electric guitar",
         31: "electric guitar", 44: "string ensemble", 45: "string ensemble", 50: "string ensemble", 54: "choir",
         51: "string ensemble", 43: "solo strings", 58: "brass", 59: "brass", 62: "brass", 63: "brass",
         69: "orchestral reeds", 75: "flute", 7: "clavinet", 15: "dulcimer", 22: "harmonica", 47: "timpani",
         55: "orchestra hit"}  # fmt: skip
_GROUPS = {4: "bass", 9: "flute", 10: "synth lead", 11: "synth pad", 12: "synth effects", 13: "folk instruments",
           14: "percussion", 15: "sound effects"}  # fmt: skip


def program_family(program: int) -> str:
    """Our family of a General MIDI program (0-based), or the name of what lies outside the sixteen, such as `bass`."""
    return PROGRAM_FAMILY.get(program) or _NEAR.get(program) or _GROUPS[program // 8]


@dataclass
class _Midi:
    """A file in seconds: notes (onset, end, pitch, velocity, track), and the changes in ticks, seconds and quarters."""

    notes: list[tuple[float, float, int, int, int]]
    programs: list[int]
    drums: list[bool]
    tempos: list[tuple[float, float]]
    """(second, quarters a minute), the first at 0."""
    quarters: list[float]
    """Quarters at each of `tempos`."""
    metres: list[tuple[float, tuple[int, int]]]
    """(quarter, metre)."""
    keys: list[tuple[float, tuple[int, str]]]
    """(quarter, key)."""
    tempo_stated: bool

    def second(self, quarter: float) -> float:
        """When a quarter begins."""
        i = max(0, bisect_right(self.quarters, quarter + 1e-9) - 1)
        return self.tempos[i][0] + (quarter - self.quarters[i]) * 60 / self.tempos[i][1]

    def quarter(self, second: float) -> float:
        """Which quarter (with fraction) sounds at a second."""
        i = max(0, bisect_right([s for s, _ in self.tempos], second + 1e-9) - 1)
        return self.quarters[i] + (second - self.tempos[i][0]) * self.tempos[i][1] / 60


def _read(path: Path) -> _Midi:
    """Raises ScoreError: not a readable MIDI file, too large, without a musical clock or without notes."""
    import symusic

    data = path.read_bytes()
    if len(data) > _MAX_BYTES:
        raise ScoreError("larger than 1 MB")
    try:
        midi: Any = symusic.Score.from_midi(data)
    except Exception as error:  # symusic raises RuntimeError, ValueError and its own
        raise ScoreError("not a readable MIDI file") from error
    per = midi.ticks_per_quarter
    if per <= 0:
        raise ScoreError("SMPTE time has no beats")
    tracks = [t for t in midi.tracks if len(t.notes)]
    if not 0 < sum(len(t.notes) for t in tracks) <= _MAX_NOTES:
        raise ScoreError("no notes, or more than 100,000")
    tempos, quarters = [(0.0, 120.0)], [0.0]  # 120 where nothing is stated: Standard MIDI Files 1.0
    for tick, qpm in sorted((t.time, t.qpm) for t in midi.tempos if t.qpm > 0):
        at = tick / per
        second = tempos[-1][0] + (at - quarters[-1]) * 60 / tempos[-1][1]
        if at == quarters[-1]:
            tempos[-1] = (second, qpm)
        else:
            tempos.append((second, qpm))
            quarters.append(at)
    out = _Midi(
        [], [t.program for t in tracks], [t.is_drum for t in tracks], tempos, quarters,
        sorted((m.time / per, (m.numerator, m.denominator)) for m in midi.time_signatures if m.denominator > 0),
        sorted((k.time / per, _key(k.key, k.tonality)) for k in midi.key_signatures if abs(k.key) <= 7),
        len(midi.tempos) > 0,
    )  # fmt: skip
    out.notes = sorted(
        (out.second(n.time / per), out.second((n.time + n.duration) / per), n.pitch, n.velocity, track)
        for track, t in enumerate(tracks)
        for n in t.notes
        if n.velocity > 0
    )
    return out


def _key(sharps: int, tonality: int) -> tuple[int, str]:
    return (sharps * 7 + (9 if tonality else 0)) % 12, "minor" if tonality else "major"


def _ruling(changes: list[tuple[float, Any]], start: float, end: float) -> Any:
    """What holds from `start` to `end` (quarters), or None where nothing is stated or it changes on the way."""
    before = [v for at, v in changes if at <= start + 1e-6]
    inside = {v for at, v in changes if start + 1e-6 < at < end - 1e-6}
    return before[-1] if before and not inside - {before[-1]} else None


def read_midi(recipe: Recipe, file: File) -> Read:
    """Excerpts of a MIDI file, for `performance` and a synthesizer to play.

    `recipe.options`: `seconds` of an excerpt (15), `excerpts` at most of a file (3); `files` and `skip` as in
    `collection`. Excerpts begin at a bar where the file states its metre, otherwise at a quarter; only notes that begin
    inside one count. An Item's `start` and `end` are seconds of the file when it is played.

    Facts: `path` in the collection; `quarters` [first, last]; `bars` (count) and `first_bar` (1 = the first) where the
    metre is stated and never changes; `instruments`, families of all that sounds; `programs`, their General MIDI
    numbers; `drums`; `notes`, [onset, end, MIDI number] of what is not drums, seconds from the start of the excerpt;
    `tempo` in felt beats and `metre`, where they are stated and hold throughout; `key`, where one is stated and the
    analysis of the notes agrees; `seconds`.

    Raises:
        DataError: the recipe's options are not usable.
    """
    items: list[Item] = []
    counts: Counter[str] = Counter()
    wanted, most = _number(recipe, "seconds", 15.0), int(_number(recipe, "excerpts", 3))
    path, name, why = file
    try:
        if why:
            raise ScoreError(why)
        midi = _read(path)
    except ScoreError as error:
        return [], Counter([str(error)])
    for n, (start, end) in enumerate(_excerpts(midi, wanted, most)):
        facts = _facts(midi, start, end)
        if facts is None:
            counts["an excerpt with fewer than 8 notes, or more than 15 parts"] += 1
            continue
        items.append(
            Item(
                id=f"{recipe.name}/{name.rsplit('.', 1)[0]}/{n}",
                licence=recipe.licence,
                url=recipe.url,
                work=name,
                start=round(midi.second(start), 6),
                end=round(midi.second(end), 6),
                facts={"path": name, **facts},
            )
        )
    if not items:
        counts["no usable excerpt"] += 1
    return items, counts


def _number(recipe: Recipe, name: str, default: float) -> float:
    value = recipe.options.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1 <= value <= 600:
        raise DataError(f"recipe {recipe.name}: options.{name} must be a number from 1 to 600, not {value!r}")
    return float(value)


def _grid(midi: _Midi) -> float:
    """Quarters of a bar where the file states one metre, otherwise 1."""
    metres = {m for _, m in midi.metres}
    if len(metres) == 1 and midi.metres[0][0] == 0:
        top, bottom = next(iter(metres))
        return top * 4 / bottom
    return 1.0


def _excerpts(midi: _Midi, seconds: float, most: int) -> Iterator[tuple[float, float]]:
    """(first, last) quarter of excerpts that are spread evenly over the sounding part."""
    grid = _grid(midi)
    first, last = midi.notes[0][0], max(n[1] for n in midi.notes)
    count = max(1, min(most, int((last - first) // seconds)))
    before = -1.0
    for i in range(count):
        at = first + (last - first) * i / count
        start = int(midi.quarter(at) / grid + 1e-6) * grid
        if start <= before:
            continue
        bars = max(1, round((midi.quarter(midi.second(start) + seconds) - start) / grid))
        before = start + bars * grid
        yield start, before


def _facts(midi: _Midi, start: float, end: float) -> dict[str, Any] | None:
    a, b = midi.second(start), midi.second(end)
    inside = [n for n in midi.notes if a - 1e-6 <= n[0] < b - 1e-6]
    pitched = [n for n in inside if not midi.drums[n[4]]]
    tracks = sorted({n[4] for n in inside})
    if len(pitched) < _FEWEST_NOTES or len({_part(midi, t) for t in tracks}) > _PARTS - 1:
        return None
    programs = list(dict.fromkeys(midi.programs[t] for t in tracks if not midi.drums[t]))
    drums = any(midi.drums[t] for t in tracks)
    facts: dict[str, Any] = {
        "quarters": [round(start, 6), round(end, 6)],
        "instruments": list(dict.fromkeys(map(program_family, programs))) + [DRUMS] * drums,
        "programs": programs,
        "drums": drums,
        "notes": [[round(max(0.0, o - a), 4), round(e - a, 4), p] for o, e, p, _, _ in pitched],
        "seconds": round(b - a, 4),
    }
    metre = _ruling(midi.metres, start, end)
    tempo = _ruling([(q, round(t, 4)) for q, (_, t) in zip(midi.quarters, midi.tempos, strict=True)], start, end)
    if metre:
        facts["metre"] = f"{metre[0]}/{metre[1]}"
        if (grid := _grid(midi)) != 1.0:
            facts |= {"bars": round((end - start) / grid), "first_bar": round(start / grid) + 1}
        if tempo and midi.tempo_stated and (felt := _felt(metre)):
            facts["tempo"] = round(tempo / felt, 1)
    key = _ruling(midi.keys, start, end)
    # Many programs write "C major" into every file, so a stated key counts only where the notes agree with it.
    if key and analysed_key([(o, e - o, p, 0) for o, e, p, _, _ in pitched]) == key:
        facts["key"] = key_name(*key)
    return facts


def _felt(metre: tuple[int, int]) -> float | None:
    """Quarters of the felt beat; None where the metre does not say it."""
    top, bottom = metre
    if bottom == 8 and top in (6, 9, 12):
        return 1.5
    return 1.0 if bottom == 4 else None


def _part(midi: _Midi, track: int) -> tuple[bool, int]:
    """Tracks of one program share a channel when they are played."""
    return midi.drums[track], 0 if midi.drums[track] else midi.programs[track]


def performance(path: Path, start: float, end: float) -> tuple[list[Event], list[Voice]]:
    """What `synthesizer.play` needs to play seconds `start` to `end` of a MIDI file: events from 0, and their voices.

    Raises:
        DataError: the file cannot be read, or has more than 15 instruments there.
    """
    try:
        midi = _read(path)
    except (ScoreError, OSError) as error:
        raise DataError(f"{path}: {error}") from error
    inside = [n for n in midi.notes if start - 1e-6 <= n[0] < end - 1e-6]
    parts = list(dict.fromkeys(_part(midi, n[4]) for n in inside))
    if len(parts) > _PARTS - 1:
        raise DataError(f"{path}: {len(parts)} instruments play at once, and at most 15 can")
    voices = [Voice("drums" if drums else "inner", program, []) for drums, program in parts]
    events = [
        Event(max(0.0, o - start), e - start, p, velocity, parts.index(_part(midi, track)))
        for o, e, p, velocity, track in inside
    ]
    return events, voices
