"""Temperatures in closed form, folds without leakage, and IPS by estimated propensities against the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recgym.ope.behaviour import Choices, LoggerModel, fit_frequencies, log_propensities
from recgym.ope.behaviour_scores import ItemScores, ScoreConfig, fit_scores
from recgym.ope.cross_fitting import LIMIT, Tempered, cross_fit, fit_temperature
from recgym.ope.one_step import ips
from recgym.ope.views import user_parts
from recgym.ope.weights import step_ratios
from recgym.types import IntArray
from tests.ope.bandits import CLICK, CONTEXTS, LOGGER, TARGET, TRUTH, drawn
from tests.ope.loggers import BIAS, WEIGHT, Fixed, bandit_blocks, softmax_log

QUICK = ScoreConfig(rank=4, rounds=6)


def by_context(choices: Choices, train: IntArray, held_out: IntArray, seed: int) -> LoggerModel:
    return fit_scores(choices, train, held_out, seed=seed, config=QUICK)


def too_sure(choices: Choices, train: IntArray, held_out: IntArray, seed: int) -> LoggerModel:
    return Tempered(model=by_context(choices, train, held_out, seed), temperature=1 / 4)


def by_segment(choices: Choices, train: IntArray, held_out: IntArray, seed: int) -> LoggerModel:
    return fit_frequencies(choices, train, smoothing=0, strength=0)


def shown(items: list[int], segment: list[int] | None = None, num_items: int = 2) -> Choices:
    count = len(items)
    return Choices(
        features=np.zeros((count, 1)), item=np.array(items), user=np.arange(count), num_items=num_items,
        segment=np.zeros(count, dtype=np.int64) if segment is None else np.array(segment),
    )  # fmt: skip


@pytest.mark.parametrize("score", [0.3, 1.0, 8.0])
def test_the_temperature_of_two_items_in_closed_form(score: float) -> None:
    choices = shown([1, 1, 1, 2])
    found = fit_temperature(Fixed(np.array([[score, 0.0]])), choices, np.arange(4))
    assert found == pytest.approx(score / math.log(3), rel=1e-9)
    with_impossible = Fixed(np.array([[-np.inf, score, 0.0]]))
    moved = replace(choices, item=choices.item + 1, num_items=3)
    assert fit_temperature(with_impossible, moved, np.arange(4)) == pytest.approx(score / math.log(3), rel=1e-9)


def test_a_temperature_takes_few_passes() -> None:
    passes = []

    class Counted(Fixed):
        def logits(self, seen: Choices) -> torch.Tensor:
            passes.append(1)
            return super().logits(seen)

    table = Counted(np.array([[8.0, 1.0, 0.0], [0.0, 3.0, -2.0]]))
    fit_temperature(table, shown([1, 1, 2, 3, 2, 2, 1, 3], [0, 0, 0, 0, 1, 1, 1, 1], num_items=3), np.arange(8))
    assert len(passes) <= 12


def test_scores_scaled_by_a_known_factor_are_scaled_back() -> None:
    choices = softmax_log(20_000, seed=5)
    temperatures = []
    for factor in (1.0, 2.5, 0.4):
        model = ItemScores(
            mean=torch.zeros(3), spread=torch.ones(3), bias=factor * torch.from_numpy(BIAS).float(),
            weight=factor * torch.from_numpy(WEIGHT).float(), items=torch.eye(6),
        )  # fmt: skip
        temperatures.append(fit_temperature(model, choices, np.arange(20_000)))
    assert temperatures[0] == pytest.approx(1, abs=0.03)
    assert temperatures[1] == pytest.approx(2.5 * temperatures[0], rel=1e-5)
    assert temperatures[2] == pytest.approx(0.4 * temperatures[0], rel=1e-5)


def test_temperatures_at_their_limits() -> None:
    table = Fixed(np.array([[3.0, 0.0], [0.0, 3.0]]))
    right, wrong = shown([1, 2, 1], [0, 1, 0]), shown([2, 1, 2], [0, 1, 0])
    assert fit_temperature(table, right, np.arange(3)) == 1 / LIMIT
    assert fit_temperature(table, wrong, np.arange(3)) == LIMIT
    assert fit_temperature(Fixed(np.zeros((1, 2))), shown([1, 1]), np.arange(2)) == 1
    with pytest.raises(ValueError, match="at least one held-out row"):
        fit_temperature(table, right, np.arange(0))
    with pytest.raises(ValueError, match="item 1 in row 2 has estimated propensity 0"):
        fit_temperature(Fixed(np.array([[-np.inf, 0.0]])), shown([2, 2, 1]), np.arange(3))


def test_parts_are_of_whole_users() -> None:
    user = np.array([7, 3, 7, 9, 3, 1, 7])
    part = user_parts(user, 2, seed=0)
    assert {tuple(np.unique(part[user == who])) for who in (1, 3, 7, 9)} == {(0,), (1,)}
    assert sorted(np.bincount([part[user == who][0] for who in (1, 3, 7, 9)])) == [2, 2]
    assert any((user_parts(user, 2, seed=seed) != part).any() for seed in range(1, 5))
    with pytest.raises(ValueError, match="at least 5 users in each part of the log, got 4"):
        user_parts(user, 5, seed=0)


def test_a_user_never_moves_the_model_that_weighs_it() -> None:
    choices = softmax_log(400, seed=2)
    mine = choices.user == 17
    features, item = choices.features.copy(), choices.item.copy()
    features[mine], item[mine] = 40.0, 6
    other = replace(choices, features=features, item=item)
    before, after = (cross_fit(log, too_sure, seed=3, folds=2) for log in (choices, other))
    own = int(before.fold[mine][0])
    assert (after.fold == before.fold).all() and (before.fold[mine] == own).all()
    for number, changed in ((own, False), (1 - own, True)):
        first, second = before.models[number], after.models[number]
        assert first.temperature > 2 and (first.temperature != second.temperature) == changed
        sure, surer = first.model, second.model
        assert isinstance(sure, Tempered) and isinstance(surer, Tempered)
        for name in ("mean", "spread", "bias", "weight", "items"):
            assert torch.equal(getattr(sure.model, name), getattr(surer.model, name)) != changed, name
    rest = (before.fold == own) & ~mine
    assert (before.propensity[rest] == after.propensity[rest]).all()
    assert (before.propensity[before.fold != own] != after.propensity[before.fold != own]).all()


def test_calibration_repairs_a_model_that_is_too_sure_and_leaves_a_right_one_alone() -> None:
    choices = softmax_log(1000, seed=6)
    right, wrong, repaired = (
        cross_fit(choices, fit, seed=0, folds=2, calibrate=calibrate)
        for fit, calibrate in ((by_context, True), (too_sure, False), (too_sure, True))
    )
    loss = [-np.log(found.propensity).mean() for found in (right, wrong, repaired)]
    assert loss[1] > loss[0] + 0.5 and abs(loss[2] - loss[0]) < 0.02
    assert [model.temperature for model in right.models] == [1, 1]


def test_each_row_is_weighed_by_the_model_of_its_fold() -> None:
    choices = softmax_log(300, seed=4)
    found = cross_fit(choices, by_context, seed=1, folds=3)
    again, rows = np.empty(300), np.arange(300)
    for part, chance in found.distributions(choices):
        assert chance.sum(axis=1) == pytest.approx(1, abs=1e-12)
        again[part] = chance[np.arange(len(chance)), choices.item[part] - 1]
    np.testing.assert_allclose(again, found.propensity, rtol=1e-6)
    for number in range(3):
        mine = rows[found.fold == number]
        np.testing.assert_allclose(
            np.log(found.propensity[mine]), log_propensities(found.models[number], choices, mine)
        )
    assert all(model.temperature == 1 for model in cross_fit(choices, by_context, seed=1, calibrate=False).models)
    with pytest.raises(ValueError, match="folds must be at least 2, got 1"):
        cross_fit(choices, by_context, seed=1, folds=1)
    with pytest.raises(ValueError, match="held_out must be at least 2, got 1"):
        cross_fit(choices, by_context, seed=1, held_out=1)


def test_what_a_model_thinks_all_but_impossible_is_no_zero() -> None:
    choices = shown([1, 1, 1, 2])
    model = Fixed(np.array([[3000.0, 0.0]]))
    found = cross_fit(choices, lambda *_: model, seed=0, folds=2, held_out=2, calibrate=False).propensity
    assert found[:3].tolist() == [1, 1, 1] and 0 < found[3] < 1e-300


def test_ips_is_the_truth_to_the_last_digit_where_every_user_is_the_whole_bandit() -> None:
    choices, target, logger, reward = bandit_blocks(10)
    exact = cross_fit(choices, by_segment, seed=0)
    np.testing.assert_allclose(exact.propensity, logger, rtol=0, atol=1e-9)
    assert ips(step_ratios(target, exact.propensity), reward).mean() == pytest.approx(TRUTH, abs=1e-9)
    fitted = cross_fit(choices, by_context, seed=0)
    assert ips(step_ratios(target, fitted.propensity), reward).mean() == pytest.approx(TRUTH, abs=0.01)
    blind = cross_fit(replace(choices, segment=None), by_segment, seed=0)
    wrong = TARGET * (CONTEXTS[:, None] * LOGGER / (CONTEXTS @ LOGGER)) * CLICK  # weights by mu(a), not mu(a | x)
    assert ips(step_ratios(target, blind.propensity), reward).mean() == pytest.approx(wrong.sum(), abs=1e-9)
    assert abs(wrong.sum() - TRUTH) > 0.05


def test_ips_by_estimated_propensities_finds_the_truth_as_logs_grow() -> None:
    def fit(choices: Choices, train: IntArray, held_out: IntArray, seed: int) -> LoggerModel:
        return fit_frequencies(choices, train, strength=1)

    errors = np.empty((2, 30, 2))
    for size, rows in enumerate((500, 8000)):
        for seed in range(30):
            log = drawn(rows, seed)
            choices = Choices(
                features=np.eye(2)[log.context], item=log.item, user=np.arange(rows) // 2, num_items=4,
                segment=log.context,
            )  # fmt: skip
            target = TARGET[log.context, log.item - 1]
            weights = step_ratios(target, cross_fit(choices, fit, seed=seed).propensity), log.weights
            errors[size, seed] = [ips(each, log.reward).mean() - TRUTH for each in weights]
    small, large = (errors**2).mean(axis=1) ** 0.5  # (2,) by estimated, by logged
    assert large[0] < small[0] / 3 and large[0] < 0.012
    assert small[0] < small[1] and large[0] < large[1], "estimated propensities cost nothing where the model is right"
