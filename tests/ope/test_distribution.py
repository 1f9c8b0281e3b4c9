"""The distribution of returns against the one enumerated over every session that can happen."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.ope import bootstrap_ratio
from recgym.ope.distribution import (
    ReturnDistribution,
    distribution_terms,
    importance_distribution,
    lower_tail_terms,
    weighted_distribution,
)
from recgym.ope.importance import episode_sums, last_weights, trajectory_wise
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray
from tests.ope.trees import Sessions, World, every

WORLD = World(horizon=3)
TREE = every(WORLD)


def weights_and_returns(found: Sessions, discount: float) -> tuple[DoubleArray, DoubleArray]:
    returns = episode_sums(found.reward, found.episode, discount)
    return last_weights(found.ratios, found.episode), np.round(returns, 9)


def truth(discount: float) -> tuple[DoubleArray, DoubleArray]:
    """Returns, rising, and the chance of each under the target policy; equal returns may repeat."""
    returns = weights_and_returns(TREE, discount)[1]
    order = np.argsort(returns)
    return returns[order], TREE.chance_pi[order]


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_unclipped_it_is_unbiased_at_every_threshold(discount: float) -> None:
    weights, returns = weights_and_returns(TREE, discount)
    thresholds = np.linspace(-0.5, 3.0, 50)
    points, chance = truth(discount)
    expected = [chance[points <= threshold].sum() for threshold in thresholds]
    found = TREE.chance_mu @ distribution_terms(weights, returns, thresholds)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert expected[0] == 0 and expected[-1] == pytest.approx(1)


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_with_all_data_it_is_the_enumerated_distribution(discount: float) -> None:
    weights, returns = weights_and_returns(TREE, discount)
    points, chance = truth(discount)
    mean = float(chance @ points)
    assert mean == pytest.approx(WORLD.value(discount), abs=1e-8)
    all_data = TREE.chance_mu * weights  # each session as often as it happens
    for found in (
        weighted_distribution(all_data, returns),
        importance_distribution(all_data * len(returns), returns),
    ):
        at = found.at(points)
        np.testing.assert_allclose(at, [chance[points <= point].sum() for point in points], atol=1e-9)
        assert found.mean == pytest.approx(mean, abs=1e-9)
        assert found.variance == pytest.approx(float(chance @ (points - mean) ** 2), abs=1e-9)
        for level in (0.013, 0.05, 0.31, 0.5, 0.77, 1.0):
            assert found.quantile(level) == points[np.cumsum(chance) >= level - 1e-12][0]
            left, tail = level, 0.0  # the worst sessions, one after another, until their chance is used up
            for point, one in zip(points, chance, strict=True):
                tail += min(one, left) * point
                left -= min(one, left)
            assert found.lower_tail(level) == pytest.approx(tail / level, abs=1e-8)


@pytest.mark.parametrize("estimate", [importance_distribution, weighted_distribution])
def test_any_small_log_gives_a_distribution(estimate: object) -> None:
    for seed in range(50):
        weights, returns = weights_and_returns(TREE.draw(8, seed), 0.9)
        found: ReturnDistribution = estimate(weights, returns)  # type: ignore[operator]
        at = found.at(np.linspace(returns.min() - 1, returns.max() + 1, 40))
        assert at[0] == 0 and at[-1] == 1 and (np.diff(at) >= 0).all()
        assert returns.min() - 1e-12 <= found.lower_tail(0.1) <= found.quantile(0.1) + 1e-12 <= returns.max()
        assert found.lower_tail(1.0) == pytest.approx(found.mean)
        assert found.variance >= 0


def test_it_comes_to_the_truth_as_sessions_are_added() -> None:
    points, chance = truth(1.0)
    expected = np.cumsum(chance)
    last = np.append(np.diff(points) > 0, True)  # equal returns share a step
    for estimate in (importance_distribution, weighted_distribution):
        farthest = []
        for count in (100, 10_000):
            found = [estimate(*weights_and_returns(TREE.draw(count, seed), 1.0)) for seed in range(8)]
            farthest.append(np.mean([np.abs(one.at(points) - expected)[last].max() for one in found]))
        assert farthest[1] < 0.04
        assert farthest[1] < 0.2 * farthest[0]


def test_clipping_by_hand() -> None:
    weights, returns = np.array([3.0, 2.0, 1.0, 2.0]), np.array([0.0, 2.0, 1.0, 2.0])
    high = importance_distribution(weights, returns)
    assert high.points.tolist() == [0, 1, 2] and high.cumulative.tolist() == [0.75, 1.0, 1.0]
    low = importance_distribution(weights / 4, returns)
    assert low.cumulative.tolist() == [0.1875, 0.25, 1.0]  # the mean weight is 0.5; the rest is put on the top
    even = weighted_distribution(weights, returns)
    assert even.cumulative.tolist() == [0.375, 0.5, 1.0]
    assert even.mean == pytest.approx(float(weights @ returns) / 8)
    assert even.at(np.array([-1.0, 0.0, 0.5, 1.0, 9.0])).tolist() == [0.0, 0.375, 0.375, 0.5, 1.0]


def test_the_lower_tail_by_hand() -> None:
    found = ReturnDistribution(points=np.array([0.0, 1.0, 10.0]), cumulative=np.array([0.1, 0.3, 1.0]))
    assert found.lower_tail(0.1) == 0.0
    assert found.lower_tail(0.2) == pytest.approx(0.5)
    assert found.lower_tail(0.6) == pytest.approx((0.2 + 3.0) / 0.6)
    assert (found.quantile(0.1), found.quantile(0.11), found.quantile(0.3), found.quantile(1.0)) == (0, 1, 1, 10)
    quarters = weighted_distribution(np.full(4, 0.7), np.arange(4.0))
    assert quarters.cumulative[2] < 0.75 and quarters.quantile(0.75) == 2  # rounding does not move a quantile
    assert found.mean == pytest.approx(7.2) and found.variance == pytest.approx(0.2 + 70 - 7.2**2)


def test_the_mean_is_the_weighted_trajectory_wise_estimate() -> None:
    found = TREE.draw(50, seed=1)
    weights, _ = weights_and_returns(found, 0.9)
    numerators = trajectory_wise(found.ratios, found.reward, found.episode, 0.9)
    mean = weighted_distribution(weights, episode_sums(found.reward, found.episode, 0.9)).mean
    assert mean == pytest.approx(numerators.sum() / weights.sum(), rel=1e-12)


def test_the_terms_of_the_lower_tail_give_it_and_an_interval_that_covers() -> None:
    points, chance = truth(1.0)
    exact = ReturnDistribution(points=np.unique(points), cumulative=cumulative(points, chance)).lower_tail(0.25)
    inside = 0
    for seed in range(100):
        weights, returns = weights_and_returns(TREE.draw(400, seed), 1.0)
        above, below = lower_tail_terms(weights, returns, 0.25)
        found = bootstrap_ratio(above, below, np.arange(400), seed=seed, replicates=150)
        assert found.value == pytest.approx(weighted_distribution(weights, returns).lower_tail(0.25), rel=1e-9)
        inside += found.low <= exact <= found.high
    assert 88 <= inside <= 99


def cumulative(points: DoubleArray, chance: DoubleArray) -> DoubleArray:
    steps: DoubleArray = np.cumsum(chance)[np.append(np.diff(points) > 0, True)]
    steps[-1] = 1.0
    return steps


def test_bad_input_is_named() -> None:
    weights, returns = np.array([1.0, 2.0]), np.array([0.5, 1.0])
    with pytest.raises(ValueError, match="returns must be finite, got nan in row 1"):
        weighted_distribution(weights, np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match=r"weights must be not negative, got -2\.0 in row 1"):
        importance_distribution(np.array([1.0, -2.0]), returns)
    with pytest.raises(ValueError, match=r"returns must have 1 dimension.*the shape of weights, \(2,\); got \(1,\)"):
        distribution_terms(weights, returns[:1], returns)
    with pytest.raises(ValueError, match="weights must have .* at least one row"):
        weighted_distribution(np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match="thresholds must be finite, got nan in row 0"):
        distribution_terms(weights, returns, np.array([np.nan]))
    for estimate in (weighted_distribution, importance_distribution):
        with pytest.raises(SupportError, match="all weights are 0"):
            estimate(0 * weights, returns)
    for level in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"level must lie in \(0, 1\], got"):
            lower_tail_terms(weights, returns, level)
    with pytest.raises(ValueError, match="points must rise"):
        ReturnDistribution(points=np.array([1.0, 1.0]), cumulative=np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="never fall and end at 1"):
        ReturnDistribution(points=returns, cumulative=np.array([0.6, 0.9]))
