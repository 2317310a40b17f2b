"""Files of features: damaged, foreign, evicted, on a full disk; never more room than allowed."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections import namedtuple

import numpy as np
import pytest
from feature_clips import FILE_BYTES, age, count_encoded, new_cache, write_clips

from mllm.train import feature_files
from mllm.train.config import ConfigError
from mllm.train.feature_cache import FeatureCache
from mllm.train.feature_files import GIB, limit_bytes, make_room


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
