"""Drift that was planted is found, and where nothing changes the tests keep their level."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from recgym.ope import bootstrap_ratio, t_interval
from recgym.ope.compare import influence
from recgym.ope.intervals import t_quantile
from recgym.ope.over_time import OverTime, fold_influences, over_time
from recgym.types import DoubleArray, IntArray


def follow(values: DoubleArray, users: IntArray, fold: IntArray, weight: DoubleArray | None = None) -> OverTime:
    below = np.ones(len(values)) if weight is None else weight
    return over_time(values, below, users, fold, fold.astype(np.float64), seed=0, replicates=2)


def test_q_is_cochrans_where_folds_share_no_user() -> None:
    rng = np.random.default_rng(0)
    fold, users = np.repeat(np.arange(4), [20, 30, 40, 50]), np.arange(140) // 2
    values = rng.normal(size=140) * (1 + fold)
    found, means, errors = follow(values, users, fold), [], []
    for number, one in enumerate(found.folds):
        here = fold == number
        plain = t_interval(values[here], users[here])
        error = (plain.high - plain.value) / t_quantile(0.95, len(set(users[here])) - 1)
        means.append(plain.value)
        errors.append(error)
        assert one.estimate.value == pytest.approx(plain.value, abs=1e-12)
        assert (one.rows, one.users) == (here.sum(), here.sum() // 2)
    share = 1 / np.array(errors) ** 2
    pooled = (share @ means) / share.sum()
    assert found.statistic == pytest.approx(share @ (np.array(means) - pooled) ** 2, rel=1e-9)
    slope = np.polyfit(np.arange(4), means, 1)[0]
    assert found.trend.value == pytest.approx(3 * slope, abs=1e-12)
    lean = 3 * (np.arange(4) - 1.5) / 5
    variance = (lean * errors) @ (lean * errors)
    assert found.trend.high > found.trend.value + 1.96 * math.sqrt(variance)
    assert found.trend.high < found.trend.value + 2.2 * math.sqrt(variance)
    assert found.shared_users == 0


def test_q_is_hotellings_where_every_user_is_in_every_fold() -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(25, 3)) + 2 * rng.normal(size=(25, 1))  # (U, K)
    users, fold = np.repeat(np.arange(25), 3), np.tile(np.arange(3), 25)
    found = follow(table.ravel(), users, fold)
    change = np.diff(table, axis=1)  # (U, 2)
    hotelling = 25 * change.mean(0) @ np.linalg.solve(np.cov(change.T), change.mean(0))
    assert found.statistic == pytest.approx(hotelling, rel=1e-9)
    last = table[:, 2] - table[:, 0]  # the slope over three equally spaced folds
    assert found.trend.value == pytest.approx(last.mean(), abs=1e-12)
    part = last - last.mean()
    freedom = 2 * (part @ part) ** 2 / (part**4).sum()
    half = t_quantile(0.95, freedom) * last.std(ddof=1) / 5
    assert found.trend.high - found.trend.value == pytest.approx(half, rel=1e-6)
    assert found.shared_users == 25


def test_influences_of_folds_give_each_folds_standard_error() -> None:
    rng = np.random.default_rng(2)
    above, below = rng.random((60, 2)), rng.uniform(1, 2, size=(60, 2))
    users, fold = rng.integers(20, size=60), np.repeat(np.arange(3), 20)
    values, psi = fold_influences(above, below, users, fold)
    for number in range(3):
        here = fold == number
        value, own = influence(above[here], below[here], users[here])
        assert values[number] == pytest.approx(value, abs=1e-12)
        error = psi[:, number].std(ddof=1) / math.sqrt(len(psi))
        assert error == pytest.approx(own.std(ddof=1) / math.sqrt(len(own)), rel=1e-12)
    found = over_time(above, below, users, fold, fold.astype(float), seed=3, replicates=40)
    assert found.whole == bootstrap_ratio(above, below, users, seed=3, replicates=40)


@pytest.mark.parametrize("design", ["own users", "shared users", "few heavy weights"])
def test_without_drift_the_level_is_kept(design: str) -> None:
    rng, trials = np.random.default_rng(3), 200
    fold, seen, naive = np.tile(np.arange(5), 50), 0, 0
    differ = 0
    users = np.arange(250) if design != "shared users" else np.arange(250) // 5
    for trial in range(trials):
        values, weight = rng.normal(size=250) + (users % 7 == 0), np.ones(250)
        if design == "shared users":
            values += 2 * rng.normal(size=50)[users] * (1 + 0.5 * fold)
        if design == "few heavy weights":
            weight = np.exp(rng.normal(size=250))
            values *= weight
        found = follow(values, users, fold, weight)
        differ += found.p_value < 0.05
        seen += found.drifts
        if design == "shared users" and trial < 100:
            naive += follow(values, np.arange(250), fold, weight).p_value < 0.05
    spread = 3 * math.sqrt(0.05 * 0.95 / trials)
    assert differ / trials <= 0.05 + spread
    assert seen / trials <= 0.05 + spread
    if design == "own users":
        assert differ / trials >= 0.05 - spread
    if design == "shared users":
        assert differ / trials >= 0.05 - spread
        assert naive / 100 < 0.5 * differ / trials  # sessions taken for users of their own see nothing


def test_planted_drift_is_found() -> None:
    rng, trials = np.random.default_rng(4), 150
    fold, users = np.repeat(np.arange(5), 60), rng.permutation(300) // 3
    jumps = rises = covered = 0
    for _ in range(trials):
        values = rng.normal(size=300)
        jump = follow(values + 0.8 * (fold == 2), users, fold)
        jumps += jump.drifts and jump.p_value < 0.05
        rise = follow(values + 0.15 * fold, users, fold)
        rises += rise.drifts and rise.trend.low > 0
        covered += rise.trend.low <= 0.6 <= rise.trend.high
    assert jumps / trials > 0.95 and rises / trials > 0.85
    assert covered / trials == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / trials))


def test_words_and_numbers_for_a_report() -> None:
    rng = np.random.default_rng(5)
    fold, users = np.repeat(np.arange(3), 40), np.arange(120)
    values = rng.normal(size=120)
    steady, drifting = follow(values, users, fold), follow(values + fold, users, fold)
    assert not steady.drifts and "no more apart than chance" in steady.words
    assert drifting.drifts and "changes over time" in drifting.words and "trust the latest fold" in drifting.words
    again = json.loads(json.dumps(asdict(drifting), allow_nan=False))
    assert again["folds"][2]["estimate"]["value"] == pytest.approx((values + fold)[fold == 2].mean())
    heavy = follow(np.where(users % 40 == 0, 1e6, values), users, fold)  # one user is a whole fold
    part = 2 / 3 * 39 / 40  # |h|^2 of each of the three
    assert heavy.freedom == pytest.approx((2.0, 2 * 3 / (3 * part**2) - 2 + 1), rel=1e-3)


def test_terms_without_variation() -> None:
    fold, users = np.repeat(np.arange(3), 4), np.arange(12)
    constant = follow(np.full(12, 0.3), users, fold)
    assert (constant.statistic, constant.p_value, constant.drifts) == (0.0, 1.0, False)
    for values in (fold.astype(float), np.where(fold == 1, 0.0, np.arange(12.0))):
        with pytest.raises(ValueError, match=r"the terms of fold \d do not vary over users"):
            follow(values, users, fold)
    known = over_time(fold / 7, np.ones(12), users, fold, fold + 0.0, seed=0, replicates=2, exact=True)
    assert (known.p_value, known.trend_p_value, known.drifts) == (0.0, 0.0, True)
    half = np.where(fold == 1, 0.5, np.arange(12) % 4 / 3 + 0.01)
    mixed = over_time(half, np.ones(12), users, fold, fold + 0.0, seed=0, replicates=2, exact=True)
    assert 0 < mixed.p_value < 1  # a fold without noise beside two with


def test_bad_folds_are_named() -> None:
    values, users, fold = np.arange(6.0), np.arange(6), np.repeat(np.arange(2), 3)
    with pytest.raises(ValueError, match=r"fold must hold all of 0..K - 1 with K > 1, got \[0 2\]"):
        follow(values, users, 2 * fold)
    with pytest.raises(ValueError, match="fold 1: an interval over users needs at least two users, got 1"):
        follow(values, np.array([0, 1, 2, 3, 3, 3]), fold)
    with pytest.raises(ValueError, match="fold 1: numerator must be finite, got nan in row 2"):
        follow(np.array([1, 2, 3, 4, 5, np.nan]), users, fold)
    with pytest.raises(ValueError, match="fold 1 starts at 0.0, fold 0 still does at 1.0: not in time"):
        over_time(values, np.ones(6), users, fold, 1.0 - fold, seed=0)
    with pytest.raises(ValueError, match="start must be finite, got inf in row 0"):
        over_time(values, np.ones(6), users, fold, np.full(6, np.inf), seed=0)
