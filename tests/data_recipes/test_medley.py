"""Medleys: the facts' times against the sound, and that plans keep their limits."""

from pathlib import Path

import numpy as np
import pytest

from mllm.data_recipes.config import HERE, find_soundfont, load_mixture
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.medley import make_medley, plan_medley
from mllm.data_recipes.tonal import tonal_tune
from mllm.data_recipes.tune import key_name

RATE = 22050
TUNES = [tonal_tune(i) for i in range(60)]
BY_ID = {t.id: t for t in TUNES}


@pytest.fixture(scope="module")
def font() -> Path:
    found = find_soundfont(load_mixture(HERE / "mixtures" / "tiny.yaml").soundfonts[0])
    assert found is not None
    return found


@pytest.mark.parametrize("seed, minutes", [(1, 1.0), (2, 2.5), (3, 5.0)])
def test_sections_start_where_the_sound_does(font: Path, seed: int, minutes: float) -> None:
    plan = plan_medley(np.random.default_rng(seed), TUNES, minutes)
    samples, facts = make_medley(plan, TUNES, font, RATE)
    assert samples.dtype == np.float32 and samples.ndim == 1 and 0.1 < np.abs(samples).max() <= 1
    assert len(samples) == pytest.approx(facts["seconds"] * RATE, abs=RATE * 0.001)
    assert facts["seconds"] == pytest.approx(minutes * 60, rel=0.2)
    sections = facts["sections"]
    previous_end = 0.0
    for planned, section in zip(plan.sections, sections, strict=True):
        assert section["start"] >= previous_end - 1e-9 and section["end"] > section["start"]
        assert 9 < section["end"] - section["start"] < 61
        a = round(section["start"] * RATE)
        if section["start"] > previous_end + 0.38:  # after a gap: silence, then sound within 20 ms
            quiet = samples[max(0, a - round(0.03 * RATE)) : a - round(0.002 * RATE)]
            # The rest of this section's first quarter second may be louder than its attack, but never is it silent.
            assert np.abs(quiet).max(initial=0) < 2e-3
            assert np.abs(samples[a : a + round(0.02 * RATE)]).max() > 3e-3
        tune = BY_ID[planned.tune]
        assert section["key"] == key_name(planned.tonic, tune.mode) and section["tempo"] == planned.tempo
        assert section["metre"] == f"{tune.metre[0]}/{tune.metre[1]}"
        assert section["instruments"][0] == planned.family
        assert set(section["instruments"]) <= set(facts["instruments"])
        previous_end = section["end"]
    # After the last note and its ring there is nothing more.
    assert np.abs(samples[-10:]).max() < 2e-3


def test_starts_inside_crossfades_are_heard_too(font: Path) -> None:
    """Energy over the spectrum rises at a start more than it does just before."""
    found, rises = 0, 0
    for seed in range(4, 9):
        plan = plan_medley(np.random.default_rng(seed), TUNES, 1.5)
        samples, facts = make_medley(plan, TUNES, font, RATE)
        for before, section in zip(facts["sections"], facts["sections"][1:], strict=False):
            if section["start"] > before["end"]:
                continue
            found += 1
            a, n = round(section["start"] * RATE), round(0.04 * RATE)
            window = np.hanning(n)
            spectra = [np.abs(np.fft.rfft(samples[b : b + n] * window)) for b in (a - 2 * n, a - n, a)]
            flux = [float(np.maximum(y - x, 0).sum()) for x, y in zip(spectra, spectra[1:], strict=False)]
            rises += flux[1] > 2 * flux[0]
    assert found >= 4 and rises >= 0.75 * found


def test_plans_are_deterministic_and_name_what_returns() -> None:
    again = 0
    for seed in range(20):
        plan = plan_medley(np.random.default_rng(seed), TUNES, 1 + seed % 10)
        assert plan == plan_medley(np.random.default_rng(seed), TUNES, 1 + seed % 10)
        assert 3 <= len(plan.sections) <= 12
        by_letter: dict[str, set[tuple[str, int, int]]] = {}
        for before, section in zip((None, *plan.sections), plan.sections, strict=False):
            letter = section.label.rstrip("'")
            by_letter.setdefault(letter, set()).add((section.tune, section.tonic, section.start))
            again += section.label.endswith("'")
            assert before is None or (before.family != section.family and before.label.rstrip("'") != letter)
        assert all(len(what) == 1 for what in by_letter.values())
        assert list(by_letter) == [chr(ord("A") + i) for i in range(len(by_letter))]
        assert len({s.label for s in plan.sections}) == len(plan.sections)
        assert len({s.tune for s in plan.sections}) == len(by_letter)
    assert again >= 10


@pytest.mark.parametrize("minutes", [12.0, 20.0, 30.0])
def test_a_long_medley_has_as_many_sections_as_it_needs_and_never_more_than_half_an_hour(minutes: float) -> None:
    longest = 0.0
    for seed in range(20):
        plan = plan_medley(np.random.default_rng(seed), TUNES, minutes)
        bars = [60 / s.tempo * BY_ID[s.tune].bar_quarters / BY_ID[s.tune].beat_quarters for s in plan.sections]
        bodies = [s.bars * bar for s, bar in zip(plan.sections, bars, strict=True)]
        seconds = plan.lead_in + sum(bodies) + sum(s.join for s in plan.sections[:-1]) + 0.35
        assert 0.8 * minutes * 60 < seconds <= 1800
        assert len({s.label for s in plan.sections}) == len(plan.sections) > minutes
        assert all(10 <= body <= 60 for body in bodies)
        letters = dict.fromkeys(s.label.rstrip("'") for s in plan.sections)
        assert len({s.tune for s in plan.sections}) == len(letters)
        if len(letters) > 26:
            assert list(letters)[25:27] == ["Z", "AA"]
        longest = max(longest, seconds)
    assert longest > 0.95 * minutes * 60


def test_a_medley_is_the_same_again(font: Path) -> None:
    plan = plan_medley(np.random.default_rng(1), TUNES, 1.0)
    first, second = (make_medley(plan, TUNES, font, 16000) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and first[1] == second[1]


@pytest.mark.parametrize("tunes, minutes", [(TUNES, 0.2), (TUNES, 31.0), ([], 2.0), (TUNES[:1], 3.0)])
def test_what_cannot_be_planned_is_one_clear_line(tunes: list, minutes: float) -> None:
    with pytest.raises(DataError) as caught:
        plan_medley(np.random.default_rng(1), tunes, minutes)
    assert "\n" not in str(caught.value)


def test_another_split_s_tunes_are_refused(font: Path) -> None:
    plan = plan_medley(np.random.default_rng(1), TUNES, 1.0)
    with pytest.raises(DataError, match="not among those given"):
        make_medley(plan, [t for t in TUNES if t.id != plan.sections[1].tune], font, RATE)
