"""Two runs are compared by their smoothed losses, whatever number of steps each took."""

from __future__ import annotations

import numpy as np
import pytest

from mllm.train.loss_curves import compare, largest_gap, smoothed


def test_curves_of_another_number_of_steps_are_laid_over_each_other():
    falls = lambda steps: 3 - 2 * (np.arange(steps) + 0.5) / steps  # noqa: E731
    assert largest_gap(falls(40), falls(64)) < 0.05
    assert largest_gap(falls(40), falls(64) + 0.5) == pytest.approx(0.5, abs=0.05)
    assert smoothed([1.0, 2.0]) == pytest.approx(np.linspace(1, 2, 100)), "a run of two steps too"
    assert smoothed([1.5]) == pytest.approx(np.full(100, 1.5))


def test_what_jumps_from_step_to_step_is_smoothed_and_a_bend_is_not():
    steady = np.full(80, 2.0)
    assert largest_gap(steady, steady + 0.3 * (-1.0) ** np.arange(80)) < 0.01
    bent = steady.copy()
    bent[40:60] += 0.5
    assert largest_gap(steady, bent) == pytest.approx(0.5)


def test_the_gap_stands_beside_the_noise_between_seeds():
    ours = [np.full(32, 1.0), np.full(32, 1.2)]
    assert compare(np.full(20, 1.4), ours) == pytest.approx((0.3, 0.2))
    assert compare(np.full(20, 1.4), ours[:1]) == (pytest.approx(0.4), None)
