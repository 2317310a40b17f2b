"""musicnn against the original TensorFlow graph (reference/musicnn.npz, made by scripts/reference_musicnn.py)."""

import importlib.util
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm.errors import AudioError, WeightsError
from mllm.towers.musicnn import MusicnnConfig, MusicnnTower, convert_musicnn, load_musicnn, log_mel
from mllm.towers.tf_checkpoint import read_tf_checkpoint
from mllm.weights import resolve

ROOT = Path(__file__).parents[2]
REFERENCE = np.load(Path(__file__).parent / "reference/musicnn.npz")


def _script():
    spec = importlib.util.spec_from_file_location("reference_musicnn", ROOT / "scripts/reference_musicnn.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


@pytest.fixture(scope="module")
def signals() -> list[torch.Tensor]:
    return [torch.from_numpy(x) for x in SCRIPT.signals()]


@pytest.fixture(scope="module")
def towers() -> dict[str, MusicnnTower]:
    return {
        "fused": load_musicnn(),
        "plain": load_musicnn(fused=False),
        "bfloat16": load_musicnn(dtype=torch.bfloat16),
    }


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return [resolve(f"musicnn-mtt-{part}") for part in ("index", "data")][0].parent


@pytest.mark.parametrize("i", range(3))
def test_mel_equals_the_original(signals, i):
    assert np.abs(log_mel(signals[i][None])[0, :: SCRIPT.STEP].numpy() - REFERENCE[f"mel_{i}"]).max() < 1e-4


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize("path", ["fused", "plain"])
def test_tags_equal_the_original(towers, signals, path, i):
    tags = towers[path].tags(signals[i]).numpy()
    assert tags.shape == REFERENCE[f"MTT_tags_{i}"].shape
    assert np.abs(tags - REFERENCE[f"MTT_tags_{i}"]).max() <= 1e-3


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize("path", ["fused", "plain"])
def test_features_equal_the_original(towers, signals, path, i):
    with torch.no_grad():
        hidden = towers[path](signals[i][None]).last_hidden_state[0]
    assert hidden.shape == (round(len(signals[i]) / 256), 753)
    assert np.abs(hidden[:: SCRIPT.STEP].numpy() - REFERENCE[f"MTT_features_{i}"]).max() <= 1e-3


def test_bfloat16_stays_close(towers, signals):
    # measured: tags 0.005, features 0.2 % of their deviation
    for i, signal in enumerate(signals):
        assert np.abs(towers["bfloat16"].tags(signal).numpy() - REFERENCE[f"MTT_tags_{i}"]).max() <= 0.02
        with torch.no_grad():
            hidden = towers["bfloat16"](signal[None]).last_hidden_state[0]
        reference = REFERENCE[f"MTT_features_{i}"]
        assert hidden.dtype == torch.bfloat16
        assert np.abs(hidden[:: SCRIPT.STEP].float().numpy() - reference).mean() <= 0.005 * reference.std()


def test_the_other_training_set(signals):
    tower = load_musicnn("MSD")
    assert tower.config.labels[:2] == ["rock", "pop"]
    for i, signal in enumerate(signals):
        assert np.abs(tower.tags(signal).numpy() - REFERENCE[f"MSD_tags_{i}"]).max() <= 1e-3


def test_labels_name_what_sounds(towers, signals):
    tags = towers["fused"].tags(signals[1]).mean(0)
    best = {towers["fused"].config.labels[i] for i in tags.topk(5).indices}
    assert len(towers["fused"].config.labels) == 50
    assert best & {"drums", "techno", "beat", "electronic", "beats"}


def test_a_window_does_not_depend_on_its_batch(towers, signals):
    windows = torch.stack([signals[2][:80000], signals[2][80000:], torch.zeros(80000)])
    for tower in towers.values():
        with torch.no_grad():
            together = tower(windows).last_hidden_state
            alone = torch.cat([tower(window[None]).last_hidden_state for window in windows])
        assert torch.equal(together, alone)
        assert together.isfinite().all()


def test_frames_pool_to_any_rate(signals):
    native, pooled = load_musicnn(), load_musicnn(frames_per_second=12.5)
    x = signals[2][None]
    with torch.no_grad():
        whole, fifth = native(x).last_hidden_state, pooled(x).last_hidden_state
    assert pooled.config.window_frames == fifth.shape[1] == 125
    torch.testing.assert_close(fifth, whole.unflatten(1, (125, 5)).mean(2), atol=1e-3, rtol=1e-3)


def test_frozen(towers):
    before = {k: v.clone() for k, v in towers["fused"].state_dict().items()}
    towers["fused"].train()
    towers["fused"](torch.randn(2, 32000))
    assert not any(module.training for module in towers["fused"].modules())
    assert all(torch.equal(v, before[k]) for k, v in towers["fused"].state_dict().items())


def test_saved_is_loaded_and_new_weights_are_heard(signals, tmp_path):
    torch.manual_seed(0)
    tower = MusicnnTower(MusicnnConfig(window_seconds=3.0))
    for block in [*tower.timbral, *tower.temporal]:  # both signs, so that both kinds of maximum occur
        block.norm.weight.data.normal_()
    x = signals[0][None]
    with torch.no_grad():
        first = tower(x).last_hidden_state
        tower.save_pretrained(tmp_path)
        again = MusicnnTower.from_pretrained(tmp_path)
        assert torch.equal(again(x).last_hidden_state, first)
        again.config.fused = False
        torch.testing.assert_close(again(x).last_hidden_state, first, atol=1e-3, rtol=1e-3)
        tower.timbral[0].conv.weight.mul_(2.0)
        changed = tower(x).last_hidden_state
        tower.config.fused = False
        torch.testing.assert_close(changed, tower(x).last_hidden_state, atol=1e-3, rtol=1e-3)
    assert not torch.equal(changed, first)


def test_short_sounds(towers):
    assert towers["fused"].tags(torch.randn(1600)).shape == (1, 50)
    with pytest.raises(AudioError, match="100 samples"):
        towers["fused"].tags(torch.zeros(100))


def test_unknown_variant():
    with pytest.raises(WeightsError, match="MTT, MSD"):
        load_musicnn("GTZAN")


def test_converts_once(checkpoint, tmp_path):
    target = convert_musicnn(checkpoint, tmp_path / "MTT")
    stamp = (target / "model.safetensors").stat().st_mtime_ns
    assert convert_musicnn(checkpoint, tmp_path / "MTT") == target
    assert (target / "model.safetensors").stat().st_mtime_ns == stamp
    assert "ISC" in (target / "provenance.json").read_text()


def _broken(checkpoint: Path, folder: Path, name: str, change) -> Path:
    folder.mkdir()
    for part in (".index", ".data-00000-of-00001"):
        shutil.copyfile(checkpoint / part, folder / part)
    data = change((folder / name).read_bytes())
    (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (".index", lambda b: b[:2000]),
        (".index", lambda b: b""),
        (".index", lambda b: b"\xff" * 700 + b[700:]),
        (".index", lambda b: b[:-48] + struct.pack("<5Q", *[2**63] * 5) + b[-8:]),
        (".data-00000-of-00001", lambda b: b[: len(b) // 2]),
    ],
    ids=["cut", "empty", "garbled", "wild footer", "short data"],
)
def test_a_broken_checkpoint_is_one_clear_error(checkpoint, tmp_path, name, change):
    folder = _broken(checkpoint, tmp_path / "broken", name, change)
    with pytest.raises(WeightsError) as error:
        convert_musicnn(folder, tmp_path / "out")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_checkpoint_reader_names_what_is_missing(checkpoint, tmp_path):
    with pytest.raises(WeightsError, match="lacks the tensor dense_9/kernel"):
        read_tf_checkpoint(checkpoint, {"dense_9/kernel"})
    with pytest.raises(WeightsError, match="cannot read"):
        read_tf_checkpoint(tmp_path / "nothing")
    assert read_tf_checkpoint(checkpoint, {"conv2d/kernel"})["conv2d/kernel"].shape == (7, 38, 1, 204)
