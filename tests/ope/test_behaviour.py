"""Estimated logging policies: by hand, against a logger that is known, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from recgym.ope import behaviour
from recgym.ope.behaviour import (
    Choices,
    check_propensities,
    distribution,
    fit_frequencies,
    item_frequencies,
    log_propensities,
    logged_choices,
)
from recgym.ope.behaviour_scores import ItemScores, ScoreConfig, fit_scores
from recgym.ope.views import user_parts
from recgym.types import DoubleArray
from tests.ope.loggers import bandit_blocks, drawn_items, softmax_log, truth
from tests.ope.worlds import log

CHOICES = Choices(
    features=np.arange(8.0).reshape(4, 2), item=np.array([1, 1, 2, 3]), user=np.array([5, 5, 6, 7]), num_items=4,
    segment=np.array([9, 9, 9, 4]),
)  # fmt: skip
ALL = np.arange(4)


def fitted(choices: Choices, *, seed: int = 0, config: ScoreConfig | None = None) -> ItemScores:
    judges = user_parts(choices.user, 5, seed=1) == 0
    return fit_scores(choices, np.flatnonzero(~judges), np.flatnonzero(judges), seed=seed, config=config)


def variation(found: DoubleArray, known: DoubleArray) -> float:
    """Mean total variation between two sets of distributions."""
    return float(np.abs(found - known).sum(axis=1).mean() / 2)


def test_frequencies_by_hand() -> None:
    np.testing.assert_allclose(item_frequencies(CHOICES.item, num_items=4, smoothing=0), [0.5, 0.25, 0.25, 0])
    np.testing.assert_allclose(item_frequencies(CHOICES.item, num_items=4, smoothing=4), [3 / 8, 2 / 8, 2 / 8, 1 / 8])
    model = fit_frequencies(CHOICES, ALL, smoothing=4, strength=2)
    assert model.segments.tolist() == [4, 9]
    in_4, in_9 = [0.75 / 3, 0.5 / 3, 1.5 / 3, 0.25 / 3], [2.75 / 5, 1.5 / 5, 0.5 / 5, 0.25 / 5]
    overall = [3 / 8, 2 / 8, 2 / 8, 1 / 8]
    asked = replace(CHOICES, segment=np.array([4, 9, 5, 99]))
    np.testing.assert_allclose(distribution(model, asked), [in_4, in_9, overall, overall], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.exp(log_propensities(model, CHOICES, np.array([3, 0]))), [0.5, 0.55])
    blind = fit_frequencies(replace(CHOICES, segment=None), ALL, smoothing=4)
    np.testing.assert_allclose(distribution(blind, CHOICES), [overall] * 4)


def test_a_mask_leaves_the_rest_in_proportion() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]], dtype=np.bool_)
    masked = replace(CHOICES, segment=None, mask=mask)
    model = fit_frequencies(masked, ALL, smoothing=4)
    np.testing.assert_allclose(
        distribution(model, masked),
        [[0.6, 0.4, 0, 0], [0.75, 0, 0, 0.25], [0, 0.5, 0.5, 0], [0.375, 0.25, 0.25, 0.125]],
    )


def test_the_context_model_finds_the_logger_the_better_the_longer_the_log() -> None:
    fresh = softmax_log(2000, seed=99)
    known = truth(fresh.features)
    blind = np.tile(item_frequencies(softmax_log(20_000, seed=0).item, num_items=6), (2000, 1))
    apart = [variation(distribution(fitted(softmax_log(rows, seed=0)), fresh), known) for rows in (250, 2000, 20_000)]
    assert apart[0] > 1.5 * apart[1] > 1.5**2 * apart[2]
    assert apart[2] < 0.02 and variation(blind, known) > 0.3


def test_the_context_model_learns_under_a_mask() -> None:
    masked = softmax_log(10_000, seed=3, masked=True)
    assert masked.mask is not None
    model, found = fitted(masked), distribution(fitted(masked), masked)
    assert found[~masked.mask].max() == 0 and found.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert variation(distribution(model, replace(masked, mask=None)), truth(masked.features)) < 0.03


def test_without_context_to_learn_it_stays_with_the_frequencies() -> None:
    rng = np.random.default_rng(0)
    chance = np.tile([0.4, 0.3, 0.2, 0.1], (600, 1))
    blind = Choices(
        features=rng.normal(size=(600, 20)), item=drawn_items(chance, rng), user=np.arange(600), num_items=4
    )
    sober, keen = fitted(blind), fitted(blind, config=ScoreConfig(penalty=0, patience=20, rounds=20))
    assert variation(distribution(sober, blind), chance) < 0.1
    assert variation(distribution(keen, blind), chance) < 0.12, "the best pass is kept however long it goes on"
    heavy = fitted(softmax_log(1000, seed=1), config=ScoreConfig(penalty=1e6))
    start = item_frequencies(softmax_log(1000, seed=1).item, num_items=6)
    assert variation(distribution(heavy, softmax_log(50, seed=2)), np.tile(start, (50, 1))) < 0.05


def test_the_scale_of_a_feature_does_not_matter() -> None:
    short, choices = ScoreConfig(rounds=3), softmax_log(1000, seed=1)
    far = replace(choices, features=choices.features * [1.0, 100.0, 0.01] + [0, 1000, 0])
    plain, moved = (distribution(fitted(each, config=short), each) for each in (choices, far))
    np.testing.assert_allclose(moved, plain, atol=5e-3)


def test_a_seed_is_a_model() -> None:
    short, choices = ScoreConfig(rounds=2, rank=2), softmax_log(400, seed=1)
    first, same, other = (fitted(choices, seed=seed, config=short) for seed in (4, 4, 5))
    assert (first.items == same.items).all() and (first.bias == same.bias).all()
    assert (first.items != other.items).any()
    assert first.weight.shape == (3, 2) and first.items.shape == (6, 2)


def test_no_more_than_a_block_of_scores_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = softmax_log(500, seed=1)
    model = fitted(choices, config=ScoreConfig(rounds=2))
    whole = log_propensities(model, choices, np.arange(500))
    monkeypatch.setattr(behaviour, "_BLOCK", 70)
    sizes = [len(seen.item) for _, seen in choices.parts(np.arange(500))]
    assert max(sizes) == 11 and sum(sizes) == 500
    np.testing.assert_allclose(log_propensities(model, choices, np.arange(500)), whole, rtol=0, atol=1e-6)


def test_choices_of_a_log() -> None:
    logged = log(50, users=10)
    choices = logged_choices(logged, num_items=3)
    assert logged.state is not None
    np.testing.assert_array_equal(choices.features, np.concatenate([logged.state, logged.context], axis=1))
    np.testing.assert_array_equal(choices.item, logged.action[:, 0])
    np.testing.assert_array_equal(choices.user, logged.episode % 10)
    assert logged_choices(replace(logged, state=None), num_items=3).features.shape == (logged.num_steps, 1)
    with pytest.raises(ValueError, match="one item a step, got slates of 2"):
        logged_choices(replace(logged, action=np.repeat(logged.action, 2, axis=1)), num_items=3)
    with pytest.raises(ValueError, match=r"item must be an id in 1..2, got 3 in row"):
        logged_choices(logged, num_items=2)


def test_what_cannot_be_is_named() -> None:
    features, mask = CHOICES.features.copy(), np.ones((4, 4), dtype=np.bool_)
    features[2, 1], mask[3, 2] = np.nan, False
    bare = fit_frequencies(replace(CHOICES, segment=None), np.arange(3), smoothing=0)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("features must be finite, got nan in row 2, column 1", lambda: replace(CHOICES, features=features)),
        ("item must be an id in 1..4, got 0 in row 1", lambda: replace(CHOICES, item=np.array([1, 0, 2, 3]))),
        (r"item must be \(4,\)", lambda: replace(CHOICES, item=ALL[:3] + 1)),
        ("user must have 1 dimension.*got .3,.", lambda: replace(CHOICES, user=ALL[:3])),
        ("segment must have 1 dimension.*got .5,.", lambda: replace(CHOICES, segment=np.arange(5))),
        (r"mask must be \(4, 4\), got \(4, 3\)", lambda: replace(CHOICES, mask=mask[:, :3])),
        ("item must be one that the mask allows, got 3 in row 3", lambda: replace(CHOICES, mask=mask)),
        ("item 3 in row 3 has estimated propensity 0.*smoothing", lambda: log_propensities(bare, CHOICES, ALL)),
        ("smoothing must be finite and not negative, got -1", lambda: fit_frequencies(CHOICES, ALL, smoothing=-1)),
        ("strength must be finite and not negative, got nan", lambda: fit_frequencies(CHOICES, ALL, strength=np.nan)),
        ("at least one row to learn from", lambda: fit_frequencies(CHOICES, ALL[:0])),
        ("at least one row to learn from", lambda: fit_scores(CHOICES, ALL, ALL[:0], seed=0)),
        ("rank must be at least 1, got 0", lambda: ScoreConfig(rank=0)),
        ("smoothing must be positive and finite, got 0", lambda: ScoreConfig(smoothing=0)),
        ("penalty must be finite and not negative, got -2", lambda: ScoreConfig(penalty=-2)),
        (r"mu must be in \(0, 1\], got 0.0 in row 1", lambda: check_propensities(mu=np.array([1.0, 0.0]))),
        (r"mu must be in \(0, 1\], got 1.5 in row 0", lambda: check_propensities(mu=np.array([1.5, 1.0]))),
    ]
    for words, call in cases:
        with pytest.raises(ValueError, match=words):
            call()


def test_the_bandit_to_the_last_digit() -> None:
    choices, _, logger, _ = bandit_blocks(2)
    model = fit_frequencies(choices, np.arange(100), smoothing=0, strength=0)
    np.testing.assert_allclose(np.exp(log_propensities(model, choices, np.arange(200))), logger, rtol=0, atol=1e-12)
