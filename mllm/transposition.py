"""A piece in another key."""

from __future__ import annotations

from dataclasses import replace

from mllm.chord_symbols import move_chord_symbol
from mllm.errors import ScoreError
from mllm.score_types import DRUMS, Key, Score


def transpose(score: Score, semitones: int) -> Score:
    """The same piece `semitones` higher (negative: lower); drums stay. Up and down again gives the same piece.

    Keys take their usual spelling, and chord symbols move with them: C to Eb makes an "Am/G" a "Cm/Bb".

    Raises ScoreError when a note would leave the MIDI range 0 to 127.
    """
    drums = {i for i, name in enumerate(score.instruments) if name == DRUMS}

    def moved(pitch: int, voice: int) -> int:
        return pitch if voice in drums else pitch + semitones

    notes = [replace(n, pitch=moved(n.pitch, n.voice)) for n in score.notes]
    graces = tuple(replace(g, pitch=moved(g.pitch, g.voice)) for g in score.graces)
    if any(not 0 <= pitch <= 127 for pitch in (*(n.pitch for n in notes), *(g.pitch for g in graces))):
        raise ScoreError(f"{score.title or 'score'}: {semitones:+d} semitones leaves the MIDI range; move it less")
    return replace(
        score,
        notes=sorted(notes),
        graces=graces,
        key=score.key.transpose(semitones) if score.key else None,
        signature=None if score.signature is None else _moved_clef(score.signature, semitones),
        keys=tuple((moment, _moved_key(key, semitones)) for moment, key in score.keys),
        chords=tuple(
            replace(c, text=move_chord_symbol(c.text, fifths_moved(score.key_at(c.onset), semitones)))
            for c in score.chords
        ),
        abc=score.abc if semitones == 0 else None,
    )


def _moved_key(key: Key | int, semitones: int) -> Key | int:
    return key.transpose(semitones) if isinstance(key, Key) else _moved_clef(key, semitones)


def _moved_clef(sharps: int, semitones: int) -> int:
    return Key.from_signature(sharps).transpose(semitones).signature


def fifths_moved(key: Key | int | None, semitones: int) -> int:
    """How far a transposition goes along the line of fifths, as the key in force is spelled there."""
    if key is None:
        far = (semitones * 7 + 5) % 12 - 5  # the nearest spelling: -5 to 6
        return -6 if far == 6 and semitones < 0 else far
    here, there = (k.signature if isinstance(k, Key) else k for k in (key, _moved_key(key, semitones)))
    return there - here
