"""MIDI really sounds: pitch, length and rate of what the synthesizer plays."""

import numpy as np
import pytest

from mllm.errors import ScoreError
from mllm.score import Key, Note, Score, to_midi
from mllm.synthesis import default_soundfont, render, soundfonts


def a4(quarters: float = 8) -> bytes:
    score = Score("A", [Note(0, quarters, 69)], Key("A"), (4, 4), 120.0, instruments=["Flute"])
    return to_midi(score)


def loudest_frequency(samples: np.ndarray, sampling_rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples.mean(1)))
    return float(spectrum.argmax() * sampling_rate / len(samples))


@pytest.mark.parametrize("rate", [48_000, 22_050])
def test_a_flute_playing_a4_sounds_at_440_hertz(rate: int) -> None:
    samples = render(a4(), None, rate)
    assert samples.dtype == np.float32 and samples.shape[1] == 2
    assert abs(len(samples) / rate - 4.0) < 0.1  # eight quarters at 120 a minute
    assert abs(loudest_frequency(samples, rate) - 440) < 5


def test_the_default_soundfont_is_listed_first_with_its_licence() -> None:
    fonts = soundfonts()
    assert fonts[0].path == default_soundfont() and fonts[0].licence == "GPL-2.0"
    assert len({f.name for f in fonts}) == len(fonts)


@pytest.mark.parametrize("midi", [b"", b"MThd", b"not a midi file at all"])
def test_bad_midi_is_one_clear_error(midi: bytes) -> None:
    with pytest.raises(ScoreError, match="cannot be rendered"):
        render(midi)


def test_a_bad_soundfont_is_one_clear_error(tmp_path) -> None:
    bad = tmp_path / "x.sf2"
    with pytest.raises(ScoreError, match="cannot be read"):
        render(a4(), bad)
    bad.write_bytes(b"text")
    with pytest.raises(ScoreError, match="not a SoundFont"):
        render(a4(), bad)


def test_days_of_music_are_refused_before_they_fill_the_memory() -> None:
    with pytest.raises(ScoreError, match="at most 60 min"):
        render(a4(quarters=20_000))
