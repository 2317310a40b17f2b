"""Claims about music held against a recording: by estimators, which err, so "cannot tell" is a frequent answer.

A value is true where an estimator names it clearly, false only where it is far from what any estimator would take it
for. The thresholds were chosen on tunes of O'Neill's collection that the bench in docs/verification.md does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mllm.audio import SILENCE
from mllm.claim_reading import Value
from mllm.estimators import (
    RATE,
    ChordSpan,
    KeyEstimate,
    TempoEstimate,
    chroma,
    estimate_chords,
    estimate_key,
    estimate_tempo,
)
from mllm.note_events import NoteEvent, hear_notes
from mllm.score_checks import TEMPO_TOLERANCE, Finding, chord_pitches, pitches_of, same_pitches, unknown, within_tempo
from mllm.score_types import Key

LONGEST = 180.0  # seconds that are listened to
SHORTEST = 5.0  # seconds that key and tempo need
KEY_LEAD = 0.10  # of correlation, before the next key: from here on the best one is taken for true
KEY_GAP = 0.20  # of correlation, behind the best key: from here on a key is taken for false
STEADY = 0.7  # share of beats on an even pulse: below, no tempo is taken for false
# A beat tracker may lock to another level of the metre: a claim at one of these ratios to it stays undecided.
LEVELS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2, 3, 4)
STRENGTH = 0.5  # mean probability of a note event from which on it is believed
OVERTONES = (
    12,
    19,
    24,
    28,
    31,
    34,
    36,
)  # semitones of harmonics 2 to 8: a note there above another may be its overtone
ONE_VOICE = 0.5  # share of the time with several notes below which a recording is one voice
RELEASE = 0.15  # seconds that a note may ring into the next one
TOGETHER = 0.08  # seconds within which notes start together
EXTREME_GAP = 3  # semitones between a claimed extreme and the one heard from which on the claim is taken for false
CHORD_SHARE = 0.02  # of the time: a triad heard for longer is there
FIRST_CHORD = 0.25  # seconds a triad must last to be the first
ESTIMATE = "estimate"


class Recording:
    """A recording and what estimators say of it, each asked once and only when needed."""

    def __init__(self, waveform: np.ndarray):
        """`waveform`: float32 mono [samples] at `RATE`."""
        self.seconds = len(waveform) / RATE
        self.waveform = waveform[: round(LONGEST * RATE)]
        self.silent = float(np.abs(waveform).max(initial=0.0)) < SILENCE

    @property
    def cut(self) -> bool:
        """Whether only its beginning is listened to."""
        return self.seconds > LONGEST

    @cached_property
    def notes(self) -> list[NoteEvent]:
        """Notes transcribed by Basic Pitch."""
        return hear_notes(self.waveform)

    @cached_property
    def clear_notes(self) -> list[NoteEvent]:
        """Those that are strong and no overtones of another one."""
        notes = [n for n in self.notes if n.strength >= STRENGTH]
        clear, sounding = [], []
        for note in notes:
            sounding = [n for n in sounding if n.end > note.start]
            starting = [n for n in notes if 0 <= n.start - note.start < TOGETHER and n.pitch < note.pitch]
            if not any(note.pitch - n.pitch in OVERTONES for n in [*sounding, *starting]):
                clear.append(note)
            sounding.append(note)
        return clear

    @cached_property
    def one_voice(self) -> bool:
        """Whether several clear notes seldom sound together for longer than one rings into the next."""
        notes = self.clear_notes
        edges = sorted([(n.start, 1) for n in notes] + [(max(n.start, n.end - RELEASE), -1) for n in notes])
        sounding, together, alone, last = 0, 0.0, 0.0, 0.0
        for moment, step in edges:
            together += (moment - last) * (sounding > 1)
            alone += (moment - last) * (sounding == 1)
            sounding, last = sounding + step, moment
        return together < ONE_VOICE * (together + alone)

    @cached_property
    def melody(self) -> list[NoteEvent]:
        """The clear notes of a recording of one voice, in order."""
        return sorted(self.clear_notes)

    @cached_property
    def key(self) -> KeyEstimate:
        """How well the keys fit."""
        durations = np.zeros(12)
        for note in self.notes:
            durations[note.pitch % 12] += note.end - note.start
        return estimate_key(chroma(self.waveform), durations)

    @cached_property
    def tempo(self) -> TempoEstimate:
        """Tempo of the tracked beats."""
        return estimate_tempo(self.waveform)

    @cached_property
    def chords(self) -> list[ChordSpan]:
        """Triads over time."""
        return estimate_chords(self.waveform)


Check = Callable[[Value, Recording], Finding]


def check_key(value: Value, recording: Recording) -> Finding:
    """By how far the claimed key leads all others, or lags behind the best one."""
    tolerance = f"leads by {KEY_LEAD:g} of correlation, or lags {KEY_GAP:g} behind"
    if value["where"] == "later":
        return unknown("where the key changes is not estimated from sound", tolerance=tolerance)
    if value["mode"] not in (None, "major", "minor"):
        return unknown(f"only major and minor are estimated from sound, not {value['mode']}", tolerance=tolerance)
    estimate = recording.key
    own = [
        score
        for (tonic, mode), score in estimate.scores.items()
        if (value["tonic"] is None or Key(value["tonic"]).pitch_class == tonic) and value["mode"] in (None, mode)
    ]
    others = [score for score in estimate.scores.values() if score not in own]
    lead = max(own) - max(others)
    evidence = f"librosa chroma and Basic Pitch notes against key profiles; the claimed one leads by {lead:+.2f}"
    holds = True if lead >= KEY_LEAD else False if lead <= -KEY_GAP else None
    return Finding(holds, estimate.best.name, tolerance, evidence)


def check_tempo(value: Value, recording: Recording) -> Finding:
    """By the tracked beats; another level of the metre (half, double, two thirds …) stays undecided."""
    tolerance = f"± {TEMPO_TOLERANCE:.0%}"
    estimate = recording.tempo
    if not estimate.bpm:
        return unknown("too few beats to track", tolerance=tolerance)
    found = f"{estimate.bpm:.0f} BPM"
    evidence = f"librosa beat tracker, {estimate.beats} beats, {estimate.steadiness:.0%} of them on an even pulse"
    if within_tempo(value, estimate.bpm):
        return Finding(True, found, tolerance, evidence)
    if any(within_tempo(value, estimate.bpm * level) for level in LEVELS):
        return Finding(None, found, tolerance, evidence + "; the claim may mean another level of the metre")
    if estimate.steadiness < STEADY:
        return Finding(None, found, tolerance, evidence + "; too uneven to deny a tempo")
    return Finding(False, found, tolerance, evidence)


def check_note(value: Value, recording: Recording) -> Finding:
    """By the notes that Basic Pitch hears; places and extremes only in a recording of one voice."""
    if not recording.clear_notes:
        return unknown("no clear notes were heard", tolerance=ESTIMATE)
    return _NOTE_CHECKS[value["what"]](value, recording)


def _one_voice(check: Check) -> Check:
    def checked(value: Value, recording: Recording) -> Finding:
        if not recording.one_voice:
            return unknown("several notes sound together: which ones are the melody is not told", tolerance=ESTIMATE)
        return check(value, recording)

    return checked


@_one_voice
def _check_first(value: Value, recording: Recording) -> Finding:
    """Repeated notes count once on both sides: where nothing separates them, they are heard as one."""
    claimed = _without_repeats(pitches_of(value["notes"]))
    heard = _without_repeats([n.pitch for n in recording.melody])[: len(claimed)]
    same = sum(same_pitches([one], [pitch]) for one, pitch in zip(claimed, heard, strict=False))
    near = sum(pitch % 12 == number % 12 for (number, _), pitch in zip(claimed, heard, strict=False))
    holds = True if same == len(claimed) else False if near <= len(claimed) / 4 else None
    return Finding(holds, _spell(recording, heard), ESTIMATE, "first notes that Basic Pitch hears, repeats left out")


@_one_voice
def _check_last(value: Value, recording: Recording) -> Finding:
    if recording.cut:
        return unknown(f"only the first {LONGEST:g} s are listened to", tolerance=ESTIMATE)
    heard = recording.melody[-1].pitch
    holds = True if same_pitches(pitches_of(value["notes"]), [heard]) else None
    return Finding(holds, _spell(recording, [heard]), ESTIMATE, "last note that Basic Pitch hears")


@_one_voice
def _check_extreme(value: Value, recording: Recording) -> Finding:
    pitches = [n.pitch for n in recording.clear_notes]
    return _compare_extreme(value["what"], pitches_of(value["notes"])[0], pitches, recording)


def _compare_extreme(what: str, claimed: tuple[int, bool], pitches: list[int], recording: Recording) -> Finding:
    heard = max(pitches) if what == "highest" else min(pitches)
    found, evidence = _spell(recording, [heard]), f"{what} clear note that Basic Pitch hears"
    if same_pitches([claimed], [heard]):
        return Finding(None if recording.cut else True, found, ESTIMATE, evidence)
    number, whole = claimed
    octaves = (number - heard) % 12 == 0
    beyond = sum(p > number for p in pitches) if what == "highest" else sum(p < number for p in pitches)
    outside = number > heard if what == "highest" else number < heard
    far = whole and abs(number - heard) >= EXTREME_GAP and not octaves and (beyond >= EXTREME_GAP or outside)
    return Finding(None if recording.cut or not far else False, found, f"± {EXTREME_GAP - 1} semitones", evidence)


@_one_voice
def _check_range(value: Value, recording: Recording) -> Finding:
    pitches = [n.pitch for n in recording.clear_notes]
    found = f"{_spell(recording, [min(pitches), max(pitches)])}, {max(pitches) - min(pitches)} semitones"
    if not value["notes"]:
        low, high, width = value["low"] or 0, value["high"] or 127, max(pitches) - min(pitches)
        return Finding(True if low <= width <= high and not recording.cut else None, found, ESTIMATE, "Basic Pitch")
    low_claim, high_claim = pitches_of(value["notes"])
    ends = [_compare_extreme("lowest", low_claim, pitches, recording).holds,
            _compare_extreme("highest", high_claim, pitches, recording).holds]  # fmt: skip
    holds = False if False in ends else None if None in ends else True
    return Finding(
        holds, found, f"± {EXTREME_GAP - 1} semitones", "lowest and highest clear note that Basic Pitch hears"
    )


def _check_count(value: Value, recording: Recording) -> Finding:
    return unknown("how many notes there are is not told from sound", str(len(recording.notes)), ESTIMATE)


def _check_contains(value: Value, recording: Recording) -> Finding:
    clear = {n.pitch for n in recording.clear_notes}
    every = {n.pitch for n in recording.notes}
    claimed = pitches_of(value["notes"])

    def there(pitches: set[int]) -> list[bool]:
        return [any(same_pitches([one], [pitch]) for pitch in pitches) for one in claimed]

    classes = [number % 12 in {p % 12 for p in every} for number, _ in claimed]
    holds = True if all(there(clear)) else False if not all(classes) and not recording.cut else None
    return Finding(holds, _spell(recording, sorted(clear)[:12]), ESTIMATE, "notes that Basic Pitch hears")


_NOTE_CHECKS: dict[str, Check] = {
    "first": _check_first,
    "last": _check_last,
    "highest": _check_extreme,
    "lowest": _check_extreme,
    "range": _check_range,
    "count": _check_count,
    "contains": _check_contains,
}


def _without_repeats(items: Sequence[Any]) -> list[Any]:
    return [item for i, item in enumerate(items) if i == 0 or item != items[i - 1]]


def _spell(recording: Recording, pitches: Sequence[int]) -> str:
    key = recording.key.best if recording.seconds >= SHORTEST else Key("C")
    return ", ".join(key.spell(pitch) for pitch in pitches)


def check_chord(value: Value, recording: Recording) -> Finding:
    """By the triads over time: the first one, and which ones there are."""
    tolerance = f"major and minor triads of more than {CHORD_SHARE:.0%} of the time"
    if value["what"] not in ("first", "contains") or value["bar"] is not None:
        return unknown("from sound only the first chord and which chords there are is told", tolerance=tolerance)
    if recording.one_voice or not recording.chords:
        return unknown("no chords: one note at a time is heard", tolerance=tolerance)
    claimed = [_triad(symbol) for symbol in value["chords"]]
    if None in claimed:
        return unknown("from sound only major and minor triads are told apart", tolerance=tolerance)
    evidence = "librosa chroma against 24 triads, Viterbi decoded"
    if value["what"] == "first":
        first = next((c for c in recording.chords if c.end - c.start >= FIRST_CHORD), recording.chords[0])
        found = (first.root, first.kind)
        holds = True if found == claimed[0] else None if _share_two(found, claimed[0]) else False
        return Finding(holds, _chord_name(found), tolerance, evidence)
    total = sum(c.end - c.start for c in recording.chords)
    shares: dict[tuple[int, str], float] = {}
    for chord in recording.chords:
        name = (chord.root, chord.kind)
        shares[name] = shares.get(name, 0.0) + (chord.end - chord.start) / total
    heard = sorted((name for name, share in shares.items() if share >= CHORD_SHARE), key=lambda name: -shares[name])
    there = [name in heard for name in claimed]
    absent = any(name not in shares for name in claimed) and not recording.cut
    holds = True if all(there) else False if absent else None
    return Finding(holds, ", ".join(map(_chord_name, heard)), tolerance, evidence)


def _triad(symbol: str) -> tuple[int, str] | None:
    """Root and kind of a major or minor triad, None for any other chord."""
    pitches = chord_pitches(symbol)
    if pitches is None:
        return None
    root, classes, _ = pitches
    steps = {(p - root) % 12 for p in classes}
    return (root, "") if steps == {0, 4, 7} else (root, "m") if steps == {0, 3, 7} else None


def _share_two(a: tuple[int, str], b: tuple[int, str] | None) -> bool:
    """Whether two triads share two notes, as C and Am do: easily taken for each other."""
    if b is None:
        return True
    pitches = [{(root + step) % 12 for step in ((0, 4, 7) if kind == "" else (0, 3, 7))} for root, kind in (a, b)]
    return len(pitches[0] & pitches[1]) == 2


def _chord_name(chord: tuple[int, str]) -> str:
    return Key.of(chord[0], "minor" if chord[1] else "major").tonic + chord[1]


def _not_from_sound(what: str) -> Check:
    def check(value: Value, recording: Recording) -> Finding:
        return unknown(f"{what} not told from sound: give the score", tolerance=ESTIMATE)

    return check


AUDIO_CHECKS: dict[str, Check] = {
    "key": check_key,
    "tempo": check_tempo,
    "metre": _not_from_sound("the metre is"),
    "bar": _not_from_sound("bars are"),
    "note": check_note,
    "instrument": _not_from_sound("instruments are"),
    "chord": check_chord,
}
NEEDS_TIME = ("key", "tempo")


def check_recording(kind: str, value: Value, recording: Recording) -> Finding:
    """Hold a claim's value against a recording."""
    if recording.silent:
        return unknown("the recording is silent", tolerance=ESTIMATE)
    if kind in NEEDS_TIME and recording.seconds < SHORTEST:
        return unknown(f"too short: {recording.seconds:.1f} s, {SHORTEST:g} s are needed", tolerance=ESTIMATE)
    return AUDIO_CHECKS[kind](value, recording)
