"""Weighted doubly robust estimates and MAGIC against the paper's formula, enumeration, and each other's ends."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from recgym.ope import bootstrap_ratio
from recgym.ope.fqe import Values
from recgym.ope.weighted_dr import (
    blend_terms,
    magic,
    partial_covariance,
    partial_returns,
    simplex_minimum,
    weighted_doubly_robust_terms,
)
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray
from tests.ope.trees import CERTAIN, Sessions, World, every

WORLD = World(horizon=3)
WRONG = np.random.default_rng(0).normal(2.0, 1.0, size=(3, 2, 3))  # of Q, by step, state and item


def terms(found: Sessions, q: DoubleArray, discount: float = 0.9) -> tuple[DoubleArray, DoubleArray]:
    return weighted_doubly_robust_terms(found.ratios, found.reward, found.values(q), found.episode, discount)


def test_it_is_the_published_formula() -> None:
    found, discount = every(WORLD).draw(40, seed=1), 0.9
    values = found.values(WRONG)
    steps = {(int(e), int(found.place[row])): row for row, e in enumerate(found.episode)}
    weight = np.empty((40, 3))
    for e in range(40):
        for t in range(3):
            ratio = found.ratios[steps[e, t]] if (e, t) in steps else 1.0  # absorbed: one action, whoever acts
            weight[e, t] = (weight[e, t - 1] if t else 1.0) * ratio
    share = weight / weight.sum(0)
    expected = [0.0, 0.0, 0.0, 0.0]  # g^(-1), g^(0), g^(1), g^(2) as the paper numbers them
    for last in range(-1, 3):
        for (e, t), row in steps.items():
            before = share[e, t - 1] if t else 1 / 40
            if t <= last:
                expected[last + 1] += discount**t * share[e, t] * (found.reward[row] - values.q[row])
                expected[last + 1] += discount**t * before * values.v[row]
            if t == last + 1:
                expected[last + 1] += discount**t * before * values.v[row]
    np.testing.assert_allclose(partial_returns(*terms(found, WRONG)), expected, rtol=1e-12)


@pytest.mark.parametrize("discount", [1.0, 0.7, 0.0])
def test_with_all_data_it_is_right_whatever_q_is(discount: float) -> None:
    found = every(WORLD)
    above, below = (found.chance_mu[:, None] * part for part in terms(found, WRONG, discount))
    assert partial_returns(above, below)[-1] == pytest.approx(WORLD.value(discount), abs=1e-9)
    assert abs(partial_returns(above, below)[0] - WORLD.value(discount)) > 0.5


def test_its_error_falls_as_sessions_are_added() -> None:
    tree = every(WORLD)
    error = {}
    for count in (50, 800):
        found = [partial_returns(*terms(tree.draw(count, seed), WRONG))[-1] for seed in range(40)]
        error[count] = float(np.sqrt(np.mean((np.array(found) - WORLD.value(0.9)) ** 2)))
    assert 2.5 < error[50] / error[800] < 6.5  # 4, the square root of 16, but for chance


def test_an_interval_over_its_terms_covers() -> None:
    tree, inside = every(WORLD), 0
    for seed in range(100):
        found = bootstrap_ratio(*terms(tree.draw(300, seed), WRONG), np.arange(300), seed=seed, replicates=150)
        inside += found.low <= WORLD.value(0.9) <= found.high
    assert 88 <= inside <= 99


def test_with_the_exact_q_in_a_certain_world_nothing_varies() -> None:
    found = every(CERTAIN).draw(30, seed=3)
    above, below = terms(found, CERTAIN.q(0.9))
    np.testing.assert_allclose(partial_returns(above, below), CERTAIN.value(0.9), rtol=1e-12)
    assert magic(above, below, np.arange(30), seed=0).value == pytest.approx(CERTAIN.value(0.9), rel=1e-12)


def test_the_covariance_is_that_of_repeated_logs() -> None:
    tree, many = every(WORLD), []
    estimated = np.zeros((4, 4))
    for seed in range(300):
        above, below = terms(tree.draw(300, seed), WRONG)
        many.append(partial_returns(above, below))
        estimated += partial_covariance(above, below, np.arange(300)) / 300
        start = above[:, 0]
        assert partial_covariance(above, below, np.arange(300))[0, 0] == pytest.approx(start.var(ddof=1) / 300)
    seen = np.cov(np.array(many).T)
    scale = np.sqrt(np.outer(seen.diagonal(), seen.diagonal()))
    np.testing.assert_allclose(estimated / scale, seen / scale, atol=0.2)


def test_some_lengths_have_their_part_of_the_covariance() -> None:
    above, below = terms(every(WORLD).draw(50, seed=1), WRONG)
    whole, some = partial_covariance(above, below, np.arange(50)), np.array([0, 3])
    part = partial_covariance(above, below, np.arange(50), some)
    np.testing.assert_allclose(part, whole[np.ix_(some, some)], rtol=1e-12)


def test_a_session_logged_twice_for_one_user_is_one_observation() -> None:
    found = every(WORLD).draw(50, seed=2)
    twice = found.take(np.repeat(np.arange(50), 2))
    once = partial_covariance(*terms(found, WRONG), np.arange(50))
    np.testing.assert_allclose(partial_covariance(*terms(twice, WRONG), np.repeat(np.arange(50), 2)), once, rtol=1e-10)


def test_magic_is_the_model_where_the_model_is_exact() -> None:
    world = World(horizon=3, start=np.array([1.0, 0.0]))
    tree, within, gap = every(world), 0, 0.0
    for seed in range(40):
        above, below = terms(tree.draw(200, seed), world.q(0.9))
        blend = magic(above, below, np.arange(200), seed=seed)
        if blend.bias[0] == 0:  # the interval around WDR holds the model's value, as nine in ten should
            within += 1
            gap = max(gap, abs(partial_returns(above, below)[-1] - world.value(0.9)))
            np.testing.assert_allclose(blend.shares, [1, 0, 0, 0], atol=1e-9)
            assert blend.value == pytest.approx(world.value(0.9), rel=1e-9)
    assert within >= 32
    assert gap > 0.03  # WDR is not the model


def test_magic_is_wdr_where_the_model_is_wrong_and_sessions_are_plenty() -> None:
    found = every(WORLD).draw(20_000, seed=5)
    above, below = terms(found, WRONG)
    blend = magic(above, below, np.arange(20_000), seed=0)
    spread = float(np.sqrt(blend.covariance[-1, -1]))
    assert blend.shares[-1] > 0.99
    assert abs(blend.value - blend.returns[-1]) < 0.3 * spread
    assert abs(blend.returns[0] - WORLD.value(0.9)) > 30 * spread
    assert abs(blend.value - WORLD.value(0.9)) < 4 * spread


def test_magic_errs_less_than_wdr_with_a_good_model_and_less_than_the_model_with_a_bad_one() -> None:
    tree = every(WORLD)
    for q in (WORLD.q(0.9), WRONG):
        errors = []
        for seed in range(60):
            above, below = terms(tree.draw(60, seed), q)
            blend = magic(above, below, np.arange(60), seed=seed, replicates=50)
            errors.append([blend.returns[0], blend.value, blend.returns[-1]] - np.array(WORLD.value(0.9)))
        model, blended, wdr = np.sqrt((np.array(errors) ** 2).mean(0))
        assert blended < (model if q is WRONG else wdr)
        assert min(model, wdr) * 0.99 < blended < max(model, wdr)


def test_two_lengths_by_hand() -> None:
    above, below = terms(every(WORLD).draw(100, seed=6), WORLD.q(0.9) + 0.1)
    blend = magic(above, below, np.arange(100), seed=0, lengths=np.array([0, 3]))
    (a, c), (_, b) = blend.covariance + np.outer(blend.bias, blend.bias)
    assert blend.shares[0] == pytest.approx(np.clip((b - c) / (a + b - 2 * c), 0, 1), abs=1e-9)
    assert blend.value == pytest.approx(float(blend.shares @ blend.returns))


def test_the_bias_is_the_distance_from_the_interval_around_wdr() -> None:
    above, below = terms(every(WORLD).draw(400, seed=7), WRONG)
    around = bootstrap_ratio(above, below, np.arange(400), seed=3, level=0.9, replicates=200)
    blend = magic(above, below, np.arange(400), seed=3)
    for distance, value in zip(blend.bias, partial_returns(above, below), strict=True):
        outside = value - around.high if value > around.high else value - around.low if value < around.low else 0.0
        assert distance == pytest.approx(outside, abs=1e-12)
    assert blend.bias[0] > 0.5 and blend.bias[-1] == 0


def test_the_terms_of_a_blend_add_up_to_it() -> None:
    above, below = terms(every(WORLD).draw(80, seed=8), WORLD.q(0.9) + 0.3)
    blend = magic(above, below, np.arange(80), seed=0)
    found = bootstrap_ratio(*blend_terms(above, below, blend), np.arange(80), seed=1)
    assert 0 < blend.shares.max() < 1
    assert found.value == pytest.approx(blend.value, rel=1e-12)
    assert found.low < blend.value < found.high


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_least_quadratic_form_is_that_of_all_supports(rank: int) -> None:
    rng = np.random.default_rng(rank)
    for _ in range(20):
        root = rng.normal(size=(5, rank)) * rng.choice([1e-3, 1.0, 1e3], size=(5, 1))
        matrix = root @ root.T * rng.choice([1e-9, 1.0, 1e6])
        matrix = (matrix + matrix.T) / 2
        shares = simplex_minimum(matrix)
        assert shares.min() >= 0 and shares.sum() == pytest.approx(1)
        best = np.inf
        for size in range(1, 6):
            for support in map(list, combinations(range(5), size)):
                system = np.block(
                    [[2 * matrix[np.ix_(support, support)], np.ones((size, 1))], [np.ones((1, size)), 0.0]]
                )
                part = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0))[0][:size]
                if part.min() >= 0 and part.sum() == pytest.approx(1, abs=1e-9):
                    best = min(best, float(part @ matrix[np.ix_(support, support)] @ part))
        assert float(shares @ matrix @ shares) <= max(best, 0) * (1 + 1e-6) + 1e-9 * matrix.diagonal().min()


def test_bad_input_is_named() -> None:
    found = every(WORLD).draw(10, seed=9)
    values, ratios, reward = found.values(WRONG), found.ratios, found.reward
    ratios[3] = -0.5
    with pytest.raises(ValueError, match=r"ratios must be not negative, got -0\.5 in row 3"):
        weighted_doubly_robust_terms(ratios, reward, values, found.episode, 1.0)
    reward[2] = np.nan
    with pytest.raises(ValueError, match="reward must be finite, got nan in row 2"):
        weighted_doubly_robust_terms(found.ratios, reward, values, found.episode, 1.0)
    short = Values(q=values.q[:-1], v=values.v, v_next=values.v_next)
    with pytest.raises(ValueError, match=r"q must have 1 dimension.*the shape of ratios"):
        weighted_doubly_robust_terms(found.ratios, found.reward, short, found.episode, 1.0)
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\], got 1\.2"):
        weighted_doubly_robust_terms(found.ratios, found.reward, values, found.episode, 1.2)
    with pytest.raises(SupportError, match="no episode has weight left at step 0"):
        weighted_doubly_robust_terms(0.0 * found.ratios, found.reward, values, found.episode, 1.0)
    above, below = terms(found, WRONG)
    with pytest.raises(ValueError, match=r"lengths must be different numbers in 0\.\.3, at least one, got 4 in row 1"):
        magic(above, below, np.arange(10), seed=0, lengths=np.array([0, 4]))
    with pytest.raises(ValueError, match="at least two users"):
        magic(above, below, np.zeros(10, np.int64), seed=0)
    with pytest.raises(ValueError, match="square"):
        simplex_minimum(np.ones((2, 3)))
    with pytest.raises(ValueError, match="symmetric"):
        simplex_minimum(np.array([[1.0, 0.5], [0.2, 1.0]]))
