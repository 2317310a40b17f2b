"""MIDI to sound, in process: one sampled General-MIDI synthesizer, any SoundFont 2 file, no external program.

`midirenderer` keeps the interpreter lock while it renders: to use several cores, render in several processes.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import midirenderer
import numpy as np
import soxr
import symusic

from mllm.errors import ScoreError
from mllm.score import Score, to_midi

MAX_SECONDS = 3600
MOST_PLAYED_SECONDS = 1800.0
RENDER_RATE = 48_000  # midirenderer's only output rate, Hz


@dataclass(frozen=True)
class SoundFont:
    """A soundfont on this machine. `licence` is the licence of the samples themselves, not of a recording of them."""

    name: str
    path: Path
    licence: str
    note: str


_DEBIAN = Path("/usr/share/sounds/sf2")
_KNOWN = {
    "TimGM6mb": ("GPL-2.0", "6 MB, inside the PyPI wheel of pretty_midi; Debian timgm6mb-soundfont"),
    "FluidR3_GM": ("MIT", "148 MB, Debian fluid-soundfont-gm"),
    "sf_GMbank": ("public domain", "4 MB, Debian csound-soundfont"),
    "OPL-3_FM_128M": ("CC-BY-SA-4.0", "135 MB, FM synthesis, Debian opl3-soundfont"),
}


def default_soundfont() -> Path:
    """Path of TimGM6mb.sf2 in the installed `pretty_midi` wheel, or Debian's copy of it."""
    spec = find_spec("pretty_midi")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    for folder in [*folders, _DEBIAN]:
        if (path := folder / "TimGM6mb.sf2").is_file():
            return path
    raise ScoreError("no soundfont found: `pip install pretty_midi` brings TimGM6mb.sf2, or name an .sf2 file yourself")


def soundfonts() -> list[SoundFont]:
    """Every soundfont this machine has in the usual places, the default first; symbolic links are left out."""
    paths = [default_soundfont(), *(p for p in sorted(_DEBIAN.glob("*.sf2")) if not p.is_symlink())]
    unique = {p.stem: p for p in reversed(paths)}  # reversed: the wheel's copy wins over Debian's of the same name
    rows = [SoundFont(n, p, *_KNOWN.get(n, ("unknown: look before you ship", ""))) for n, p in unique.items()]
    return sorted(rows, key=lambda s: (s.path != paths[0], s.name))


@lru_cache(maxsize=4)
def _soundfont_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScoreError(f"soundfont {path}: cannot be read ({error.strerror}); name an existing .sf2 file") from error
    if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
        raise ScoreError(f"soundfont {path}: not a SoundFont 2 file (.sf3 is not supported); name an .sf2 file")
    return data


def _refuse_length(midi: bytes) -> None:
    # The synthesizer would fill the memory with what one damaged time stamp asks for.
    try:
        piece: Any = symusic.Score.from_midi(midi)
        seconds = piece.to("second").end()
    except Exception:
        return  # the synthesizer tells what is wrong
    if seconds > MAX_SECONDS:
        raise ScoreError(f"this MIDI lasts {seconds / 60:.0f} min, at most {MAX_SECONDS // 60} min are rendered")


def render(midi: bytes, soundfont: str | Path | None = None, sampling_rate: int = RENDER_RATE) -> np.ndarray:
    """Play a MIDI file.

    Args:
        midi: the bytes of a standard MIDI file (`mllm.score.to_midi` makes them).
        soundfont: an .sf2 file; `None` takes `default_soundfont()`. Its bytes are kept in memory per process.
        sampling_rate: Hz of the result; the synthesizer runs at 48 kHz and soxr resamples.

    Returns:
        float32 [samples, 2], full scale 1.0, not normalised; it ends with the last MIDI event.

    Raises:
        ScoreError: the MIDI or the soundfont cannot be read, or the music lasts more than an hour.
    """
    _refuse_length(midi)
    data = _soundfont_bytes(Path(soundfont) if soundfont is not None else default_soundfont())
    try:
        wav = midirenderer.render_wave_from(data, midi)
    except RuntimeError as error:
        raise ScoreError(f"this MIDI cannot be rendered: {error}; check it with `mllm score show`") from error
    # midirenderer writes the canonical 44-byte header: 48 kHz, stereo, 16 bit.
    samples = np.frombuffer(wav, "<i2", offset=44).reshape(-1, 2).astype(np.float32) / 32768
    return samples if sampling_rate == RENDER_RATE else soxr.resample(samples, RENDER_RATE, sampling_rate)


def play(score: Score, sampling_rate: int) -> np.ndarray:
    """Float32 mono waveform [samples] of a score as the model hears it. Raises ScoreError where it takes too long."""
    seconds = score.length * 60 / (score.tempo or 120.0)
    if seconds > MOST_PLAYED_SECONDS:
        raise ScoreError(
            f"it takes {seconds / 60:.0f} minutes to play, at most {MOST_PLAYED_SECONDS / 60:.0f} are heard"
        )
    return render(to_midi(score), sampling_rate=sampling_rate).mean(axis=1, dtype=np.float32)
