"""Slate estimators by enumeration of every slate: each is unbiased under its own assumption and biased beyond it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from recgym.ope import bootstrap_ratio
from recgym.ope.importance import per_decision
from recgym.ope.pseudo_inverse import (
    factored_weights,
    pseudo_inverse,
    pseudo_inverse_weights,
    slate_moments,
    uniform_moments,
)
from recgym.ope.slates import (
    cascade_doubly_robust,
    self_normalised_slate_terms,
    slate_terms,
    slate_weights,
    slot_ratios,
)
from recgym.types import DoubleArray

SLATES = np.array(list(itertools.permutations(range(1, 5), 3)))  # (24, 3) of 4 items
ALPHA = 1 / np.log2(np.arange(2, 5))
RNG = np.random.default_rng(8)
FIRST, SECOND, THIRD = RNG.random((3, 4)), RNG.random((3, 4, 4)), RNG.random((4, 4, 4))


def conditional(appeal: DoubleArray) -> DoubleArray:
    """Plackett and Luce: the chance of each slot's item given the slots above, (24, 3)."""
    chosen = appeal[SLATES - 1]
    left = appeal.sum() - np.cumsum(chosen, axis=1) + chosen
    slots: DoubleArray = chosen / left
    return slots


MU, PI = conditional(np.array([1.0, 2.0, 3.0, 4.0])), conditional(np.array([5.0, 1.0, 1.0, 3.0]))
CHANCE, AIM = MU.prod(axis=1), PI.prod(axis=1)  # (24,)


def marginal(probability: DoubleArray) -> DoubleArray:
    """Each slot's marginal chance of the item that a slate has there, (24, 3)."""
    table = np.zeros((3, 4))
    for slate, chance in zip(SLATES, probability, strict=True):
        for slot, item in enumerate(slate):
            table[slot, item - 1] += chance
    return np.stack([table[slot, SLATES[:, slot] - 1] for slot in range(3)], axis=1)


RATIOS = slot_ratios(PI, MU)
APART = slot_ratios(marginal(AIM), marginal(CHANCE))
A, B, C = SLATES.T - 1
REWARDS = {
    "independent": np.stack([FIRST[0, A], FIRST[1, B], FIRST[2, C]], axis=1),
    "cascade": np.stack([FIRST[0, A], SECOND[1, A, B], THIRD[A, B, C]], axis=1),
    "standard": np.stack([THIRD[C, B, A], THIRD[C, A, B], THIRD[B, A, C]], axis=1),
}  # (24, 3) mean reward of each slot: of its own item, of those above too, of the whole slate


@pytest.mark.parametrize("world", REWARDS)
def test_each_is_unbiased_where_its_assumption_holds(world: str) -> None:
    reward, order = REWARDS[world], ("independent", "cascade", "standard")
    truth = float(AIM @ (reward @ ALPHA))
    assert abs(truth - CHANCE @ (reward @ ALPHA)) > 0.01
    found = {
        "independent": slate_terms(slate_weights(APART, "independent"), reward, ALPHA),
        "cascade": slate_terms(slate_weights(RATIOS, "cascade"), reward, ALPHA),
        "standard": slate_terms(slate_weights(RATIOS, "standard"), reward, ALPHA),
    }
    for name, terms in found.items():
        error = abs(float(CHANCE @ terms) - truth)
        assert error < 1e-9 if order.index(name) >= order.index(world) else error > 1e-3, (name, error)


