"""Factories of files that must be refused: each writes one file and returns its path. CLI and page tests use them too.

`BAD_AUDIO` and `BAD_SCORES` map a name to a factory `(folder: Path) -> Path`.
"""

import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from mllm.score import Key, Note, Score, to_midi

RATE = 22_050


def tone(seconds: float, rate: int = RATE, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """float32 [samples, channels]: a sine at a tenth of full scale."""
    wave = 0.1 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, 1).astype(np.float32)


def empty(folder: Path) -> Path:
    """Nothing, zero bytes."""
    path = folder / "empty.wav"
    path.touch()
    return path


def cut(folder: Path, kind: str = "mp3", keep: float = 0.5) -> Path:
    """A real recording of which only the first part arrived."""
    path = folder / f"cut.{kind}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 8 * RATE), RATE, format=kind.upper())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def text_as_wav(folder: Path) -> Path:
    """A letter that someone renamed."""
    path = folder / "letter.wav"
    path.write_text("Dear friend, this is not a recording.\n" * 40)
    return path


def not_a_number(folder: Path, value: float = np.nan) -> Path:
    """A float wav with one sample that is no number."""
    samples = tone(2)
    samples[RATE] = value
    path = folder / "nan.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path


def infinite(folder: Path) -> Path:
    """A float wav with one infinite sample."""
    return not_a_number(folder, np.inf)


def too_short(folder: Path) -> Path:
    """A hundredth of a second."""
    path = folder / "short.wav"
    soundfile.write(path, tone(0.01), RATE)
    return path


def silence(path: Path, seconds: int, rate: int, channels: int) -> Path:
    """16 bit silence of any length; the file is sparse, so it takes no room on the disk."""
    block = 2 * channels
    size = seconds * rate * block
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * block, block, 16)
    with open(path, "wb") as file:
        file.write(struct.pack("<4sI4s", b"RIFF", size + 36, b"WAVE") + form + struct.pack("<4sI", b"data", size))
        file.truncate(44 + size)
    return path


def ten_hours(folder: Path) -> Path:
    """Ten hours of silence at 8 kHz."""
    return silence(folder / "ten_hours.wav", 36_000, 8_000, 1)


def mp4(folder: Path) -> Path:
    """The head of an .m4a file, a format that is not read here."""
    path = folder / "song.m4a"
    path.write_bytes(b"\0\0\0\x1cftypM4A \0\0\2\0M4A isomiso2" + bytes(2000))
    return path


def noise_as(folder: Path, name: str) -> Path:
    """Random bytes under a trustworthy name; the same bytes every time."""
    path = folder / name
    path.write_bytes(random.Random(0).randbytes(3000))
    return path


def abc_without_key(folder: Path) -> Path:
    """A tune whose K: field is missing, so that its header never ends."""
    path = folder / "no_key.abc"
    path.write_text("X:1\nT:No key\nM:4/4\nL:1/8\nCDEF GABc|\n")
    return path


def abc_garbage(folder: Path) -> Path:
    """Prose that someone named .abc."""
    path = folder / "prose.abc"
    path.write_text("This file talks about a tune but does not hold one.\n" * 5)
    return path


def corrupt_midi(folder: Path) -> Path:
    """A MIDI file that ends in the middle of a track."""
    notes = [Note(i, 1, 60 + i) for i in range(12)]
    path = folder / "cut.mid"
    path.write_bytes(to_midi(Score("scale", notes, Key("C"), (4, 4), 100.0))[:70])
    return path


def damaged_mxl(folder: Path) -> Path:
    """A compressed MusicXML file whose archive is whole but whose content has flipped bytes."""
    path = folder / "damaged.mxl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("score.xml", "<score-partwise>" + "".join(map(str, range(2000))) + "</score-partwise>")
    data = bytearray(path.read_bytes())
    data[60:160] = bytes(byte ^ 0xFF for byte in data[60:160])
    path.write_bytes(data)
    return path


BAD_AUDIO: dict[str, Callable[[Path], Path]] = {
    "empty": empty,
    "truncated mp3": cut,
    "text renamed .wav": text_as_wav,
    "NaN samples": not_a_number,
    "infinite samples": infinite,
    "0.01 s": too_short,
    "10 h": ten_hours,
    "m4a": mp4,
    "noise named .flac": lambda folder: noise_as(folder, "noise.flac"),
}
BAD_SCORES: dict[str, Callable[[Path], Path]] = {
    "ABC without K:": abc_without_key,
    "prose named .abc": abc_garbage,
    "noise named .abc": lambda folder: noise_as(folder, "noise.abc"),
    "corrupt MIDI": corrupt_midi,
    "noise named .mid": lambda folder: noise_as(folder, "noise.mid"),
    "damaged .mxl": damaged_mxl,
    "noise named .mxl": lambda folder: noise_as(folder, "noise.mxl"),
}
