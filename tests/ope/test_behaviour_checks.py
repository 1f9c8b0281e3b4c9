"""Calibration tables by hand, what context tells, and estimates by both kinds of propensities in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recgym.ope.behaviour import Choices, fit_frequencies, item_frequencies
from recgym.ope.behaviour_checks import calibration, effect_of_estimation, use_of_context
from recgym.ope.cross_fitting import cross_fit
from recgym.ope.importance import per_decision
from recgym.ope.intervals import paired_bootstrap
from recgym.ope.one_step import ips, self_normalised
from recgym.ope.one_step_models import self_normalised_doubly_robust
from recgym.ope.weights import target_probabilities
from recgym.types import DoubleArray
from tests.ope.bandits import TRUTH, open_bandit
from tests.ope.loggers import bandit_blocks, softmax_log, truth
from tests.ope.worlds import TARGET, log

CHANCE = np.array([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
SHOWN = np.array([1, 2, 3])
CHOICES, PI, MU, REWARD = bandit_blocks(10)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_table_by_hand_however_it_is_cut(size: int) -> None:
    parts = [(CHANCE[first : first + size], SHOWN[first : first + size]) for first in range(0, 3, size)]
    found = calibration(parts, edges=(0, 0.25, 0.5, 0.75, 1))
    np.testing.assert_array_equal(found.low, [0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(found.high, [0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(found.count, [5, 1, 1, 2])
    np.testing.assert_allclose(found.predicted, [0.06, 0.3, 0.5, 0.95], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.observed, [0, 1, 0, 1], rtol=0, atol=1e-12)
    assert found.error == pytest.approx((0.3 + 0.7 + 0.5 + 0.1) / 3, abs=1e-12)
    assert found.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.3)) / 3, abs=1e-12)
    assert found.rows == 3


def test_bins_without_a_pair_are_left_out_and_the_impossible_costs_infinity() -> None:
    found = calibration([(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1, 2]))])
    assert (found.low.tolist(), found.high.tolist()) == ([0, 1 / 2], [2**-16, 1])
    assert (found.predicted.tolist(), found.observed.tolist()) == ([0, 1], [0.5, 0.5])
    assert found.error == 1 and found.log_loss == math.inf


def test_frequencies_are_calibrated_and_one_too_sure_is_not() -> None:
    choices = softmax_log(20_000, seed=1)
    free = item_frequencies(choices.item, num_items=6, smoothing=0)
    exact = calibration([(np.tile(free, (20_000, 1)), choices.item)])
    assert exact.error == pytest.approx(0, abs=1e-9)
    assert exact.log_loss == pytest.approx(-(free * np.log(free)).sum(), abs=1e-9)
    right, sure = (calibration([(truth(choices.features, scale), choices.item)]) for scale in (1.0, 3.0))
    assert right.error < 0.03 and sure.error > 0.3
    assert right.log_loss < min(sure.log_loss, exact.log_loss) - 0.2


def test_what_context_tells_is_the_gain_in_log_likelihood() -> None:
    users = np.arange(40) // 2
    same = use_of_context(np.full(40, 0.5), np.full(40, 0.25), users, seed=0)
    np.testing.assert_allclose([same.value, same.low, same.high], math.log(2))
    choices = softmax_log(5000, seed=2)
    rows, every = np.arange(5000), truth(choices.features)
    free = item_frequencies(choices.item, num_items=6)
    found = use_of_context(every[rows, choices.item - 1], free[choices.item - 1], choices.user, seed=0)
    expected = (every * np.log(every / free)).sum(axis=1).mean()
    assert abs(found.value - expected) < found.high - found.low < 0.1 and found.low > 0.3
    assert use_of_context(free[choices.item - 1], every[rows, choices.item - 1], choices.user, seed=0).high < -0.3


def test_propensities_wrong_by_a_factor_shift_ips_by_it_and_snips_not_at_all() -> None:
    wrong = 0.8 * MU
    plain = effect_of_estimation(lambda w: ips(w, REWARD), PI, MU, wrong, CHOICES.user, seed=0)
    assert plain.logged.value == pytest.approx(TRUTH, abs=1e-12)
    assert plain.estimated.value == pytest.approx(TRUTH / 0.8, abs=1e-12)
    assert plain.difference.value == pytest.approx(TRUTH / 4, abs=1e-12)
    assert plain.ratio == pytest.approx((0.8, 0.8, 0.8)) and plain.rows == 1000
    normal = effect_of_estimation(lambda w: self_normalised(w, REWARD), PI, MU, wrong, CHOICES.user, seed=0)
    assert normal.difference.value == pytest.approx(0, abs=1e-12)
    assert normal.difference.high - normal.difference.low < 1e-12
    np.testing.assert_allclose([normal.logged.value, normal.estimated.value], TRUTH, rtol=0, atol=1e-12)


def test_the_difference_is_paired_over_users() -> None:
    rng = np.random.default_rng(0)
    user, reward = rng.integers(0, 80, 1000), rng.random(1000)
    noisy = MU * np.exp(rng.normal(0, 0.1, 1000)) / 1.2
    for terms in (
        lambda w: ips(w, reward),
        lambda w: self_normalised(w, reward),
        lambda w: self_normalised_doubly_robust(w, reward, 0.3 * reward, PI),
    ):
        found = effect_of_estimation(terms, PI, MU, noisy, user, seed=0)
        apart = found.estimated.value - found.logged.value
        assert found.difference.value == pytest.approx(apart, abs=1e-12)
        width = found.difference.high - found.difference.low
        assert 0 < width < 0.8 * (found.logged.high - found.logged.low)
    found = effect_of_estimation(lambda w: ips(w, reward), PI, MU, noisy, user, seed=4, level=0.8, replicates=99)
    paired = paired_bootstrap(PI / noisy * reward, PI / MU * reward, user, seed=4, level=0.8, replicates=99)
    np.testing.assert_allclose([found.difference.low, found.difference.high], [paired.low, paired.high])
    same = effect_of_estimation(lambda w: ips(w, reward), PI, MU, MU, user, seed=0).difference
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_rows_without_a_logged_propensity_are_left_out_of_both() -> None:
    some = np.where(np.arange(1000) % 3 == 0, np.nan, MU)
    kept = ~np.isnan(some)
    found = effect_of_estimation(lambda w: ips(w, REWARD), PI, some, 0.5 * MU, CHOICES.user, seed=0)
    expected = (PI * REWARD / MU)[kept].mean()
    assert found.rows == kept.sum() == 666
    np.testing.assert_allclose([found.logged.value, found.estimated.value], [expected, 2 * expected])


def test_sequences_compare_episode_by_episode() -> None:
    logged = log(200, seed=1, users=50)
    pi, reward = target_probabilities(TARGET, logged), logged.reward.astype(np.float64)

    def terms(weights: DoubleArray) -> DoubleArray:
        return per_decision(weights, reward, logged.episode, 1.0)

    found = effect_of_estimation(terms, pi, logged.propensity, 0.9 * logged.propensity, logged.user, seed=0)
    by_hand = terms(pi / logged.propensity / 0.9).mean() - terms(pi / logged.propensity).mean()
    assert found.difference.value == pytest.approx(by_hand, abs=1e-12) and found.rows == 200
    gap = np.where(np.arange(logged.num_steps) == 5, np.nan, logged.propensity)
    with pytest.raises(ValueError, match="1 of .* steps have no logged propensity; leave their episodes out"):
        effect_of_estimation(terms, pi, gap, logged.propensity, logged.user, seed=0)


def test_open_bandits_uniform_logger_is_found_uniform(real_data: Path) -> None:
    found = open_bandit(real_data, "random")
    rows = np.arange(10_000)
    choices = Choices(features=np.ones((10_000, 1)), item=found.item, user=rows, num_items=34)
    fitted = cross_fit(choices, lambda c, train, held_out, seed: fit_frequencies(c, train), seed=0)
    target = found.target[rows, found.item - 1]
    effect = effect_of_estimation(
        lambda w: self_normalised(w, found.reward), target, found.propensity, fitted.propensity, rows, seed=0
    )
    assert 0.85 < effect.ratio[0] < 0.95 < effect.ratio[1] < 1.05 < effect.ratio[2] < 1.15  # 1 +- 1.64 sqrt(33 / 6400)
    assert abs(effect.difference.value) < 0.02 * effect.logged.value
    table = calibration((every, found.item[part]) for part, every in fitted.distributions(choices))
    assert table.log_loss == pytest.approx(math.log(34), abs=0.005) and table.error < 0.02


def test_what_cannot_be_is_named() -> None:
    zero, over = MU.copy(), MU.copy()
    zero[3], over[4] = 0.0, 1.5
    user, ones = CHOICES.user, np.ones(3)

    def terms(weights: DoubleArray) -> DoubleArray:
        return ips(weights, REWARD)

    cases: list[tuple[str, Callable[[], object]]] = [
        ("estimated must be in .0, 1., got 0.0 in row 3",
         lambda: effect_of_estimation(terms, PI, MU, zero, user, seed=0)),
        (r"propensity must lie in \(0, 1\], got 1.5 at step 4",
         lambda: effect_of_estimation(terms, PI, over, MU, user, seed=0)),
        ("none of 1000 rows has a logged propensity",
         lambda: effect_of_estimation(terms, PI, np.full(1000, np.nan), MU, user, seed=0)),
        ("logged must have the shape of target", lambda: effect_of_estimation(terms, PI, MU[1:], MU, user, seed=0)),
        ("estimated must have 1 dim.*shape of target",
         lambda: effect_of_estimation(terms, PI, MU, MU[1:], user, seed=0)),
        ("terms must have a row for each of 1000 users' rows, got 999",
         lambda: effect_of_estimation(lambda w: w[1:], PI, MU, MU, user, seed=0)),
        ("context_free must be in .0, 1., got 0.0 in row 1",
         lambda: use_of_context(ones, np.array([1.0, 0.0, 1.0]), np.arange(3), seed=0)),
        ("edges must ascend from 0 to 1", lambda: calibration([(CHANCE, SHOWN)], edges=(0, 0.5, 0.5, 1))),
        ("edges must ascend from 0 to 1", lambda: calibration([(CHANCE, SHOWN)], edges=(0.1, 1))),
        ("calibration needs at least one row", lambda: calibration([])),
        ("item must be an id in 1..3, got 4 in row 2", lambda: calibration([(CHANCE, SHOWN + 1)])),
        ("the sum of probability must be 1, got 0.9", lambda: calibration([(0.9 * CHANCE, SHOWN)])),
    ]  # fmt: skip
    for words, call in cases:
        with pytest.raises(ValueError, match=words):
            call()
