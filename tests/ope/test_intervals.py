"""Intervals cover as often as they say, in the designs they are for."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.ope import bootstrap_mean, bootstrap_ratio, paired_bootstrap, seeds_and_users, t_interval
from recgym.ope.intervals import members_and_users, t_quantile, t_ratio


@pytest.mark.parametrize(
    ("level", "freedom", "expected"),
    [
        (0.95, 1, 12.7062),
        (0.95, 4, 2.77645),
        (0.95, 30, 2.04227),
        (0.99, 10, 3.16927),
        (0.95, 1e6, 1.95997),
        (0.99, 2e6, 2.57583),
        (0.9999, 1e7, 3.89059),
        (0.999999, 31, 6.07198),
    ],
)
def test_quantiles_of_students_t(level: float, freedom: float, expected: float) -> None:
    assert t_quantile(level, freedom) == pytest.approx(expected, rel=1e-4)


def test_the_t_interval_is_the_textbooks() -> None:
    values = np.array([1.0, 2.0, 4.0, 7.0])
    found = t_interval(values, np.arange(4))
    half = 3.18245 * values.std(ddof=1) / 2
    assert found.value == pytest.approx(3.5)
    assert found.low == pytest.approx(3.5 - half, rel=1e-4)
    assert found.high == pytest.approx(3.5 + half, rel=1e-4)


def test_the_t_interval_of_ratios_is_their_linearisation() -> None:
    """Two ratios, 9 / 4 and 6 / 3; users 0 and 1 have one episode, user 2 two."""
    above, below = np.array([[1.0, 1], [2, 2], [5, 2], [1, 1]]), np.array([[1.0, 1], [2, 1], [0, 0.5], [1, 0.5]])
    part = np.array([(1 - 9 / 4) / 4 + (1 - 2) / 3, (2 - 9 / 2) / 4 + (2 - 2) / 3, (6 - 9 / 4) / 4 + (3 - 2) / 3])
    half = 4.302652729911275 * np.sqrt(3 * (part**2).sum() / 2)  # part has mean 0; t of 2 degrees of freedom
    found = t_ratio(above, below, np.array([0, 1, 2, 2]))
    assert (found.value, found.low, found.high) == pytest.approx((4.25, 4.25 - half, 4.25 + half), rel=1e-6)
    plain, ratio = (
        t_interval(above[:, 0], np.array([0, 1, 2, 2])),
        t_ratio(above[:, 0], np.ones(4), np.array([0, 1, 2, 2])),
    )
    assert (ratio.low, ratio.high) == pytest.approx((plain.low, plain.high), rel=1e-12)
    alone = t_ratio(above, below, np.zeros(4, np.int64))
    assert alone.value == pytest.approx(4.25) and np.isnan([alone.low, alone.high]).all()
    assert np.isnan(t_ratio(above, np.zeros((4, 2)), np.arange(4)).low)


@pytest.mark.parametrize("method", [t_interval, lambda v, u: bootstrap_mean(v, u, seed=0, replicates=300)])
def test_coverage_with_several_sessions_a_user(method: object) -> None:
    rng = np.random.default_rng(0)
    inside = 0
    users = np.repeat(np.arange(60), 3)
    for _ in range(300):
        values = rng.normal(size=60)[users] + rng.normal(size=180)
        found = method(values, users)  # type: ignore[operator]
        inside += found.low <= 0 <= found.high
    assert 0.90 <= inside / 300 <= 0.985


def test_coverage_over_seeds_and_users() -> None:
    rng = np.random.default_rng(1)
    inside = naive = 0
    users = np.arange(200)
    for _ in range(400):
        values = rng.normal(size=(5, 1)) + rng.normal(size=200) + rng.normal(size=(5, 200))
        found = seeds_and_users(values, users)
        inside += found.low <= 0 <= found.high
        plain = t_interval(values.mean(0), users)
        naive += plain.low <= 0 <= plain.high
    assert 0.92 <= inside / 400 <= 0.985
    assert naive / 400 < 0.5  # users alone know nothing of the variation between trainings


def test_one_seed_says_that_the_variation_between_trainings_is_unknown() -> None:
    found = seeds_and_users(np.random.default_rng(0).normal(size=(1, 50)), np.arange(50))
    assert "one training seed" in found.method


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(2)
    luck = rng.normal(size=400)
    first, second = luck + 0.1 * rng.normal(size=400) + 0.05, luck + 0.1 * rng.normal(size=400)
    paired = paired_bootstrap(first, second, np.arange(400), seed=0)
    apart = bootstrap_mean(first - rng.permutation(second), np.arange(400), seed=0)
    assert paired.high - paired.low < 0.2 * (apart.high - apart.low)
    assert paired.low > 0


def test_ratios_and_errors() -> None:
    above, below = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0])
    found = bootstrap_ratio(above, below, np.arange(3), seed=0)
    assert found.value == pytest.approx(1.5)
    with pytest.raises(ValueError, match="share a first dimension"):
        bootstrap_mean(above, np.arange(2), seed=0)
    with pytest.raises(ValueError, match="at least two users"):
        t_interval(above, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="paired outcomes must have one shape"):
        paired_bootstrap(above, below[:2], np.arange(3), seed=0)


def test_coverage_over_bootstrapped_members_and_users() -> None:
    """A fit that errs by 1, members that err by 1 around it, and users that spread: the fit's error is covered."""
    rng = np.random.default_rng(3)
    inside = as_seeds = 0
    users = np.arange(100)
    for _ in range(500):
        fits = rng.normal() + rng.normal(size=(5, 1))
        values = fits + 5 * rng.normal(size=100)
        found = members_and_users(values, users)
        inside += found.low <= 0 <= found.high
        plain = seeds_and_users(values, users)
        as_seeds += plain.low <= 0 <= plain.high
    assert 0.92 <= inside / 500 <= 0.98
    assert as_seeds / 500 < 0.9  # seeds that err independently would be averaged away, the shared error is not
    with pytest.raises(ValueError, match="at least 2 members"):
        members_and_users(values[:1], users)
