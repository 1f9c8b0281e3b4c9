"""One-step estimators against enumeration, plain formulas, their limits, and the Open Bandit sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recgym.ope import bootstrap_ratio
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.fqe import Values
from recgym.ope.importance import per_decision
from recgym.ope.one_step import (
    acceptance,
    best_baseline,
    clipped_weights,
    difference,
    ips,
    replay,
    self_normalised,
    sub_gaussian_weights,
)
from recgym.ope.one_step_models import (
    direct_method,
    doubly_robust_terms,
    expected_model,
    optimistic_doubly_robust,
    optimistic_weights,
    self_normalised_doubly_robust,
    sub_gaussian_doubly_robust,
    switch_doubly_robust,
    switch_weights,
)
from recgym.ope.weights import step_ratios
from recgym.types import DoubleArray
from tests.ope.bandits import CLICK, CONTEXTS, LOGGER, MODEL, PRODUCTION, TARGET, TRUTH, drawn, open_bandit, outcomes

EVERY = outcomes()
LOG = drawn(500, seed=3)


def close(found: DoubleArray, plain: DoubleArray | list[float]) -> None:
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-12)


def expected(terms: DoubleArray) -> float:
    return float(EVERY.chance @ terms)


def test_the_unbiased_ones_are_unbiased_to_the_last_digit() -> None:
    chance, w, r, q, v = EVERY.chance, EVERY.weights, EVERY.reward, EVERY.q, EVERY.v
    assert chance.sum() == pytest.approx(1, abs=1e-12)
    assert abs(TRUTH - PRODUCTION) > 0.05
    assert expected(ips(w, r)) == pytest.approx(TRUTH, abs=1e-9)
    assert expected(doubly_robust_terms(w, r, q, v)) == pytest.approx(TRUTH, abs=1e-9)
    for above, below in (self_normalised(w, r), (acceptance(w, 6.0) * r, acceptance(w, 6.0))):
        assert expected(above) / expected(below) == pytest.approx(TRUTH, abs=1e-9)
    above, below = self_normalised_doubly_robust(w, r, q, v)
    assert (chance @ above / (chance @ below)).sum() == pytest.approx(TRUTH, abs=1e-9)
    for baseline in (0.0, 0.4, -7.0):
        terms = difference(w, np.ones_like(w), r, baseline=baseline)
        assert expected(terms) == pytest.approx(TRUTH - PRODUCTION, abs=1e-9)


def test_the_biased_ones_are_biased_by_as_much_as_their_formula_says() -> None:
    w, r, q, v = EVERY.weights, EVERY.reward, EVERY.q, EVERY.v
    ratio = TARGET / LOGGER
    model = float(CONTEXTS @ (TARGET * MODEL).sum(axis=1))
    for changed, weights in (
        (np.minimum(ratio, 2.0), clipped_weights(w, 2.0)),
        (ratio / (0.9 + 0.1 * ratio), sub_gaussian_weights(w, 0.1)),
        (ratio * (ratio <= 2), switch_weights(w, 2.0)),
        (3 * ratio / (ratio**2 + 3), optimistic_weights(w, 3.0)),
    ):
        weighted = float(CONTEXTS @ (LOGGER * changed * CLICK).sum(axis=1))
        corrected = model + float(CONTEXTS @ (LOGGER * changed * (CLICK - MODEL)).sum(axis=1))
        assert expected(ips(weights, r)) == pytest.approx(weighted, abs=1e-9)
        assert expected(doubly_robust_terms(weights, r, q, v)) == pytest.approx(corrected, abs=1e-9)
        assert abs(weighted - TRUTH) > 1e-3 and abs(corrected - TRUTH) > 1e-3
    assert expected(direct_method(v)) == pytest.approx(model, abs=1e-9)


def test_each_formula_written_out_row_by_row() -> None:
    w, r, q, v = LOG.weights, LOG.reward, LOG.q, LOG.v
    rows = list(zip(w, r, q, v, strict=True))
    for found, plain in (
        (ips(clipped_weights(w, 1.5), r), [min(a, 1.5) * b for a, b, _, _ in rows]),
        (ips(sub_gaussian_weights(w, 0.3), r), [a / (0.7 + 0.3 * a) * b for a, b, _, _ in rows]),
        (direct_method(v), [d for _, _, _, d in rows]),
        (doubly_robust_terms(w, r, q, v), [d + a * (b - c) for a, b, c, d in rows]),
        (switch_doubly_robust(w, r, q, v, threshold=1.5),
         [d + (a * (b - c) if a <= 1.5 else 0) for a, b, c, d in rows]),
        (optimistic_doubly_robust(w, r, q, v, strength=2.0),
         [d + 2 * a / (a * a + 2) * (b - c) for a, b, c, d in rows]),
        (sub_gaussian_doubly_robust(w, r, q, v, mixing=0.3),
         [d + a / (0.7 + 0.3 * a) * (b - c) for a, b, c, d in rows]),
        (difference(w, w**0.5, r, baseline=0.2), [(a - a**0.5) * (b - 0.2) for a, b, _, _ in rows]),
    ):  # fmt: skip
        close(found, plain)
    np.testing.assert_allclose(expected_model(TARGET, MODEL), [(TARGET[0] * MODEL[0]).sum(), TARGET[1] @ MODEL[1]])


def test_one_step_is_the_sequence_of_one_step() -> None:
    w, r, episode = LOG.weights, LOG.reward, np.arange(500)
    np.testing.assert_array_equal(ips(w, r), per_decision(w, r, episode, 0.3))
    values = Values(q=LOG.q, v=LOG.v, v_next=np.zeros(500))
    close(doubly_robust_terms(w, r, LOG.q, LOG.v), doubly_robust(w, r, values, episode, 1.0))


def test_limits_join_the_families() -> None:
    w, r, q, v = LOG.weights, LOG.reward, LOG.q, LOG.v
    robust, model = doubly_robust_terms(w, r, q, v), direct_method(v)
    assert (w == 0).any() and (w > 1).any()
    inf = np.inf
    np.testing.assert_array_equal(ips(clipped_weights(w, inf), r), ips(w, r))
    np.testing.assert_array_equal(sub_gaussian_weights(w, 0.0), w)
    np.testing.assert_array_equal(switch_doubly_robust(w, r, q, v, threshold=inf), robust)
    np.testing.assert_array_equal(switch_doubly_robust(w, r, q, v, threshold=0.0), model)
    np.testing.assert_array_equal(optimistic_doubly_robust(w, r, q, v, strength=inf), robust)
    close(optimistic_doubly_robust(w, r, q, v, strength=1e16), robust)
    np.testing.assert_array_equal(optimistic_doubly_robust(w, r, q, v, strength=0.0), model)
    close(doubly_robust_terms(w, r, 0 * q, 0 * v), ips(w, r))
    assert switch_weights(np.array([1.0, 2.0, 3.0]), 2.0).tolist() == [1, 2, 0]
    assert sub_gaussian_weights(w, 0.25).max() < 4 and optimistic_weights(w, 9.0).max() <= 1.5


def test_self_normalised_estimates_ignore_the_scale_of_the_weights_and_shift_with_the_reward() -> None:
    w, r, users = LOG.weights, LOG.reward, np.arange(500)
    first = bootstrap_ratio(*self_normalised(w, r), users, seed=0)
    second = bootstrap_ratio(*self_normalised(3 * w, r + 1), users, seed=0)
    assert first.value == pytest.approx((w * r).sum() / w.sum(), abs=1e-12)
    assert second.value == pytest.approx(first.value + 1, abs=1e-12)
    robust = bootstrap_ratio(*self_normalised_doubly_robust(w, r, LOG.q, LOG.v), users, seed=0)
    assert robust.value == pytest.approx(LOG.v.mean() + (w * (r - LOG.q)).sum() / w.sum(), abs=1e-12)
    assert robust.low < robust.value < robust.high


def test_replay_keeps_exactly_the_rows_that_agree() -> None:
    shown = np.array([1, 2, 3, 1, 3, 1])
    reward = np.array([1.0, 9.0, 9.0, 0.0, 9.0, 0.5])
    above, below = replay(3.0 * (shown == 1), reward, bound=3.0, seed=0)
    np.testing.assert_array_equal(below, [1, 0, 0, 1, 0, 1])
    assert above.sum() / below.sum() == 0.5


def test_replay_of_a_stochastic_target_finds_the_truth() -> None:
    log = drawn(20_000, seed=1)
    above, below = replay(log.weights, log.reward, bound=6.0, seed=2)
    assert below.sum() == pytest.approx(20_000 / 6, rel=0.05)
    assert abs(above.sum() / below.sum() - TRUTH) < 4 * 0.5 / below.sum() ** 0.5
    assert replay(log.weights, log.reward, bound=6.0, seed=3)[1].tolist() != below.tolist()


def test_the_best_baseline_has_the_least_variance() -> None:
    w, r, ones = LOG.weights, LOG.reward, np.ones(500)
    for production in (ones, w[::-1].copy()):
        best = best_baseline(w, r, production=production)
        least = difference(w, production, r, baseline=best).var()
        for other in (best - 0.01, best + 0.01, 0.0):
            assert difference(w, production, r, baseline=other).var() > least
    alone = best_baseline(w, r)
    spread = [doubly_robust_terms(w, r, c * ones, c * ones).var() for c in (alone, alone - 0.01, alone + 0.01)]
    assert spread[0] == min(spread)
    assert best_baseline(ones / 34 / (1 / 34), r) == r.mean()
    apart = (ips(w, r).var() + r.var()) ** 0.5
    assert difference(w, ones, r, baseline=best_baseline(w, r, production=ones)).std() < 0.8 * apart


@pytest.mark.parametrize("logger", ["random", "bts"])
def test_open_bandit_to_twelve_digits(real_data: Path, logger: str) -> None:
    log = open_bandit(real_data, logger)
    rows, r, column = np.arange(10_000), log.reward, log.item - 1
    w = step_ratios(log.target[rows, column], log.propensity)
    q, v = log.table[rows, column], expected_model(log.target, log.table)
    plain_w = log.target[rows, column] / log.propensity
    plain_v = (log.target * log.table).sum(axis=1)
    error = r - log.table[rows, column]
    above, below = self_normalised(w, r)
    both = self_normalised_doubly_robust(w, r, q, v)
    estimates = {
        "ips": (ips(w, r).mean(), np.sum(plain_w * r) / 10_000),
        "snips": (above.sum() / below.sum(), np.sum(plain_w * r) / np.sum(plain_w)),
        "dm": (direct_method(v).mean(), plain_v.mean()),
        "dr": (doubly_robust_terms(w, r, q, v).mean(), plain_v.mean() + np.mean(plain_w * error)),
        "sndr": ((both[0].sum(0) / both[1].sum(0)).sum(), plain_v.mean() + np.sum(plain_w * error) / np.sum(plain_w)),
        "switch": (
            switch_doubly_robust(w, r, q, v, threshold=2.0).mean(),
            plain_v.mean() + np.mean(plain_w * (plain_w <= 2) * error),
        ),
        "dros": (
            optimistic_doubly_robust(w, r, q, v, strength=5.0).mean(),
            plain_v.mean() + np.mean(5 * plain_w / (plain_w**2 + 5) * error),
        ),
    }
    for name, (found, plain) in estimates.items():
        assert abs(found - plain) < 1e-12, name
        assert 5e-4 < found < 3e-2, (name, found)
    assert len({round(float(found), 9) for found, _ in estimates.values()}) == 7
    own = ips(step_ratios(log.propensity, log.propensity), r).mean()
    assert own == pytest.approx({"random": 0.0046, "bts": 0.0069}[logger], abs=1e-12)


def changed(values: DoubleArray, row: int, bad: float) -> DoubleArray:
    copy = values.copy()
    copy[row] = bad
    return copy


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("weights", np.nan, "weights must be finite, got nan in row 7"),
        ("weights", -0.5, "weights must be not negative, got -0.5 in row 7"),
        ("reward", np.inf, "reward must be finite, got inf in row 7"),
        ("q", np.nan, "q must be finite, got nan in row 7"),
        ("v", -np.inf, "v must be finite, got -inf in row 7"),
    ],
)
def test_bad_rows_are_named(name: str, bad: float, words: str) -> None:
    given = {"weights": LOG.weights, "reward": LOG.reward, "q": LOG.q, "v": LOG.v}
    given[name] = changed(given[name], 7, bad)
    w, r, q, v = given.values()
    calls: list[Callable[[], object]] = [
        lambda: doubly_robust_terms(w, r, q, v), lambda: self_normalised_doubly_robust(w, r, q, v),
        lambda: switch_doubly_robust(w, r, q, v, threshold=1), lambda: optimistic_doubly_robust(w, r, q, v, strength=1),
        lambda: sub_gaussian_doubly_robust(w, r, q, v, mixing=0.1),
    ]  # fmt: skip
    if name in ("weights", "reward"):
        calls += [
            lambda: ips(w, r), lambda: self_normalised(w, r), lambda: replay(w, r, bound=6, seed=0),
            lambda: difference(w, w, r), lambda: best_baseline(w, r),
        ]  # fmt: skip
    if name == "v":
        calls += [lambda: direct_method(v)]
    for call in calls:
        with pytest.raises(ValueError, match=words):
            call()


def test_what_has_no_answer_is_refused_with_words() -> None:
    w, r = LOG.weights, LOG.reward
    cases: list[tuple[str, Callable[[], object]]] = [
        ("replay accepts none of 500 rows", lambda: replay(0 * w, r, bound=2.0, seed=0)),
        ("weights must be at most the bound 2.0, got 5.99", lambda: replay(w, r, bound=2.0, seed=0)),
        ("bound must be positive and finite, got inf", lambda: acceptance(w, np.inf)),
        ("weights are 0 in all 500 rows", lambda: self_normalised(0 * w, r)),
        ("weights are 0 in all 500 rows", lambda: self_normalised_doubly_robust(0 * w, r, LOG.q, LOG.v)),
        ("reward must have 1 dimension.*shape of weights, .500,.; got .499,.", lambda: ips(w, r[1:])),
        ("weights must have 1 dimension.*got .0,.", lambda: ips(w[:0], r[:0])),
        ("production must be not negative, got -1.0 in row 2", lambda: difference(w, changed(w, 2, -1), r)),
        ("limit must be positive, got 0", lambda: clipped_weights(w, 0)),
        ("limit must be positive, got nan", lambda: clipped_weights(w, np.nan)),
        (r"mixing must lie in \[0, 1\), got 1", lambda: sub_gaussian_weights(w, 1)),
        ("threshold must not be negative, got nan", lambda: switch_weights(w, np.nan)),
        ("strength must not be negative, got -1", lambda: optimistic_weights(w, -1)),
        ("target must be not negative, got -0.1 in row 1, column 2",
         lambda: expected_model(np.array([[0.5, 0.5, 0], [0.5, 0.6, -0.1]]), np.ones((2, 3)))),
    ]  # fmt: skip
    for words, call in cases:
        with pytest.raises(ValueError, match=words):
            call()
