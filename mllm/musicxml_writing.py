"""`Score` to MusicXML 4, through music21."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from mllm.measures import QUARTER, Event, bars_of, layers_of
from mllm.score_types import DRUM_CHANNEL, DRUMS, Key, Score, program_of

_LONGEST = 4  # quarters of a bar where the score has neither metre nor bar lines


def to_musicxml(score: Score, path: str | Path | None = None) -> bytes:
    """MusicXML of a score: a part for each voice, where its notes overlap with several voices in it.

    Notes, key, metre, tempo, pickup, bar lines, title and instruments are kept. Moments that no note value reaches (a
    played MIDI file) go to the nearest 24th of a quarter, as in `to_abc`.

    Args:
        score: what to write.
        path: also write the bytes there.
    """
    from music21 import defaults, instrument, metadata, stream
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    piece = stream.Score()
    piece.metadata = metadata.Metadata()
    piece.metadata.title = score.title or None
    if not score.metre and not score.bars:  # a bar as long as the piece is hard to read, and slow to write
        score = replace(score, bars=tuple(float(n) for n in range(_LONGEST, math.ceil(score.length), _LONGEST)))
    for voice in sorted({n.voice for n in score.notes}):
        name = score.instruments[voice] if voice < len(score.instruments) else ""
        part = stream.Part(id=f"P{len(piece.parts) + 1}")
        part.partName = name
        if name:  # a part without a name would be read as the piano's
            sound = instrument.Instrument(name)
            sound.instrumentId = f"{part.id}-I1"
            sound.midiProgram, sound.midiChannel = (0, DRUM_CHANNEL) if name == DRUMS else (program_of(name), None)
            part.insert(0, sound)
        layers = [bars_of(layer, score) for layer in layers_of(score.notes, voice)]
        for measure in _measures(layers, score, first=not piece.parts):
            part.append(measure)
        piece.insert(0, part)
        part.makeAccidentals(inPlace=True)
    exporter = GeneralObjectExporter(piece)
    exporter.makeNotation = False  # bars, rests and ties are made already, and music21 trips over some of them
    data: bytes = exporter.parse()
    # music21 puts its own name where none is known
    data = data.replace(f'<creator type="composer">{defaults.author}</creator>'.encode(), b"")
    if not score.title:
        data = data.replace(f"<movement-title>{defaults.title}</movement-title>".encode(), b"")
    if path is not None:
        Path(path).write_bytes(data)
    return data


def _measures(layers: list[list[list[Event]]], score: Score, first: bool) -> list[Any]:
    from music21 import key, meter, stream, tempo

    spelled = score.key or Key.from_signature(score.signature or 0)
    ties: list[bool] = [False] * len(layers)  # whether what stands before the bar line is tied over it
    measures = []
    for number in range(max(map(len, layers))):
        measure = stream.Measure(number=number if score.pickup else number + 1)
        if not number:
            if score.key:
                measure.insert(0, key.Key(score.key.tonic.replace("b", "-"), score.key.mode))
            elif score.signature is not None:
                measure.insert(0, key.KeySignature(score.signature))
            if score.metre:
                measure.insert(0, meter.TimeSignature(f"{score.metre[0]}/{score.metre[1]}"))
            if score.tempo and first:
                measure.insert(0, tempo.MetronomeMark(number=score.tempo, referent=1.0))
        begin = min(bars[number][0].start for bars in layers if number < len(bars))
        for index, bars in enumerate(layers):
            if number >= len(bars):
                continue
            inside = measure if len(layers) == 1 else stream.Voice(id=str(index + 1))
            for event in bars[number]:
                one = _written(event, spelled, ties[index])
                inside.insert(Fraction(event.start - begin, QUARTER), one)
                ties[index] = event.held
            if inside is not measure:
                measure.insert(0, inside)
        if not number and score.pickup:
            measure.paddingLeft = (score.bar_length or 0) - score.pickup
        measures.append(measure.splitAtDurations(recurse=True)[0])
    return measures


def _written(event: Event, spelled: Key, tied: bool) -> Any:
    from music21 import chord, note, pitch, tie

    length = Fraction(event.end - event.start, QUARTER)
    if not event.pitches:
        return note.Rest(quarterLength=length)
    pitches = []
    for number in event.pitches:
        name = spelled.spell(number)
        letter = name.rstrip("-0123456789")
        pitches.append(pitch.Pitch(letter.replace("b", "-"), octave=int(name.removeprefix(letter))))
    one: Any = note.Note(pitches[0]) if len(pitches) == 1 else chord.Chord(pitches)
    one.quarterLength = length
    if kind := {(False, True): "start", (True, True): "continue", (True, False): "stop"}.get((tied, event.held)):
        one.tie = tie.Tie(kind)
    return one
