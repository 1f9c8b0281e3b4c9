"""A logging policy that changed is found out, one that did not is left in peace."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recgym.ope.compare import step_down
from recgym.ope.folds_in_time import session_folds
from recgym.ope.over_time import fold_influences
from recgym.ope.propensity_drift import PropensityDrift, item_shifts, propensity_drift
from recgym.types import DoubleArray, IntArray
from tests.ope.bandits import open_bandit
from tests.ope.loggers import drawn_items

EARLY, LATE, TARGET = np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.3, 0.4]), np.array([0.2, 0.5, 0.3])


def log(rng: np.random.Generator, late: DoubleArray) -> tuple[DoubleArray, IntArray, IntArray, IntArray]:
    """Three folds of 300 impressions, users of five that come back; the last fold by another policy."""
    fold, users = np.repeat(np.arange(3), 300), rng.permutation(900) // 5
    chance = np.where((fold == 2)[:, None], late, EARLY)
    return chance, drawn_items(chance, rng), users, fold


def follow(
    chance: DoubleArray, said: DoubleArray, item: IntArray, users: IntArray, fold: IntArray, replicates: int = 50
) -> PropensityDrift:
    propensity = said[np.arange(len(item)), item - 1]
    return propensity_drift(
        propensity, item, users, fold, fold.astype(np.float64), num_items=3, seed=0, distribution=said,
        weights=TARGET[item - 1] / propensity, replicates=replicates,
    )  # fmt: skip


def test_a_logger_that_changed_is_seen_in_all_it_does_and_its_weights_are_right() -> None:
    chance, item, users, fold = log(np.random.default_rng(0), LATE)
    found = follow(chance, chance, item, users, fold)
    assert found.entropy is not None and found.mean_weight is not None
    for number, policy in enumerate((EARLY, EARLY, LATE)):
        entropy = -float(policy @ np.log(policy))
        assert found.entropy.folds[number].estimate.value == pytest.approx(entropy, abs=1e-12)
        mean = np.log(chance[np.arange(900), item - 1])[fold == number].mean()
        assert found.log_propensity.folds[number].estimate.value == pytest.approx(mean, abs=1e-12)
    assert found.log_propensity.drifts and not found.mean_weight.drifts and found.wrong_folds == ()
    assert [one.changed for one in found.shifts] == [False, True]
    shares = [np.bincount(item[fold == k], minlength=4)[1:] / 300 for k in range(3)]
    assert found.shifts[1].distance == pytest.approx(np.abs(shares[2] - shares[1]).sum() / 2, abs=1e-12)
    assert found.shifts[1].items[0][0] in (1, 3) and found.shifts[1].items[2][0] == 2
    assert "the mean weight is 1 in every fold" in found.words[2]
    assert "what is shown changed between folds 1 and 2" in found.words[3]
    json.dumps(asdict(found), allow_nan=False)


def test_a_change_that_the_logged_propensities_missed_shows_in_the_mean_weight() -> None:
    chance, item, users, fold = log(np.random.default_rng(1), LATE)
    found = follow(chance, np.tile(EARLY, (900, 1)), item, users, fold)
    assert found.wrong_folds == (2,)
    assert "in fold 2: the propensities logged then are not those of the policy that served" in found.words[2]


def test_a_constant_logger_is_seldom_accused() -> None:
    rng, trials = np.random.default_rng(2), 200
    accused = wrong = 0
    for _ in range(trials):
        fold, users = np.repeat(np.arange(2), 40), rng.permutation(80) // 4
        liked = rng.integers(1, 4, size=20)[users]  # users see mostly one item, so rows are far from independent
        item = np.where(rng.random(80) < 0.8, liked, rng.integers(1, 4, size=80))
        accused += item_shifts(item, users, fold, num_items=3, seed=0, permutations=39)[0].changed
        alone = item_shifts(item, np.where(fold == 0, users, 20 + users), fold, num_items=3, seed=0, permutations=39)
        wrong += alone[0].changed
    assert accused / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert wrong / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_rows_of_one_user_are_no_evidence_of_their_own() -> None:
    rng, trials = np.random.default_rng(3), 200
    by_user = by_row = 0
    for _ in range(trials):
        users = np.repeat(np.arange(24), 10)  # each of one fold, and shown one item ten times
        item, fold = rng.integers(1, 4, size=24)[users], (users >= 12).astype(np.int64)
        by_user += item_shifts(item, users, fold, num_items=3, seed=0, permutations=39)[0].changed
        by_row += item_shifts(item, np.arange(240), fold, num_items=3, seed=0, permutations=39)[0].changed
    assert by_user / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert by_row / trials > 0.5


def test_the_permutation_test_by_enumeration() -> None:
    """Four users of one fold each, two items: of the 6 equally likely deals 2 are as far apart as the log."""
    item, fold = np.array([1, 1, 2, 2]), np.array([0, 0, 1, 1])
    found = item_shifts(item, np.arange(4), fold, num_items=2, seed=0, permutations=6000)[0]
    assert found.distance == 1.0 and found.items == ((1, 1.0, 0.0), (2, 0.0, 1.0))
    assert found.p_value == pytest.approx(2 / 6, abs=0.02) and not found.changed
    assert found.expected == pytest.approx(2 / 6, abs=0.02)
    both = item_shifts(item, np.array([0, 1, 0, 1]), fold, num_items=2, seed=0, permutations=6000)[0]
    assert both.p_value == pytest.approx(1 / 2, abs=0.02)  # two users in both folds: of 4 swaps, 2 are as far apart


def test_a_fold_with_one_heavy_weight_is_not_taken_for_wrong_propensities() -> None:
    """Where one weight in a hundred is 5 there may as well have been five: a mean of 0.84 is no proof."""
    fold, users = np.repeat(np.arange(2), 100), np.arange(200)
    weights = np.where(users % 2 == 0, 0.9, 1.1)
    weights[:100] -= 0.2
    even = weights.copy()
    weights[0] = 5.0
    means, psi = fold_influences(weights, np.ones(200), users, fold)
    assert means[0] == pytest.approx(0.843) and step_down(means - 1, psi) == ("worse", "undecided")
    for each, wrong in ((weights, ()), (even, (0,))):
        found = propensity_drift(
            np.ones(200), np.ones(200, np.int64), users, fold, fold.astype(np.float64), num_items=1, seed=0,
            weights=each, replicates=2, permutations=19,
        )  # fmt: skip
        assert found.wrong_folds == wrong


def test_words_call_an_item_by_its_name() -> None:
    """Id 1 is the first name: a log whose items are called 0, 1, 2 would be told of the wrong one."""
    fold, users = np.repeat(np.arange(2), 100), np.arange(200)
    found = propensity_drift(
        np.full(200, 0.5), fold + 1, users, fold, fold.astype(np.float64), num_items=2, seed=0, names=("0", "1"),
        replicates=2, permutations=19,
    )  # fmt: skip
    assert "most of all item 0, from 100.0% to 0.0%" in " ".join(found.words)


def test_open_bandits_thompson_sampler_learned_while_it_logged(real_data: Path) -> None:
    logged = open_bandit(real_data, "bts")
    when = pl.read_csv(real_data / "obd_men" / "bts_men.csv.gz", columns=["timestamp"])["timestamp"]
    time, rows = when.str.to_datetime(time_zone="UTC").dt.timestamp("ms").to_numpy() / 1000, np.arange(10_000)
    fold = session_folds(time, rows, folds=5)
    found = propensity_drift(
        logged.propensity, logged.item, rows, fold, time, num_items=34, seed=0, replicates=20, permutations=99,
        weights=logged.target[rows, logged.item - 1] / logged.propensity,
    )  # fmt: skip
    assert [one.changed for one in found.shifts] == [True] * 4
    assert min(one.distance for one in found.shifts) > 0.14 and max(one.expected for one in found.shifts) < 0.1
    assert found.wrong_folds == ()  # its propensities were logged as they changed: weights of up to 178 average 1


def test_bad_rows_are_named() -> None:
    ones, fold = np.ones(4), np.array([0, 0, 1, 1])
    item, users = np.array([1, 2, 1, 2]), np.arange(4)
    with pytest.raises(ValueError, match=r"propensity must.* 0.0.* row 2"):
        propensity_drift(np.array([1, 1, 0.0, 1]), item, users, fold, fold + 0.0, num_items=2, seed=0)
    with pytest.raises(ValueError, match=r"item must be an id in 1..1, got 2 in row 1"):
        propensity_drift(ones, item, users, fold, fold + 0.0, num_items=1, seed=0)
    with pytest.raises(ValueError, match=r"distribution must be \(4, 2\), got \(4, 1\)"):
        propensity_drift(
            ones / 2, item, users, fold, fold + 0.0, num_items=2, seed=0, distribution=np.ones((4, 1)), replicates=20
        )
    with pytest.raises(ValueError, match="permutations must be at least 19 to find a change, got 18"):
        item_shifts(item, users, fold, num_items=2, seed=0, permutations=18)
    with pytest.raises(ValueError, match=r"fold must hold all of 0..K - 1"):
        item_shifts(item, users, 0 * fold, num_items=2, seed=0)
