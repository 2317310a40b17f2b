"""What the frozen tower makes of a recording, computed once.

A file of features is named by the sha256 of the recording's bytes and by the tower's fingerprint (config and weights),
so a changed clip or tower never meets an old file. Stored before the projector, at the tower's own frame rate, float16.
All runs of a user share one cache; under a limit, what was not used for longest goes first (`feature_files`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from transformers import PreTrainedModel

from mllm.audio import audio_seconds, load_audio
from mllm.errors import AudioError, MllmError
from mllm.feature_extraction import MusicLMFeatureExtractor
from mllm.towers.stack import BOOKKEEPING
from mllm.train.config import ConfigError
from mllm.train.feature_files import FeatureFiles, Room, limit_bytes
from mllm.train.feature_meta import check_meta, describe_features, first_tensor, probe_sound
from mllm.weights import cache_dir

NAMED = 20  # broken recordings that an error names
READERS = 4  # threads that hash recordings
WINDOWS_AT_ONCE = 32  # through the tower, or a batch of long recordings would not fit the memory


class _Recording(NamedTuple):
    audio: str | Path
    file: Path
    windows: int  # as its header says


def tower_fingerprint(tower: PreTrainedModel) -> str:
    """16 hex digits of the sha256 over a tower's config and weights; where it was loaded from does not matter."""
    config = {k: v for k, v in tower.config.to_dict().items() if k not in BOOKKEEPING}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tower_device(tower: torch.nn.Module) -> torch.device:
    """Where a tower was moved to; a tower may have buffers alone, or neither."""
    tensor = first_tensor(tower)
    return torch.device("cpu") if tensor is None else tensor.device


