"""Intervals by hand calculation, and as often right as they say where their assumptions hold."""

from __future__ import annotations

import math
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest

from recgym.ope import bootstrap_mean, bootstrap_ratio, t_interval
from recgym.ope.bounds import (
    _best_clip,
    bca_mean,
    bca_ratio,
    empirical_bernstein,
    hoeffding,
    lower_bound,
    truncated_lower_bound,
)

# Hormone patches, Efron and Tibshirani (1993), table 10.1: the ratio is -0.0713.
NEW_LESS_OLD = np.array([-1200.0, 2601, -2705, 1982, -1290, 351, -638, -2719])
OLD_LESS_PLACEBO = np.array([8406.0, 2342, 8187, 8459, 4795, 3516, 4796, 10238])


def test_bca_is_the_formula_written_out() -> None:
    found = bca_ratio(NEW_LESS_OLD, OLD_LESS_PLACEBO, np.arange(8), seed=3, level=0.9, replicates=500)
    assert found.value == pytest.approx(-0.0713, abs=5e-5)
    normal, eight = NormalDist(), range(8)
    ratios = [
        sum(NEW_LESS_OLD[i] for i in who) / sum(OLD_LESS_PLACEBO[i] for i in who)
        for who in np.random.default_rng(3).integers(8, size=(500, 8))
    ]
    z0 = normal.inv_cdf(sum(ratio < found.value for ratio in ratios) / 500)
    without = [
        sum(NEW_LESS_OLD[i] for i in eight if i != u) / sum(OLD_LESS_PLACEBO[i] for i in eight if i != u) for u in eight
    ]
    middle = sum(without) / 8
    a = sum((middle - one) ** 3 for one in without) / (6 * sum((middle - one) ** 2 for one in without) ** 1.5)
    assert abs(z0) > 0.01 and abs(a) > 0.01
    for end, z in ((found.low, normal.inv_cdf(0.05)), (found.high, normal.inv_cdf(0.95))):
        share = normal.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
        assert end == pytest.approx(float(np.quantile(ratios, share)), abs=1e-12)


