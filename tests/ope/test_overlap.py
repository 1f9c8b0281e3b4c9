"""Horizons and weights by enumeration."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from recgym.ope import Thresholds, support
from recgym.ope.overlap import histogram, overlap, step_support, unseen


def test_support_step_by_step_written_out() -> None:
    rng = np.random.default_rng(0)
    sessions = [rng.choice([0.0, 0.5, 2.0], size=n) for n in rng.integers(1, 7, size=40)]
    episode = np.repeat(np.arange(40), [len(one) for one in sessions])
    found = step_support(np.concatenate(sessions), episode)
    assert len(found) == max(map(len, sessions))
    for number, one in enumerate(found):
        weights = [float(np.prod(each[: number + 1])) for each in sessions if len(each) > number]
        squares = sum(w**2 for w in weights)
        assert (one.step, one.sessions) == (number + 1, len(weights))
        assert one.effective == pytest.approx(sum(weights) ** 2 / squares if squares else 0.0, rel=1e-12)
        assert one.share == pytest.approx(one.effective / len(weights), rel=1e-12)


def test_the_horizon_by_enumeration() -> None:
    """All 2^H sessions of a fair coin, once each: the target prefers heads by 3:1, so ESS_t / n = (1 / 1.25)^t."""
    length = 10
    heads = (np.arange(2**length)[:, None] >> np.arange(length)) & 1  # (2^H, H)
    ratios, episode = np.where(heads, 1.5, 0.5).ravel(), np.repeat(np.arange(2**length), length)
    limits = Thresholds(effective_episodes=(400.0, 150.0))
    found = overlap(ratios, episode, thresholds=limits, bins=8)
    for one in found.steps:
        assert one.effective == pytest.approx(2**length * 0.8**one.step, rel=1e-9)
    assert (found.horizon, found.reach) == (4, 8)  # 1024 * 0.8^4 = 419, 0.8^5: 336; 0.8^8: 172, 0.8^9: 137
    whole = support(ratios, episode, np.arange(2**length))
    assert found.steps[-1].effective == pytest.approx(whole.effective_sample_size, rel=1e-9)
    assert "supports the policy over the first 4 of 10 steps" in found.words and "up to step 8" in found.words
    assert overlap(ratios, episode).horizon == 10  # ESS 110 at the last step
    json.dumps(asdict(found), allow_nan=False)


def test_a_horizon_ends_at_the_first_gap_and_may_be_none() -> None:
    ratios = np.array([1, 1e3, 1e-3, 1, 1, 1])  # even after one step, uneven after two, even after three
    episode = np.repeat(np.arange(2), 3)
    found = overlap(ratios, episode, thresholds=Thresholds(effective_episodes=(1.9, 1.5)))
    assert [one.effective > 1.9 for one in found.steps] == [True, False, True]
    assert (found.horizon, found.reach) == (1, 1) and "beyond that it says nothing" in found.words
    nothing = overlap(np.zeros(3), np.arange(3))
    assert (nothing.horizon, nothing.reach) == (0, 0) and "not even at the first step" in nothing.words
    assert nothing.step_weights.zeros == 3 and nothing.step_weights.counts == ()


def test_histograms_count_every_weight() -> None:
    weights = np.array([0, 0.1, 1, 1, 10, 1000.0])
    found = histogram(weights, bins=4)
    assert found.edges == pytest.approx((-1, 0, 1, 2, 3)) and found.counts == (1, 2, 1, 1) and found.zeros == 1
    assert dict(found.quantiles)[1.0] == 1000.0 and dict(found.quantiles)[0.5] == pytest.approx(1.0)
    session = overlap(np.array([2.0, 5, 0.5, 0.1]), np.array([0, 0, 1, 1]), bins=2).session_weights
    assert session.edges == pytest.approx((np.log10(0.05), (np.log10(0.05) + 1) / 2, 1.0))


def test_mass_on_unseen_items() -> None:
    chance = np.array([[0.5, 0.3, 0.2, 0], [0.1, 0.4, 0.5, 0], [0, 0, 1, 0]])
    found = unseen([chance[:2], chance[2:]], np.array([1, 1, 1]), num_items=4)
    assert found.mass == pytest.approx(2.4 / 3) and found.num_items == 2
    assert [item for item, _ in found.items] == [3, 2] and found.items[0][1] == pytest.approx(1.7 / 3)
    assert found.words.startswith("80.0% of what the policy would show are 2 items")
    none = unseen([chance], np.array([1, 2, 3]), num_items=4)
    assert (none.mass, none.items, none.num_items) == (0.0, (), 0)
    json.dumps([asdict(found), asdict(none)], allow_nan=False)


def test_bad_weights_are_named() -> None:
    with pytest.raises(ValueError, match="ratios must be not negative, got -1.0 in row 1"):
        overlap(np.array([1.0, -1.0]), np.arange(2))
    with pytest.raises(ValueError, match="the product of ratios must be finite, got inf in row 1"):
        overlap(np.array([1e300, 1e300]), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        histogram(np.ones(2), bins=0)
    with pytest.raises(ValueError, match="episode must have the shape of ratios"):
        overlap(np.ones(3), np.arange(2))
    with pytest.raises(ValueError, match=r"probabilities must be of all 3 rows \(at least one\), got 1"):
        unseen([np.ones((1, 1))], np.ones(3, np.int64), num_items=1)
    with pytest.raises(ValueError, match="probability must have 2 columns"):
        unseen([np.ones((3, 1))], np.ones(3, np.int64), num_items=2)
