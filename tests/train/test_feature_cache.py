"""The feature cache: right features or an error, never more room than allowed, nothing lost when something breaks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import clicks

from mllm.audio import load_audio
from mllm.errors import AudioError
from mllm.feature_extraction import MusicLMFeatureExtractor
from mllm.towers import MusicnnConfig, MusicnnTower, StackTower, TempogramTower, load_tower
from mllm.train import feature_files
from mllm.train.config import ConfigError
from mllm.train.feature_cache import FeatureCache, tower_device, tower_fingerprint
from mllm.train.feature_files import GIB, limit_bytes, make_room

ROOT = Path(__file__).parents[2]
WINDOW_BYTES = 200 * 192 * 2
FILE_BYTES = WINDOW_BYTES + 128


def write_clips(folder: Path, count: int, seconds: float = 1.0) -> list[Path]:
    """Recordings that differ: click tracks, each faster than the one before."""
    folder.mkdir(exist_ok=True)
    clips = [folder / f"{i:02}.wav" for i in range(count)]
    for i, clip in enumerate(clips):
        soundfile.write(clip, clicks(60 + 10 * i, seconds), 22050)
    return clips


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    return write_clips(tmp_path / "clips", 6)


def new_cache(folder: Path, files: float = 1000, **tower) -> FeatureCache:
    """A cache with room for so many files of one window."""
    limit = files * FILE_BYTES / GIB
    return FeatureCache(load_tower("tempogram", **tower), MusicLMFeatureExtractor(), folder, limit_gib=limit)


def count_encoded(monkeypatch) -> list[int]:
    """Windows of each call of the tower from now on."""
    calls, forward = [], TempogramTower.forward

    def counted(self, input_features, **kwargs):
        calls.append(len(input_features))
        return forward(self, input_features, **kwargs)

    monkeypatch.setattr(TempogramTower, "forward", counted)
    return calls


def age(file: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(file, (then, then))


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


@pytest.mark.parametrize(
    "damage",
    [lambda x: b"", lambda x: x[:60], lambda x: x[:-1], lambda x: bytes(128) + x[128:], lambda x: x[: len(x) // 2]],
)
@pytest.mark.parametrize("way", ["load", "fill"])
def test_a_damaged_file_is_made_again(clips, tmp_path, caplog, damage, way):
    cache = new_cache(tmp_path / "cache")
    good = cache.load(clips[0]).copy()
    file = cache.file(clips[0])
    file.write_bytes(damage(file.read_bytes()))
    again = new_cache(tmp_path / "cache")
    if way == "fill" and file.stat().st_size != FILE_BYTES:
        assert again.fill(clips[:1], progress=False) == 1
        assert file.stat().st_size == FILE_BYTES, "found before the training begins"
    assert np.array_equal(again.load(clips[0]), good)
    assert "damaged" in caplog.text and str(file) in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 200, 192), np.float32),
        np.zeros((1, 200, 192), np.int16),
        np.zeros((200, 192), np.float16),
        np.zeros((1, 100, 384), np.float16),
        np.zeros((192, 200, 1), np.float16).T,
    ],
    ids=str,
)
def test_other_contents_are_an_error_and_stay(clips, tmp_path, wrong):
    cache = new_cache(tmp_path / "cache")
    cache.load(clips[0])
    file = cache.file(clips[0])
    np.save(file, wrong)
    age(file, 1)  # the clock of a file system is coarse
    for same in (cache, new_cache(tmp_path / "cache")):
        with pytest.raises(ConfigError, match="delete the file") as error:
            same.load(clips[0])
        assert str(file) in str(error.value) and str(wrong.dtype) in str(error.value)
    assert np.array_equal(np.load(file), wrong)


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


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    clips = write_clips(tmp_path / "clips", 8)
    root = tmp_path / "cache"
    strangers = [root / "notes" / "ab" / f"{0:064x}.npy", root / ("0" * 16) / "ab" / "mine.npy"]
    for stranger in strangers:
        stranger.parent.mkdir(parents=True)
        np.save(stranger, np.zeros(10**6))
        age(stranger, 1000)
    first, other = new_cache(root), new_cache(root, shortest=0.25)
    first.fill(clips[:3], progress=False)
    other.fill(clips[:3], progress=False)
    for days, (cache, clip) in enumerate([(first, 0), (other, 0), (first, 1), (other, 1), (first, 2), (other, 2)]):
        age(cache.file(clips[clip]), 10 - days)
    new_cache(root).load(clips[0])  # the oldest is used again
    small = new_cache(root, files=6)
    assert small.fill(clips[3:5], progress=False) == 2  # eight files, six fit
    assert [first.file(clip).is_file() for clip in clips[:5]] == [True, False, True, True, True]
    assert [other.file(clip).is_file() for clip in clips[:3]] == [False, True, True], "over the folders of all towers"
    assert small.fill(clips[:1], progress=False) == 0
    assert small.fill(clips[5:8], progress=False) == 3
    assert all(first.file(clips[i]).is_file() for i in (0, 3, 4, 5, 6, 7)), "what this run has asked for stays"
    assert not any(other.file(clip).is_file() for clip in clips[:3])
    assert all(stranger.is_file() for stranger in strangers)
    with pytest.raises(ConfigError, match="feature_cache_gib"):
        small.load(clips[1])
    assert sum(file.is_file() for file in map(first.file, clips)) == 6


def test_loading_counts_as_use_and_only_once(clips, tmp_path):
    cache = new_cache(tmp_path / "cache")
    cache.fill(clips, progress=False)
    for read in (FeatureCache.load, lambda cache, clip: cache.fill([clip], progress=False)):
        age(file := cache.file(clips[0]), 5)
        other = new_cache(tmp_path / "cache")
        read(other, clips[0])
        assert time.time() - file.stat().st_mtime < 100
        age(file, 5)
        read(other, clips[0])
        assert time.time() - file.stat().st_mtime > 86400


def test_too_little_room_is_said_before_anything_is_encoded_or_evicted(tmp_path, monkeypatch):
    clips = write_clips(tmp_path / "clips", 3) + write_clips(tmp_path / "songs", 1, seconds=25.0)  # six windows
    cache = new_cache(tmp_path / "cache")
    cache.fill(clips[:1], progress=False)
    age(cache.file(clips[0]), 5)
    calls = count_encoded(monkeypatch)
    tight = new_cache(tmp_path / "cache", files=4.5)
    with pytest.raises(ConfigError, match=r"needs about .* may take .*higher.*fewer clips.*feature_cache: false"):
        tight.fill(clips[1:])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, int(3.5 * FILE_BYTES)))
    with pytest.raises(ConfigError, match=r"disk of .* has .* left: free some space"):
        new_cache(tmp_path / "cache").fill(clips[1:])
    assert sum(calls) == 2 and cache.file(clips[0]).is_file(), "test sounds alone"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, int(4.5 * FILE_BYTES)))
    assert new_cache(tmp_path / "cache").fill(clips[1:], progress=False) == 3
    assert not cache.file(clips[0]).exists(), "a full disk is no reason to stop while old features fill it"


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan"])
def test_a_limit_is_a_number_above_zero(monkeypatch, text):
    monkeypatch.delenv(feature_files.LIMIT_VARIABLE, raising=False)
    assert limit_bytes() == 20 * GIB and limit_bytes(0.5) == GIB / 2
    monkeypatch.setenv(feature_files.LIMIT_VARIABLE, "inf")
    assert limit_bytes() == float("inf") and limit_bytes(1.0) == GIB
    monkeypatch.setenv(feature_files.LIMIT_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"MLLM_FEATURE_CACHE_GIB.*{text}"):
        limit_bytes()


def test_many_evict_at_once_and_no_more_than_needed(tmp_path):
    shelf = tmp_path / ("0" * 16) / "ab"
    shelf.mkdir(parents=True)
    for i in range(60):
        file = shelf / f"{i:064x}.npy"
        file.write_bytes(bytes(1000))
        age(file, 60 - i)
    needed = {str(shelf / f"{i:064x}.npy") for i in range(5)}
    abandoned, fresh = shelf / "tmpabc.partial", shelf / "tmpdef.partial"
    for file in (abandoned, fresh):
        file.write_bytes(b"half")
    age(abandoned, 1)
    errors = []

    def evict() -> None:
        try:
            make_room(tmp_path, needed, 10_000, 40_000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=evict) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = sorted(int(file.stem, 16) for file in shelf.glob("*.npy"))
    assert not errors and left == [*range(5), *range(35, 60)], "the second one finds the room that the first has made"
    assert fresh.exists() and not abandoned.exists(), "what a killed process left goes, what is being written stays"


def test_files_of_other_users_are_passed_over(clips, tmp_path, monkeypatch):
    new_cache(tmp_path / "cache").fill(clips[:3], progress=False)
    small = new_cache(tmp_path / "cache", files=3)
    for i in range(3):
        age(small.file(clips[i]), 10 - i)
    unlink = os.unlink

    def denied(path, **options):
        if str(path) == str(small.file(clips[0])):
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", denied)
    small.load(clips[3])
    assert [small.file(clip).is_file() for clip in clips[:4]] == [True, False, True, True]


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


def test_a_full_disk_loses_nothing(tiny_disk, tmp_path, monkeypatch):
    clips = write_clips(tmp_path / "clips", 18)
    usage = namedtuple("usage", "total used free")
    with pytest.raises(ConfigError, match="free some space"):
        new_cache(tiny_disk).fill(clips)
    assert not list(tiny_disk.rglob("*.npy")), "it is said before the first"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1 << 40))  # another program takes the room
    with pytest.raises(ConfigError, match="no room on the disk.*larger disk.*run again"):
        new_cache(tiny_disk).fill(clips, batch_size=2, progress=False)
    monkeypatch.undo()
    made = list(tiny_disk.rglob("*.npy"))
    assert 5 < len(made) < 18 and not list(tiny_disk.rglob("*.partial"))
    assert {file.stat().st_size for file in made} == {FILE_BYTES}
    cache = new_cache(tmp_path / "larger")
    shutil.copytree(tiny_disk, tmp_path / "larger")
    assert cache.fill(clips, progress=False) == len(clips) - len(made)


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "no room on the disk"), (errno.EROFS, "cannot write")])
def test_a_failed_write_leaves_nothing_and_is_done_next_time(clips, tmp_path, monkeypatch, code, words):
    replace, done = os.replace, []

    def failing(source, target):
        if str(target).endswith(".npy") and len(done) == 2:
            raise OSError(code, os.strerror(code))
        replace(source, target)
        done.append(target)

    cache = new_cache(tmp_path / "cache")
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(ConfigError, match=words):
        cache.fill(clips, batch_size=2, progress=False)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial")) and len(list(tmp_path.rglob("*.npy"))) == 1
    assert cache.fill(clips, batch_size=2, progress=False) == len(clips) - 1


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