@pytest.mark.parametrize("kind", ["wrong", "right"])
def test_cascade_doubly_robust_is_unbiased_with_any_model(kind: str) -> None:
    reward = REWARDS["cascade"] * ALPHA
    q, v = np.empty((24, 3)), np.empty((24, 3))
    for row, slot in itertools.product(range(24), range(3)):
        above = (SLATES[:, :slot] == SLATES[row, :slot]).all(axis=1)
        here = above & (SLATES[:, slot] == SLATES[row, slot])
        to_go = reward[:, slot:].sum(axis=1)
        q[row, slot] = AIM[here] @ to_go[here] / AIM[here].sum()
        v[row, slot] = AIM[above] @ to_go[above] / AIM[above].sum()
    if kind == "wrong":
        q = np.stack([np.sin(A), np.cos(A + 4 * B), np.sin(A + 4 * B + 16 * C)], axis=1)
        for row, slot in itertools.product(range(24), range(3)):
            above = (SLATES[:, :slot] == SLATES[row, :slot]).all(axis=1)
            v[row, slot] = AIM[above] @ q[above, slot] / AIM[above].sum()
    terms = cascade_doubly_robust(RATIOS, REWARDS["cascade"], q, v, ALPHA)
    assert float(CHANCE @ terms) == pytest.approx(float(AIM @ reward.sum(axis=1)), abs=1e-9)
    plain, weight = np.zeros(24), np.cumprod(RATIOS, axis=1)
    for slot in range(3):
        before = weight[:, slot - 1] if slot else 1.0
        plain += weight[:, slot] * (reward[:, slot] - q[:, slot]) + before * v[:, slot]
    np.testing.assert_allclose(terms, plain, rtol=0, atol=1e-12)
    spread = float(CHANCE @ (terms - CHANCE @ terms) ** 2)
    assert spread < 1e-20 if kind == "right" else spread > 1e-3  # the right model leaves no variance
    nothing = cascade_doubly_robust(RATIOS, REWARDS["cascade"], 0 * q, 0 * v, ALPHA)
    ripped = slate_terms(slate_weights(RATIOS, "cascade"), REWARDS["cascade"], ALPHA)
    np.testing.assert_allclose(nothing, ripped, rtol=0, atol=1e-12)


