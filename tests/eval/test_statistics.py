"""Intervals cover, shrink and know groups; gains pick the best control; paired tests agree with their definitions."""

import numpy as np
import pytest

from mllm.eval.statistics import gain, interval, paired


def test_interval_covers_the_mean_and_shrinks_with_more_items():
    few, many = np.array([0, 1] * 10, float), np.array([0, 1] * 1000, float)
    for scores in (few, many):
        low, high = interval(scores)
        assert low < scores.mean() < high
    assert interval(few)[1] - interval(few)[0] > 5 * (interval(many)[1] - interval(many)[0])
    assert interval(np.ones(20)) == (1.0, 1.0)


def test_interval_is_as_wide_as_the_groups_are_few():
    scores = np.repeat([0.0, 1.0] * 10, 10)  # 200 items that are 20 works
    groups = [str(i // 10) for i in range(200)]
    single, grouped = interval(scores), interval(scores, groups)
    assert grouped[1] - grouped[0] > 2.5 * (single[1] - single[0])
    # 95 % of intervals hold the truth: binomial at 0.5 has a standard error of 0.112 over 20 works
    assert grouped[1] - grouped[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.15)


def test_intervals_of_groups_cover_the_truth_as_often_as_they_say():
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        works = draw.random(60) < 0.3
        low, high = interval(np.repeat(works.astype(float), 3), [str(i // 3) for i in range(180)])
        held += low <= 0.3 <= high
    assert 180 <= held <= 199


def test_gain_is_over_the_best_control_and_leans_low():
    draw = np.random.default_rng(0)
    model = (draw.random(400) < 0.8).astype(float)
    weak, strong = (draw.random(400) < 0.2).astype(float), (draw.random(400) < 0.5).astype(float)
    found = gain(model, {"weak": weak, "strong": strong})
    assert found.against == "strong" and found.points == pytest.approx(model.mean() - strong.mean())
    assert 0.2 < found.low < found.points < found.high < 0.4
    alike = [(draw.random(400) < 0.5).astype(float) for _ in range(20)]
    many = gain(model, dict(zip("abcdefghijklmnopqrst", alike, strict=True)))
    assert many.low < many.points and many.high - many.points < many.points - many.low
    deaf = gain(strong, {"the same": strong})
    assert deaf.points == deaf.low == deaf.high == 0


def test_mcnemar_is_exact_and_permutation_is_used_for_groups():
    first = np.array([1] * 40 + [0] * 10 + [1] * 2 + [0] * 8, float)
    second = np.array([1] * 40 + [1] * 10 + [0] * 2 + [0] * 8, float)
    found = paired(first, second, [str(i) for i in range(60)])
    assert (found.better, found.worse, found.test) == (10, 2, "McNemar, exact")
    assert found.p == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # at most two heads of twelve, both tails
    assert found.difference == pytest.approx(8 / 60) and found.low > 0
    grouped = paired(first, second, [str(i // 2) for i in range(60)])
    assert grouped.test == "permutation of groups"
    assert grouped.p == pytest.approx(2 * (1 + 6) / 2**6, abs=0.02)  # five pairs better, one worse
    assert paired(first, first, [str(i) for i in range(60)]).p == 1.0


def test_one_group_proves_nothing():
    assert paired([0.0, 0.0], [1.0, 1.0], ["a", "a"]).p == 1.0
