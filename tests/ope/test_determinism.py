"""Loggers with and without a choice are told apart, by repeated contexts and by propensities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recgym.ope import behaviour
from recgym.ope.behaviour import Choices, LoggerModel
from recgym.ope.behaviour_scores import ScoreConfig, fit_scores
from recgym.ope.cross_fitting import cross_fit
from recgym.ope.determinism import determinism
from recgym.types import DoubleArray, IntArray
from tests.ope.loggers import drawn_items, softmax_log


def repeated(contexts: int, times: int, *, explore: float) -> tuple[Choices, DoubleArray]:
    """A logger that shows item 1 + context % 5, or with chance `explore` any of five; and its propensities."""
    rng = np.random.default_rng(0)
    context = rng.permutation(np.repeat(np.arange(contexts), times))
    chance = (1 - explore) * np.eye(5)[context % 5] + explore / 5
    item = drawn_items(chance, rng)
    features = np.stack([context, context**2], axis=1).astype(np.float32)
    choices = Choices(features=features, item=item, user=np.arange(len(item)) // 4, num_items=5)
    return choices, chance[np.arange(len(item)), item - 1]


def test_repetitions_are_counted_against_the_usual_item() -> None:
    choices = Choices(
        features=np.array([[1.0], [1.0], [2.0], [1.0], [3.0], [1.0], [2.0]]), item=np.array([4, 2, 1, 2, 3, 2, 1]),
        user=np.arange(7), num_items=4,
    )  # fmt: skip
    found = determinism(choices)
    assert (found.repeats, found.changes) == (4, 1)
    assert np.isnan(found.certain_share)


def test_the_same_item_in_the_same_context_is_no_choice() -> None:
    choices, _ = repeated(50, 10, explore=0)
    found = determinism(choices)
    assert (found.verdict, found.repeats, found.changes) == ("deterministic", 450, 0)
    assert "450 of 450 repetitions" in found.words[0] and "fitted Q" in found.words[0]
    assert "importance weighting" in found.words[0] and "exploration" in found.words[0]
    exploring, chance = repeated(50, 10, explore=0.2)
    for given in (None, chance):
        seen = determinism(exploring, given)
        assert (seen.verdict, seen.words) == ("stochastic", ()) and 40 < seen.changes < 100


def test_propensities_of_one_are_no_choice() -> None:
    choices = softmax_log(200, seed=0)
    found = determinism(choices, np.ones(200))
    assert (found.verdict, found.certain_share, found.repeats) == ("deterministic", 1, 0)
    assert "100% of what it shows has a probability of about 1" in found.words[0]
    partly = determinism(choices, np.where(np.arange(200) < 60, 1.0, 0.4))
    assert partly.verdict == "partly" and "30% of what the logger shows" in partly.words[0]
    assert determinism(choices, np.full(200, 0.4)).verdict == "stochastic"


def test_few_repetitions_tell_nothing() -> None:
    choices, _ = repeated(60, 2, explore=0)
    found = determinism(choices)
    assert found.verdict == "unknown" and "only 60 rows repeat a context" in found.words[0]


def test_propensities_that_the_log_contradicts() -> None:
    choices, _ = repeated(50, 10, explore=0.3)
    found = determinism(choices, np.ones(500))
    assert found.verdict == "unknown" and "repetitions of a context show another item" in found.words[0]
    almost, honest = repeated(400, 3, explore=0.012)
    assert (honest > 0.99).mean() > 0.95 and determinism(almost, honest).verdict == "deterministic"


@pytest.mark.parametrize("block", [1 << 22, 40])
def test_what_may_be_shown_is_part_of_the_context(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(behaviour, "_BLOCK", block)
    rng = np.random.default_rng(0)
    mask = rng.random((600, 4)) < 0.6
    mask[:, 3] = True
    first = mask.argmax(axis=1) + 1
    choices = Choices(features=np.ones((600, 1)), item=first, user=np.arange(600), num_items=4, mask=mask)
    found = determinism(choices)
    assert (found.verdict, found.repeats, found.changes) == ("deterministic", 600 - 8, 0)
    assert determinism(replace(choices, mask=None)).verdict == "stochastic"
    both = replace(choices, features=np.arange(600)[:, None] % 2, mask=np.ones_like(mask))
    assert determinism(replace(both, item=np.arange(600) % 2 + 1)).repeats == 598


def test_estimated_propensities_tell_it_too() -> None:
    def fit(choices: Choices, train: IntArray, held_out: IntArray, seed: int) -> LoggerModel:
        return fit_scores(choices, train, held_out, seed=seed, config=ScoreConfig(rounds=4))

    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 1000)
    features = np.eye(3)[kind] + rng.normal(0, 0.05, (1000, 3))
    always = Choices(features=features, item=kind + 1, user=np.arange(1000) // 4, num_items=4)
    assert determinism(always).verdict == "unknown"
    sure = determinism(always, cross_fit(always, fit, seed=0, folds=2).propensity)
    assert sure.verdict == "deterministic" and sure.repeats == 0 and sure.certain_share > 0.98
    chosen = softmax_log(1000, seed=3)
    assert determinism(chosen, cross_fit(chosen, fit, seed=0, folds=2).propensity).verdict == "stochastic"


def test_bad_propensities_are_named() -> None:
    choices = softmax_log(20, seed=0)
    for bad, words in ((0.0, "got 0.0 in row 3"), (1.01, "got 1.01 in row 3"), (np.nan, "finite, got nan in row 3")):
        given = np.full(20, 0.5)
        given[3] = bad
        with pytest.raises(ValueError, match=f"propensity must be .*{words}"):
            determinism(choices, given)
    with pytest.raises(ValueError, match=r"propensity must be \(20,\), one a row, got \(19,\)"):
        determinism(choices, np.full(19, 0.5))
