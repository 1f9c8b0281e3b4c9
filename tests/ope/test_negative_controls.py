"""Wrong propensities are convicted, right ones acquitted, in a bandit whose answers are known."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pytest

from recgym.ope import bootstrap_mean
from recgym.ope.compare import influence, step_down
from recgym.ope.intervals import Numbers, t_quantile
from recgym.ope.negative_controls import (
    Check,
    Control,
    halves_check,
    judge,
    logger_control,
    permuted_propensities,
    placebo_checks,
    power,
    shuffled_items,
    weight_checks,
)
from recgym.ope.weights import step_ratios
from recgym.types import DoubleArray, IntArray
from tests.ope.loggers import drawn_items

LOGGER = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])  # by context
TARGET = np.array([[0.3, 0.4, 0.3], [0.3, 0.4, 0.3]])
AWAY = np.array([[0.1, 0.3, 0.6], [0.6, 0.3, 0.1]])  # shows what the logger does not


class Log(NamedTuple):
    context: IntArray
    item: IntArray
    users: IntArray
    propensity: DoubleArray
    target: DoubleArray
    covariates: dict[str, Numbers]


def log(rng: np.random.Generator, rows: int = 600) -> Log:
    """Two rows a user; the hour goes with the context, clicks before with the user."""
    context, users = rng.integers(2, size=rows), np.arange(rows) // 2
    item = drawn_items(LOGGER[context], rng)
    covariates = {
        "hour": context * 6.0 + rng.integers(12, size=rows),
        "clicks before": rng.poisson(2.0, rows // 2)[users] * 1.0,
    }
    return Log(context, item, users, LOGGER[context, item - 1], TARGET[context, item - 1], covariates)


def verdicts(weights: DoubleArray, one: Log) -> tuple[Control, ...]:
    rows = np.arange(len(weights))
    return judge(weight_checks(weights, rows, one.users) + placebo_checks(weights, one.covariates, one.users))


def test_right_propensities_pass_with_the_level_and_wrong_ones_are_found() -> None:
    rng, trials = np.random.default_rng(0), 200
    failed = found = unseen = 0
    for trial in range(trials):
        one = log(rng, rows=1200)
        failed += not all(each.passed for each in verdicts(one.target / one.propensity, one))
        if trial >= 60:
            continue
        by_marginal = (LOGGER.mean(0))[one.item - 1]  # a logger taken to ignore the context: mean weight still about 1
        said = verdicts(one.target / by_marginal, one)
        found += not said[1].passed
        unseen += said[0].passed
    assert failed / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert found / 60 > 0.95
    assert unseen / 60 > 0.9  # the mean weight alone would have let it pass


def test_heavy_weights_are_not_accused_of_a_low_mean() -> None:
    rng, trials, rows = np.random.default_rng(0), 200, np.arange(150)
    plain = corrected = found = 0
    for trial in range(trials):
        weights = np.exp(1.2 * rng.normal(size=150) - 0.72)  # mean 1, skewness 11
        check = weight_checks(weights, rows, rows)[0]
        plain += step_down(np.array([check.value - 1]), check.psi[:, None])[0] != "undecided"
        corrected += not judge([check])[0].passed
        if trial < 50:
            found += not judge(weight_checks(0.5 * weights, rows, rows))[0].passed
    assert plain / trials > 0.08
    assert corrected / trials < 0.07
    assert found / 50 > 0.8


def test_expectations_are_exact_by_enumeration() -> None:
    """All contexts and items, weighed by their chance: rows in the exact shares of the logger."""
    times = np.rint(LOGGER * 10).astype(int)  # (2, 3)
    context, item = (np.repeat(part.ravel(), times.ravel()) for part in np.indices((2, 3)))
    weights, users = TARGET[context, item] / LOGGER[context, item], np.arange(20)
    hour = np.where(context == 0, 9.0, 17.0)
    checks = weight_checks(weights, users, users) + placebo_checks(weights, {"hour": hour}, users)
    assert [one.value for one in checks] == pytest.approx([1.0, 13.0], abs=1e-12)
    assert all(one.passed for one in judge(checks))
    wrong = placebo_checks(TARGET[context, item] / LOGGER.mean(0)[item], {"hour": hour}, users)[0]
    weight = (TARGET / LOGGER.mean(0) * LOGGER).sum(1)  # E[w | context]
    assert wrong.value == pytest.approx(weight @ [9.0, 17.0] / weight.sum(), abs=1e-12)


def test_sessions_keep_weight_one_at_every_step_whenever_they_end() -> None:
    """Two fair coins, all four outcomes; a session ends after tails. The target shows heads with 0.8."""
    ratios = np.array([1.6, 1.6, 1.6, 0.4, 0.4, 0.4])
    episode, users = np.array([0, 0, 1, 1, 2, 3]), np.arange(4)
    checks = weight_checks(ratios, episode, users, steps=2)
    assert [one.name for one in checks][1:] == ["reward 1 a session, step 1", "reward 1 a session, step 2"]
    assert [one.value for one in checks] == pytest.approx([1.0, 1.0, (1.6**2 + 1.6 * 0.4 + 0.4 + 0.4) / 4], abs=1e-12)
    assert checks[2].value == pytest.approx(1.0, abs=1e-12)
    assert len(weight_checks(ratios, episode, users)) == 1  # four sessions are too few for any step to be supported
    long = weight_checks(np.ones(400), np.repeat(np.arange(200), 2), np.arange(200))
    assert len(long) == 3 and all(one.passed for one in judge(long))


def test_a_placebos_interval_is_that_of_the_paired_difference() -> None:
    one = log(np.random.default_rng(1), rows=80)
    weights, hour = one.target / one.propensity, one.covariates["hour"]
    check = placebo_checks(weights, {"hour": hour}, one.users)[0]
    assert check.value == pytest.approx((weights @ hour) / weights.sum(), abs=1e-12)
    weighted, plain = influence(weights * hour, weights, one.users)[1], influence(hour, np.ones(80), one.users)[1]
    half = t_quantile(0.95, 39) * (weighted - plain).std(ddof=1) / math.sqrt(40)
    found = judge([check])[0].found
    assert found.high - found.value == pytest.approx(half, abs=1e-12)
    scaled = placebo_checks(weights, {"hour": hour + 1e6}, one.users)[0]
    np.testing.assert_allclose(scaled.psi, check.psi, atol=1e-6)  # where the clock starts does not matter


def test_halves_of_the_users_differ_by_nothing_but_noise() -> None:
    rng, trials = np.random.default_rng(2), 200
    failed = 0
    for seed in range(trials):
        users = rng.integers(60, size=200)
        values = rng.normal(size=60)[users] + rng.normal(size=200)
        check = halves_check(values, np.ones(200), users, seed=seed)
        failed += not judge([check])[0].passed
    assert failed / trials == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / trials))
    for seed in range(10):  # users stay whole
        two = halves_check(np.array([1.0, 1, 4, 4]), np.ones(4), np.array([0, 0, 1, 1]), seed=seed)
        assert abs(two.value) == 3.0 and two.expected == 0.0


def test_the_logger_itself_has_weights_of_one() -> None:
    one = log(np.random.default_rng(3), rows=100)
    reward = (one.item == 1) * 1.0
    right = logger_control(one.propensity, one.propensity, reward, one.users, seed=0)
    assert right.passed and (right.found.low, right.found.high) == (0.0, 0.0)
    shifted = one.propensity.copy()
    shifted[7] /= 2
    wrong = logger_control(one.propensity, shifted, reward, one.users, seed=0)
    assert not wrong.passed and "1 of 100 rows" in wrong.words and "row 7" in wrong.words
    weights = one.propensity / shifted
    assert wrong.found == bootstrap_mean((weights - 1) * reward, one.users, seed=0)


def test_the_power_of_the_checks_is_told() -> None:
    one = log(np.random.default_rng(4))
    permuted = permuted_propensities(AWAY[one.context, one.item - 1], one.propensity, seed=0)
    found = power("propensities of other rows", permuted, one.covariates, one.users)
    assert found.detected > 0.9 and found.repeats == 20 and "says little" not in found.words
    dealt = shuffled_items(AWAY[one.context], one.item, one.propensity, one.context, seed=0, repeats=5)
    assert power("items of other rows", dealt, one.covariates, one.users).detected == 1.0
    uniform = np.full(600, 1 / 3)  # nothing to see where all propensities are alike
    fair = drawn_items(np.full((600, 3), 1 / 3), np.random.default_rng(5))
    blind = power(
        "a shuffle", permuted_propensities(TARGET[0][fair - 1], uniform, seed=0, repeats=3), one.covariates, one.users
    )
    assert blind.detected == 0.0 and "that they pass says little" in blind.words


def test_shuffled_items_stay_in_their_context() -> None:
    one = log(np.random.default_rng(6), rows=50)
    marked = np.stack(
        [np.where(one.context == 0, 1.0, 0.0), np.zeros(50), np.where(one.context == 0, 0.0, 1.0)], axis=1
    )
    item = np.where(one.context == 0, 1, 3)
    for weights in shuffled_items(marked, item, np.ones(50), one.context, seed=0, repeats=3):
        np.testing.assert_array_equal(weights, np.ones(50))  # an item of the other context would have weight 0


def test_many_checks_at_once_are_corrected_and_said() -> None:
    rng = np.random.default_rng(7)
    psi = rng.normal(size=(100, 20))
    psi -= psi.mean(0)
    error = psi.std(0, ddof=1) / 10
    checks = [Check(name=f"c{k}", expected=0.0, value=2.2 * error[k], psi=psi[:, k], blame="x") for k in range(20)]
    assert all(one.passed and "outside its interval" in one.words for one in judge(checks))
    assert not judge(checks[:1])[0].passed and judge(checks[:1])[0].words.endswith(": x")
    json.dumps([asdict(one) for one in judge(checks)], allow_nan=False)


def test_bad_input_is_named() -> None:
    weights, users = np.ones(4), np.arange(4)
    with pytest.raises(ValueError, match=r"covariates\['hour'\] must vary to tell anything, all rows hold 3.0"):
        placebo_checks(weights, {"hour": np.full(4, 3.0)}, users)
    with pytest.raises(ValueError, match=r"covariates\['hour'\] must be finite, got nan in row 1"):
        placebo_checks(weights, {"hour": np.array([0, np.nan, 1, 2])}, users)
    with pytest.raises(ValueError, match=r"covariates\['hour'\] must be one number a row, \(4,\); got \(3,\)"):
        placebo_checks(weights, {"hour": np.arange(3)}, users)
    with pytest.raises(ValueError, match="all 4 weights are 0"):
        placebo_checks(0 * weights, {"hour": np.arange(4)}, users)
    with pytest.raises(ValueError, match="at least one, got none"):
        placebo_checks(weights, {}, users)
    with pytest.raises(ValueError, match="users one a session"):
        weight_checks(weights, np.zeros(4, np.int64), users)
    with pytest.raises(ValueError, match="ratios must be not negative, got -1.0 in row 0"):
        weight_checks(-weights, users, users)
    with pytest.raises(ValueError, match=r"checks must be of the same users, got \[\]"):
        judge([])
    with pytest.raises(ValueError, match="sabotaged must give weights at least once"):
        power("nothing", [], {"hour": np.arange(4)}, users)
    with pytest.raises(ValueError, match=r"propensity must lie in \(0, 1\], got 0.0 at step 0"):
        step_ratios(weights, 0 * weights)
