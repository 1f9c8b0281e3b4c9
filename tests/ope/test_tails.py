"""What was not drawn is foretold by the steps, and the tail's index is found."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from recgym.ope.tails import log_moment, support, tail_index
from recgym.types import DoubleArray, IntArray


def two_point(sessions: int, steps: int, seed: int) -> tuple[DoubleArray, IntArray]:
    """Steps of ratio 3 (one in five) or 0.5: E[rho] = 1, E[rho^2] = 2, E[rho^3] = 5.5, and powers of these for w."""
    drawn = np.random.default_rng(seed).random(sessions * steps) < 0.2
    return np.where(drawn, 3.0, 0.5), np.repeat(np.arange(sessions), steps)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_moments_of_independent_steps_are_exact(power: int) -> None:
    """Every session of three steps of 3, 0.5, 0.5, 0.5, 0.5 once: the mean of w^p is the product of the steps'."""
    ratios = np.array(list(product([3.0, 0.5, 0.5, 0.5, 0.5], repeat=3)))
    found = log_moment(ratios.ravel(), np.repeat(np.arange(125), 3), power)
    assert found == pytest.approx(math.log((ratios.prod(axis=1) ** power).mean()), abs=1e-12)
    assert found == pytest.approx(3 * math.log({1: 1.0, 2: 2.0, 3: 5.5}[power]), abs=1e-12)


def test_moments_of_one_step_are_plain_means() -> None:
    ratios = np.random.default_rng(0).random(50) * 3
    assert log_moment(ratios, np.arange(50), 3) == pytest.approx(math.log((ratios**3).mean()), abs=1e-12)


def test_a_session_that_is_over_has_ratio_1() -> None:
    """Sessions (2), (3, 5), (7, 11, 13): E[rho_0] E[rho_0 rho_1] / E[rho_0] E[rho_1 rho_2] / E[rho_1], times 3 each."""
    ratios, episode = np.array([2.0, 3, 5, 7, 11, 13]), np.array([0, 1, 1, 2, 2, 2])
    expected = (2 + 3 + 7) * (2 + 15 + 77) / (2 + 3 + 7) * (1 + 5 + 143) / (1 + 5 + 11) / 3
    assert log_moment(ratios, episode, 1) == pytest.approx(math.log(expected), abs=1e-12)


def test_steps_that_repeat_count_together() -> None:
    """Two steps of one ratio, 1 or 2: E[w] = (1 + 4) / 2, not the (3 / 2)^2 of independent steps."""
    assert log_moment(np.array([1.0, 1, 2, 2]), np.array([0, 0, 1, 1]), 1) == pytest.approx(math.log(2.5), abs=1e-12)


def test_the_expected_sample_size_does_not_depend_on_luck() -> None:
    """E[w^2] = 2^8 and E[w^3] = 5.5^8: 3,000 sessions are worth 11.7, whatever was drawn."""
    drawn = [support(*two_point(3000, 8, seed), np.arange(3000)) for seed in range(20)]
    expected, effective = (
        np.log([getattr(found, name) for found in drawn]) for name in ("expected_sample_size", "effective_sample_size")
    )
    assert np.exp(expected.mean()) == pytest.approx(3000 / 2**8, rel=0.1)
    assert expected.std() < 0.35 * effective.std()
    assert np.exp(effective).min() > 1.1 * 3000 / 2**8 or np.exp(effective).max() > 2 * 3000 / 2**8
    uneven = 5.5**8 / 2**12 / math.sqrt(3000)
    assert np.median([found.unevenness for found in drawn]) == pytest.approx(uneven, rel=0.25)


def test_weights_of_one_step_by_hand() -> None:
    found = support(np.array([1.0, 2.0, 3.0, 0.0]), np.arange(4), np.arange(4))
    assert found.effective_sample_size == pytest.approx(36 / 14)
    assert found.expected_sample_size == pytest.approx(36 / 14)
    assert found.unevenness == pytest.approx(36 / 14**1.5)
    assert found.zero_share == 0.25


def test_weights_beyond_all_powers_do_not_overflow() -> None:
    found = support(np.full(3000, 1e40), np.repeat(np.arange(1000), 3), np.arange(1000))
    assert found.effective_sample_size == pytest.approx(1000)
    assert found.expected_sample_size == pytest.approx(1000)
    assert found.unevenness == pytest.approx(1 / math.sqrt(1000))
    one = support(
        np.append(np.full(300, 1e300), np.ones(3)), np.append(np.zeros(300, np.int64), [1, 2, 3]), np.arange(4)
    )
    assert one.effective_sample_size == pytest.approx(1) and one.expected_sample_size < 2
    nothing = support(np.zeros(40), np.arange(40), np.arange(40))
    assert nothing.effective_sample_size == nothing.expected_sample_size == 0


@pytest.mark.parametrize("index", [0.2, 0.7, 1.2])
def test_the_index_of_a_pareto_tail_is_found(index: float) -> None:
    """The quantiles of a generalised Pareto distribution, whose tails are of the same index."""
    share = (np.arange(40_000) + 0.5) / 40_000
    weights = ((1 - share) ** -index - 1) / index
    assert tail_index(weights) == pytest.approx(index, abs=0.06)
    assert tail_index(1e9 * weights) == pytest.approx(tail_index(weights), abs=1e-9)


def test_a_bounded_tail_has_a_negative_index_and_equal_weights_none() -> None:
    assert tail_index(np.linspace(0, 1, 5000)) == pytest.approx(-1, abs=0.15)
    assert math.isnan(tail_index(np.ones(5000)))
    assert math.isnan(tail_index(np.arange(10.0)))


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_ratios_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="ratios must be .* in row 1"):
        support(np.array([1.0, wrong]), np.arange(2), np.arange(2))


def test_ties_and_an_exponential_tail_have_an_index() -> None:
    ties = np.repeat([0.0, 1.0], [1012, 100])  # the 100 largest alike: one candidate of the fit has no curvature
    assert np.isfinite(tail_index(ties))
    assert abs(tail_index(np.random.default_rng(0).exponential(size=4000))) < 0.2