class FeatureCache:
    """Tower features of recordings by content.

    Args:
        tower: the frozen tower, on any device; features are [windows, frames, hidden] float16 on the CPU.
        extractor: cuts recordings into the tower's windows.
        folder: where the files lie; default `features/` in the user's cache.
        limit_gib: GiB that the features of all towers in `folder` may take; default $MLLM_FEATURE_CACHE_GIB, else 20.

    Raises:
        ConfigError: the limit is no number above 0.
    """

    def __init__(
        self,
        tower: PreTrainedModel,
        extractor: MusicLMFeatureExtractor,
        folder: str | Path | None = None,
        limit_gib: float | None = None,
    ):
        self.tower = tower
        self.extractor = extractor
        root = Path(folder or cache_dir() / "features")
        self.folder = root / tower_fingerprint(tower)
        self._room = Room(root, limit_bytes(limit_gib))
        self._stored: FeatureFiles | None = None
        self._files: dict[str, tuple[tuple[int, int, int], Path]] = {}  # recording -> its version, its features' file
        self.seconds = 0.0
        """What `fill` took for encoding, in this process."""
        self._needed: set[str] = set()  # files of every `fill`: this run will come back to them

    def file(self, audio: str | Path) -> Path:
        """Where the features of a recording lie, or would; its bytes are read again only when the file has changed.

        Raises:
            AudioError: there is no such recording, or it cannot be read.
        """
        name = os.fspath(audio)
        try:
            status = os.stat(name)
            version = (status.st_size, status.st_mtime_ns, status.st_ino)
            known = self._files.get(name)
            if known is None or known[0] != version:
                with open(name, "rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                known = self._files[name] = (version, self.folder / digest[:2] / f"{digest}.npy")
        except OSError as error:
            raise AudioError(f"{name}: cannot be opened ({error.strerror})") from error
        return known[1]

    def load(self, audio: str | Path) -> np.ndarray:
        """Features [windows, frames, hidden] float16 of one recording, computed now if they are not there.

        They are mapped, not read: bytes come from the disk when they are looked at, and writing into the array does not
        change the file. A damaged file is computed again, with a warning.

        Raises:
            AudioError: the recording cannot be used.
            ConfigError: the file or its folder holds something else than this tower gives; no room.
        """
        file, stored = self.file(audio), self._open()
        if (features := stored.load(file)) is None:
            broken: dict[str, str] = {}
            self._encode_missing({file: audio}, {file}, 1, broken)
            if broken:
                raise AudioError(broken[os.fspath(audio)])
            features = stored.load(file)
        if features is None:
            raise ConfigError(f"{file} was gone as soon as it was written: something else empties this folder")
        return features

    def silence(self) -> np.ndarray:
        """Zeros in the place of features: float16 [1, frames, hidden]."""
        stored = self._open()
        return np.zeros((1, stored.frames, stored.hidden), np.float16)

    def fill(
        self,
        audios: Sequence[str | Path],
        batch_size: int = 8,
        progress: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> int:
        """Compute what is missing; returns how many recordings were encoded here. May be stopped and called again.

        Recordings of equal content are encoded once. What is given here is not evicted by this object afterwards.

        Args:
            audios: recordings.
            batch_size: recordings that go through the tower together.
            progress: show a bar (rank 0 alone does).
            rank, world: encode each `world`-th recording from the `rank`-th on; the others are left to other processes,
                which are to be given the same `audios`. Wait for all of them before `load`.

        Raises:
            AudioError: recordings that cannot be used, named after all others have been encoded.
            ConfigError: as `load`; too little room for all is said before any is encoded.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        broken: dict[str, str] = {}

        def located(audio: str | Path) -> Path | None:
            try:
                return self.file(audio)
            except AudioError as error:
                broken[os.fspath(audio)] = str(error)
                return None

        files: dict[Path, str | Path] = {}
        with ThreadPoolExecutor(READERS) as pool:
            for audio, file in zip(audios, pool.map(located, audios), strict=True):
                if file is not None:
                    files.setdefault(file, audio)
        self._needed |= {str(file) for file in files}
        # not every world-th of the missing ones: another rank may see fewer missing, and both would leave some out
        share = set(list(files)[rank::world])
        began = time.monotonic()
        count = self._encode_missing(files, share, batch_size, broken, progress and rank == 0) if files else 0
        self.seconds += time.monotonic() - began
        _refuse_broken(broken, len({str(audio) for audio in audios}))
        return count

    def _open(self) -> FeatureFiles:
        """The tower's files; the first time, their folder is held against what the tower gives."""
        if self._stored is None:
            rate = self.extractor.sampling_rate
            extracted = self.extractor([probe_sound(self.extractor.window_samples, rate)], sampling_rate=rate)
            features = self._encode(extracted["input_features"])[0]
            check_meta(self.folder, describe_features(self.tower, self.extractor, features))
            self._stored = FeatureFiles(*features.shape)
        return self._stored

    def _encode_missing(
        self,
        files: dict[Path, str | Path],
        share: set[Path],
        batch_size: int,
        broken: dict[str, str],
        progress: bool = False,
    ) -> int:
        """Make room for all features of `files` that are not there, and encode those of `share`; returns how many.

        Recordings that cannot be used are noted in `broken` with the reason.
        """
        stored = self._open()
        missing = [_Recording(audio, file, self._count(audio)) for file, audio in files.items() if not stored.has(file)]
        self._room.take(sum(stored.bytes_of(recording.windows) for recording in missing), self._needed)
        batches = list(_batches([recording for recording in missing if recording.file in share], batch_size))
        shown: Iterable = track(batches, description="audio features") if progress and batches else batches
        done = 0
        with ThreadPoolExecutor(1) as pool:
            for recordings, windows, counts in _one_ahead(pool, lambda batch: self._windows(batch, broken), shown):
                features = self._encode(windows) if recordings else windows
                for recording, end, count in zip(recordings, np.cumsum(counts), counts, strict=True):
                    part = features[end - count : end]
                    if np.isfinite(part).all():
                        stored.write(recording.file, part)
                        done += 1
                    else:
                        name = os.fspath(recording.audio)
                        broken[name] = f"{name}: the tower makes numbers of it that float16 cannot hold"
        return done

    def _count(self, audio: str | Path) -> int:
        """Windows of a recording, from its header."""
        try:
            return self.extractor.count_windows(round(audio_seconds(audio) * self.extractor.sampling_rate))
        except AudioError:  # broken, or of a length that only decoding tells: rare, and this is an estimate
            return 1

    def _windows(
        self, batch: Sequence[_Recording], broken: dict[str, str]
    ) -> tuple[list[_Recording], np.ndarray, list[int]]:
        """Those of a batch that are still wanted and can be heard, their windows together, and how many each has."""
        rate = self.extractor.sampling_rate
        heard, waveforms = [], []
        for recording in batch:
            if recording.file.is_file():  # another process was faster
                continue
            try:
                waveforms.append(load_audio(recording.audio, rate))
                heard.append(recording)
            except (MllmError, OSError, RuntimeError) as error:  # libsndfile's errors are RuntimeErrors
                broken[os.fspath(recording.audio)] = str(error)
        if not heard:
            return [], np.empty(0, np.float32), []
        extracted = self.extractor(waveforms, sampling_rate=rate)
        return heard, extracted["input_features"], extracted["num_windows"]

    def _encode(self, windows: np.ndarray) -> np.ndarray:
        """What the extractor gives [windows, …] -> features [windows, frames, hidden] float16."""
        self.tower.eval()
        device = tower_device(self.tower)
        with torch.inference_mode():
            parts = [
                self.tower(part.to(device)).last_hidden_state.to(torch.float16).cpu()
                for part in torch.from_numpy(windows).split(WINDOWS_AT_ONCE)
            ]
        return torch.cat(parts).numpy()


def _batches(recordings: Sequence[_Recording], batch_size: int) -> Iterator[list[_Recording]]:
    """Up to `batch_size` recordings together, fewer where they are long: their waveforms are in memory at once."""
    batch: list[_Recording] = []
    windows = 0
    for recording in recordings:
        if batch and (len(batch) == batch_size or windows + recording.windows > max(batch_size, WINDOWS_AT_ONCE)):
            yield batch
            batch, windows = [], 0
        batch.append(recording)
        windows += recording.windows
    if batch:
        yield batch


def _one_ahead(pool: ThreadPoolExecutor, prepare: Callable, batches: Iterable) -> Iterator:
    """Yield prepare(batch) with the next batch being prepared meanwhile."""
    waiting = None
    for batch in batches:
        future = pool.submit(prepare, batch)
        if waiting is not None:
            yield waiting.result()
        waiting = future
    if waiting is not None:
        yield waiting.result()


def _refuse_broken(broken: dict[str, str], total: int) -> None:
    """One error for all recordings that cannot be used; without the advice of each one, which would be long."""
    if broken:
        named = sorted(broken.items())[:NAMED]
        reasons = [f"{name} ({why.removeprefix(f'{name}: ').split(';')[0]})" for name, why in named]
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise AudioError(
            f"{len(broken)} of {total} recordings cannot be used, the others are encoded; remove their rows or replace "
            f"the files: {', '.join(reasons)}{more}"
        )
