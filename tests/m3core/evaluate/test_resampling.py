"""Intervals and tests against exact enumeration, known spreads, and what must not depend on chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.evaluate.resampling import compare, intervals


def test_the_interval_is_that_of_the_means_standard_error() -> None:
    values = np.random.default_rng(3).normal(0.6, 0.2, size=(900, 2))
    bounds = intervals(values, seed=0, resamples=4000)
    error = 1.96 * values.std(axis=0) / 30
    assert bounds[:, 0] == pytest.approx(values.mean(axis=0) - error, abs=0.002)
    assert bounds[:, 1] == pytest.approx(values.mean(axis=0) + error, abs=0.002)


def test_intervals_are_the_same_for_the_same_seed_and_columns_share_their_draws() -> None:
    values = np.random.default_rng(0).random((40, 1))
    twice = np.hstack([values, values])
    assert (intervals(twice, 7)[0] == intervals(twice, 7)[1]).all()
    assert (intervals(values, 7) == intervals(values, 7)).all()
    assert (intervals(values, 7) != intervals(values, 8)).any()


def test_a_constant_has_no_spread() -> None:
    assert intervals(np.full((5, 1), 0.25), 0) == pytest.approx(np.full((1, 2), 0.25))


@given(st.lists(st.sampled_from([-0.5, -0.25, 0.0, 0.25, 1.0]), min_size=1, max_size=8))
def test_p_is_the_share_of_all_sign_flips(differences: list[float]) -> None:
    second = np.asarray(differences)[:, None]
    found = compare(np.zeros_like(second), second, seed=0, permutations=4000)[0]
    flips = [np.mean(np.asarray(signs) * differences) for signs in product((-1, 1), repeat=len(differences))]
    exact = np.mean([abs(mean) >= abs(np.mean(differences)) - 1e-12 for mean in flips])
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.low <= found.mean + 1e-12
    assert found.high >= found.mean - 1e-12
    assert found.p == pytest.approx(exact, abs=0.04)


def test_a_clear_gain_is_beyond_noise_and_equal_runs_are_not() -> None:
    rng = np.random.default_rng(0)
    first = rng.random((200, 1))
    better, same = compare(first, first + rng.random((200, 1)) * 0.2, 0)[0], compare(first, first, 0)[0]
    assert better.beyond_noise
    assert better.low > 0
    assert better.p == pytest.approx(1 / 10_001)
    assert not same.beyond_noise
    assert (same.mean, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_each_measure_is_compared_by_itself() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.random((60, 3)), rng.random((60, 3))
    together = compare(first, second, 1)
    for column, difference in enumerate(together):
        alone = compare(first[:, [column]], second[:, [column]], 1)[0]
        assert (alone.mean, alone.low, alone.high, alone.p) == pytest.approx(
            (difference.mean, difference.low, difference.high, difference.p)
        )
