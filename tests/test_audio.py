"""Recordings on disk: what is read is the sound that was written; what cannot be heard is refused in one line."""

import io
import subprocess
import sys
from pathlib import Path

import bad_input
import numpy as np
import pytest
import soundfile
from bad_input import BAD_AUDIO, RATE, cut, tone

from mllm.audio import audio_seconds, load_audio, samples_sha256
from mllm.errors import AudioError


def pitch(samples: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_each_format_gives_the_sound_that_was_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, tone(3), RATE, format=kind.upper())
    heard = load_audio(path, RATE)
    assert heard.dtype == np.float32 and heard.ndim == 1
    assert abs(len(heard) - 3 * RATE) <= 1152 and abs(audio_seconds(path) - 3) < 0.06
    assert abs(pitch(heard, RATE) - 440) < 1 and abs(np.abs(heard[2000:-2000]).max() - 0.1) < 0.01
    assert np.array_equal(load_audio(path.read_bytes(), RATE), heard)
    with open(path, "rb") as file:
        assert np.array_equal(load_audio(file, RATE), heard)


@pytest.mark.parametrize("rate", [8_000, 192_000])
@pytest.mark.parametrize("channels", [1, 8])
def test_any_rate_and_channel_count_becomes_mono_at_the_rate_asked_for(
    rate: int, channels: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2, rate, channels), rate)
    heard = load_audio(path, 16_000)
    assert len(heard) == 32_000 and abs(pitch(heard, 16_000) - 440) < 1
    assert abs(np.abs(heard[1000:-1000]).max() - 0.1) < 0.005


def test_the_mono_mix_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    left, right = tone(1, hertz=300), tone(1, hertz=700)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.hstack([left, right]), RATE, subtype="FLOAT")
    assert np.allclose(load_audio(path, RATE), (left + right)[:, 0] / 2, atol=1e-6)


def test_silence_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "silence.flac"
    soundfile.write(path, np.zeros(RATE), RATE)
    assert not load_audio(path, RATE).any()


@pytest.mark.parametrize("kind", ["wav", "mp3", "ogg"])
def test_an_excerpt_is_that_part_of_the_whole(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 20 * RATE), RATE, format=kind.upper())
    whole, part = load_audio(path, RATE), load_audio(path, RATE, start=13.0, duration=2.0)
    assert np.array_equal(part, whole[13 * RATE : 15 * RATE])
    assert len(load_audio(path, RATE, start=19.0, duration=5.0)) == pytest.approx(RATE, abs=2 * 1152)
    assert len(load_audio(path, RATE, max_seconds=3, start=5, duration=2)) == 2 * RATE
    with pytest.raises(AudioError, match="nothing left to hear"):
        load_audio(path, RATE, start=30.0)


@pytest.mark.parametrize("name", BAD_AUDIO)
def test_bad_audio_is_one_clear_line_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = BAD_AUDIO[name](tmp_path)
    with pytest.raises(AudioError) as caught:
        load_audio(path, RATE)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (bad_input.empty, "empty"),
        (bad_input.text_as_wav, "not a recording.*readable are wav"),
        (bad_input.not_a_number, "NaN or infinite samples at 1.00 s"),
        (bad_input.infinite, "NaN or infinite"),
        (bad_input.too_short, "0.01 s of sound, at least 0.1 s"),
        (bad_input.ten_hours, "10 h 0 min long, at most 30 min"),
        (bad_input.mp4, "M4A.*ffmpeg"),
    ],
)
def test_the_message_says_what_is_wrong(factory, words: str, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=words):
        load_audio(factory(tmp_path), RATE)


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "ogg"])
@pytest.mark.parametrize("keep", [0.2, 0.51, 0.93])
def test_a_file_that_is_cut_off_is_refused_or_on_request_taken(kind: str, keep: float, tmp_path: Path) -> None:
    path = cut(tmp_path, kind, keep)
    with pytest.raises(AudioError, match="cut off.*arrived.*ffmpeg"):
        load_audio(path, RATE)
    assert 0.5 < len(load_audio(path, RATE, allow_truncated=True)) / RATE < 7.8


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_file_written_into_a_pipe_states_no_length_and_is_read_whole(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, tone(5), RATE)
    data = bytearray(path.read_bytes())
    if kind == "wav":
        data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    else:  # STREAMINFO: 36 bits of sample count
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    path.write_bytes(data)
    assert len(load_audio(path, RATE)) == 5 * RATE
    with pytest.raises(AudioError, match="at most 3 s"):
        load_audio(path, RATE, max_seconds=3)


def test_ten_hours_are_refused_from_the_header_without_reading_them(tmp_path: Path) -> None:
    path = bad_input.ten_hours(tmp_path)
    assert audio_seconds(path) == 36_000
    assert len(load_audio(path, 8_000, start=9_000, duration=0.5)) == 4_000


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="not a file"):
        load_audio(tmp_path, RATE)
    with pytest.raises(AudioError, match="no such file"):
        load_audio(tmp_path / "x.wav", RATE)


def test_the_hash_names_the_samples_not_the_file(tmp_path: Path) -> None:
    samples = (tone(1)[:, 0] * 32767).astype(np.int16)
    for kind in ("wav", "flac"):
        soundfile.write(tmp_path / f"a.{kind}", samples, RATE)
    wav, flac = (load_audio(tmp_path / f"a.{kind}", RATE) for kind in ("wav", "flac"))
    assert samples_sha256(wav) == samples_sha256(flac) != samples_sha256(wav[:-1])


def test_half_an_hour_at_192_khz_stays_small_in_memory(tmp_path: Path) -> None:
    path = bad_input.silence(tmp_path / "long.wav", 1800, 192_000, 2)
    program = (
        "import sys; from mllm.audio import load_audio\n"
        "x = load_audio(sys.argv[1], 22050); assert len(x) == 1800 * 22050\n"
        "status = open('/proc/self/status').read()\n"  # ru_maxrss would be inherited from this test's own process
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024)"
    )
    out = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 600


def test_random_bytes_never_escape_as_another_error() -> None:
    rng = np.random.default_rng(0)
    for head in (b"", b"RIFF\x10\0\0\0WAVEfmt ", b"OggS", b"ID3\4\0\0\0\0\1\1", b"\xff\xfb\x90\x44", b"fLaC"):
        for size in (1, 3, 60, 5000):
            with pytest.raises(AudioError):
                load_audio(io.BytesIO(head + rng.bytes(size)), RATE)
