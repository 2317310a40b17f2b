"""The feature cache: right features or an error, one encoding of each recording, nothing lost when one breaks."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from feature_clips import WINDOW_BYTES, count_encoded, new_cache, write_clips
from tiny import clicks

from mllm.audio import load_audio
from mllm.errors import AudioError
from mllm.feature_extraction import MusicLMFeatureExtractor
from mllm.towers import MusicnnConfig, MusicnnTower, StackTower, TempogramTower, load_tower
from mllm.train.config import ConfigError
from mllm.train.feature_cache import FeatureCache, tower_device, tower_fingerprint

ROOT = Path(__file__).parents[2]


def test_cached_features_equal_fresh_ones(clips, tmp_path, monkeypatch):
    cache = new_cache(tmp_path / "cache")
    tower, extractor = load_tower("tempogram"), MusicLMFeatureExtractor()
    windows = extractor(load_audio(clips[0], 22050), sampling_rate=22050)["input_features"]
    fresh = tower(torch.from_numpy(windows)).last_hidden_state.half().numpy()
    calls = count_encoded(monkeypatch)
    first = cache.load(clips[0])
    assert first.shape == (1, 200, 192) and first.dtype == np.float16 and np.array_equal(first, fresh)
    assert sum(calls) == 2, "the test sound and the clip"
    assert np.array_equal(cache.load(clips[0]), first) and sum(calls) == 2
    again = new_cache(tmp_path / "cache")
    assert again.file(clips[0]).is_file() and np.array_equal(again.load(clips[0]), first)
    assert sum(calls) == 3, "another run asks the test sound only"
    assert not list(tmp_path.rglob("*.partial"))


def test_moving_a_tower_keeps_its_features_and_changing_it_does_not(tmp_path):
    MusicnnTower(MusicnnConfig()).save_pretrained(tmp_path / "here")
    stack = StackTower.from_towers([load_tower(tmp_path / "here")])
    stack.save_pretrained(tmp_path / "there")
    assert str(tmp_path) not in (tmp_path / "there" / "config.json").read_text()
    moved = load_tower(tmp_path / "there")
    assert tower_fingerprint(moved) == tower_fingerprint(stack)
    moved.towers[0].output.bias[0] += 1
    assert tower_fingerprint(moved) != tower_fingerprint(stack)
    assert tower_fingerprint(load_tower("tempogram", lags=48)) != tower_fingerprint(load_tower("tempogram"))


def test_batches_of_any_size_give_the_same(tmp_path):
    clips = write_clips(tmp_path / "clips", 4) + write_clips(tmp_path / "songs", 2, seconds=25.0)
    clips += write_clips(tmp_path / "concert", 1, seconds=340.0)  # more windows than go through the tower at once
    one, many = new_cache(tmp_path / "one"), new_cache(tmp_path / "many")
    assert one.fill(clips, batch_size=1, progress=False) == many.fill(clips, batch_size=8) == len(clips)
    for clip, windows in zip(clips, [1] * 4 + [3] * 2 + [34], strict=True):
        assert len(one.load(clip)) == windows
        assert np.array_equal(one.load(clip), many.load(clip))
        assert one.file(clip).stat().st_size == windows * WINDOW_BYTES + 128


def test_loaded_features_are_mapped_and_hold_no_files_open(clips, tmp_path):
    cache = new_cache(tmp_path / "cache")
    kept = cache.load(clips[0]).copy()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        held = [cache.load(clips[0]) for _ in range(100)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert str(cache.file(clips[0])) in Path("/proc/self/maps").read_text()
    held[0][:] = 7
    assert np.array_equal(held[1], kept) and np.array_equal(cache.load(clips[0]), kept), "written in memory alone"
    cache.file(clips[0]).unlink()
    assert np.array_equal(held[2], kept), "a file may go while it is mapped"


def test_a_recording_is_hashed_once(clips, tmp_path, monkeypatch):
    hashed, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda stream, name: hashed.append(1) or digest(stream, name))
    cache = new_cache(tmp_path / "cache")
    cache.fill(clips, progress=False)
    for _ in range(3):
        cache.load(clips[0])
    assert len(hashed) == len(clips)
    old, before = cache.load(clips[0]).copy(), cache.file(clips[0])
    soundfile.write(clips[0], clicks(200, 1.0), 22050)
    os.utime(clips[0], ns=(1, 1))  # the clock of a file system is coarse
    assert cache.file(clips[0]) != before and not np.array_equal(cache.load(clips[0]), old)
    assert len(hashed) == len(clips) + 1


def test_the_folder_says_what_it_holds_and_a_mismatch_is_named(clips, tmp_path, monkeypatch):
    cache = new_cache(tmp_path)
    cache.load(clips[0])
    file = cache.folder / "meta.json"
    meta = json.loads(file.read_text())
    assert (meta["dtype"], meta["frames"], meta["hidden_size"]) == ("float16", 200, 192)
    assert meta["tower"]["model_type"] == "mllm_tempogram" and meta["libraries"]["torch"] == torch.__version__
    extractor = MusicLMFeatureExtractor(window_seconds=5.0, window_frames=100)
    with pytest.raises(ConfigError, match=r"frames was 200 and is 100 now: delete .* another folder"):
        FeatureCache(load_tower("tempogram"), extractor, tmp_path).load(clips[0])
    for name, value in (("sampling_rate", 16000), ("window_seconds", 9.0), ("encoder_extractor", {"a": [1, 2]})):
        file.write_text(json.dumps(meta | {"extractor": meta["extractor"] | {name: value}}))
        with pytest.raises(ConfigError, match=f"meta.json: extractor.{name}[.a]* was "):
            new_cache(tmp_path).load(clips[0])
    file.write_text(json.dumps(meta | {"tower": meta["tower"] | {"noise": 1}}))
    with pytest.raises(ConfigError, match="tower.noise was 1 and is absent now"):
        new_cache(tmp_path).load(clips[0])
    file.write_text(json.dumps(meta | {"format": 0}))
    with pytest.raises(ConfigError, match="format was 0 and is 1 now"):
        new_cache(tmp_path).fill(clips)
    file.write_text(json.dumps(meta | {"libraries": {"mllm": "0.0.1"}}))
    new_cache(tmp_path).load(clips[0])  # versions alone are no reason
    forward = TempogramTower.forward

    def changed(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.last_hidden_state = out.last_hidden_state.roll(1, dims=1)  # frames come 50 ms later
        return out

    monkeypatch.setattr(TempogramTower, "forward", changed)
    with pytest.raises(ConfigError, match=r"probe: .*\(mllm 0\.0\.1; now mllm"):
        new_cache(tmp_path).load(clips[0])
    monkeypatch.undo()
    file.write_text(file.read_text()[:30])  # the power failed
    new_cache(tmp_path).load(clips[0])
    assert json.loads(file.read_text()) == meta


def test_a_folder_from_before_there_was_a_meta_json_is_used(clips, tmp_path, monkeypatch):
    cache = new_cache(tmp_path)
    cache.fill(clips, progress=False)
    meta = cache.folder / "meta.json"
    content = meta.read_text()
    meta.unlink()
    calls = count_encoded(monkeypatch)
    assert new_cache(tmp_path).fill(clips, progress=False) == 0
    assert calls == [1] and meta.read_text() == content
    meta.unlink()
    for clip in clips:
        np.save(cache.file(clip), np.zeros((1, 200, 191), np.float16))
    with pytest.raises(ConfigError, match="delete the file"):
        new_cache(tmp_path).load(clips[0])
    assert not meta.exists()


def test_ranks_share_the_work(clips, tmp_path, monkeypatch):
    shutil.copy(clips[0], tmp_path / "again.wav")
    asked = [clips[0], tmp_path / "again.wav", str(clips[1]), clips[1], *clips[2:]]
    cache = new_cache(tmp_path / "cache")
    assert cache.fill(asked, progress=False, rank=1, world=3) == 2
    assert [cache.file(clip).is_file() for clip in clips] == [False, True, False] * 2
    second = new_cache(tmp_path / "cache")  # begins when the first has finished, and takes its own share nevertheless
    assert second.fill(asked, progress=False, rank=0, world=3) == 2
    assert second.fill(asked, progress=False, rank=2, world=3) == 2
    calls = count_encoded(monkeypatch)
    assert second.fill(asked, progress=False) == 0 and not calls
    assert len(list(second.folder.rglob("*.npy"))) == len(clips), "equal content is stored once"
    with pytest.raises(ValueError, match="rank 3 of 3"):
        cache.fill(asked, rank=3, world=3)


PROGRAM = """
import sys
from pathlib import Path
from mllm.feature_extraction import MusicLMFeatureExtractor
from mllm.towers import load_tower
from mllm.train.feature_cache import FeatureCache
cache = FeatureCache(load_tower("tempogram"), MusicLMFeatureExtractor(), sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print(cache.fill(sorted(Path(sys.argv[1]).glob("*.wav")), batch_size=1, progress=False))
"""


def test_two_processes_fill_one_folder(tmp_path):
    clips = write_clips(tmp_path / "clips", 16)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "clips"), str(tmp_path / "cache")]
    other = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, stdin=-1, stdout=-1, stderr=-1
    )
    shared, alone = new_cache(tmp_path / "cache"), new_cache(tmp_path / "alone")
    alone.fill(clips, progress=False)
    assert other.stdout.readline() == "ready\n", other.stderr.read()
    other.stdin.write("go\n")
    other.stdin.flush()
    here = shared.fill(clips, batch_size=1, progress=False)
    out, errors = other.communicate(timeout=120)
    assert other.returncode == 0, errors
    assert len(clips) <= here + int(out) <= 2 * len(clips)
    assert shared.fill(clips, progress=False) == 0
    assert all(np.array_equal(shared.load(clip), alone.load(clip)) for clip in clips)
    assert not list(tmp_path.rglob("*.partial"))


def test_what_another_process_has_just_made_is_not_made_again(clips, tmp_path, monkeypatch):
    slow, fast = new_cache(tmp_path / "cache"), new_cache(tmp_path / "cache")
    slow.load(clips[0]), fast.load(clips[0])
    forward = TempogramTower.forward

    def overtaken(self, *args, **kwargs):
        monkeypatch.setattr(TempogramTower, "forward", forward)
        assert fast.fill(clips, progress=False) == len(clips) - 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(TempogramTower, "forward", overtaken)
    assert slow.fill(clips, batch_size=1, progress=False) <= 2, "the clip under way, and the one read meanwhile"


def test_broken_recordings_are_named_together_when_the_others_are_done(clips, tmp_path):
    bad = [tmp_path / f"bad{i:02}.wav" for i in range(22)]
    for i, clip in enumerate(bad):
        clip.write_bytes(b"RIFF, it says" + bytes([i]))
    bad[0].write_bytes(clips[0].read_bytes()[:9000])
    bad[1].unlink()
    cache = new_cache(tmp_path / "cache")
    with pytest.raises(AudioError) as error:
        cache.fill([*clips[:3], *bad[:4], *clips[3:]], progress=False)
    message = str(error.value)
    assert message.startswith("4 of 10 recordings cannot be used") and "remove their rows" in message
    assert all(str(clip) in message for clip in bad[:4]) and "\n" not in message
    assert "cut off" in message and "No such file" in message
    assert all(cache.file(clip).is_file() for clip in clips)
    with pytest.raises(AudioError, match="and 2 more$") as error:
        cache.fill(bad, progress=False)
    assert str(error.value).count("bad") == 20
    with pytest.raises(AudioError, match=f"^{bad[0]}: the file is cut off"):
        cache.load(bad[0])


def test_numbers_beyond_float16_are_refused(clips, tmp_path, monkeypatch):
    cache = new_cache(tmp_path / "cache")
    cache.load(clips[0])
    forward = TempogramTower.forward

    def loud(self, input_features, **kwargs):
        out = forward(self, input_features, **kwargs)
        out.last_hidden_state[0, 0, 0] = 1e5
        return out

    monkeypatch.setattr(TempogramTower, "forward", loud)
    with pytest.raises(AudioError, match="1 of 2 .*01.wav .*float16 cannot hold"):
        cache.fill(clips[1:3], progress=False)
    assert not cache.file(clips[1]).exists() and cache.file(clips[2]).is_file()


def test_windows_go_to_where_the_tower_is(clips, tmp_path, monkeypatch):
    assert tower_device(torch.nn.Identity()).type == "cpu"
    assert tower_device(torch.nn.BatchNorm1d(2, affine=False).to("meta")).type == "meta"
    cache = new_cache(tmp_path / "cache")
    cache.load(clips[0])
    seen, forward = [], TempogramTower.forward

    def elsewhere(self, input_features, **kwargs):
        seen.append(input_features.device.type)
        return forward(load_tower("tempogram"), torch.zeros(input_features.shape))

    monkeypatch.setattr(TempogramTower, "forward", elsewhere)
    cache.tower.to("meta")
    cache.tower.train()
    assert cache.load(clips[1]).dtype == np.float16
    assert seen == ["meta"] and not cache.tower.training


def test_the_next_batch_is_read_while_the_tower_works(clips, tmp_path, monkeypatch):
    forward, extract = TempogramTower.forward, MusicLMFeatureExtractor.__call__
    encoding, extracted = ([threading.Event() for _ in range(len(clips) + 2)] for _ in range(2))  # 0: the test sound
    together = []

    def extracting(self, *args, **kwargs):
        number = sum(event.is_set() for event in extracted)
        if number > 1:
            together.append(encoding[number - 1].wait(5))
        out = extract(self, *args, **kwargs)
        extracted[number].set()
        return out

    def encode(self, *args, **kwargs):
        number = sum(event.is_set() for event in encoding)
        encoding[number].set()
        if 0 < number < len(clips):
            together.append(extracted[number + 1].wait(5))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(MusicLMFeatureExtractor, "__call__", extracting)
    monkeypatch.setattr(TempogramTower, "forward", encode)
    new_cache(tmp_path / "cache").fill(clips, batch_size=1, progress=False)
    assert together == [True] * 2 * (len(clips) - 1)