def test_bca_resamples_whole_users_and_sums_ratios() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(20), 3)
    above, below = rng.normal(size=(60, 2)), rng.uniform(1, 2, size=(60, 2))
    whole = bca_ratio(above, below, users, seed=1)
    assert whole.value == pytest.approx(float((above.sum(0) / below.sum(0)).sum()), abs=1e-12)
    first, second = (np.add.reduceat(part, np.arange(0, 60, 3)) for part in (above, below))
    alone = bca_ratio(first, second, np.arange(20), seed=1)
    assert (whole.low, whole.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    percentile = bootstrap_ratio(above, below, users, seed=1)
    assert whole.low != percentile.low


def test_bca_covers_a_skewed_mean_better_than_percentiles() -> None:
    rng, users = np.random.default_rng(2), np.arange(30)
    missed = {"bca": [0, 0], "percentile": [0, 0]}  # intervals wholly below and wholly above the truth
    for seed in range(300):
        values = rng.exponential(size=30) ** 1.5
        truth = math.gamma(2.5)
        for name, method in (("bca", bca_mean), ("percentile", bootstrap_mean)):
            found = method(values, users, seed=seed, replicates=300)
            missed[name][0] += found.high < truth
            missed[name][1] += found.low > truth
    assert sum(missed["bca"]) <= sum(missed["percentile"]) - 6
    assert sum(missed["bca"]) <= 0.12 * 300
    assert missed["bca"][0] < missed["percentile"][0]


def test_bca_of_a_constant_is_the_constant() -> None:
    found = bca_mean(np.full(5, 2.0), np.arange(5), seed=0)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_hoeffding_by_hand() -> None:
    values = np.tile([0.0, 1.0, 3.0, 4.0], 25)
    found = hoeffding(values, np.arange(100), low=-1, high=5, level=0.9)
    assert found.high - 2.0 == pytest.approx(6 * math.sqrt(math.log(20) / 200), abs=1e-12)
    assert 2.0 - found.low == pytest.approx(6 * math.sqrt(math.log(20) / 200), abs=1e-12)
    four = hoeffding(np.tile(values, 4), np.arange(400), low=-1, high=5, level=0.9)
    assert four.high - four.low == pytest.approx((found.high - found.low) / 2, abs=1e-12)  # not n times as wide
    uneven = hoeffding(values, np.minimum(np.arange(100), 90), low=-1, high=5, level=0.9)  # one user with 10
    half = 6 * math.sqrt(math.log(20) / 2 * (90 + 10**2)) / 100
    assert uneven.high - 2.0 == pytest.approx(half, abs=1e-12)
    few = hoeffding(values[:4], np.arange(4), low=0, high=4)
    assert (few.low, few.high) == (0, 4)  # the mean cannot lie outside


def test_empirical_bernstein_by_hand() -> None:
    values = np.tile([0.0, 1.0, 3.0, 4.0], 250)
    found = empirical_bernstein(values, np.arange(1000), low=0, high=4, level=0.9)
    variance = 1000 * 2.5 / 999
    half = math.sqrt(2 * variance * math.log(40) / 1000) + 7 * 4 * math.log(40) / (3 * 999)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-12)
    users = np.append(np.arange(500) // 2, np.arange(250, 750))  # 250 users with two terms, 500 with one
    totals = np.append(values[:500:2] + values[1:500:2], values[500:]) * 0.75  # U / E = 750 / 1000
    uneven = empirical_bernstein(values, users, low=0, high=4, level=0.9)
    half = math.sqrt(2 * totals.var(ddof=1) * math.log(40) / 750) + 7 * 4 * 2 * 0.75 * math.log(40) / (3 * 749)
    assert (uneven.low, uneven.high) == pytest.approx((2 - half, 2 + half), abs=1e-12)
    moved = empirical_bernstein(values - 9, users, low=-9, high=-5, level=0.9)
    assert (moved.low, moved.high) == pytest.approx((uneven.low - 9, uneven.high - 9), abs=1e-12)


@pytest.mark.parametrize("sessions", [1, 4])
def test_finite_sample_intervals_cover_and_bernstein_is_narrow_where_terms_vary_little(sessions: int) -> None:
    rng, users = np.random.default_rng(3), np.repeat(np.arange(400), sessions)
    inside, width = np.zeros(2), np.zeros(2)
    for _ in range(300):
        values = 20.0 * (rng.random(400) < 0.01)[users]  # rare clicks with weight 20, all of a user's sessions alike
        for which, method in enumerate((hoeffding, empirical_bernstein)):
            found = method(values, users, low=0.0, high=20.0)
            inside[which] += found.low <= 0.2 <= found.high
            width[which] += found.high - max(found.low, 0.0)
    assert (inside >= 0.95 * 300).all()
    assert width[1] < 0.8 * width[0]
    assert width[0] / 300 < 20 * 2 * math.sqrt(math.log(40) / 800)


def test_lower_bounds_are_one_sided() -> None:
    values = np.tile([0.0, 1.0, 3.0, 4.0], 25)
    users = np.arange(100)
    bounded = lower_bound(partial(hoeffding, values, users, low=0, high=4), level=0.95)
    assert bounded.low == pytest.approx(2 - 4 * math.sqrt(math.log(20) / 200), abs=1e-12)
    assert bounded.high == math.inf and bounded.level == 0.95 and "lower bound" in bounded.method
    student = lower_bound(partial(t_interval, values, users), level=0.95)
    assert student.low == pytest.approx(2 - 1.6603911559963895 * values.std(ddof=1) / 10, abs=1e-9)
    assert lower_bound(partial(bca_mean, values, users, seed=0)).low > bca_mean(values, users, seed=0).low
    with pytest.raises(ValueError, match=r"level of a one-sided bound must lie in \(0.5, 1\), got 0.4"):
        lower_bound(partial(t_interval, values, users), level=0.4)


def test_the_truncated_bound_is_theorem_1_of_thomas_2015() -> None:
    terms, c = np.random.default_rng(4).lognormal(0, 1.5, size=40), 3.0
    found = truncated_lower_bound(terms, np.arange(40), seed=0, clip=c, level=0.9)
    cut, log = np.minimum(terms, c), math.log(2 / 0.1)
    scale = 1 / (40 / c)
    pairs = sum((one / c - other / c) ** 2 for one in cut for other in cut)
    bound = scale * sum(cut / c) - scale * 7 * 40 * log / (3 * 39) - scale * math.sqrt(log / 39 * pairs)
    assert found.low == pytest.approx(max(bound, 0.0), abs=1e-12)
    lifted = truncated_lower_bound(terms - 7, np.arange(40), seed=0, clip=c, level=0.9, low=-7)
    assert lifted.low == pytest.approx(max(bound, 0.0) - 7, abs=1e-12)
    assert bound > 0


def test_the_clip_gives_up_one_huge_term_where_users_are_few() -> None:
    terms = np.append(np.full(40, 0.5), 20.0)  # with 100 users more, clip 20 promises less than 0 and 0.5 about 0.46
    assert _best_clip(terms, math.log(40), 100) == 0.5
    assert _best_clip(terms, math.log(40), 1_000_000) == 20.0


def test_truncated_bounds_hold_and_beat_the_whole_range() -> None:
    rng, users = np.random.default_rng(5), np.arange(1000)
    below = better = chosen = 0
    for _ in range(200):
        terms = np.exp(rng.normal(-0.5, 1, size=1000)).clip(max=1000)  # mean 1, seldom near what the design allows
        found = truncated_lower_bound(terms, users, seed=0)
        below += found.low <= 1.0
        chosen += found.low > max(truncated_lower_bound(terms, users, seed=0, clip=c).low for c in (0.4, 100.0))
        better += found.low > lower_bound(partial(empirical_bernstein, terms, users, low=0, high=1000)).low
    assert below >= 190
    assert better == 200
    assert chosen >= 190  # than far too low or far too high a clip, though a twentieth of the users is given up
    assert truncated_lower_bound(np.zeros(50), np.arange(50), seed=0).low == 0


def test_bad_terms_are_named() -> None:
    users, values = np.arange(3), np.array([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"values must lie in \[0, 1\], got 2.0 in row 2"):
        hoeffding(values, users, low=0, high=1)
    with pytest.raises(ValueError, match="values must be finite, got nan in row 1"):
        empirical_bernstein(np.array([0.0, np.nan, 1.0]), users, low=0, high=1)
    with pytest.raises(ValueError, match="low and high must be finite, low below high, got 1 and 1"):
        hoeffding(values, users, low=1, high=1)
    with pytest.raises(ValueError, match="low and high must be finite, low below high, got 0 and inf"):
        empirical_bernstein(values, users, low=0, high=math.inf)
    with pytest.raises(ValueError, match=r"values must lie in \[0.5, inf\], got 0.0 in row 0"):
        truncated_lower_bound(values, users, seed=0, low=0.5)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 1"):
        bca_mean(values, users, seed=0, level=1)
    with pytest.raises(ValueError, match="at least two users, got 1"):
        hoeffding(values, np.zeros(3, np.int64), low=0, high=2)
    with pytest.raises(ValueError, match="numerator must be finite, got inf in row 0"):
        bca_mean(np.array([np.inf, 1.0, 1.0]), users, seed=0)
    with pytest.raises(ValueError, match="denominator sums to 0 in column 0"):
        bca_ratio(values, np.zeros(3), users, seed=0)
    with pytest.raises(ValueError, match="user 7 holds all of the denominator of column 0"):
        bca_ratio(values, np.array([0.0, 0.0, 2.5]), np.array([3, 5, 7]), seed=0)
    with pytest.raises(ValueError, match="replicates must be at least 2, got 1"):
        bca_mean(values, users, seed=0, replicates=1)
    with pytest.raises(ValueError, match="clip must be positive and finite, got 0"):
        truncated_lower_bound(np.arange(5.0), np.arange(5), seed=0, clip=0)
    with pytest.raises(ValueError, match="at least four users, got 3"):
        truncated_lower_bound(values, users, seed=0)
