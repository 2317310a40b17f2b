"""What a frozen tower's features hold without any language model: the nearest TRAIN clip's answer, and a linear probe.

Features of a recording are the mean and deviation over time of what the tower makes of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mllm.audio import load_audio
from mllm.errors import AudioError
from mllm.eval.classical import logistic
from mllm.eval.controls import KIND
from mllm.eval.item import Item
from mllm.eval.sounds import recording
from mllm.eval.task import Task, Verdict
from mllm.feature_extraction import MusicLMFeatureExtractor
from mllm.towers import load_tower
from mllm.whole_files import write_whole

LOG = logging.getLogger("mllm.eval")
MOST_CLASSES = 128
"""Different answers up to which they are classes to a probe."""
RIDGE = 10.0
"""Penalty of the linear regression, on standardised features."""
SAVED_EVERY = 128
Decide = Callable[[np.ndarray], str]
"""Features of one clip [features] -> an answer in words."""


class TowerFeatures:
    """Pooled features of recordings, each computed once; kept in an .npz named by the tower's config and weights."""

    def __init__(self, tower: str, folder: Path):
        """`tower`: what `mllm.towers.load_tower` takes; `folder`: where the .npz goes."""
        self.name, self._folder = tower, folder

    @cached_property
    def _tower(self) -> Any:
        return load_tower(self.name)

    @cached_property
    def _extractor(self) -> MusicLMFeatureExtractor:
        config = self._tower.config
        return MusicLMFeatureExtractor(
            sampling_rate=config.sampling_rate, window_seconds=config.window_seconds,
            encoder_extractor=getattr(config, "feature_extractor", None),
        )  # fmt: skip

    @cached_property
    def _file(self) -> Path:
        digest = hashlib.sha256(json.dumps(self._tower.config.to_dict(), sort_keys=True, default=str).encode())
        for name, tensor in sorted(self._tower.state_dict().items()):
            digest.update(name.encode() + tensor.float().numpy().tobytes())
        return self._folder / f"{digest.hexdigest()[:16]}.npz"

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        if not self._file.is_file():
            return {}
        with np.load(self._file, allow_pickle=False) as kept:
            return dict(zip(kept["names"].tolist(), kept["values"], strict=True))

    def of(
        self, paths: Sequence[Path], advance: Callable[[], None], broken: dict[int, str] | None = None
    ) -> np.ndarray:
        """[recordings, 2 x the tower's features] float32; `advance` is called once a recording.

        Raises AudioError for one that cannot be read; with `broken` it is left out, and stands there with the reason.
        """
        rows, new = [], 0
        for place, path in enumerate(paths):
            try:
                name = recording(path).key
                if name not in self._known:
                    self._known[name], new = self._pooled(path), new + 1
                    if new % SAVED_EVERY == 0:
                        self._save()
                rows.append(self._known[name])
            except (AudioError, OSError) as error:
                if broken is None:
                    raise
                broken[place] = str(error)
            advance()
        if new % SAVED_EVERY:
            self._save()
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def learned(self, train: Sequence[Item], advance: Callable[[], None]) -> tuple[list[Item], np.ndarray]:
        """Those of TRAIN whose recordings can be read, and their features; how many others there are is told."""
        broken: dict[int, str] = {}
        rows = self.of([item.audio[0] for item in train], advance, broken)
        if broken:
            LOG.warning("%d recordings of TRAIN are left out: %s", len(broken), next(iter(broken.values())))
        return [item for place, item in enumerate(train) if place not in broken], rows

    @torch.inference_mode()
    def _pooled(self, path: Path) -> np.ndarray:
        waveform = load_audio(path, self._extractor.sampling_rate)
        windows = self._extractor(waveform, return_tensors="pt")["input_features"]
        frames = torch.cat([self._tower(window[None]).last_hidden_state[0] for window in windows]).float()
        # the last window is padded with silence
        heard = math.ceil(len(frames) * min(1.0, len(waveform) / (len(windows) * self._extractor.window_samples)))
        frames = frames[: max(1, heard)]
        return torch.cat([frames.mean(0), frames.std(0, correction=0)]).numpy().astype(np.float32)

    def _save(self) -> None:
        out = io.BytesIO()
        np.savez(out, names=np.array(list(self._known)), values=np.stack(list(self._known.values())))
        write_whole(self._file, out.getvalue())


