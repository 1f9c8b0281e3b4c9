"""A test of the computed size sees what it should as often as it should, and looking early does no harm."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from recgym.ope import t_interval
from recgym.ope.compare import cuped
from recgym.ope.intervals import t_quantile
from recgym.ope.power import (
    Arms,
    always_valid,
    always_valid_difference,
    detectable_difference,
    power_at,
    sequential_quantile,
    standard_error,
    user_correlation,
    user_variance,
    users_assured,
    users_needed,
)

Z, Z_POWER = 1.959963984540054, 0.8416212335729143  # normal quantiles at 0.975 and 0.8


def test_sizes_by_hand() -> None:
    assert users_needed(0.1, variance=1.0) == Arms(control=1570, treatment=1570)  # 2 (1.96 + 0.84)^2 / 0.01 = 1569.8
    uneven = users_needed(-0.1, variance=1.0, treatment_variance=4.0, ratio=2.0, correlation=0.6)
    control = (Z + Z_POWER) ** 2 * 0.64 * (1 + 4 / 2) / 0.01
    assert uneven == Arms(control=math.ceil(control), treatment=math.ceil(2 * control))
    assert uneven.total == uneven.control + uneven.treatment
    error = standard_error(Arms(control=50, treatment=200), variance=2.0, treatment_variance=3.0, correlation=0.5)
    assert error == pytest.approx(math.sqrt(0.75 * (2 / 50 + 3 / 200)), abs=1e-12)
    assert detectable_difference(error) == pytest.approx((Z + Z_POWER) * error, abs=1e-12)
    assert power_at(0.0, error) == pytest.approx(0.05, abs=1e-12)  # no difference is "seen" 1 - level of the time


def test_size_power_and_detectable_difference_agree() -> None:
    size = users_needed(0.03, variance=0.2, power=0.9, level=0.99)
    error = standard_error(size, variance=0.2)
    fewer = standard_error(Arms(control=size.control - 1, treatment=size.treatment - 1), variance=0.2)
    assert power_at(0.03, error, level=0.99) >= 0.9 > power_at(0.03, fewer, level=0.99)
    assert detectable_difference(error, power=0.9, level=0.99) <= 0.03
    assert power_at(detectable_difference(error), error) == pytest.approx(0.8, abs=1e-5)


def test_a_simulated_test_of_the_computed_size_has_the_asked_power() -> None:
    rng = np.random.default_rng(0)
    size = users_needed(0.3, variance=1.0, treatment_variance=2.0, ratio=2.0)
    control = rng.normal(size=(4000, size.control))
    treated = 0.3 + math.sqrt(2) * rng.normal(size=(4000, size.treatment))
    error = np.sqrt(control.var(1, ddof=1) / size.control + treated.var(1, ddof=1) / size.treatment)
    seen = abs(treated.mean(1) - control.mean(1)) > t_quantile(0.95, size.total - 2) * error
    assert seen.mean() == pytest.approx(0.8, abs=0.02)


def test_a_simulated_test_with_cuped_has_the_asked_power_at_its_smaller_size() -> None:
    rng = np.random.default_rng(1)
    size = users_needed(0.3, variance=1.0, correlation=0.8)
    assert size.control == pytest.approx(0.36 * users_needed(0.3, variance=1.0).control, abs=1)
    seen = 0
    for _ in range(400):
        x = rng.normal(size=(2, size.control))
        y = 0.8 * x + 0.6 * rng.normal(size=x.shape)
        found = cuped(y[0] + 0.3, y[1], treatment_before=x[0], control_before=x[1])
        seen += found.low > 0 or found.high < 0
    assert seen / 400 == pytest.approx(0.8, abs=0.05)


def test_variance_and_correlation_are_those_of_users() -> None:
    rng, users = np.random.default_rng(2), np.repeat(np.arange(40), 3)
    before = rng.normal(size=40)[users]
    values = before + 0.1 * rng.normal(size=120)
    half = t_quantile(0.95, 39) * math.sqrt(user_variance(values, users) / 40)
    found = t_interval(values, users)
    assert found.high - found.value == pytest.approx(half, abs=1e-12)
    first, second = (np.add.reduceat(part, np.arange(0, 120, 3)) for part in (values, before))
    assert user_correlation(values, before, users) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-12)
    assert user_variance(values[:40], np.arange(40)) == pytest.approx(values[:40].var(ddof=1), abs=1e-12)


def test_the_always_valid_interval_ends_where_the_mixture_likelihood_ratio_is_one_over_alpha() -> None:
    value, deviation, users, planned, alpha = 0.2, 1.5, 700, 2000, 0.1
    found = always_valid(value, deviation / math.sqrt(users), users, planned=planned, level=1 - alpha)
    effect_variance = deviation**2 * (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / planned  # tau^2
    total = deviation**2 + users * effect_variance
    for end in (found.low, found.high):
        exponent = users**2 * effect_variance * (value - end) ** 2 / (2 * deviation**2 * total)
        assert math.sqrt(deviation**2 / total) * math.exp(exponent) == pytest.approx(1 / alpha, rel=1e-12)
    grown = (total / deviation**2) - 1  # t rho^2; the same as Waudby-Smith et al. write it
    half = deviation * math.sqrt(2 * (grown + 1) / (users * grown) * math.log(math.sqrt(grown + 1) / alpha))
    assert found.high - value == pytest.approx(half, abs=1e-12)


def test_the_difference_of_arms_counts_the_users_of_both() -> None:
    treated, control = np.array([1.0, 4.0, 2.0, 7.0]), np.array([0.0, 1.0, 5.0])
    found = always_valid_difference(treated, control, planned=20, level=0.9)
    half = sequential_quantile(7, planned=20, level=0.9) * math.sqrt(7 / 4 + 7 / 3)  # both variances are 7
    assert (found.value, found.high - found.value) == pytest.approx((1.5, half), abs=1e-12)
    assert "after 7 users" in found.method


def test_the_interval_is_narrowest_where_it_was_planned() -> None:
    at = sequential_quantile(1000, planned=1000)
    others = [sequential_quantile(1000, planned=planned) for planned in np.geomspace(100, 10_000, 201).astype(int)]
    assert at <= 1.001 * min(others)  # the closed form is an approximation
    assert max(others) > 1.05 * at
    assert 2.9 < at < 3.1  # what looking at any time costs: 1.96 when looking once


def test_looking_at_any_time_covers_where_a_fixed_interval_does_not() -> None:
    rng, looks = np.random.default_rng(3), range(50, 1001, 10)  # users of each arm
    missed = naive = 0
    for _ in range(300):
        arms = (rng.random((2, 1000)) < 0.3).astype(float)
        found = [always_valid_difference(arms[0, :n], arms[1, :n], planned=1000) for n in looks]
        missed += any(not one.low <= 0 <= one.high for one in found)
        quantiles = [sequential_quantile(2 * n, planned=1000) for n in looks]
        naive += any(abs(one.value) > Z * (one.high - one.value) / q for one, q in zip(found, quantiles, strict=True))
    assert missed / 300 <= 0.05
    assert naive / 300 > 0.2


def test_a_running_test_stops_early_at_a_large_difference() -> None:
    rng = np.random.default_rng(4)
    treated, control = rng.normal(0.5, 1, 2000), rng.normal(0, 1, 2000)
    first = next(
        n for n in range(50, 2001, 10) if always_valid_difference(treated[:n], control[:n], planned=2000).low > 0
    )
    assert first < 400


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: users_needed(0.0, variance=1.0), "difference must not be 0"),
        (lambda: users_needed(math.nan, variance=1.0), "difference must be finite, got nan"),
        (lambda: users_needed(0.1, variance=0.0), "variance must be positive and finite, got 0.0"),
        (lambda: users_needed(0.1, variance=1.0, treatment_variance=-1.0), "treatment_variance must be positive"),
        (lambda: users_needed(0.1, variance=1.0, ratio=0.0), "ratio must be positive and finite, got 0.0"),
        (lambda: users_needed(0.1, variance=1.0, correlation=1.0), r"correlation must lie in \(-1, 1\), got 1.0"),
        (lambda: users_needed(0.1, variance=1.0, power=0.04), r"power must lie in \(1 - level, 1\)"),
        (lambda: users_needed(0.1, variance=1.0, level=1.0), r"level must lie in \(0, 1\), got 1.0"),
        (lambda: standard_error(Arms(control=0, treatment=1), variance=1.0), "at least one user each"),
        (lambda: detectable_difference(-1.0), "error must be positive and finite, got -1.0"),
        (lambda: power_at(0.1, 0.0), "error must be positive and finite, got 0.0"),
        (lambda: always_valid(0.1, math.nan, 10, planned=10), "error must be positive and finite, got nan"),
        (
            lambda: always_valid_difference(np.zeros(9), np.zeros(9), planned=50),
            "must vary, all outcomes are 0.0 and 0.0 so far",
        ),
        (lambda: always_valid(0.1, 1.0, 0, planned=10), "num_users must be at least 1, got 0"),
        (lambda: always_valid(0.1, 1.0, 5, planned=0), "planned must be at least 1, got 0"),
        (lambda: always_valid(math.inf, 1.0, 5, planned=5), "value must be finite, got inf"),
        (lambda: always_valid_difference(np.ones(1), np.ones(5), planned=5), r"treatment must be \(U,\) of at least"),
        (
            lambda: always_valid_difference(np.ones(3), np.array([0.0, np.nan]), planned=5),
            "control must be finite, got nan in row 1",
        ),
        (lambda: user_variance(np.array([1.0, np.inf]), np.arange(2)), "must be finite, got inf in row 1"),
        (lambda: user_correlation(np.arange(3.0), np.full(3, 0.1), np.arange(3)), "before must vary over users"),
    ],
)
def test_bad_input_is_named(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]


def test_an_assured_test_has_its_power_on_average_over_the_estimates_error() -> None:
    node, weight = np.polynomial.hermite_e.hermegauss(80)  # of N(0, 1)
    for error, power, level in ((0.0, 0.8, 0.95), (0.02, 0.8, 0.95), (0.05, 0.8, 0.9), (0.03, 0.9, 0.99)):
        arms = users_assured(-0.1, error, variance=1.5, power=power, level=level)
        assert arms is not None
        assert arms.control == arms.treatment
        spread = math.sqrt(2 * 1.5 / arms.control)
        normal = NormalDist()
        found = [normal.cdf(true / spread - normal.inv_cdf((1 + level) / 2)) for true in 0.1 + error * node]
        assert weight @ np.array(found) / weight.sum() == pytest.approx(power, abs=5e-4)
    assert users_assured(0.1, 0.0, variance=1.0) == users_needed(0.1, variance=1.0)


def test_no_test_is_assured_where_the_sign_is_not_known_so_well() -> None:
    assert users_assured(0.1, 0.1 / Z_POWER, variance=1.0) is None
    assert users_assured(0.0, 0.0, variance=1.0) is None
    least = users_assured(0.1, 0.1 / Z_POWER * 0.99, variance=1.0)
    assert least is not None and least.total > 100 * users_needed(0.1, variance=1.0).total


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"error": -0.1}, "error"), ({"error": math.nan}, "error"), ({"difference": math.inf}, "difference"),
     ({"variance": 0.0}, "variance"), ({"power": 0.4}, "power"), ({"level": 0.1}, "power")],
)  # fmt: skip
def test_assured_sizes_of_nonsense_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        users_assured(**{"difference": 0.1, "error": 0.02, "variance": 1.0, **wrong})
