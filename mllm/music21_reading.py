"""What music21 read, as a `Score`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from mllm.chord_symbols import chord_text, from_music21
from mllm.errors import ScoreError
from mllm.score_jumps import AT_START, CODA, in_order, jump_of
from mllm.score_types import (
    DRUM_CHANNEL,
    DRUMS,
    MAX_NOTES,
    MAX_QUARTERS,
    MODES,
    Change,
    ChordSymbol,
    Grace,
    Key,
    Lyric,
    Note,
    Score,
    changes_after,
)

MODE_NAMES = {"ionian": "major", "aeolian": "minor"}
_GOES_ON = ("begin", "middle")  # a syllable whose word is not at its end


def read_with_music21(text: str, kind: str) -> Score:
    """Read MusicXML (`kind` "musicxml") or Humdrum ("kern") in this process, without bounds of time and memory.

    Raises:
        ScoreError: no notes, or more than a score may have.
        Exception: music21 raises many kinds on what is malformed.
    """
    from music21 import converter, stream

    reading = converter.Converter()
    reading.parseData(text, format="musicxml" if kind == "musicxml" else "humdrum")
    piece = reading.stream
    return score_of(piece.scores.first() if isinstance(piece, stream.Opus) else piece)


def score_of(piece: Any) -> Score:
    """A `music21.stream.Stream` as a Score; ScoreError where it has no notes, or too many or too long ones."""
    from music21 import meter, stream, tempo

    parts = list(piece.parts) or [piece]
    score = Score(title=(piece.metadata.bestTitle if piece.metadata else "") or "")
    graces, lyrics, chords = list[Grace](), list[Lyric](), set[ChordSymbol]()
    for part in parts:
        voice = len(score.instruments)
        found, small, words, symbols = _sounds_of(part, voice)
        chords |= symbols
        if found:
            score.notes += found
            graces += small
            lyrics += words
            instrument = part.getInstrument(returnDefault=False)
            drum = instrument is not None and instrument.midiChannel == DRUM_CHANNEL
            name = DRUMS if drum else part.partName or (instrument.partName if instrument else "") or ""
            score.instruments.append(name)
        if len(score.notes) > MAX_NOTES:
            raise ScoreError(f"more than {MAX_NOTES:,} notes")
    if not score.notes:
        raise ScoreError("no notes in it")
    if score.length > MAX_QUARTERS:
        raise ScoreError("note lengths out of all proportion")
    score.notes.sort()
    score.graces, score.lyrics, score.chords = tuple(sorted(graces)), tuple(sorted(lyrics)), tuple(sorted(chords))
    first = parts[0].flatten()
    _put_keys(score, first)
    metres = [(float(m.offset), (m.numerator, m.denominator)) for m in first[meter.TimeSignature]]
    score.metre, score.metres = _timeline(metres)
    marks = [(float(t.offset), t.getQuarterBPM()) for t in piece.flatten()[tempo.MetronomeMark]]
    score.tempo, score.tempos = _timeline((moment, round(float(bpm), 3)) for moment, bpm in marks if bpm)
    measures = list(parts[0].getElementsByClass(stream.Measure))
    score.bars = tuple(float(m.offset) for m in measures[1:])
    score.repeats = _repeats(measures)
    score.jumps = in_order(mark for part in parts for mark in _jumps(part))
    if score.bars and score.bar_length and score.bars[0] < score.bar_length:
        score.pickup = score.bars[0]
    return score


def _sounds_of(part: Any, voice: int) -> tuple[list[Note], list[Grace], list[Lyric], set[ChordSymbol]]:
    """Notes with ties joined, grace notes, syllables and chord symbols of one part."""
    from music21 import chord, harmony, stream

    found: list[Note] = []
    graces: list[Grace] = []
    lyrics: list[Lyric] = []
    symbols: set[ChordSymbol] = set()
    before = Counter[float]()  # grace notes at a moment
    held: dict[int, list[tuple[int, str]]] = {}  # pitch -> what is tied on: places in `found`, and their voices
    voices = {id(one): str(v.id) for v in part.recurse().getElementsByClass(stream.Voice) for one in v.notes}
    for element in part.flatten().notes:
        onset, length = float(element.offset), float(element.quarterLength)
        if isinstance(element, harmony.Harmony):
            text = chord_text(from_music21(element)) if isinstance(element, harmony.ChordSymbol) else ""
            if text:
                symbols.add(ChordSymbol(onset, text))
            continue
        if element.duration.isGrace:
            for pitch in getattr(element, "pitches", ()):
                graces.append(Grace(onset, voice, int(before[onset]), int(pitch.midi)))
                before[onset] += 1
            continue
        if not length:
            continue
        lyrics += [
            Lyric(onset, one.text + "-" * (one.syllabic in _GOES_ON), voice, one.number)
            for one in element.lyrics
            if one.text
        ]
        for one in element.notes if isinstance(element, chord.Chord) else [element]:
            kind, layer = one.tie.type if one.tie else "", voices.get(id(element), "")
            for pitch in getattr(one, "pitches", ()):
                number = int(pitch.midi)
                at = _tied(found, held.get(number, []), onset, layer) if kind in ("stop", "continue") else None
                if at is None:
                    at = len(found)
                    found.append(Note(onset, length, number, voice))
                else:
                    found[at] = Note(found[at].onset, onset + length - found[at].onset, number, voice)
                if kind in ("start", "continue"):
                    held.setdefault(number, []).append((at, layer))
    return found, graces, lyrics, symbols


def _tied(found: list[Note], held: list[tuple[int, str]], start: float, voice: str) -> int | None:
    """Takes the note out of `held` that ends where the one that is tied to it starts, of the same voice if there is."""
    fit = [one for one in held if abs(found[one[0]].onset + found[one[0]].duration - start) < 1e-6]
    if not fit:
        return None
    best = next((one for one in fit if one[1] == voice), fit[0])
    held.remove(best)
    return best[0]


def _put_keys(score: Score, first: Any) -> None:
    """Key or bare signature at the start, and what comes after it."""
    from music21 import key

    signatures = list(first[key.KeySignature])
    if not signatures:
        return
    begin = signatures[0].offset
    at_start = [k for k in signatures if k.offset == begin]  # kern says signature and key one after the other
    score.key = next((named for k in at_start if (named := _named(k))), None)
    score.signature = at_start[0].sharps if score.key is None else None
    later: list[tuple[float, Key | int]] = []
    in_force: Key | int = score.key if score.key is not None else at_start[0].sharps
    for one in signatures:
        new = _named(one) or one.sharps
        if one.offset > begin and new != in_force and not (isinstance(new, int) and new == _clef(in_force)):
            later = [known for known in later if known[0] < float(one.offset)]  # signature and key, as above
            later.append((float(one.offset), new))
            in_force = new
    score.keys = tuple(later)


def _clef(key: Key | int) -> int:
    return key.signature if isinstance(key, Key) else key


def _named(signature: Any) -> Key | None:
    """A signature with a mode that is one; None where there is none."""
    mode = getattr(signature, "mode", None) or ""
    mode = MODE_NAMES.get(mode, mode)
    return Key(signature.tonic.name.replace("-", "b"), mode) if mode in MODES else None


def _timeline(marks: Iterable[tuple[float, Change]]) -> tuple[Change | None, tuple[tuple[float, Change], ...]]:
    """The value at the start, and later ones that differ from what was in force."""
    marks = list(marks)
    start = next((i for i, (moment, _) in enumerate(marks) if moment <= 0), None)
    first = marks.pop(start)[1] if start is not None else None
    return first, changes_after(first, marks)


def _jumps(part: Any) -> Iterator[tuple[float, str]]:
    """D.C., Fine, segno and coda: at the start of their bar what is gone to, at its end what it is gone from."""
    from music21 import repeat, stream

    for measure in part.getElementsByClass(stream.Measure):
        start, length = float(measure.offset), float(measure.quarterLength)
        for sign in measure.recurse().getElementsByClass(repeat.RepeatExpression):
            mark = jump_of(sign.getText() or "")
            late = float(sign.getOffsetInHierarchy(measure)) > length / 2
            if mark:
                yield start + length * (mark not in AT_START or (mark == CODA and late)), mark


def _repeats(measures: list[Any]) -> tuple[tuple[float, str], ...]:
    from music21 import bar, spanner

    marks: list[tuple[float, int, str]] = []
    for measure in measures:
        start = float(measure.offset)
        end = start + float(measure.quarterLength)
        for line, moment in ((measure.leftBarline, start), (measure.rightBarline, end)):
            if isinstance(line, bar.Repeat):
                marks.append((moment, 0, ":|") if line.direction == "end" else (moment, 1, "|:"))
        for bracket in measure.getSpannerSites(spanner.RepeatBracket):
            if bracket.isFirst(measure):
                # some programs leave the number of a first ending empty, which music21 reads as 0
                numbers = [number for number in bracket.numberRange if number > 0] or [1]
                marks.append((start, 2, f"[{','.join(map(str, numbers))[:8]}"))
    return tuple((moment, mark) for moment, _, mark in sorted(marks))