def nearest(features: np.ndarray, answers: Sequence[str]) -> Decide:
    """The answer of the TRAIN clip whose standardised features have the greatest cosine."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    known = (features - mean) / std
    known = known / np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-9)
    return lambda x: answers[int(np.argmax(known @ ((x - mean) / std)))]


def linear(features: np.ndarray, answers: Sequence[str]) -> Decide:
    """Logistic regression on the answers as classes; where all are numbers, ridge regression on their logarithm."""
    if not _positive(answers):
        return logistic(features, answers)
    mean, std = features.mean(0), features.std(0) + 1e-6
    x, y = ((features - mean) / std).astype(np.float64), np.log([float(answer) for answer in answers])
    # as many equations as clips: the features are more
    dual = np.linalg.solve(x @ x.T + RIDGE * len(x) * np.eye(len(x)), y - y.mean())
    weight = x.T @ dual
    return lambda one: f"{float(np.exp(y.mean() + (one - mean) / std @ weight)):.1f}"


def _positive(answers: Sequence[str]) -> bool:
    try:
        return all(float(answer) > 0 for answer in answers)
    except ValueError:
        return False


@dataclass(frozen=True)
class TowerTool:
    """A method over a tower's features; see `mllm.eval.task.Tool`. Each kind of question has a fit of its own."""

    name: str
    task: Task
    features: TowerFeatures
    fit: Callable[[np.ndarray, Sequence[str]], Decide]

    def answers(
        self, train: Sequence[Item], items: Sequence[Item], advance: Callable[[], None]
    ) -> Iterator[str | Verdict]:
        """Answers as the task's guesses put them, judged as guesses are."""
        learn, known = self.features.learned([item for item in train if self.task.guess(item) is not None], advance)
        measured = self.features.of([item.audio[0] for item in items], advance)
        kinds = [item.strata.get(KIND, "") for item in learn]
        fitted: dict[str, Decide] = {}
        judge = self.task.credit or self.task.score
        for item, x in zip(items, measured, strict=True):
            kind = item.strata.get(KIND, "")
            if kind not in fitted and (mine := [i for i, of in enumerate(kinds) if of == kind]):
                fitted[kind] = self.fit(known[mine], [str(self.task.guess(learn[i])) for i in mine])
            yield judge(fitted[kind](x), item) if kind in fitted else Verdict(None, 0.0)


@dataclass(frozen=True)
class TagProbe:
    """A logistic regression for each tag on a tower's features; see `mllm.eval.task.Tool`."""

    name: str
    task: Task
    features: TowerFeatures

    def answers(
        self, train: Sequence[Item], items: Sequence[Item], advance: Callable[[], None]
    ) -> Iterator[str | Verdict]:
        """What it makes of each tag of an item, 0 to 1; named are those from one half on."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        learn, known = self.features.learned(train, advance)
        ask = self.features.of([item.audio[0] for item in items], advance)
        sure: dict[str, np.ndarray] = {}
        for tag in sorted({tag for item in learn for tag in item.truth}):
            true = [tag in item.truth for item in learn]
            if not all(true):
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(known, true)
                sure[tag] = probe.predict_proba(ask)[:, 1]
        for i, item in enumerate(items):
            named = ", ".join(tag for tag in sure if sure[tag][i] >= 0.5)
            yield Verdict({tag: float(sure[tag][i]) for tag in sure}, self.task.score(named, item).score)


def tower_tools(task: Task, train: Sequence[Item], features: TowerFeatures) -> tuple[TowerTool | TagProbe, ...]:
    """The nearest clip and, where TRAIN's answers are few or numbers, the probe; nothing where nothing is to learn."""
    if train and all("tags" in item.meta for item in train):
        return (TagProbe(f"linear probe on {features.name} features", task, features),)
    by_kind: dict[str, set[str]] = {}
    for item in train:
        if (guess := task.guess(item)) is not None:
            by_kind.setdefault(item.strata.get(KIND, ""), set()).add(guess)
    if not by_kind:
        return ()
    found = [TowerTool(f"nearest TRAIN clip by {features.name} features", task, features, nearest)]
    few = all(len(answers) <= MOST_CLASSES for answers in by_kind.values())
    if few or all(_positive(list(answers)) for answers in by_kind.values()):
        counted = few and all(isinstance(item.truth, int) for item in train)  # numbers of something, not measures
        fit = logistic if counted else linear
        found.append(TowerTool(f"linear probe on {features.name} features", task, features, fit))
    return tuple(found)
