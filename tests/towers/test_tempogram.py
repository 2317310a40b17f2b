"""The tempogram tower: the period of a click track, silence, batches, saving."""

import numpy as np
import pytest
import torch

from mllm.errors import AudioError
from mllm.towers.tempogram import TempogramConfig, TempogramTower

RATE = 22050


@pytest.fixture(scope="module")
def tower() -> TempogramTower:
    return TempogramTower(TempogramConfig())


def clicks(tempo: float, hertz: float = 1000.0, seconds: float = 10.0) -> torch.Tensor:
    """Decaying tones of 60 ms, `tempo` a minute: float32 [samples]."""
    samples = np.zeros(int(seconds * RATE), np.float32)
    t = np.arange(int(0.06 * RATE)) / RATE
    click = np.sin(2 * np.pi * hertz * t) * np.exp(-60 * t)
    for onset in np.arange(0.13, seconds - 0.1, 60 / tempo):
        start = int(onset * RATE)
        samples[start : start + len(click)] += click
    return torch.from_numpy(samples)


@pytest.mark.parametrize("tempo", [60, 71, 84, 97, 111, 120, 133, 150, 164, 181, 200])
def test_a_click_track_peaks_at_its_period(tower, tempo):
    with torch.no_grad():
        hidden = tower(clicks(tempo)[None]).last_hidden_state[0]
    assert hidden.shape == (200, 192)
    periods = tower.lag_seconds[hidden[:, :96].argmax(1)] * tempo / 60
    assert (periods - 1).abs().max() < 0.03


def test_bass_has_its_own_half(tower):
    treble, bass = clicks(120, 2000.0), clicks(90, 80.0)
    with torch.no_grad():
        hidden = tower((0.3 * treble + bass)[None]).last_hidden_state[0].mean(0)
    assert float(tower.lag_seconds[hidden[96:].argmax()]) == pytest.approx(60 / 90, rel=0.03)


def test_four_percent_faster_moves_the_peak(tower):
    with torch.no_grad():
        peaks = [tower(clicks(t)[None]).last_hidden_state[0, :, :96].mean(0).argmax() for t in (100, 104, 108.2)]
    assert peaks[0] > peaks[1] > peaks[2]


def test_loudness_does_not_matter(tower):
    loud = clicks(120)
    with torch.no_grad():
        hidden = tower(torch.stack([loud, 0.05 * loud])).last_hidden_state
    assert (hidden[0] - hidden[1]).abs().mean() < 0.05


def test_silence_is_all_zeros(tower):
    with torch.no_grad():
        hidden = tower(torch.stack([torch.zeros(10 * RATE), torch.full((10 * RATE,), 0.1)])).last_hidden_state
        faint = tower(1e-5 * torch.randn(1, 10 * RATE)).last_hidden_state
    assert hidden[0].abs().max() == 0
    assert hidden.isfinite().all()
    assert faint.abs().max() < 0.01


def test_a_window_does_not_depend_on_its_batch(tower):
    windows = torch.stack([clicks(80), clicks(125, 200.0), torch.zeros(10 * RATE)])
    with torch.no_grad():
        together = tower(windows).last_hidden_state
        alone = torch.cat([tower(window[None]).last_hidden_state for window in windows])
    assert torch.equal(together, alone)


def test_saved_is_loaded(tower, tmp_path):
    tower.save_pretrained(tmp_path)
    again = TempogramTower.from_pretrained(tmp_path, dtype=torch.bfloat16)
    x = clicks(100)[None]
    with torch.no_grad():
        assert torch.equal(again(x).last_hidden_state, tower(x).last_hidden_state)
    assert not list(again.parameters())


@pytest.mark.parametrize("seconds", [0.1, 1.0, 4.3])
def test_short_windows(tower, seconds):
    with torch.no_grad():
        hidden = tower(clicks(120)[None, : int(seconds * RATE)]).last_hidden_state
    assert hidden.shape[1] == round(int(seconds * RATE) / RATE * 20)
    assert hidden.isfinite().all()


def test_too_short_is_one_clear_error(tower):
    with pytest.raises(AudioError, match="100 samples"):
        tower(torch.zeros(1, 100))
