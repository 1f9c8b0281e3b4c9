"""Estimators that disagree are told apart from those that are merely noisy."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from recgym.ope.disagreement import Disagreement, Terms, disagreement
from tests.ope.loggers import drawn_items

LOGGER, TARGET, CLICK = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6]), np.array([0.2, 0.4, 0.6])


def compare(rng: np.random.Generator, *, bias: float = 0.0, propensity_scale: float = 1.0) -> Disagreement:
    """IPS, SNIPS, DM and DR of one bandit log of 400 rows, two a user."""
    item, ones = drawn_items(np.tile(LOGGER, (400, 1)), rng) - 1, np.ones(400)
    liking = rng.random(400)
    reward = CLICK[item] + 0.5 * (liking - 0.5) + 0.1 * rng.normal(size=400)
    model = CLICK + bias * np.array([0, 0, 1])  # wrong about the item the target likes
    weight = TARGET[item] / (propensity_scale * LOGGER[item])
    direct = float(TARGET @ model) + 0.5 * (liking - 0.5)
    doubly = direct + weight * (reward - model[item] - 0.5 * (liking - 0.5))
    estimators = {
        "IPS": Terms(numerator=weight * reward, denominator=ones, uses="weights"),
        "SNIPS": Terms(numerator=weight * reward, denominator=weight, uses="weights"),
        "DM": Terms(numerator=direct, denominator=ones, uses="model"),
        "DR": Terms(numerator=doubly, denominator=ones, uses="both"),
    }
    return disagreement(estimators, np.arange(400) // 2, seed=0, replicates=200)


def test_correct_estimators_agree_with_the_level() -> None:
    rng, trials = np.random.default_rng(0), 200
    apart = sum(compare(rng).differ for _ in range(trials))
    assert apart / trials == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / trials))


def test_a_biased_model_is_found_and_blamed() -> None:
    rng, seen = np.random.default_rng(1), 0
    for _ in range(50):
        found = compare(rng, bias=0.1)  # moves DM by 0.06
        worst = found.pairs[0]
        seen += found.differ and "DM" in (worst.first, worst.second)
        assert not found.differ or ("the reward model is biased" in worst.words and worst.words in found.words)
    assert seen > 45


def test_wrong_propensities_set_ips_and_snips_apart() -> None:
    found = compare(np.random.default_rng(2), propensity_scale=0.5)
    pair = next(one for one in found.pairs if (one.first, one.second) == ("IPS", "SNIPS"))
    assert pair.differ and "the mean weight is not 1" in pair.words
    again = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert len(again["pairs"]) == 6


def test_the_difference_is_paired() -> None:
    rng = np.random.default_rng(3)
    shared, users, ones = rng.normal(size=60), np.arange(60), np.ones(60)
    small = 0.01 * rng.normal(size=60)
    terms = {
        "a": Terms(numerator=shared + small + 0.02, denominator=ones, uses="both"),
        "b": Terms(numerator=shared, denominator=ones, uses="both"),
    }
    found = disagreement(terms, users, seed=0)
    interval = found.pairs[0].difference
    assert interval.value == pytest.approx(small.mean() + 0.02, abs=1e-12)
    error = small.std(ddof=1) / math.sqrt(60)
    assert 1.8 * error < interval.high - interval.value < 2.3 * error and found.differ
    same = disagreement({"a": terms["a"], "copy": terms["a"]}, users, seed=0)
    assert not same.differ and same.pairs[0].difference.high == 0.0 and "2 estimators agree" in same.words


def test_columns_of_sessions_and_bad_terms() -> None:
    rng, users = np.random.default_rng(4), np.arange(20)
    above, below = rng.random((20, 3)), rng.uniform(1, 2, size=(20, 3))
    wide = Terms(numerator=above, denominator=below, uses="weights")
    flat = Terms(numerator=above.sum(1), denominator=np.ones(20), uses="weights")
    value = disagreement({"wide": wide, "flat": flat}, users, seed=0).pairs[0].difference.value
    assert value == pytest.approx((above.sum(0) / below.sum(0)).sum() - above.sum(1).mean(), abs=1e-12)
    with pytest.raises(ValueError, match=r"at least two to disagree, got \['wide'\]"):
        disagreement({"wide": wide}, users, seed=0)
    bad = Terms(numerator=np.full(20, np.nan), denominator=np.ones(20), uses="model")
    with pytest.raises(ValueError, match=r"estimators\['bad'\]: numerator must be finite, got nan in row 0"):
        disagreement({"wide": wide, "bad": bad}, users, seed=0)
    with pytest.raises(ValueError, match=r'estimators\[\'odd\'\] must use "model"'):
        disagreement({"wide": wide, "odd": Terms(numerator=above, denominator=below, uses="luck")}, users, seed=0)  # type: ignore[arg-type]
