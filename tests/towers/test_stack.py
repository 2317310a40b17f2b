"""Towers side by side on one frame grid."""

import numpy as np
import pytest
import soxr
import torch
from transformers import AutoConfig, AutoModel

from mllm.towers import StackConfig, StackTower, load_tower
from mllm.towers.grid import resize_max, resize_mean
from mllm.towers.resample import resample

RATE = 22050


@pytest.fixture(scope="module")
def stack():
    return load_tower("stack")


@pytest.fixture(scope="module")
def clips():
    """Three sounds of 10 s: a melody with harmonics, drum-like bursts, noise with a slow swell. [3, 220500]"""
    random = np.random.default_rng(0)
    time = np.arange(10 * RATE) / RATE
    pitch = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12])[(time * 2).astype(int) % 8] / 12)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    melody = sum(np.sin(h * phase) / h for h in range(1, 12)) * np.exp(-3 * (time * 2 % 1)) * 0.2
    noise = random.standard_normal((2, len(time)))
    bursts = noise[0] * np.exp(-40 * (time * 3 % 1)) * 0.3
    swell = noise[1] * 0.1 * np.sin(2 * np.pi * 0.3 * time) ** 2
    return torch.from_numpy(np.stack([melody, bursts, swell]).astype(np.float32))


def test_concatenates_its_members_in_order(stack, clips):
    out = stack(clips).last_hidden_state
    assert out.shape == (3, 200, 1121) and stack.config.hidden_size == 1121
    parts = out.split([tower.config.hidden_size for tower in stack.towers], dim=-1)
    for tower, part in zip(stack.towers, parts, strict=True):
        heard = clips
        if tower.config.sampling_rate != RATE:
            ours = torch.from_numpy(
                np.stack([soxr.resample(c, RATE, tower.config.sampling_rate) for c in clips.numpy()])
            )
            assert ours.shape[1] == 10 * tower.config.sampling_rate
            heard = ours
        alone = tower(heard).last_hidden_state
        assert alone.shape[1] == 200
        assert (alone - part).abs().mean() < 0.01 * alone.abs().mean().clamp_min(1e-3)


def test_a_batch_equals_its_parts(stack, clips):
    together = stack(clips).last_hidden_state
    for i in range(3):
        alone = stack(clips[i : i + 1]).last_hidden_state[0]
        torch.testing.assert_close(alone, together[i], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(stack(clips).last_hidden_state, together, atol=0, rtol=0)


def test_plain_layers_and_bfloat16_agree(stack, clips):
    fast = stack(clips).last_hidden_state
    plain = load_tower("stack")
    for tower in plain.towers:
        tower.config.fused = False
    torch.testing.assert_close(plain(clips).last_hidden_state, fast, atol=2e-3, rtol=1e-3)
    half = load_tower("stack", dtype=torch.bfloat16)(clips).last_hidden_state
    assert half.dtype == torch.bfloat16
    assert ((half.float() - fast).abs().mean((0, 1)) <= 0.03 * fast.std((0, 1)) + 2e-3).float().mean() > 0.98


def test_is_frozen_saves_and_loads(stack, clips, tmp_path):
    assert not stack.training and not any(p.requires_grad for p in stack.parameters())
    stack.save_pretrained(tmp_path)
    again = load_tower(tmp_path)
    assert isinstance(again, StackTower)
    torch.testing.assert_close(again(clips[:1]).last_hidden_state, stack(clips[:1]).last_hidden_state)


def test_other_windows_grids_and_members(clips):
    stack = load_tower("stack", window_seconds=4.0, frames_per_second=12.5)
    assert stack(clips[:2, : 4 * RATE]).last_hidden_state.shape == (2, 50, 1121)
    config = AutoConfig.for_model("mllm_stack", members=[{"model_type": "mllm_tempogram"}], frames_per_second=5.0)
    tower = AutoModel.from_config(config)
    assert tower(clips).last_hidden_state.shape == (3, 50, 192)
    again = StackConfig.from_dict(config.to_dict())
    assert again.hidden_size == 192 and again.window_frames == 50


def test_resampling_follows_soxr(clips):
    theirs = np.stack([soxr.resample(c, RATE, 16000) for c in clips.numpy()])
    ours = resample(clips, RATE, 16000).numpy()
    assert ours.shape == theirs.shape == (3, 160000)
    inner = slice(200, -200)
    # noise differs in the transition band, 7.3 to 8 kHz
    error = np.sqrt(np.mean((ours - theirs)[:, inner] ** 2, 1)) / np.sqrt(np.mean(theirs[:, inner] ** 2, 1))
    assert error[0] < 1e-3 and error.max() < 0.1, error
    time = torch.arange(RATE).double() / RATE
    for hertz, gain in ((440.0, 1.0), (6000.0, 1.0), (9000.0, 0.0)):
        out = resample(torch.sin(2 * torch.pi * hertz * time)[None].float(), RATE, 16000)[0, 200:-200]
        expected = gain * torch.sin(2 * torch.pi * hertz * torch.arange(16000).double() / 16000)[200:-200]
        assert (out - expected).abs().max() < 1e-4


def test_musicnn_tags_do_not_move_with_our_resampler(clips):
    tower = load_tower("musicnn")
    for clip in clips:
        theirs = tower.tags(torch.from_numpy(soxr.resample(clip.numpy(), RATE, 16000)))
        assert (tower.tags(resample(clip[None], RATE, 16000)[0]) - theirs).abs().max() < 1e-2


@pytest.mark.parametrize("source, target", [(862, 200), (200, 862), (50, 50), (7, 3), (1, 4)])
def test_grid_keeps_constants_means_and_peaks(source, target):
    x = torch.rand(2, source, 3)
    mean = resize_mean(x, target)
    assert mean.shape == (2, target, 3)
    torch.testing.assert_close(resize_mean(torch.ones_like(x), target), torch.ones(2, target, 3))
    if target < source:
        torch.testing.assert_close(mean.mean(1), x.mean(1))
        torch.testing.assert_close(resize_max(x, target).amax(1), x.amax(1))
    assert mean.min() >= x.min() - 1e-6 and mean.max() <= x.max() + 1e-6
