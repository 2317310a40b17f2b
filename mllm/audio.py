"""Recordings: decode, mix to mono, resample, refuse what cannot be heard. Memory stays near the size of the result."""

import hashlib
import io
import mmap
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from mllm.audio_integrity import find_damage
from mllm.errors import AudioError

MIN_SECONDS = 0.1  # shorter than one frame of any tower
MAX_SECONDS = 1800.0
SILENCE = 1e-4  # full scale is 1: a recording whose peak stays below holds nothing that the towers hear
READABLE = "wav, flac, ogg (Vorbis or Opus), mp3 and aiff"

_FORMATS = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"}
_RATES = (2_000, 768_000)  # Hz; outside of this the header is nonsense
_LOUDEST = 1_000.0  # full scale is 1.0; float files above this hold integers or garbage
_BLOCK = 1 << 18  # samples of all channels together decoded at a time: 1 MiB


def load_audio(
    source: str | Path | bytes | BinaryIO,
    sampling_rate: int,
    max_seconds: float = MAX_SECONDS,
    start: float = 0.0,
    duration: float | None = None,
    *,
    allow_truncated: bool = False,
) -> np.ndarray:
    """Decode a recording.

    Args:
        source: path, the bytes of a file, or an open binary file (read from its start).
        sampling_rate: Hz of the result.
        max_seconds: longest accepted excerpt; longer ones are refused from the header, before decoding.
        start: seconds to skip.
        duration: seconds to take at most; None takes the rest.
        allow_truncated: take what arrived of a file that is cut off, instead of refusing it.

    Returns:
        float32 [samples], mono (mean of all channels), full scale 1.0, not normalised.

    Raises:
        AudioError: not a recording, a format not read here, cut off, shorter than `MIN_SECONDS`, longer than
            `max_seconds`, NaN or infinite samples.
    """
    name = _name(source)
    if start < 0 or (duration is not None and duration <= 0):
        raise AudioError(f"{name}: start must be >= 0 and duration > 0, not {start} and {duration}")
    with _opened(source, name) as raw:
        if not allow_truncated:
            _refuse_damage(raw, name)
        with _sound_file(raw, name) as sound:
            return _decode(sound, name, sampling_rate, max_seconds, start, duration, allow_truncated)


def audio_seconds(source: str | Path | bytes | BinaryIO) -> float:
    """Length in seconds as the header states it, without decoding; for an mp3 without a length header, an estimate.

    Raises AudioError where the file cannot be read, or does not state a length.
    """
    name = _name(source)
    with _opened(source, name) as raw, _sound_file(raw, name) as sound:
        frames = _stated_frames(sound)
        if frames is None:
            raise AudioError(f"{name}: the file does not state its length; rewrite it with {_ffmpeg(name)}")
        return frames / sound.samplerate


def check_waveform(samples: np.ndarray) -> np.ndarray:
    """A waveform from Python as float32, or AudioError: not mono [samples], not float, empty, NaN, far too loud."""
    if samples.ndim != 1:
        raise AudioError(f"a waveform must be mono [samples], not {list(samples.shape)}: average its channels first")
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"a waveform must hold floats in -1..1, not {samples.dtype}: divide by its full scale first")
    if not samples.size:
        raise AudioError("an empty waveform: nothing to hear")
    _refuse_samples(samples, "the waveform", 0.0, 1)
    return samples.astype(np.float32, copy=False)


def samples_sha256(samples: np.ndarray) -> str:
    """Hex digest of samples as little-endian float32: names the sound itself, not the file that it came in."""
    return hashlib.sha256(np.ascontiguousarray(samples, "<f4").data).hexdigest()


