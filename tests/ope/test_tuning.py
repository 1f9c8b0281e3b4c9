"""SLOPE at work: it keeps the weights of a rich log, gives up those of a poor one, and says what it tried."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from recgym.ope.intervals import t_interval
from recgym.ope.one_step import clipped_weights, ips
from recgym.ope.one_step_models import doubly_robust_terms, optimistic_doubly_robust, switch_doubly_robust
from recgym.ope.slope import slope
from recgym.ope.tuning import Tuned, tuned, tuned_clipping, tuned_optimistic, tuned_switch, weight_limits
from recgym.types import DoubleArray
from tests.ope.bandits import drawn

LOG = drawn(3000, 0)
USERS = np.arange(3000)
PARTS = LOG.weights, LOG.reward, LOG.q, LOG.v


def test_limits_run_from_the_largest_weight_to_one() -> None:
    assert weight_limits(np.array([0.5, 16.0]), count=5) == pytest.approx([16, 8, 4, 2, 1])
    assert weight_limits(np.array([0.5]), count=2) == pytest.approx([1, 1])


def test_each_estimator_is_tuned_over_its_own_terms() -> None:
    limits = weight_limits(LOG.weights)
    grids: dict[str, tuple[Tuned, list[float], Callable[[float], DoubleArray]]] = {
        "clip": (tuned_clipping(LOG.weights, LOG.reward, USERS), [*limits],
                 lambda limit: ips(clipped_weights(LOG.weights, limit), LOG.reward)),
        "switch": (tuned_switch(*PARTS, USERS), [*limits, 0.0],
                   lambda limit: switch_doubly_robust(*PARTS, threshold=limit)),
        "optimistic": (tuned_optimistic(*PARTS, USERS), [np.inf, *limits**2, 0.0],
                       lambda limit: optimistic_doubly_robust(*PARTS, strength=limit)),
    }  # fmt: skip
    for name, (found, values, terms) in grids.items():
        assert [value for value, _ in found.tried] == pytest.approx(values), name
        assert found.terms == pytest.approx(terms(found.value)), name
        assert found.interval == t_interval(found.terms, USERS), name
        assert found.value == found.tried[slope([interval for _, interval in found.tried])][0], name
        for value, interval in found.tried:
            mine = terms(value)
            half = 0.25 * mine.std(ddof=1) / np.sqrt(3000)
            assert [interval.low, interval.high] == pytest.approx([mine.mean() - half, mine.mean() + half]), name


def test_users_not_rows_say_how_sure_an_estimate_is() -> None:
    """Every row five times over is as sure as once where it is one user's, and sqrt(5) times as sure otherwise."""
    log, users = drawn(500, 1), np.arange(500)
    many = np.repeat(log.weights, 5), np.repeat(log.reward, 5)
    once, whole, apart = (
        tuned_clipping(weights, reward, who).tried[0][1]
        for weights, reward, who in ((log.weights, log.reward, users), (*many, np.repeat(users, 5)),
                                     (*many, np.arange(2500)))
    )  # fmt: skip
    assert whole.high - whole.low == pytest.approx(once.high - once.low)
    assert (once.high - once.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(5), rel=0.01)


def test_large_weights_are_kept_where_they_can_be_afforded() -> None:
    rng = np.random.default_rng(5)
    reward = (rng.random(4000) < 0.3).astype(np.float64)
    even = np.where(rng.random(4000) < 0.25, 4.0, 0.0)
    wild = np.where(rng.random(4000) < 0.001, 900.0, 0.1)
    users = np.arange(4000)
    assert tuned_clipping(even, reward, users).value > 3.5
    kept = tuned_clipping(wild, reward, users)
    assert kept.value < 450
    assert kept.interval.high - kept.interval.low < 0.6 * (kept.tried[0][1].high - kept.tried[0][1].low) * 2 / 0.25


def test_a_right_model_is_left_alone() -> None:
    """Residuals of exactly 0: all strengths agree, and DM, the last of them, is as good as DR."""
    none = np.zeros(3000)
    found = tuned_optimistic(LOG.weights, LOG.q, LOG.q, LOG.v, USERS)
    assert found.value == 0
    assert found.terms == pytest.approx(LOG.v)
    assert found.terms == pytest.approx(doubly_robust_terms(LOG.weights, none, none, LOG.v))


def test_wider_intervals_give_up_more_weight() -> None:
    def chosen(width: float) -> float:
        limits = weight_limits(LOG.weights, count=30)
        return tuned(lambda c: ips(clipped_weights(LOG.weights, c), LOG.reward), limits, USERS, width=width).value

    assert chosen(0.01) > chosen(1.0) > chosen(10.0)


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="values must hold at least one"):
        tuned(lambda _: np.ones(9), np.array([]), np.arange(9))
    with pytest.raises(ValueError, match="width must be positive and finite, got 0"):
        tuned(lambda _: np.ones(9), np.array([1.0]), np.arange(9), width=0)
    with pytest.raises(ValueError, match="weights must be not negative, got -1.0 in row 2"):
        tuned_clipping(np.array([1.0, 2.0, -1.0]), np.ones(3), np.arange(3))
    with pytest.raises(ValueError, match="reward must be finite, got nan in row 0"):
        tuned_switch(np.ones(2), np.array([np.nan, 1]), np.ones(2), np.ones(2), np.arange(2))
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        weight_limits(np.ones(2), count=0)
