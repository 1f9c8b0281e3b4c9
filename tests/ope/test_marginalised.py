"""Marginalised weights against enumeration: right where an item matters through its kind, wrong where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recgym.ope.marginalised import (
    category_likelihood,
    category_weights,
    estimated_likelihood,
    marginal_weights,
    mips,
    off_cem,
    posterior_weights,
)
from recgym.ope.one_step import ips
from recgym.ope.one_step_models import direct_method, doubly_robust_terms, expected_model
from recgym.types import DoubleArray
from tests.ope.bandits import CLICK, CONTEXTS, LOGGER, MODEL, TARGET, TRUTH, open_bandit, outcomes

EVERY = outcomes()
KIND = np.array([0, 0, 1, 1])
PI, MU = TARGET[EVERY.context], LOGGER[EVERY.context]
BY_KIND = np.array([[0.2, 0.2, 0.7, 0.7], [0.9, 0.9, 0.4, 0.4]])
"""Rewards that depend on context and kind alone."""


def expected_over_items(terms: Callable[[DoubleArray], DoubleArray], mean: DoubleArray) -> float:
    """E[terms] for terms linear in the reward, whose mean is `mean` (2, 4)."""
    return float(EVERY.chance @ terms(mean[EVERY.context, EVERY.item - 1]))


def test_mips_is_unbiased_where_only_the_kind_matters_and_not_elsewhere() -> None:
    truth = float(CONTEXTS @ (TARGET * BY_KIND).sum(axis=1))
    assert expected_over_items(lambda r: mips(PI, MU, KIND, EVERY.item, r), BY_KIND) == pytest.approx(truth, abs=1e-9)
    assert abs(expected_over_items(lambda r: mips(PI, MU, KIND, EVERY.item, r), CLICK) - TRUTH) > 0.01
    one_each = mips(PI, MU, np.arange(4), EVERY.item, EVERY.reward)
    np.testing.assert_allclose(one_each, ips(EVERY.weights, EVERY.reward), rtol=0, atol=1e-12)


def test_marginal_weights_by_hand() -> None:
    pi_kind, mu_kind = TARGET.reshape(2, 2, 2).sum(axis=2), LOGGER.reshape(2, 2, 2).sum(axis=2)
    plain = (pi_kind / mu_kind)[EVERY.context, KIND[EVERY.item - 1]]
    np.testing.assert_allclose(category_weights(PI, MU, KIND, EVERY.item), plain, rtol=0, atol=1e-12)
    assert plain.var() < EVERY.weights.var()
    wide = np.array([[0, 7], [0, 7], [0, 8], [0, 8]])
    np.testing.assert_allclose(category_weights(PI, MU, wide, EVERY.item), plain, rtol=0, atol=1e-12)
    names = np.array(["shirt", "shirt", "hat", "hat"])
    np.testing.assert_allclose(category_weights(PI, MU, names, EVERY.item), plain, rtol=0, atol=1e-12)


def test_a_random_embedding_is_unbiased_too_by_either_way_to_its_weights() -> None:
    chance = np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7], [0.2, 0.8]])  # p(e | a)
    click = np.array([[0.2, 0.7], [0.9, 0.1]])  # of context and embedding
    truth = float(CONTEXTS @ np.einsum("xa,ae,xe->x", TARGET, chance, click))
    x, a, e = (part.ravel() for part in np.meshgrid(range(2), range(4), range(2), indexing="ij"))
    likely = CONTEXTS[x] * LOGGER[x, a] * chance[a, e]
    weights = marginal_weights(TARGET[x], LOGGER[x], chance[:, e].T)
    assert float(likely @ ips(weights, click[x, e])) == pytest.approx(truth, abs=1e-9)
    joint = LOGGER[x] * chance[:, e].T
    same = posterior_weights((TARGET / LOGGER)[x], joint / joint.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(same, weights, rtol=0, atol=1e-12)


def test_the_embedding_is_counted_from_the_log() -> None:
    item = np.array([1, 1, 1, 1, 2, 2, 3, 3, 3, 3])
    band = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1])
    table = np.array([[3 / 4, 1 / 4], [1 / 2, 1 / 2], [0, 1]])
    found = estimated_likelihood(band, item, num_items=3)
    np.testing.assert_allclose(found, table[:, band].T, rtol=0, atol=1e-12)
    smooth = estimated_likelihood(band, item, num_items=4, smoothing=2.0)
    np.testing.assert_allclose(smooth[0], [(3 + 0.8) / 6, (1 + 0.8) / 4, 0.8 / 6, 0.4], rtol=0, atol=1e-12)
    fixed = estimated_likelihood(KIND[EVERY.item - 1], EVERY.item, num_items=4)
    np.testing.assert_array_equal(fixed, category_likelihood(KIND, EVERY.item))


def test_off_cem_is_unbiased_if_the_model_knows_differences_within_clusters() -> None:
    shift = np.array([[0.3, 0.3, -0.5, -0.5], [2.0, 2.0, 0.1, 0.1]])  # wrong by cluster only
    q = (CLICK + shift)[EVERY.context]
    found = expected_over_items(lambda r: off_cem(PI, MU, KIND, EVERY.item, r, q), CLICK)
    assert found == pytest.approx(TRUTH, abs=1e-9)
    assert abs(EVERY.chance @ direct_method(expected_model(PI, q)) - TRUTH) > 0.05
    wrong = MODEL[EVERY.context]
    assert abs(expected_over_items(lambda r: off_cem(PI, MU, KIND, EVERY.item, r, wrong), CLICK) - TRUTH) > 0.01
    r, alone = EVERY.reward, np.arange(4)
    robust = doubly_robust_terms(EVERY.weights, r, EVERY.q, EVERY.v)
    np.testing.assert_allclose(off_cem(PI, MU, alone, EVERY.item, r, wrong), robust, rtol=0, atol=1e-12)
    together = off_cem(PI, MU, 0 * alone, EVERY.item, r, wrong)
    np.testing.assert_allclose(together, EVERY.v + r - EVERY.q, rtol=0, atol=1e-12)
    plain = mips(PI, MU, KIND, EVERY.item, r)
    np.testing.assert_allclose(off_cem(PI, MU, KIND, EVERY.item, r, 0 * wrong), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("logger", ["random", "bts"])
def test_open_bandit_to_twelve_digits(real_data: Path, logger: str) -> None:
    log = open_bandit(real_data, logger)
    weights = np.empty(10_000)
    for row in range(10_000):
        alike = log.category == log.category[log.item[row] - 1]
        weights[row] = log.target[row][alike].sum() / log.logger[row][alike].sum()
    found = mips(log.target, log.logger, log.category, log.item, log.reward)
    np.testing.assert_allclose(found, weights * log.reward, rtol=0, atol=1e-12)
    assert abs(found.mean() - np.sum(weights * log.reward) / 10_000) < 1e-12
    q = log.table[np.arange(10_000), log.item - 1]
    conjunct = off_cem(log.target, log.logger, log.category, log.item, log.reward, log.table)
    plain = np.mean(weights * (log.reward - q)) + np.mean((log.target * log.table).sum(axis=1))
    assert abs(conjunct.mean() - plain) < 1e-12
    assert weights.max() < (log.target / log.logger).max() / 2
    assert 1e-3 < found.mean() < 2e-2


def put(table: DoubleArray, row: int, column: int, bad: float) -> DoubleArray:
    copy = table.copy()
    copy[row, column] = bad
    return copy


def test_bad_input_is_named() -> None:
    item, r, q = EVERY.item, EVERY.reward, MODEL[EVERY.context]
    far = item.copy()
    far[5] = 9
    never = np.tile([0.0, 0.0, 0.5, 0.5], (16, 1))
    cases: list[tuple[str, Callable[[], object]]] = [
        ("target must be finite, got nan in row 3, column 1", lambda: mips(put(PI, 3, 1, np.nan), MU, KIND, item, r)),
        ("logger must be not negative, got -1.0 in row 2, column 0",
         lambda: mips(PI, put(MU, 2, 0, -1), KIND, item, r)),
        ("the sum of target must be 1, got 1.5 in row 0", lambda: mips(put(PI, 0, 0, 0.6), MU, KIND, item, r)),
        ("item must be an id in 1..4, got 9 in row 5", lambda: mips(PI, MU, KIND, far, r)),
        ("item must be .16,.", lambda: estimated_likelihood(item, item[1:], num_items=4)),
        ("probability of the logged embedding must be positive, got 0.0 in row 0",
         lambda: mips(PI, never, KIND, item, r)),
        ("likelihood must have 2.*got .16, 3.", lambda: mips(PI, MU, KIND[:3], np.minimum(item, 3), r)),
        ("reward must be finite, got nan in row 0", lambda: mips(PI, MU, KIND, item, r * np.nan)),
        ("q must be finite, got inf in row 1, column 2", lambda: off_cem(PI, MU, KIND, item, r, put(q, 1, 2, np.inf))),
        ("q must have 2 dimension", lambda: off_cem(PI, MU, KIND, item, r, q[:, :3])),
        ("item 5 is never logged", lambda: estimated_likelihood(item, item, num_items=5)),
        ("smoothing must be finite and not negative, got -1",
         lambda: estimated_likelihood(item, item, num_items=4, smoothing=-1)),
        ("the sum of posterior must be 1", lambda: posterior_weights(MU, 2 * MU)),
        ("ratios must be not negative", lambda: posterior_weights(-MU, MU)),
        ("category must be finite, got nan in row 1", lambda: mips(PI, MU, np.array([0, np.nan, 1, 1]), item, r)),
    ]  # fmt: skip
    for words, call in cases:
        with pytest.raises(ValueError, match=words):
            call()
