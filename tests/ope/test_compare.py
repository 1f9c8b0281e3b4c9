"""Many policies at once are as sure as one, and control variates narrow without moving."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recgym.ope import t_interval
from recgym.ope.compare import control_variate, cuped, differences, influence, simultaneous, step_down
from recgym.ope.intervals import t_quantile


def test_the_influence_of_a_mean_gives_the_t_intervals_error() -> None:
    rng = np.random.default_rng(0)
    values, users = rng.normal(size=90), rng.integers(25, size=90)
    value, psi = influence(values, np.ones(90), users)
    found = t_interval(values, users)
    assert value == pytest.approx(found.value, abs=1e-12)
    half = t_quantile(0.95, len(psi) - 1) * psi.std(ddof=1) / math.sqrt(len(psi))
    assert found.high - found.value == pytest.approx(half, abs=1e-12)


def test_the_influence_of_ratios_is_their_derivative() -> None:
    rng, step = np.random.default_rng(1), 1e-6
    above, below, users = rng.normal(size=(12, 2)), rng.uniform(1, 2, size=(12, 2)), np.repeat(np.arange(6), 2)
    _, psi = influence(above, below, users)
    for user in range(6):
        ends = []
        for sign in (-1, 1):
            weight = (1 + sign * step * (users == user))[:, None]
            ends.append(float(((weight * above).sum(0) / (weight * below).sum(0)).sum()))
        assert psi[user] == pytest.approx(6 * (ends[1] - ends[0]) / (2 * step), abs=1e-7)
    assert psi.sum() == pytest.approx(0, abs=1e-12)


def test_differences_to_production_are_those_of_the_estimates() -> None:
    rng = np.random.default_rng(2)
    reward, weight, users, ones = rng.random(30), rng.uniform(0, 3, size=30), np.arange(30) // 2, np.ones(30)
    values, psi = differences([(weight * reward, ones), (weight * reward, weight)], (reward, ones), users)
    assert values[0] == pytest.approx((weight * reward - reward).mean(), abs=1e-12)
    assert values[1] == pytest.approx((weight @ reward) / weight.sum() - reward.mean(), abs=1e-12)
    np.testing.assert_allclose(psi[:, 0], influence(weight * reward - reward, ones, users)[1], atol=1e-12)
    assert psi.shape == (15, 2)


def test_the_max_t_quantile_written_out() -> None:
    rng = np.random.default_rng(3)
    data = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 3))  # (U, P)
    values, psi = data.mean(0), data - data.mean(0)
    found = simultaneous(values, psi, seed=4, level=0.9, replicates=200)
    largest = []
    for who in np.random.default_rng(4).integers(12, size=(200, 12)):
        again = data[who]
        largest.append(max(abs(again.mean(0) - values) / (again.std(0, ddof=1) / math.sqrt(12))))
    quantile = np.quantile(largest, 0.9, method="higher")
    for policy, interval in enumerate(found):
        half = quantile * data[:, policy].std(ddof=1) / math.sqrt(12)
        assert (interval.low, interval.high) == pytest.approx((values[policy] - half, values[policy] + half), abs=1e-12)
        assert interval.level == 0.9 and "3 policies at once" in interval.method


def test_intervals_of_many_policies_cover_together() -> None:
    rng = np.random.default_rng(5)
    together = apart = 0
    for seed in range(1000):
        data = 0.5 * rng.normal(size=(60, 1)) + rng.normal(size=(60, 8))  # policies of one log are alike
        values, psi = data.mean(0), data - data.mean(0)
        together += all(one.low <= 0 <= one.high for one in simultaneous(values, psi, seed=seed, replicates=200))
        apart += bool((abs(values) <= 2.0010 * psi.std(0, ddof=1) / math.sqrt(60)).all())  # t interval of each
    assert 0.935 <= together / 1000 <= 0.965
    assert apart / 1000 < 0.75


def test_equal_policies_cost_nothing_and_a_constant_one_is_exact() -> None:
    one = np.random.default_rng(6).normal(size=(40, 1))
    one -= one.mean()
    alone = simultaneous(np.array([0.3]), one, seed=0)[0]
    copies = simultaneous(np.array([0.3, 0.3, 0.0]), np.hstack([one, one, 0 * one]), seed=0)
    assert copies[1].high == pytest.approx(alone.high, abs=1e-12)
    assert (copies[2].low, copies[2].high) == (0.0, 0.0)


def test_a_policy_equal_to_the_logger_up_to_rounding_costs_nothing() -> None:
    rng, users = np.random.default_rng(12), np.arange(400)
    reward, weight, ones = rng.random(400), rng.uniform(0.5, 1.5, size=400), np.ones(400)
    same = reward * (1 / 34) / np.full(400, 0.1 / 3.4)  # weights of 1, but for rounding
    assert (same != reward).any()
    values, psi = differences([(weight * reward, ones), (same, ones)], (reward, ones), users)
    assert values[1] == 0 and not psi[:, 1].any()
    alone = simultaneous(values[:1], psi[:, :1], seed=0)[0]
    both = simultaneous(values, psi, seed=0)
    assert both[0].high == pytest.approx(alone.high, rel=1e-12) and (both[1].low, both[1].high) == (0.0, 0.0)
    assert step_down(values, psi)[1] == "undecided"
    noise = 1e-17 * rng.normal(size=(400, 1))  # rounding that comes from elsewhere
    again = simultaneous(np.array([values[0], 0.0]), np.hstack([psi[:, :1], noise]), seed=0)
    assert again[0].high == pytest.approx(alone.high, rel=1e-12) and (again[1].low, again[1].high) == (0.0, 0.0)
    small = simultaneous(1e-9 * values[:1], 1e-9 * psi[:, :1], seed=0)[0]  # small, but all there is
    assert small.high == pytest.approx(1e-9 * alone.high, rel=1e-9)


def test_holm_decides_what_bonferroni_leaves_open() -> None:
    psi = np.stack([np.tile(np.roll([1.0, -1, 1, -1, 0], k), 20) for k in range(3)], axis=1)  # (100, 3), equal errors
    error = psi[:, 0].std(ddof=1) / 10
    first, second, third = (t_quantile(1 - 0.05 / left, 99) for left in (3, 2, 1))
    scores = np.array([(third + second) / 2, -(first + 1), (first + second) / 2])
    assert step_down(scores * error, psi) == ("better", "worse", "better")
    stopped = np.array(
        [(third + second) / 2, -(first - 0.01), 0.0]
    )  # the largest fails, so nothing is said of the rest
    assert step_down(stopped * error, psi) == ("undecided",) * 3
    assert step_down(np.array([first + 1, second - 0.01, third + 0.01]) * error, psi) == (
        "better",
        "undecided",
        "undecided",
    )


def test_statements_are_seldom_wrong_together() -> None:
    rng = np.random.default_rng(7)
    wrong = seen = 0
    for _ in range(300):
        data = rng.normal(size=(50, 6)) + np.array([0.0, 0, 0, 0, 0.9, -0.9])
        said = step_down(data.mean(0), data - data.mean(0))
        wrong += any(one != "undecided" for one in said[:4])
        seen += said[4:] == ("better", "worse")
    assert wrong / 300 <= 0.075
    assert seen / 300 > 0.95


def test_a_control_variate_by_hand() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=50)
    y = 2 * x + rng.normal(size=50)
    found = control_variate(y, x, np.arange(50), expectation=0.25)
    theta = np.cov(x, y)[0, 1] / x.var(ddof=1)
    rest = y - y.mean() - theta * (x - x.mean())
    half = t_quantile(0.95, 48) * math.sqrt(float(rest @ rest) / 48 / 50)
    assert found.value == pytest.approx(y.mean() - theta * (x.mean() - 0.25), abs=1e-12)
    assert found.high - found.value == pytest.approx(half, abs=1e-12)
    exact = control_variate(3 + 2 * x, x, np.arange(50), expectation=0.0)
    assert (exact.low, exact.high) == pytest.approx((3, 3), abs=1e-12)


def test_weights_as_controls_narrow_a_paired_difference_and_it_still_covers() -> None:
    rng, users = np.random.default_rng(9), np.repeat(np.arange(150), 2)
    inside = narrower = 0
    for _ in range(300):
        shown = rng.random(300) < 0.5  # item 1 half the time; the target shows it with probability 0.8
        weight = np.where(shown, 1.6, 0.4)
        reward = (rng.random(300) < np.where(shown, 0.8, 0.7)).astype(float)
        change = weight * reward - reward  # truth: 0.78 - 0.75
        found = control_variate(change, weight, users, expectation=1.0)
        plain = t_interval(change, users)
        inside += found.low <= 0.03 <= found.high
        narrower += found.high - found.low < 0.7 * (plain.high - plain.low)
    assert 0.92 <= inside / 300 <= 0.98
    assert narrower == 300


def test_cuped_by_hand() -> None:
    rng = np.random.default_rng(10)
    x1, x0 = rng.normal(size=30), rng.normal(size=20)
    y1, y0 = 1 + x1 + rng.normal(size=30), x0 + rng.normal(size=20)
    found = cuped(y1, y0, treatment_before=x1, control_before=x0)
    shared = 29 * np.cov(x1, y1)[0, 1] + 19 * np.cov(x0, y0)[0, 1]
    theta = shared / (29 * x1.var(ddof=1) + 19 * x0.var(ddof=1))
    v1, v0 = (y1 - theta * x1).var(ddof=1) / 30, (y0 - theta * x0).var(ddof=1) / 20
    half = t_quantile(0.95, (v1 + v0) ** 2 / (v1**2 / 29 + v0**2 / 19)) * math.sqrt(v1 + v0)
    value = y1.mean() - y0.mean() - theta * (x1.mean() - x0.mean())
    assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half), abs=1e-12)
    same = cuped(y1, y0, treatment_before=np.ones(30), control_before=np.ones(20))  # nothing to learn from
    assert same.value == pytest.approx(y1.mean() - y0.mean(), abs=1e-12)


def test_cuped_covers_and_cuts_the_variance_by_the_squared_correlation() -> None:
    rng = np.random.default_rng(11)
    inside, width, plain = 0, 0.0, 0.0
    for _ in range(300):
        x1, x0 = rng.normal(size=100), rng.normal(size=100)
        y1, y0 = (0.8 * x + 0.6 * rng.normal(size=100) for x in (x1, x0))  # correlation 0.8, variance 1
        found = cuped(y1 + 0.2, y0, treatment_before=x1, control_before=x0)
        without = cuped(y1 + 0.2, y0, treatment_before=0 * x1, control_before=0 * x0)
        inside += found.low <= 0.2 <= found.high
        width += found.high - found.low
        plain += without.high - without.low
    assert 0.92 <= inside / 300 <= 0.98
    assert width / plain == pytest.approx(0.6, rel=0.02)  # sqrt(1 - 0.8^2)


def test_bad_terms_are_named() -> None:
    users, ones, values = np.arange(4), np.ones(4), np.array([1.0, 2.0, 3.0, 5.0])
    with pytest.raises(ValueError, match=r"policies\[1\]: numerator must be finite, got nan in row 2"):
        differences([(values, ones), (np.array([1.0, 2.0, np.nan, 3.0]), ones)], (values, ones), users)
    with pytest.raises(ValueError, match="production: denominator sums to 0 in column 0"):
        differences([(values, ones)], (values, 0 * ones), users)
    with pytest.raises(ValueError, match="at least one policy"):
        differences([], (values, ones), users)
    with pytest.raises(ValueError, match=r"psi \(U, P\) with U > 1, got \(2,\) and \(4, 3\)"):
        simultaneous(values[:2], np.zeros((4, 3)), seed=0)
    with pytest.raises(ValueError, match="values must be finite, got inf in row 0"):
        step_down(np.array([np.inf]), np.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"controls\[:, 0\]: numerator must be finite, got nan in row 0"):
        control_variate(values, np.array([np.nan, 1, 2, 3]), users, expectation=1.0)
    with pytest.raises(ValueError, match="2 controls need at least 5 users, got 4"):
        control_variate(values, np.ones((4, 2)), users, expectation=1.0)
    with pytest.raises(ValueError, match="control_before must be finite, got nan in row 1"):
        cuped(values, values, treatment_before=ones, control_before=np.array([0, np.nan, 0, 0]))
    with pytest.raises(ValueError, match=r"treatment and treatment_before must be \(U,\) of at least two users"):
        cuped(values, values, treatment_before=ones[:3], control_before=ones)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 1.0"):
        simultaneous(values[:1], np.zeros((4, 1)), seed=0, level=1.0)
