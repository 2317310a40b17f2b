"""Standard MIDI files to `Score` and back, through symusic."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import symusic

from mllm.errors import ScoreError
from mllm.score_types import DRUMS, MAX_NOTES, MAX_QUARTERS, Key, Note, Score, instrument_name, program_of

CHANNELS = 15  # beside the one of the drums
SLOWEST = 60e6 / (2**24 - 1)  # quarters a minute: MIDI has 24 bits for the microseconds of a quarter
POWERS_OF_TWO = {2**n for n in range(8)}
TICKS_PER_QUARTER = 480  # divisible by 2^5, 3 and 5: all common note values and tuplets fall on a tick


def read_midi(data: bytes, name: str = "MIDI") -> Score:
    """Read a standard MIDI file of type 0 or 1.

    A voice is a track's part for one program. Tempo, metre and key are the first ones, where the file has them; a short
    first metre followed by another one at its end is a pickup bar, as `to_midi` writes it.

    Raises:
        ScoreError: corrupt, without notes, or without a musical clock (SMPTE time).
    """
    try:
        midi: Any = symusic.Score.from_midi(data)
    except Exception as error:  # symusic raises RuntimeError, ValueError and its own
        reason = " ".join(str(error).replace("MiniMidi:", "").replace("Invaild", "invalid").split())
        raise ScoreError(f"{name}: not a readable MIDI file ({reason}); export it again") from error
    quarter = midi.ticks_per_quarter
    if quarter <= 0:
        raise ScoreError(f"{name}: MIDI with SMPTE time has no beats; export it with ticks per quarter note")
    tracks = [t for t in midi.tracks if len(t.notes)]
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
    metres = sorted(
        (m.time / quarter, (m.numerator, m.denominator))
        for m in midi.time_signatures
        if 0 < m.numerator < 65 and 0 < m.denominator < 129
    )
    metre, pickup, changes = None, 0.0, set()
    if metres:
        metre = metres[0][1]
        if len(metres) > 1 and metres[1][0] == 4 * metre[0] / metre[1] < 4 * metres[1][1][0] / metres[1][1][1]:
            pickup, metre = metres[1][0], metres[1][1]
        if {m for _, m in metres} - {metre, metres[0][1]}:
            changes.add("metre")
    tempos = sorted((t.time, t.qpm) for t in midi.tempos)
    if len({q for _, q in tempos}) > 1:
        changes.add("tempo")
    keys = sorted((k.time, _key(k.key, k.tonality)) for k in midi.key_signatures if abs(k.key) <= 7)
    if len({k for _, k in keys}) > 1:
        changes.add("key")
    key = Key.from_signature(*keys[0][1]) if keys else None
    return Score(
        notes=sorted(notes),
        key=key,
        metre=metre,
        tempo=round(tempos[0][1], 3) if tempos else None,
        pickup=pickup,
        instruments=[DRUMS if t.is_drum else instrument_name(t.program) for t in tracks],
        changes=frozenset(changes),
    )


def _key(sharps: int, tonality: int) -> tuple[int, str]:
    return sharps, "minor" if tonality else "major"


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
        path: also write the bytes there.
        programs: General MIDI program of each voice, instead of `score.instruments`.
        tempo: quarters a minute, instead of the score's own.
        velocity: loudness of all notes, 1 to 127.

    A metre that MIDI cannot say (a denominator that is no power of two) is left out. Beyond fifteen voices those of the
    same program share a track, for MIDI has fifteen channels beside the drums'.

    Raises:
        ScoreError: a tempo that MIDI cannot say, more than fifteen different programs.
    """
    out: Any = symusic.Score(TICKS_PER_QUARTER)
    quarters_a_minute = float(tempo or score.tempo or 120.0)
    if quarters_a_minute < SLOWEST:
        raise ScoreError(f"a tempo of {quarters_a_minute:g} quarters a minute: MIDI can say {SLOWEST:g} or more")
    out.tempos.append(symusic.Tempo(0, qpm=quarters_a_minute))
    if score.metre and score.metre[0] <= 255 and score.metre[1] in POWERS_OF_TWO:
        if pickup := _pickup_metre(score.pickup):
            out.time_signatures.append(symusic.TimeSignature(0, *pickup))
        out.time_signatures.append(symusic.TimeSignature(_tick(score.pickup) if pickup else 0, *score.metre))
    if score.key and abs(score.key.signature) <= 7:
        out.key_signatures.append(symusic.KeySignature(0, score.key.signature, int(score.key.mode == "minor")))
    voices = sorted({n.voice for n in score.notes})
    by_program: dict[int, Any] = {}
    for voice in voices:
        name = score.instruments[voice] if voice < len(score.instruments) else ""
        is_drum = name == DRUMS
        program = programs[voice] if programs is not None else program_of(name)
        if len(voices) > CHANNELS and not is_drum and program in by_program:
            track = by_program[program]
        else:
            track = symusic.Track(name, program, is_drum)
            out.tracks.append(track)
            if not is_drum:
                by_program[program] = track
        for n in score.notes:
            if n.voice == voice:
                start = _tick(n.onset)
                track.notes.append(symusic.Note(start, max(1, _tick(n.onset + n.duration) - start), n.pitch, velocity))
    if len(by_program) > CHANNELS:
        raise ScoreError(f"{len(by_program)} different instruments: MIDI has {CHANNELS} channels beside the drums'")
    data: bytes = out.dumps_midi()
    if path is not None:
        Path(path).write_bytes(data)
    return data


def _tick(quarters: float) -> int:
    return round(quarters * TICKS_PER_QUARTER)


def _pickup_metre(pickup: float) -> tuple[int, int] | None:
    """The short first bar as MIDI can say it (power-of-two denominators only), or None if there is none to say."""
    whole = Fraction(pickup / 4).limit_denominator(64)
    if pickup <= 0 or 64 % whole.denominator or whole == 0:
        return None
    return whole.numerator, whole.denominator
