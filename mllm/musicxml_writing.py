"""`Score` to MusicXML 4, through music21."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeVar

from mllm.chord_symbols import chord_text, to_music21
from mllm.errors import ScoreError
from mllm.measures import QUARTER, Event, bars_of, end_of, layers_of, moment_of
from mllm.quantization import quantize
from mllm.score_bars import spelling_key
from mllm.score_jumps import AT_START, CODA, DA_CAPO, DAL_SEGNO, FINE, SEGNO, TO_CODA
from mllm.score_types import DRUM_CHANNEL, DRUMS, Grace, Key, Lyric, Score, program_of

Mark = TypeVar("Mark", Grace, Lyric)
_GRACE = QUARTER // 2  # an eighth, as it is written small
_LONGEST = 4  # quarters of a bar where the score has neither metre nor bar lines


def to_musicxml(score: Score) -> bytes:
    """MusicXML of a score: a part for each voice, where its notes overlap with several voices in it.

    All that `Score` holds is kept. Moments that no note value reaches (a played MIDI file) go to the nearest 24th of
    a quarter, as in `to_abc`; where lengths remain that MusicXML cannot say, all notes are moved as `quantize` does.

    Raises ScoreError where that does not help either.
    """
    from music21.exceptions21 import Music21Exception

    try:
        try:
            return _exported(score)
        except Music21Exception:
            return _exported(quantize(score)[0])
    except Music21Exception as error:
        raise ScoreError(f"{score.title or 'score'}: MusicXML cannot say all its lengths ({error})") from error


def _exported(score: Score) -> bytes:
    from music21 import defaults, instrument, metadata, stream
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    piece = stream.Score()
    piece.metadata = metadata.Metadata()
    piece.metadata.title = score.title or None
    if not score.metre and not score.bars:  # a bar as long as the piece is hard to read, and slow to write
        score = replace(score, bars=tuple(float(n) for n in range(_LONGEST, math.ceil(score.length), _LONGEST)))
    beams = _Beams()
    for voice in sorted({n.voice for n in score.notes}):
        name = score.instruments[voice] if voice < len(score.instruments) else ""
        part = stream.Part(id=f"P{len(piece.parts) + 1}")
        part.partName = name
        if name:  # a part without a name would be read as the piano's
            sound = instrument.Instrument(name)
            sound.instrumentId = f"{part.id}-I1"
            sound.midiProgram, sound.midiChannel = (0, DRUM_CHANNEL) if name == DRUMS else (program_of(name), None)
            part.insert(0, sound)
        measures = _measures(score, voice, first=not piece.parts, beams=beams)
        for measure in measures:
            part.append(measure)
        for bracket in _endings(score, measures):
            part.insert(0, bracket)
        piece.insert(0, part)
        _make_readable(part, measures, drums=name == DRUMS)
        if len(piece.parts) == 1:
            _put_chords(score, measures)
    defaults.divisionsPerQuarter = QUARTER  # music21's own are half as many: a 64th of a quarter is no whole number
    exporter = GeneralObjectExporter(piece)
    exporter.makeNotation = False  # bars, rests and ties are made already, and music21 trips over some of them
    data: bytes = exporter.parse()
    # music21 puts its own name where none is known
    data = data.replace(f'<creator type="composer">{defaults.author}</creator>'.encode(), b"")
    data = data.replace(b"<degree>", b'<degree print-object="no">')  # the text of a chord symbol has them already
    if not score.title:
        data = data.replace(f"<movement-title>{defaults.title}</movement-title>".encode(), b"")
    return data


class _Beams:
    """Beams by the metre, found once for each rhythm: music21's own way takes most of the time of a long score.

    Stems are left to the program that draws them.
    """

    def __init__(self) -> None:
        self._signatures: dict[tuple[int, int], Any] = {}
        self._known: dict[tuple[Any, ...], list[Any]] = {}

    def put(self, measure: Any, metre: tuple[int, int] | None, length: int) -> None:
        """Sets the beams of a bar's notes; `length` is the bar's in ticks. A bar that is too short begins late."""
        from music21 import meter

        late = QUARTER * 4 * metre[0] // metre[1] - length if metre else -1
        if metre is None or late < 0:
            return
        if metre not in self._signatures:
            self._signatures[metre] = meter.TimeSignature(f"{metre[0]}/{metre[1]}")
        for inside in measure.voices or [measure]:
            sounds = [one for one in inside.notesAndRests if not one.duration.isGrace]
            rhythm = (metre, late, *((one.isRest, one.quarterLength) for one in sounds))
            if rhythm not in self._known:
                self._known[rhythm] = self._signatures[metre].getBeams(sounds, Fraction(late, QUARTER))
            for one, group in zip(sounds, self._known[rhythm], strict=True):
                if group is not None:
                    one.beams = group


def _put_chords(score: Score, measures: list[Any]) -> None:
    """Chord symbols, once accidentals and clefs are chosen: music21 counts their pitches as sounding ones."""
    starts = [float(measure.offset) for measure in measures]
    for chord in score.chords:
        if text := chord_text(chord.text):
            place = max(bisect_right(starts, chord.onset + 1e-6) - 1, 0)
            measures[place].insert(Fraction(moment_of(chord.onset - starts[place]), QUARTER), to_music21(text))


def _make_readable(part: Any, measures: list[Any], drums: bool) -> None:
    """Clef, the numbers of tuplets and a last bar line: what is not heard and yet missed by who reads."""
    from music21 import bar, clef
    from music21.stream.makeNotation import makeTupletBrackets

    measures[0].insert(0, clef.PercussionClef() if drums else clef.bestClef(part, recurse=True))
    for measure in measures:
        for inside in measure.voices or [measure]:
            makeTupletBrackets(inside, inPlace=True)
    if measures[-1].rightBarline is None:
        measures[-1].rightBarline = bar.Barline("final")


def _measures(score: Score, voice: int, first: bool, beams: _Beams) -> list[Any]:
    from music21 import stream

    layers = layers_of(score.notes, voice)
    starts = [{event.start for event in layer} for layer in layers]
    graces, lyrics = _by_layer(score.graces, voice, starts), _by_layer(score.lyrics, voice, starts)
    barred = [bars_of(layer, score, until=0 if n else end_of(score)) for n, layer in enumerate(layers)]
    ties: list[bool] = [False] * len(layers)  # whether what stands before the bar line is tied over it
    measures, marks = [], _marks(score, first)
    for number in range(max(map(len, barred))):
        measure = stream.Measure(number=number if score.pickup else number + 1)
        inside_bar = [bars[number] for bars in barred if number < len(bars)]
        begin, end = inside_bar[0][0].start, inside_bar[0][-1].end
        last = number == len(barred[0]) - 1
        for tick, mark in marks:
            if begin <= tick < end or (last and tick >= end):
                measure.insert(Fraction(tick - begin, QUARTER), mark)
        _put_repeats(score, measure, begin, end)
        if first:
            _put_jumps(score, measure, begin, end)
        for index, bars in enumerate(barred):
            if number >= len(bars):
                continue
            inside = measure if len(layers) == 1 else stream.Voice(id=str(index + 1))
            for event in _told(bars[number], score):
                at = Fraction(event.start - begin, QUARTER)
                spelled = spelling_key(score, event.start / QUARTER)
                for grace in graces[index].get(event.start, ()):
                    inside.insert(at, _written(Event(0, _GRACE, (grace.pitch,)), spelled, False).getGrace())
                one = _written(event, spelled, ties[index])
                for lyric in lyrics[index].get(event.start, ()) if event.pitches else ():
                    one.lyrics.append(_lyric(lyric))
                inside.insert(at, one)
                ties[index] = event.held
            if inside is not measure:
                measure.insert(0, inside)
        _put_accidentals(measure, score, begin)
        if not number and score.pickup:
            measure.paddingLeft = (score.bar_length or 0) - score.pickup
        if any(one.duration.type == "complex" for one in measure.recurse().notesAndRests):
            measure = measure.splitAtDurations(recurse=True)[0]
        beams.put(measure, score.metre_at(begin / QUARTER), end - begin)
        measures.append(measure)
    return measures


def _put_accidentals(measure: Any, score: Score, begin: int) -> None:
    """Writes the accidentals that neither key nor bar say already; music21 minds no key change within a bar."""
    from music21 import chord, pitch

    state: dict[str, int] = {}
    key = spelling_key(score, begin / QUARTER)
    for element in sorted(measure.recurse().notes, key=lambda one: one.getOffsetInHierarchy(measure)):
        here = spelling_key(score, (begin + moment_of(float(element.getOffsetInHierarchy(measure)))) / QUARTER)
        if here != key:
            key, state = here, {}
        for one in element.notes if isinstance(element, chord.Chord) else [element]:
            place, alteration = f"{one.pitch.step}{one.pitch.octave}", int(one.pitch.alter)
            known = state.get(place, key.alteration(one.pitch.step))
            tied = one.tie is not None and one.tie.type != "start"
            if alteration == 0 and known != 0:
                one.pitch.accidental = pitch.Accidental("natural")
            if one.pitch.accidental is not None:
                one.pitch.accidental.displayStatus = alteration != known and not tied
            if not tied:
                state[place] = alteration


def _told(bar: list[Event], score: Score) -> list[Event]:
    """The bar's events; a lone rest that is not as long as the metre is cut in two.

    Programs, music21 among them, take a lone rest for one that lasts as long as the metre says.
    """
    start, end = bar[0].start, bar[-1].end
    metre = score.metre_at(start / QUARTER)
    if len(bar) > 1 or bar[0].pitches or not metre or (end - start) * metre[1] == QUARTER * 4 * metre[0]:
        return bar
    middle = start + (end - start) // 2
    return [Event(start, middle, ()), Event(middle, end, ())]


def _marks(score: Score, first: bool) -> list[tuple[int, Any]]:
    """What is written above or before the notes, with its tick: key, metre; in the first part also tempo."""
    from music21 import key, meter, tempo

    def signature(one: Key | int) -> Any:
        if isinstance(one, Key):
            return key.Key(one.tonic.replace("b", "-"), one.mode)
        return key.KeySignature(one)

    start = score.key if score.key is not None else score.signature
    keys = [*([(0.0, start)] if start is not None else []), *score.keys]
    marks: list[tuple[float, Any]] = [(moment, signature(one)) for moment, one in keys]
    marks += [
        (moment, meter.TimeSignature(f"{metre[0]}/{metre[1]}"))
        for moment, metre in [(0.0, score.metre), *score.metres]
        if metre
    ]
    if first:
        tempos = [(0.0, score.tempo), *score.tempos]
        marks += [(moment, tempo.MetronomeMark(number=one, referent=1.0)) for moment, one in tempos if one]
    return [(moment_of(moment), mark) for moment, mark in marks]


def _by_layer(marks: Sequence[Mark], voice: int, starts: list[set[int]]) -> list[dict[int, list[Mark]]]:
    """The marks of a voice by tick, each with the first layer in which a note starts there."""
    found: list[dict[int, list[Mark]]] = [{} for _ in starts]
    for mark in marks:
        tick = moment_of(mark.onset)
        if mark.voice == voice:
            layer = next((layer for layer, ticks in zip(found, starts, strict=True) if tick in ticks), None)
            if layer is not None:
                layer.setdefault(tick, []).append(mark)
    return found


def _put_repeats(score: Score, measure: Any, begin: int, end: int) -> None:
    from music21 import bar

    for moment, mark in score.repeats:
        if mark == "|:" and moment_of(moment) == begin:
            measure.leftBarline = bar.Repeat(direction="start")
        elif mark == ":|" and moment_of(moment) == end:
            measure.rightBarline = bar.Repeat(direction="end")


def _put_jumps(score: Score, measure: Any, begin: int, end: int) -> None:
    from music21 import repeat

    present = {mark for _, mark in score.jumps}
    al_coda, al_fine = {CODA, TO_CODA} <= present, FINE in present
    written = {
        FINE: repeat.Fine, SEGNO: repeat.Segno, CODA: repeat.Coda, TO_CODA: repeat.Coda,
        DA_CAPO: repeat.DaCapoAlCoda if al_coda else repeat.DaCapoAlFine if al_fine else repeat.DaCapo,
        DAL_SEGNO: repeat.DalSegnoAlCoda if al_coda else repeat.DalSegnoAlFine if al_fine else repeat.DalSegno,
    }  # fmt: skip
    for moment, mark in score.jumps:
        tick = moment_of(moment)
        if begin <= tick < end if mark in AT_START else begin < tick <= end:
            measure.insert(Fraction(tick - begin, QUARTER), written[mark]())


def _endings(score: Score, measures: list[Any]) -> list[Any]:
    """First and second endings: from where each starts to the next repeat mark, or over one bar."""
    from music21 import spanner

    starts = {moment_of(float(measure.offset)): index for index, measure in enumerate(measures)}
    brackets = []
    for moment, mark in score.repeats:
        begin = starts.get(moment_of(moment))
        if mark[0] != "[" or begin is None:
            continue
        later = [starts.get(moment_of(m), len(measures)) for m, other in score.repeats if m > moment and other != "|:"]
        end = min(later, default=begin + 1)
        brackets.append(spanner.RepeatBracket(measures[begin:end], number=mark[1:]))
    return brackets


def _lyric(lyric: Lyric) -> Any:
    from music21 import note

    goes_on = lyric.text.endswith("-")
    return note.Lyric(
        lyric.text.removesuffix("-"), number=lyric.verse, applyRaw=True, syllabic="begin" if goes_on else "single"
    )


def _written(event: Event, spelled: Key, tied: bool) -> Any:
    from music21 import chord, note, pitch, tie

    length = Fraction(event.end - event.start, QUARTER)
    if not event.pitches:
        # a rest that is said to fill its bar is neither split by music21 nor read with its own length
        return note.Rest(quarterLength=length, fullMeasure=False)
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
