"""Basic Pitch against its ONNX file, run by onnxruntime."""

import numpy as np
import onnxruntime
import pytest
import torch

from mllm.errors import WeightsError
from mllm.towers import BasicPitchConfig, BasicPitchTower, load_tower
from mllm.towers.basic_pitch import HOP, SOURCE, WINDOW_SAMPLES, read_onnx
from mllm.weights import resolve

RATE = 22050


def tones(pitches, seconds, onset=0.0, level=0.1):
    """Decaying tones with harmonics at MIDI pitches; float32 [samples]."""
    time = np.arange(round(seconds * RATE)) / RATE - onset
    decay = np.where(time >= 0, np.exp(-2 * np.clip(time, 0, None)), 0)
    waves = [
        np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * h * time) / h for pitch in pitches for h in (1, 2, 3, 4)
    ]
    return (level * decay * sum(waves)).astype(np.float32)


@pytest.fixture(scope="module")
def tower():
    return load_tower("basic_pitch")


@pytest.fixture(scope="module")
def windows():
    """Chord, single note from 0.8 s, low note in noise, noise, click: [5, 43844]."""
    random = np.random.default_rng(0)
    seconds = WINDOW_SAMPLES / RATE
    click = np.zeros(WINDOW_SAMPLES, np.float32)
    click[20000] = 0.9
    noise = (0.05 * random.standard_normal((2, WINDOW_SAMPLES))).astype(np.float32)
    low = tones([36], seconds)
    return torch.from_numpy(
        np.stack([tones([60, 64, 67], seconds), tones([72], seconds, 0.8), low + 0.1 * noise[0], noise[1], click])
    )


@pytest.fixture(scope="module")
def original(windows):
    session = onnxruntime.InferenceSession(str(resolve(SOURCE)), providers=["CPUExecutionProvider"])
    names = [f"StatefulPartitionedCall:{i}" for i in (1, 2, 0)]
    out = session.run(names, {session.get_inputs()[0].name: windows.numpy()[..., None]})
    return dict(zip(("note", "onset", "contour"), map(torch.from_numpy, out), strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_equals_the_onnx_file(tower, windows, original, fused):
    tower.config.fused = fused
    try:
        ours = tower.transcribe(windows)
    finally:
        tower.config.fused = True
    for name, reference in original.items():
        assert reference.max() > 0.3
        assert (ours[name] - reference).abs().max() <= 5e-4, name  # the issue asks for 1e-3; measured 1e-4


def test_bfloat16_stays_near(windows, original):
    ours = load_tower("basic_pitch", dtype=torch.bfloat16).transcribe(windows)
    for name, reference in original.items():
        error = (ours[name].float() - reference).abs()
        assert error.max() <= 0.03 and error.mean() <= 1e-3, (name, error.max(), error.mean())


def test_spectrum_survives_a_cast_to_bfloat16(tower, windows):
    exact = tower.constant_q(windows, True)
    rounded = load_tower("basic_pitch", dtype=torch.bfloat16).constant_q(windows, True)
    error = (exact - rounded).abs()
    assert error.max() < 0.02 and error.mean() < 1e-4  # the greatest is in the silence around the click


def test_forward_joins_overlapping_windows(windows):
    native = RATE / HOP
    tower = load_tower("basic_pitch", frames_per_second=native)
    clip = torch.from_numpy(tones([60, 64, 67], 10) + tones([57], 10, 4.0))[None]
    out = tower(clip).last_hidden_state
    assert out.shape == (1, round(10 * native), 176)
    step = 138  # six windows of 172 frames, 138 apart, fill 862 frames exactly
    for k in range(6):
        start = k * step * HOP
        window = torch.nn.functional.pad(clip, (0, WINDOW_SAMPLES))[:, start : start + WINDOW_SAMPLES]
        note = tower.transcribe(window)["note"][0]
        # 862 frames are resampled onto 861 cells, so neighbours mix a little
        joined = out[0, k * step + 20 : (k + 1) * step, :88]
        assert (joined - note[20:step]).abs().mean() < 5e-3


def test_hears_the_right_notes_at_the_right_time(tower):
    clip = tones([60, 64, 67], 10) + tones([81], 10, 6.0)
    out = tower(torch.from_numpy(clip)[None]).last_hidden_state[0]
    notes, onsets = out[:, :88], out[:, 88:]
    assert set(notes[10:20].mean(0).topk(3).indices.tolist()) == {60 - 21, 64 - 21, 67 - 21}
    assert abs(int(onsets[:, 81 - 21].argmax()) - 6 * 20) <= 1
    assert notes[:110, 81 - 21].max() < 0.3


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0, 3.3, 10.0, 30.0])
def test_any_window_length(tower, seconds):
    out = tower(torch.from_numpy(tones([69], seconds))[None]).last_hidden_state
    assert out.shape == (1, round(seconds * 20), 176)
    assert out[0, 2:8, 69 - 21].mean() > 0.3


def test_a_batch_equals_its_parts_and_silence_is_quiet(tower):
    clips = torch.from_numpy(np.stack([tones([60], 10), np.zeros(10 * RATE, np.float32), tones([50, 70], 10, 3.0)]))
    together = tower(clips).last_hidden_state
    for i in range(3):
        torch.testing.assert_close(tower(clips[i : i + 1]).last_hidden_state[0], together[i], atol=1e-5, rtol=0)
    assert together[1, :, :88].max() < 0.2


def test_is_frozen_saves_and_loads(tower, tmp_path):
    assert not tower.training and not any(p.requires_grad for p in tower.parameters())
    tower.save_pretrained(tmp_path)
    again = load_tower(tmp_path)
    clip = torch.from_numpy(tones([69], 10))[None]
    torch.testing.assert_close(again(clip).last_hidden_state, tower(clip).last_hidden_state)
    assert tower.config.window_frames == 200 and tower.config.hidden_size == 176


def test_a_random_tower_listens():
    torch.manual_seed(0)
    tower = BasicPitchTower(BasicPitchConfig(window_seconds=1.0))
    out = tower(torch.from_numpy(np.stack([tones([60], 1), tones([75], 1)]))).last_hidden_state
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_another_onnx_file_is_refused(tmp_path):
    import onnx

    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(WeightsError, match=r"other\.onnx"):
        read_onnx(tmp_path / "other.onnx")