def _decode(
    sound: soundfile.SoundFile,
    name: str,
    sampling_rate: int,
    max_seconds: float,
    start: float,
    duration: float | None,
    allow_truncated: bool,
) -> np.ndarray:
    rate, stated = sound.samplerate, _stated_frames(sound)
    first = round(start * rate)
    wanted = None if duration is None else round(duration * rate)
    if stated is not None:
        left = max(stated - first, 0) if wanted is None else min(max(stated - first, 0), wanted)
        _refuse_length(left / rate, name, max_seconds, start, stated / rate)
    limit = round(max_seconds * rate) if wanted is None else min(wanted, round(max_seconds * rate) + 1)
    expected = limit if stated is None else min(max(stated - first, 0), limit)
    resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32")
    # Reserved, not touched: the system hands out pages as they are written. A header that lies costs nothing.
    out = np.empty(-(-expected * sampling_rate // rate) + 4096, np.float32)
    written = taken = position = 0
    even = np.full(sound.channels, 1 / sound.channels, np.float32)
    blocks = _blocks(sound)
    while wanted is None or taken < wanted:
        if (piece := next(blocks, None)) is None:
            # The length of an mp3 may be an estimate; its frames have been counted before (`find_damage`).
            if stated is not None and position < stated and sound.format != "MP3" and not allow_truncated:
                raise _cut_off(name, position / rate, stated / rate)
            break
        # Excerpts are counted off, not sought: seeking in mp3 is inexact, and decoding is cheap.
        skip = min(max(first - position, 0), len(piece))
        position += len(piece)
        piece = piece[skip:] if wanted is None else piece[skip : skip + wanted - taken]
        if not len(piece):
            continue
        mono = piece @ even  # the mean of the channels, ten times the speed of .mean(axis=1)
        _refuse_samples(mono, name, (first + taken) / rate, rate)
        taken += len(piece)
        if taken > round(max_seconds * rate):
            _refuse_length(taken / rate, name, max_seconds, start, None)
        written, out = _append(out, written, resampler.resample_chunk(mono))
    written, out = _append(out, written, resampler.resample_chunk(np.empty(0, np.float32), last=True))
    _refuse_length(taken / rate, name, max_seconds, start, position / rate)
    return out[:written]


def _blocks(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """float32 [frames, channels], one piece after the other in the same memory, up to the end or the first damage."""
    block = np.empty((max(_BLOCK // sound.channels, 1024), sound.channels), np.float32)
    while True:
        block.fill(np.nan)
        try:
            piece = sound.read(out=block)
        except soundfile.LibsndfileError:
            # At a damaged frame, and at the end of a flac that does not state its length, libsndfile 1.2 fails
            # without saying how much of the block it had filled.
            if filled := int(np.isfinite(block[:, 0]).sum()):
                yield block[:filled]
            return
        if not len(piece):
            return
        yield piece


def _append(out: np.ndarray, written: int, piece: np.ndarray) -> tuple[int, np.ndarray]:
    if written + len(piece) > len(out):  # the header promised less than came
        out = np.concatenate([out[:written], np.empty(max(len(piece), len(out) // 2), np.float32)])
    out[written : written + len(piece)] = piece
    return written + len(piece), out


def _refuse_length(seconds: float, name: str, max_seconds: float, start: float, whole: float | None) -> None:
    if seconds > max_seconds + 1e-3:
        raise AudioError(
            f"{name}: {_clock(seconds)} long, at most {_clock(max_seconds)} are taken; cut it, for example with "
            f"`ffmpeg -i {shlex.quote(name)} -t {max_seconds:.0f} part.flac`"
        )
    if seconds < MIN_SECONDS - 1e-9:
        if whole is not None and start > 0 and start >= whole - MIN_SECONDS:
            raise AudioError(f"{name}: nothing left to hear from second {start:g} on, it is {whole:.2f} s long")
        raise AudioError(f"{name}: {seconds:.2g} s of sound, at least {MIN_SECONDS} s are needed")


def _refuse_samples(mono: np.ndarray, name: str, second: float, rate: int) -> None:
    peak = float(np.abs(mono).max())  # NaN and infinity come through max
    if peak <= _LOUDEST:
        return
    if not np.isfinite(peak):
        second += int(np.argmax(~np.isfinite(mono))) / rate
        raise AudioError(
            f"{name}: NaN or infinite samples at {second:.2f} s; export it again as 16 or 24 bit wav or flac"
        )
    raise AudioError(f"{name}: samples up to {peak:.3g} where full scale is 1.0; scale the file down and try again")


def _refuse_damage(raw: BinaryIO, name: str) -> None:
    if isinstance(raw, io.BytesIO):
        damage = find_damage(raw.getbuffer())
    else:
        with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            damage = find_damage(view)
    if damage:
        raise _cut_off(name, damage.arrived, damage.promised)


def _cut_off(name: str, arrived: float, promised: float | None) -> AudioError:
    of = f"{arrived:.1f} of {promised:.1f} s" if promised else f"{arrived:.1f} s"
    return AudioError(
        f"{name}: the file is cut off, {of} arrived; fetch it again, or keep that part with {_ffmpeg(name)}"
    )


def _stated_frames(sound: soundfile.SoundFile) -> int | None:
    """Frames that the header promises, or None where it does not (a file written into a pipe)."""
    return sound.frames if 0 < sound.frames < 1 << 60 else None


def _sound_file(raw: BinaryIO, name: str) -> soundfile.SoundFile:
    raw.seek(0)
    head = raw.read(64)
    raw.seek(0)
    try:
        # By descriptor where there is one: libsndfile then reads by itself and cannot be led by a file's ending.
        sound = soundfile.SoundFile(raw if isinstance(raw, io.BytesIO) else os.dup(raw.fileno()), closefd=True)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(
            f"{name}: {_what_it_is(head)}; readable are {READABLE}; convert it with {_ffmpeg(name)}"
        ) from error
    if sound.format not in _FORMATS:
        kind = sound.format
        sound.close()
        raise AudioError(f"{name}: {kind} is not read here; readable are {READABLE}; convert it with {_ffmpeg(name)}")
    if not _RATES[0] <= sound.samplerate <= _RATES[1]:
        rate = sound.samplerate
        sound.close()
        raise AudioError(
            f"{name}: a sampling rate of {rate} Hz cannot be; the header is damaged, export the file again"
        )
    return sound


def _what_it_is(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return "MP4/M4A (AAC) is not read here"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "WebM/Matroska is not read here"
    if head[:4] == b"\x30\x26\xb2\x75":
        return "WMA is not read here"
    if head[:4] == b"MThd":
        return "this is a MIDI score, not a recording"
    if head[:4] in (b"RIFF", b"fLaC", b"OggS") or head[:3] == b"ID3":
        return "the file is damaged or holds no sound"
    return "this is not a recording"


def _opened(source: str | Path | bytes | BinaryIO, name: str) -> BinaryIO:
    """A seekable, non-empty binary file of our own: an open file of the caller is copied and left as it was."""
    if isinstance(source, (str, Path)):
        try:
            if not Path(source).is_file():
                raise AudioError(f"{name}: no such file" if not Path(source).exists() else f"{name}: not a file")
            raw: BinaryIO = open(source, "rb", buffering=0)  # noqa: SIM115 - unbuffered: libsndfile moves the position
        except OSError as error:
            raise AudioError(f"{name}: cannot be opened ({error.strerror})") from error
        empty = os.fstat(raw.fileno()).st_size == 0
    else:
        if not isinstance(source, bytes):
            if source.seekable():
                source.seek(0)
            source = source.read()
        raw, empty = io.BytesIO(source), not source
    if empty:
        raw.close()
        raise AudioError(f"{name}: the file is empty (0 bytes); record or fetch it again")
    return raw


def _name(source: str | Path | bytes | BinaryIO) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "recording"


def _ffmpeg(name: str) -> str:
    return f"`ffmpeg -i {shlex.quote(name)} fixed.flac`"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
