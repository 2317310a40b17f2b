"""Ensembles: everybody plays in range, and roles and families are what the facts will say."""

import numpy as np
import pytest

from mllm.data_recipes.arrange import arrange
from mllm.data_recipes.ensembles import ENSEMBLES, choose_ensemble
from mllm.data_recipes.instruments import FAMILIES, NAMES
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.tonal import tonal_tune
from mllm.data_recipes.tune import METRES, Tune
from mllm.data_recipes.voices import Voice

PROGRAMS = {p.number: p for programs in FAMILIES.values() for p in programs}


def four_voices(number: int) -> Tune:
    """A tune with three written voices under its melody, the bass two octaves and more below."""
    tune = tonal_tune(number)
    runs = [
        [
            [*bar, *((o, d, p - below, v) for o, d, p, _ in bar for v, below in ((1, 7), (2, 14), (3, 28)))]
            for bar in run
        ]
        for run in tune.runs
    ]
    return Tune(f"four/{number}", tune.title, "four", tune.tonic, tune.mode, tune.metre, runs)


def in_range(voice: Voice) -> bool:
    player = PROGRAMS[voice.program]
    return voice.role == "drums" or all(player.low <= p <= player.high for _, _, p in voice.notes)


@pytest.mark.parametrize("name", [n for n, e in ENSEMBLES.items() if e.written])
def test_a_consort_plays_the_written_voices_in_range(name: str) -> None:
    played = 0
    for number in range(24):
        families = ENSEMBLES[name].families or NAMES
        family = families[number % len(families)]
        tune = four_voices(number)
        rng = np.random.default_rng(number)
        try:
            piece = arrange(tune, 0, 4, number % 12, family, rng, False, None, number % 2 == 0, name)
        except ValueError as error:
            assert "does not fit" in str(error)
            continue
        played += 1
        pitched = [v for v in piece.voices if v.role != "drums"]
        assert all(map(in_range, piece.voices)) and [v.role for v in pitched] == ["melody", "inner", "inner", "bass"]
        assert pitched[0].family == family and (len(piece.voices) == 5) == (number % 2 == 0)
        if ENSEMBLES[name].families:
            assert {v.family for v in pitched} <= set(ENSEMBLES[name].families)
        written = [(o, p) for bar in tune.runs[0][:1] for o, _, p, v in bar if v == 3]
        bass = [p for o, _, p in pitched[-1].notes if o < tune.bar_quarters]
        shift = (number % 12 - tune.tonic) % 12
        assert [p % 12 for p in bass] == [(p + shift) % 12 for _, p in written]
    assert played >= 12


@pytest.mark.parametrize("metre", METRES)
def test_a_band_has_melody_bass_chords_and_drums_in_range(metre: tuple[int, int]) -> None:
    tunes = [t for t in map(tonal_tune, range(60)) if t.metre == metre]
    patterns, played = set(), 0
    for number, tune in enumerate(tunes):
        rng = np.random.default_rng(number)
        try:
            piece = arrange(tune, 0, 4, number % 12, NAMES[number % 16], rng, False, None, False, "band")
        except ValueError:
            continue
        played += 1
        assert [v.role for v in piece.voices] == ["melody", "bass", "chords", "drums"]
        assert all(map(in_range, piece.voices))
        assert piece.voices[2].family != piece.voices[0].family
        hits = piece.voices[3].notes
        assert {o % tune.bar_quarters for o, _, p in hits if p == 36} >= {0}
        patterns.add(tuple((o, p) for o, _, p in hits if o < tune.bar_quarters))
    assert played >= len(tunes) / 2 and len(patterns) > 1


def test_an_ensemble_is_chosen_that_can_play_the_tune_and_keeps_the_family() -> None:
    rng = np.random.default_rng(5)
    one = {choose_ensemble(tonal_tune(1), "choir", rng) for _ in range(40)}
    several = {choose_ensemble(four_voices(1), "choir", rng) for _ in range(40)}
    assert one == {"plain", "band"} and several == {"plain", "choir", "mixed"}
    assert {choose_ensemble(four_voices(1), "brass", rng) for _ in range(40)} == {"plain", "brass", "mixed"}
    mixed = [
        arrange(four_voices(n), 0, 4, 0, "piano", np.random.default_rng(n), False, None, False, "mixed")
        for n in range(6)
    ]
    assert max(len({v.family for v in piece.voices}) for piece in mixed) >= 3


def test_an_unknown_ensemble_is_refused() -> None:
    with pytest.raises(DataError, match="known: plain"):
        arrange(tonal_tune(1), 0, 4, 0, "piano", np.random.default_rng(1), False, None, False, "orchestra")
    with pytest.raises(ValueError, match="one"):
        arrange(tonal_tune(1), 0, 4, 0, "choir", np.random.default_rng(1), False, None, False, "choir")
