"""The classical tools find what is plainly there."""

import numpy as np
import pytest
from tiny import clicks

from mllm.eval import classical
from mllm.eval.tasks import key as key_task
from mllm.eval.tasks import tempo as tempo_task


def tones(pitches: list[int], seconds: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * classical.RATE)) / classical.RATE
    notes = [sum(np.sin(2 * np.pi * 440 * 2 ** ((p - 69) / 12) * h * time) / h for h in (1, 2, 3)) for p in pitches]
    return (0.2 * np.concatenate(notes)).astype(np.float32)


@pytest.mark.parametrize(("tonic", "name"), [(60, "C"), (66, "F#"), (58, "Bb")])
def test_krumhansl_finds_the_key_of_scale_and_triad(tonic, name):
    estimate = classical.krumhansl(np.empty(0), [])
    triad = [tonic, tonic + 4, tonic + 7, tonic + 12]
    wave = tones([*triad, *(tonic + s for s in (0, 2, 4, 5, 7, 9, 11, 12)), *triad])
    assert key_task.split(estimate(classical.chroma(wave))) == key_task.split(f"{name} major")
    assert estimate(np.zeros(12)) == "C major"


def test_fitted_profiles_know_the_modes_of_train_in_every_key():
    dorian, major = np.array([9, 0, 3, 5, 0, 4, 0, 6, 0, 3, 4, 0.0]), np.array([9, 0, 3, 0, 5, 4, 0, 6, 0, 3, 0, 3.0])
    estimate = classical.fitted_profiles(np.stack([np.roll(dorian, 2), major]), ["D dorian", "C major"])
    assert estimate(np.roll(dorian, 6)) == "F# dorian"
    assert estimate(np.roll(major, 10)) == "Bb major"


@pytest.mark.parametrize("bpm", [90, 120])
def test_tempo_of_clicks(bpm):
    assert tempo_task.near(classical.read_off(np.empty(0), [])(classical.tempo(clicks(bpm))), bpm)


def test_accents_tell_two_from_three_beats():
    def bar(beats: int, bpm: float) -> np.ndarray:
        wave = clicks(bpm, 10, classical.RATE)
        index = np.floor(np.arange(len(wave)) / classical.RATE * bpm / 60).astype(int)
        return wave * np.where(index % beats == 0, 1.0, 0.15).astype(np.float32)

    train = [(bar(beats, bpm), f"{beats}/4") for beats in (2, 3) for bpm in (100, 112, 124, 136)]
    estimate = classical.logistic(np.stack([classical.accents(w) for w, _ in train]), [t for _, t in train])
    assert [estimate(classical.accents(bar(beats, 118))) for beats in (2, 3)] == ["2/4", "3/4"]


def test_logistic_regression_separates_what_can_be_separated():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 6)) * 4
    labels = [f"class {i % 4}" for i in range(80)]
    x = np.stack([centres[i % 4] + rng.normal(size=6) for i in range(80)])
    estimate = classical.logistic(x, labels)
    assert np.mean([estimate(row) == label for row, label in zip(x, labels, strict=True)]) > 0.95


def test_silence_gives_finite_features():
    silence = np.zeros(3 * classical.RATE, np.float32)
    for measure in (classical.timbre, classical.chroma, classical.tempo, classical.accents):
        assert np.isfinite(measure(silence)).all()