def test_weights_by_hand() -> None:
    ratios = np.array([[2.0, 3.0, 0.5], [1.0, 0.0, 4.0]])
    assert slate_weights(ratios, "standard").tolist() == [[3, 3, 3], [0, 0, 0]]
    assert slate_weights(ratios, "cascade").tolist() == [[2, 6, 3], [1, 0, 0]]
    assert slate_weights(ratios, "independent").tolist() == ratios.tolist()
    neighbours = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=np.bool_)
    assert slate_weights(ratios, neighbours).tolist() == [[6, 3, 1.5], [0, 0, 0]]
    reward = np.array([[1.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    weights = slate_weights(ratios, "cascade")
    assert slate_terms(weights, reward).tolist() == [8, 1]
    above, below = self_normalised_slate_terms(weights, reward, np.array([1.0, 2.0, 10.0]))
    value = bootstrap_ratio(above, below, np.arange(2), seed=0).value
    assert value == pytest.approx((2 + 1) / 3 + 0 / 6 + 10 * 6 / 3, abs=1e-12)
    steps, slate = ratios.ravel(), np.repeat([0, 1], 3)
    np.testing.assert_array_equal(slate_terms(weights, reward), per_decision(steps, reward.ravel(), slate, 1.0))


def test_pseudo_inverse_is_unbiased_for_sums_over_slots() -> None:
    target, moments = slate_moments(SLATES, AIM, 4)[0], slate_moments(SLATES, CHANCE, 4)[1]
    weights = pseudo_inverse_weights(SLATES, np.tile(target, (24, 1, 1)), moments)
    linear, not_linear = REWARDS["independent"].sum(axis=1), REWARDS["standard"].sum(axis=1)
    assert float(CHANCE @ pseudo_inverse(weights, linear)) == pytest.approx(float(AIM @ linear), abs=1e-9)
    assert abs(CHANCE @ pseudo_inverse(weights, not_linear) - AIM @ not_linear) > 1e-3
    assert float(CHANCE @ weights) == pytest.approx(1, abs=1e-9)
    assert CHANCE @ weights**2 < CHANCE @ (AIM / CHANCE) ** 2
    each = pseudo_inverse_weights(SLATES, np.tile(target, (24, 1, 1)), np.tile(moments, (24, 1, 1)))
    np.testing.assert_allclose(each, weights, rtol=0, atol=1e-10)


def test_pseudo_inverse_of_a_uniform_logger_and_of_an_independent_one() -> None:
    every = slate_moments(SLATES, np.full(24, 1 / 24), 4)[1]
    np.testing.assert_allclose(uniform_moments(3, 4), every, rtol=0, atol=1e-12)
    assert uniform_moments(1, 1).tolist() == [[1.0]]
    grid = np.array(list(itertools.product(range(1, 4), repeat=2)))  # two slots, three items, repeats allowed
    mu, pi = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]), np.array([[0.5, 0.5, 0.0], [0.1, 0.1, 0.8]])
    chance, aim = (p[0, grid[:, 0] - 1] * p[1, grid[:, 1] - 1] for p in (mu, pi))
    full = pseudo_inverse_weights(grid, np.tile(pi, (9, 1, 1)), slate_moments(grid, chance, 3)[1])
    shown = np.stack([(pi / mu)[slot, grid[:, slot] - 1] for slot in range(2)], axis=1)
    np.testing.assert_allclose(factored_weights(shown), full, rtol=0, atol=1e-9)
    reward = FIRST[0, grid[:, 0] - 1] + FIRST[1, grid[:, 1] - 1]
    assert float(chance @ (factored_weights(shown) * reward)) == pytest.approx(float(aim @ reward), abs=1e-9)


def put(table: DoubleArray, bad: float) -> DoubleArray:
    copy = table.copy()
    copy[2, 1] = bad
    return copy


def test_bad_input_is_named() -> None:
    weights, reward = slate_weights(RATIOS, "cascade"), REWARDS["cascade"]
    fixed = np.zeros((24, 3, 4))
    fixed[:, range(3), range(3)] = 1  # always items 1, 2, 3
    alone, narrow = slate_moments(SLATES[6:7], np.ones(1), 4)
    zeros = np.array([[0, 1, 2]] * 24)
    cases: list[tuple[str, Callable[[], object]]] = [
        (r"logger must be a propensity in \(0, 1\], got 0.0 in row 2, column 1", lambda: slot_ratios(PI, put(MU, 0))),
        (r"logger must be a propensity in \(0, 1\], got 1.2 in row 2, column 1", lambda: slot_ratios(PI, put(MU, 1.2))),
        (r"target must be a probability in \[0, 1\], got -0.1 in row 2", lambda: slot_ratios(put(PI, -0.1), MU)),
        ("target must be finite, got nan in row 2, column 1", lambda: slot_ratios(put(PI, np.nan), MU)),
        ("ratios must be not negative, got -2.0 in row 2, column 1",
         lambda: slate_weights(put(RATIOS, -2), "standard")),
        ("interaction must be one of standard, cascade, independent",
         lambda: slate_weights(RATIOS, "tree")),  # type: ignore[arg-type]
        (r"interaction must be \(3, 3\) bool, got \(3, 3\) float64",
         lambda: slate_weights(RATIOS, np.eye(3))),  # type: ignore[arg-type]
        ("reward must be finite, got inf in row 2, column 1", lambda: slate_terms(weights, put(reward, np.inf))),
        ("reward must have 2 dimension", lambda: slate_terms(weights, reward[:, 0])),
        (r"slot_weight must be \(3,\)", lambda: slate_terms(weights, reward, ALPHA[:2])),
        ("q must be finite, got nan in row 2",
         lambda: cascade_doubly_robust(RATIOS, reward, put(reward, np.nan), reward)),
        ("target must be a mix of slates that the logger shows .* in row 0",
         lambda: pseudo_inverse_weights(np.tile(SLATES[6:7], (24, 1)), fixed, narrow)),
        ("slate must be a mix of slates that the logger shows .* in row 0",
         lambda: pseudo_inverse_weights(SLATES, np.tile(alone, (24, 1, 1)), narrow)),
        ("slates must be item ids in 1..4, got 0 in row 0, column 0",
         lambda: pseudo_inverse_weights(zeros, fixed, uniform_moments(3, 4))),
        ("the sum of target must be 1, got 2.0 in row 0, column 0",
         lambda: pseudo_inverse_weights(SLATES, 2 * fixed, uniform_moments(3, 4))),
        (r"moments must be \(12, 12\)", lambda: pseudo_inverse_weights(SLATES, fixed, uniform_moments(2, 4))),
        ("slates without repeats need", lambda: uniform_moments(5, 4)),
        ("the sum of probability must be 1, got 24.0", lambda: slate_moments(SLATES, np.ones(24), 4)),
    ]  # fmt: skip
    for words, call in cases:
        with pytest.raises(ValueError, match=words):
            call()
