"""Notes to sound for thousands of clips: TinySoundFont, each soundfont read once a process.

`mllm.synthesis` plays any MIDI file with its controllers, reverb and chorus at 48 kHz: five times slower, and every
room would be the same. Here the room comes afterwards (`augment.py`), so that it can differ from clip to clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from mllm.data_recipes.arrange import Voice
from mllm.data_recipes.config import DataError
from mllm.data_recipes.perform import Event
from mllm.score_types import DRUM_CHANNEL

_FLUSH_SECONDS = 0.05
_SOURCE_BAND = 22_050  # Hz: soundfont samples are at 44.1 kHz


@lru_cache(maxsize=8)
def _synth(font: Path, rate: int) -> tuple[Any, int]:
    """The synthesizer with `font` in it (mono, at `rate` Hz) and the font's number there."""
    try:
        # Its only dependency, pyaudio, plays aloud and wants a C compiler; `make env` therefore installs it without.
        from tinysoundfont import Synth
        from tinysoundfont._tinysoundfont import OutputMode
    except ImportError as error:
        raise DataError(
            "rendering needs TinySoundFont: `pip install --no-deps tinysoundfont` (pyaudio may be absent)"
        ) from error
    if not font.is_file():
        raise DataError(f"soundfont {font}: no such file")
    with font.open("rb") as file:
        head = file.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"sfbk":
        raise DataError(f"{font} is not a SoundFont 2 file")
    synth = Synth(samplerate=rate)
    try:
        number = synth.sfload(str(font))
    except RuntimeError as error:
        raise DataError(f"soundfont {font}: {error}") from error
    synth.soundfonts[number].set_output(OutputMode.Mono, rate, 0.0)
    return synth, number


def _generate(synth: Any, bank: int, samples: int) -> np.ndarray:
    # Synth.generate counts on two channels.
    out = np.empty(samples, np.float32)
    synth.soundfonts[bank].render(out.data.cast("B"))
    return out


def play(
    events: Sequence[Event], voices: Sequence[Voice], font: Path, seconds: float, sampling_rate: int
) -> np.ndarray:
    """The performance `events` of `voices`, one channel a voice.

    Args:
        events: sorted by onset; `Event.voice` is an index into `voices`.
        voices: at most 16, of which one may be drums.
        font: an .sf2 file.
        seconds: length of the result; notes that still sound are cut.
        sampling_rate: Hz of the result.

    Returns:
        float32 [round(seconds * sampling_rate)] mono, not normalised; the same bytes for the same arguments.

    Raises:
        DataError: the soundfont cannot be read or lacks a program, or TinySoundFont is not installed.
    """
    # TinySoundFont interpolates without a filter: f Hz folds to rate - f. At this rate what folds stays above the
    # wanted band, where the resampler removes it, and it costs a third less than 44.1 kHz.
    rate = _SOURCE_BAND + sampling_rate // 2
    synth, bank = _synth(font, rate)
    free = [c for c in range(16) if c != DRUM_CHANNEL]
    channels = [DRUM_CHANNEL if v.role == "drums" else free.pop(0) for v in voices]
    for voice, channel in zip(voices, channels, strict=True):
        drums = channel == DRUM_CHANNEL
        try:
            synth.program_select(channel, bank, 0, 0 if drums else voice.program, drums)
        except RuntimeError as error:
            raise DataError(f"soundfont {font} has no program {voice.program}") from error
    timed = [(round(e.onset * rate), 1, channels[e.voice], e.pitch, e.velocity) for e in events]
    timed += [(round(e.end * rate), 0, channels[e.voice], e.pitch, 0) for e in events]
    total, now, sound = round(seconds * rate), 0, []
    for at, on, channel, pitch, velocity in sorted(timed):
        if at >= total:
            break
        if at > now:
            sound.append(_generate(synth, bank, at - now))
            now = at
        if on:
            # SoundFont 2.04, 8.4.1: loudness falls with the square of the velocity. TinySoundFont's is linear.
            synth.noteon(channel, pitch, max(1, round(velocity**2 / 127)))
        else:
            synth.noteoff(channel, pitch)
    sound.append(_generate(synth, bank, total - now))
    synth.sounds_off()
    _generate(synth, bank, round(_FLUSH_SECONDS * rate))  # what still sounds fades here and not in the next clip
    samples = soxr.resample(np.concatenate(sound), rate, sampling_rate)
    wanted = round(seconds * sampling_rate)
    return np.pad(samples, (0, max(0, wanted - len(samples))))[:wanted].astype(np.float32)
