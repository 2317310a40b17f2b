"""How good a transcription is: notes of the answer against the notes that were played, beside Basic Pitch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mllm.errors import ScoreError
from mllm.rows import Row, row_audios
from mllm.score import read_abc
from mllm.score_checks import felt_beat

Played = Sequence[tuple[float, float, int]]
"""Start and end in seconds and MIDI pitch of each note."""


MEASURES = {"onset": "onsets alone", "note": "onset and pitch", "note_offset": "onset, pitch and end"}
"""What has to agree: onsets within 50 ms, pitches within half a semitone, ends within 50 ms or a fifth of a note."""


def note_measures(played: Played, found: Played) -> dict[str, float]:
    """F-measures of notes, 0 to 1, by name in `MEASURES` (mir_eval: Raffel et al., ISMIR 2014); 0 for no notes."""
    from mir_eval.transcription import onset_precision_recall_f1, precision_recall_f1_overlap
    from mir_eval.util import midi_to_hz

    if not played or not found:
        return dict.fromkeys(MEASURES, 0.0)
    reference, estimate = (np.array(sorted(notes), float) for notes in (played, found))
    for notes in (reference, estimate):
        notes[:, 1] = np.maximum(notes[:, 1], notes[:, 0] + 1e-3)
    spans, pitches = (reference[:, :2], estimate[:, :2]), (midi_to_hz(reference[:, 2]), midi_to_hz(estimate[:, 2]))
    whole = (spans[0], pitches[0], spans[1], pitches[1])
    return {
        "onset": float(onset_precision_recall_f1(*spans)[2]),
        "note": float(precision_recall_f1_overlap(*whole, offset_ratio=None)[2]),
        "note_offset": float(precision_recall_f1_overlap(*whole)[2]),
    }


def note_f1(played: Played, found: Played) -> float:
    """F-measure of notes: onset within 50 ms, same pitch, any end; see `note_measures`."""
    return note_measures(played, found)["note"]


def notes_of(body: str, facts: dict[str, Any]) -> Played:
    """The notes of an answer in seconds, at the recording's own tempo: a text says nothing of that. None for no ABC."""
    try:
        score = read_abc(f"{facts['head']}\n{body}\n")
    except ScoreError:
        return []
    count, unit = map(int, facts["metre"].split("/"))
    quarter = 60 / facts["tempo"] / felt_beat((count, unit))
    at = facts["lead_in"]
    return [(at + n.onset * quarter, at + (n.onset + n.duration) * quarter, n.pitch) for n in score.notes]


def heard_by_basic_pitch(path: str | Path) -> Played:
    """The notes that Basic Pitch finds in a recording by itself."""
    from mllm.audio import load_audio
    from mllm.note_events import RATE, hear_notes

    return [(note.start, note.end, note.pitch) for note in hear_notes(load_audio(path, RATE))]


def note_scores(rows: Sequence[Row], said: Callable[[Row], str]) -> dict[str, float]:
    """Mean F-measure of notes over rows of the task `transcribe`; nothing where there are none.

    "model": of what `said` says of a row; "perfect text": of the true notation at the true tempo, which is what a
    perfect answer would reach, for players do not keep to the grid; "Basic Pitch": of its own notes.
    """
    scores: dict[str, list[float]] = {"model": [], "perfect text": [], "Basic Pitch": []}
    for row in rows:
        facts = row["facts"]
        played = [tuple(note) for note in facts["notes"]]
        scores["model"].append(note_f1(played, notes_of(said(row), facts)))
        scores["perfect text"].append(note_f1(played, notes_of(facts["answer"], facts)))
        scores["Basic Pitch"].append(note_f1(played, heard_by_basic_pitch(row_audios(row)[0])))
    return {name: float(np.mean(values)) for name, values in scores.items() if values}
