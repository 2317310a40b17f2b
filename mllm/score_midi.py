"""Standard MIDI files to `Score` and back, through symusic."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import symusic

from mllm.errors import ScoreError
from mllm.score_types import DRUMS, MAX_NOTES, MAX_QUARTERS, Key, Lyric, Note, Score, instrument_name, program_of
from mllm.whole_files import write_whole

T = TypeVar("T")
MAX_VOICES = 256
MAX_VERSES = 20
MAX_LAYERS = 4  # tracks that a voice is written as
_COMPARED = 1000  # syllables of a track that are compared with the notes of the voices
CHANNELS = 15  # beside the one of the drums
SLOWEST = 60e6 / (2**24 - 1)  # quarters a minute: MIDI has 24 bits for the microseconds of a quarter
FASTEST = 2000.0  # quarters a minute; more is no tempo that anybody meant, as in ABC
POWERS_OF_TWO = {2**n for n in range(8)}
TICKS_PER_QUARTER = 480  # divisible by 2^5, 3 and 5: all common note values and tuplets fall on a tick


def read_midi(data: bytes, name: str = "MIDI") -> Score:
    """Read a standard MIDI file of type 0 or 1.

    A voice is a track's part for one program. Tempo, metre and key with their changes and the lyrics are what the file
    has of them; a short first metre followed by a longer one at its end is a pickup bar, as `to_midi` writes it. Notes
    are where they were played: `mllm.quantization` moves them to the grid.

    Raises:
        ScoreError: corrupt, without notes, too large, or without a musical clock (SMPTE time).
    """
    try:
        midi: Any = symusic.Score.from_midi(data)
    except Exception as error:  # symusic raises RuntimeError, ValueError and its own
        reason = " ".join(str(error).replace("MiniMidi:", "").replace("Invaild", "invalid").split())
        raise ScoreError(f"{name}: not a readable MIDI file ({reason}); export it again") from error
    quarter = midi.ticks_per_quarter
    if quarter <= 0:
        raise ScoreError(f"{name}: MIDI without beats; export it with ticks per quarter note")
    tracks = [t for t in midi.tracks if len(t.notes)]
    if len(tracks) > MAX_VOICES:
        raise ScoreError(f"{name}: more than {MAX_VOICES} tracks with notes; it is damaged, export it again")
    if sum(len(t.notes) for t in tracks) > MAX_NOTES:
        raise ScoreError(f"{name}: more than {MAX_NOTES:,} notes")
    notes = [
        Note(n.time / quarter, n.duration / quarter, n.pitch, voice)
        for voice, track in enumerate(tracks)
        for n in track.notes
    ]
    if not notes:
        raise ScoreError(f"{name}: a MIDI file without notes")
    if max(n.onset + n.duration for n in notes) > MAX_QUARTERS or min(n.onset for n in notes) < 0:
        raise ScoreError(f"{name}: a MIDI file with times out of all proportion; it is damaged, export it again")
    start = min(n.onset for n in notes)
    metres = _in_force(
        ((m.time / quarter, (m.numerator, m.denominator)) for m in midi.time_signatures if _is_metre(m)), start
    )
    pickup = 0.0
    if len(metres) > 1:
        (_, first), (moment, second) = metres[:2]
        if moment == 4 * first[0] / first[1] < 4 * second[0] / second[1]:
            pickup, metres = moment, [(0.0, second), *metres[2:]]
    metre, later_metres = _first_and_later(metres)
    tempos = ((t.time / quarter, round(t.qpm, 3)) for t in midi.tempos if 0 < t.qpm <= FASTEST)
    tempo, later_tempos = _first_and_later(_in_force(tempos, start))
    keys = ((k.time / quarter, _key(k.key, k.tonality)) for k in midi.key_signatures if abs(k.key) <= 7)
    key, later_keys = _first_and_later(_in_force(keys, start))
    return Score(
        notes=sorted(notes),
        key=key,
        metre=metre,
        tempo=tempo,
        pickup=pickup,
        instruments=[DRUMS if t.is_drum else instrument_name(t.program) for t in tracks],
        keys=later_keys,
        metres=later_metres,
        tempos=later_tempos,
        lyrics=_lyrics(midi.tracks, quarter),
    )


def _is_metre(signature: Any) -> bool:
    return bool(0 < signature.numerator < 65 and 0 < signature.denominator < 129)


def _key(sharps: int, tonality: int) -> Key:
    return Key.from_signature(sharps, "minor" if tonality else "major")


def _in_force(events: Iterable[tuple[float, T]], start: float) -> list[tuple[float, T]]:
    """What holds from which quarter on: of several at one moment the last, and nothing that says the same again.

    What the file says first holds from its start on where no note sounds before (`start`).
    """
    said = sorted(dict(events).items(), key=lambda event: event[0])
    if said and said[0][0] <= start:
        said[0] = (0.0, said[0][1])
    return [event for i, event in enumerate(said) if i == 0 or event[1] != said[i - 1][1]]


def _first_and_later(events: list[tuple[float, T]]) -> tuple[T | None, tuple[tuple[float, T], ...]]:
    """The value at the start (None if it comes later) and those that change it."""
    return (events[0][1], tuple(events[1:])) if events and events[0][0] == 0 else (None, tuple(events))


def _lyrics(tracks: Iterable[Any], quarter: int) -> tuple[Lyric, ...]:
    """Syllables with their voice: that of the same track name where the most of them fall on a note.

    symusic gives the words of a track as a track of their own, behind the one of its notes. Several at one moment are
    verses, at most 20.
    """
    names: list[str] = []  # of the voices
    onsets: list[set[int]] = []
    sung: list[tuple[Any, int]] = []  # a track with words, and how many voices come up to it
    for track in tracks:
        if len(track.notes):
            names.append(track.name)
            onsets.append({n.time for n in track.notes})
        if len(track.lyrics):
            sung.append((track, len(names)))
    found: list[Lyric] = []
    for track, before in sung:
        times = [word.time for word in track.lyrics[:_COMPARED]]
        same = [v for v, name in enumerate(names) if name == track.name] or range(len(names))
        voice = max(same, key=lambda v: (sum(t in onsets[v] for t in times), v < before, -abs(before - v)))
        verses: Counter[int] = Counter()
        for word in track.lyrics:
            if text := " ".join(word.text.split()):
                verses[word.time] += 1
                if verses[word.time] <= MAX_VERSES:
                    found.append(Lyric(word.time / quarter, text, voice, verses[word.time]))
    return tuple(sorted(set(found), key=attrgetter("onset", "text", "voice", "verse")))


def to_midi(
    score: Score,
    path: str | Path | None = None,
    *,
    programs: Sequence[int] | None = None,
    tempo: float | None = None,
    velocity: int = 80,
) -> bytes:
    """Standard MIDI file of a score: one track a voice, 480 ticks a quarter.

    Args:
        score: what to write; a score without tempo is written at 120 quarters a minute.
        path: also write the bytes there: whole, or the file stays as it was.
        programs: General MIDI program of each voice, instead of `score.instruments`.
        tempo: quarters a minute from start to end, instead of the score's own.
        velocity: loudness of all notes, 1 to 127.

    Tempo, metre and key are written with their changes. A metre that MIDI cannot say (a denominator that is no power of
    two) is left out; a church mode or a bare key signature is written as the major key of its signature. Lyrics are
    written as text, the verses in their order. Chord symbols have no standard place in MIDI, and grace notes no time
    of their own: both are left out. Repeats are not played out. A note that overlaps another of its voice and pitch
    goes to a second track of the voice, for a channel holds a key once. Beyond fifteen tracks there is no second one,
    and voices of the same program share theirs, for MIDI has fifteen channels beside the drums'.

    Raises:
        ScoreError: a tempo that MIDI cannot say or nobody could mean, more than fifteen different programs.
        OSError: `path` cannot be written.
    """
    out: Any = symusic.Score(TICKS_PER_QUARTER)
    tempos = [(0.0, float(tempo or score.tempo or 120.0)), *(score.tempos if tempo is None else ())]
    for moment, quarters_a_minute in tempos:
        if not SLOWEST <= quarters_a_minute <= FASTEST:
            raise ScoreError(
                f"a tempo of {quarters_a_minute:g} quarters a minute: MIDI is written with {SLOWEST:g} to {FASTEST:g}"
            )
        out.tempos.append(symusic.Tempo(_tick(moment), qpm=quarters_a_minute))
    pickup = _pickup_metre(score.pickup) if score.metre else None
    if pickup:
        out.time_signatures.append(symusic.TimeSignature(0, *pickup))
    metres = [(score.pickup if pickup else 0.0, score.metre), *score.metres]
    for moment, metre in metres:
        if metre and metre[0] <= 255 and metre[1] in POWERS_OF_TWO:
            out.time_signatures.append(symusic.TimeSignature(_tick(moment), *metre))
    for moment, key in [(0.0, score.key if score.key is not None else score.signature), *score.keys]:
        sharps, minor = (key.signature, key.mode == "minor") if isinstance(key, Key) else (key, False)
        if sharps is not None and abs(sharps) <= 7:
            out.key_signatures.append(symusic.KeySignature(_tick(moment), sharps, int(minor)))
    notes: dict[int, list[tuple[int, int, int]]] = {}
    for n in score.notes:
        start = _tick(n.onset)
        notes.setdefault(n.voice, []).append((start, max(start + 1, _tick(n.onset + n.duration)), n.pitch))
    named = dict(enumerate(score.instruments))
    layers = [
        (v, layer) for v in sorted(notes) for layer in ([notes[v]] if named.get(v) == DRUMS else _apart(notes[v]))
    ]
    if len(layers) > CHANNELS:
        layers = sorted(notes.items())
    by_program: dict[int, Any] = {}
    sung = set[int]()  # voices whose words are written
    for voice, layer in layers:
        name = named.get(voice, "")
        is_drum = name == DRUMS
        program = programs[voice] if programs is not None else program_of(name)
        if len(layers) > CHANNELS and not is_drum and program in by_program:
            track = by_program[program]
        else:
            track = symusic.Track(name, program, is_drum)
            out.tracks.append(track)
            if not is_drum:
                by_program[program] = track
        for start, end, pitch in layer:
            track.notes.append(symusic.Note(start, end - start, pitch, velocity))
        if voice not in sung:
            sung.add(voice)
            for word in sorted((one for one in score.lyrics if one.voice == voice), key=attrgetter("onset", "verse")):
                track.lyrics.append(symusic.TextMeta(_tick(word.onset), word.text))
    if len(by_program) > CHANNELS:
        raise ScoreError(f"{len(by_program)} different instruments: MIDI has {CHANNELS} channels beside the drums'")
    data: bytes = out.dumps_midi()
    if path is not None:
        write_whole(Path(path), data)
    return data


def _apart(notes: Iterable[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Notes (start, end, pitch) of a voice, those that overlap one of their own pitch apart from it."""
    layers: list[list[tuple[int, int, int]]] = []
    held: list[dict[int, tuple[int, int]]] = []  # of each layer: the last note of a pitch
    for start, end, pitch in sorted(notes):
        free = (i for i, last in enumerate(held) if pitch not in last or last[pitch][1] <= start)
        again = (i for i, last in enumerate(held) if last.get(pitch) == (start, end))
        place = next(again, next(free, len(held)))
        if place == len(held) and place < MAX_LAYERS:
            held.append({})
            layers.append([])
        place = min(place, MAX_LAYERS - 1)
        held[place][pitch] = (start, end)
        layers[place].append((start, end, pitch))
    return layers


def _tick(quarters: float) -> int:
    return round(quarters * TICKS_PER_QUARTER)


def _pickup_metre(pickup: float) -> tuple[int, int] | None:
    """The short first bar as MIDI can say it (power-of-two denominators only), or None if there is none to say."""
    whole = Fraction(pickup / 4).limit_denominator(64)
    if pickup <= 0 or 64 % whole.denominator or whole == 0:
        return None
    return whole.numerator, whole.denominator
