"""PAS-IF: the pseudo policies by enumeration, the fit against all others, and whom it must choose."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.ope.importance_fitting import Estimator, Impressions, importance_fitted, subsampling_rule
from recgym.ope.one_step import ips, self_normalised
from recgym.ope.one_step_models import (
    direct_method,
    doubly_robust_terms,
    expected_model,
    self_normalised_doubly_robust,
)
from recgym.ope.selection import Choice
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, IntArray
from tests.ope.bandits import CLICK, CONTEXTS, LOGGER, MODEL, TARGET, drawn, outcomes
from tests.ope.test_selection import WRONG

ONE_STEP: dict[str, Estimator] = {
    "IPS": lambda log, _: ips(log.weights, log.reward),
    "SNIPS": lambda log, _: self_normalised(log.weights, log.reward),
    "DM": lambda log, q: direct_method(expected_model(log.target, q)),
    "DR": lambda log, q: doubly_robust_terms(log.weights, log.reward, log.at(q), expected_model(log.target, q)),
    "SNDR": lambda log, q: self_normalised_doubly_robust(
        log.weights, log.reward, log.at(q), expected_model(log.target, q)
    ),
}


def impressions(count: int, seed: int, target: DoubleArray = TARGET) -> tuple[Impressions, IntArray]:
    log = drawn(count, seed)
    seen = Impressions(target=target[log.context], logger=LOGGER[log.context], item=log.item, reward=log.reward)
    return seen, log.context


def choose(count: int, seed: int, model: DoubleArray, target: DoubleArray = TARGET, **options: float) -> Choice:
    log, context = impressions(count, seed, target)
    return importance_fitted(ONE_STEP, log, lambda rows: model[context[rows]], seed=seed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_both_parts_are_logs_of_the_pseudo_policies(share: float) -> None:
    """A row that is drawn is as likely as the pseudo target would have it, and one that is left as its logger would."""
    rule, every = subsampling_rule(TARGET, LOGGER, share=share), outcomes()
    assert (LOGGER * rule).sum(axis=1) == pytest.approx([share, share], rel=1e-9)
    target, logger = LOGGER * rule / share, LOGGER * (1 - rule) / (1 - share)
    assert target.sum(axis=1) == pytest.approx([1, 1])
    assert logger.sum(axis=1) == pytest.approx([1, 1])
    cell = every.context, every.item - 1
    click = np.where(every.reward > 0, CLICK[cell], 1 - CLICK[cell])
    drawn_rows = every.chance * rule[cell]
    left = every.chance * (1 - rule[cell])
    assert drawn_rows / drawn_rows.sum() == pytest.approx(CONTEXTS[every.context] * target[cell] * click, rel=1e-9)
    assert left / left.sum() == pytest.approx(CONTEXTS[every.context] * logger[cell] * click, rel=1e-9)
    truth = float(CONTEXTS @ (target * CLICK).sum(axis=1))
    weights = rule[cell] / (1 - rule[cell]) * (1 - share) / share
    assert weights == pytest.approx((target / logger)[cell], rel=1e-9)
    assert left @ (weights * every.reward) / left.sum() == pytest.approx(truth, rel=1e-9)  # IPS of the rest
    assert drawn_rows @ every.reward / drawn_rows.sum() == pytest.approx(truth, rel=1e-9)


def test_the_fit_is_the_best_of_its_kind() -> None:
    share, wanted = 0.2, TARGET / LOGGER

    def loss(rule: DoubleArray) -> float:
        return float((LOGGER * (rule / (1 - rule) * (1 - share) / share - wanted) ** 2).sum())

    def literal(beta: float) -> DoubleArray:
        found = np.empty_like(LOGGER)
        for row in range(2):
            scores = beta * np.log(np.maximum(wanted[row], 1e-6))
            alphas = np.linspace(-60, 60, 120_001)
            mass = sum(LOGGER[row, a] / (1 + np.exp(-alphas - scores[a])) for a in range(4))
            found[row] = 1 / (1 + np.exp(-alphas[np.argmin(np.abs(mass - share))] - scores))
        return found

    rule = subsampling_rule(TARGET, LOGGER, share=share)
    others = [loss(literal(beta)) for beta in np.arange(0, 3.01, 0.25)]
    assert loss(rule) <= min(others) * 1.01
    assert loss(rule) < 0.5 * loss(np.full_like(LOGGER, share))


def test_equal_policies_are_split_without_looking() -> None:
    assert subsampling_rule(LOGGER, LOGGER, share=0.3) == pytest.approx(np.full_like(LOGGER, 0.3), rel=1e-9)


def test_a_small_share_fits_any_weights() -> None:
    """As the share goes to 0, rho / (1 - rho) can be w times a constant, and the pseudo weights are the weights."""
    mixed = 0.9 * TARGET + 0.1 * LOGGER
    rule = subsampling_rule(mixed, LOGGER, share=1e-4)
    assert rule / (1 - rule) / 1e-4 == pytest.approx(mixed / LOGGER, rel=2e-3)


def test_scores_are_the_formula_written_out() -> None:
    log, context = impressions(150, 3)
    found = importance_fitted(ONE_STEP, log, lambda rows: MODEL[context[rows]], seed=5, draws=4)
    rule, rng, errors = subsampling_rule(TARGET, LOGGER)[context], np.random.default_rng(5), []
    for _ in range(4):
        drawn_rows = rng.random(150) < rule[np.arange(150), log.item - 1]
        rest = ~drawn_rows
        chance = rule[np.arange(150), log.item - 1][rest]
        weights = chance / (1 - chance) * 0.8 / 0.2
        model = (LOGGER[context] * rule / 0.2 * MODEL[context]).sum(axis=1)[rest].mean()
        truth = log.reward[drawn_rows].mean()
        errors.append([((weights * log.reward[rest]).mean() - truth) ** 2, (model - truth) ** 2])
    assert [found.scores["IPS"], found.scores["DM"]] == pytest.approx(np.mean(errors, axis=0).tolist(), rel=1e-9)


def test_a_perfect_model_is_believed_and_a_wrong_one_is_not() -> None:
    mild, severe = 0.7 * LOGGER + 0.3 * TARGET, np.array([[0.03, 0.03, 0.04, 0.9], [0.9, 0.04, 0.03, 0.03]])
    right = [choose(300, seed, CLICK, severe).name for seed in range(15)]
    wrong = [choose(1000, seed, WRONG, mild).name for seed in range(15)]
    assert right.count("DM") >= 11
    assert "DM" not in wrong


def test_the_same_seed_chooses_the_same() -> None:
    assert choose(200, 1, MODEL) == choose(200, 1, MODEL)
    log, context = impressions(200, 1)
    backwards = dict(reversed(ONE_STEP.items()))
    again = importance_fitted(backwards, log, lambda rows: MODEL[context[rows]], seed=1)
    assert again.scores == choose(200, 1, MODEL).scores
    assert choose(200, 1, MODEL, draws=19).scores != again.scores


def test_the_model_is_asked_for_the_rows_left_and_only_these() -> None:
    log, context = impressions(400, 0)
    asked: list[IntArray] = []

    def model(rows: IntArray) -> DoubleArray:
        asked.append(rows)
        return CLICK[context[rows]]

    importance_fitted(ONE_STEP, log, model, seed=0, share=0.25, draws=30)
    assert np.mean([len(rows) for rows in asked]) == pytest.approx(300, abs=10)
    kept = np.mean([np.isin(np.arange(400), rows) for rows in asked], axis=0)
    rule = subsampling_rule(TARGET, LOGGER, share=0.25)[context, log.item - 1]
    assert np.corrcoef(kept, 1 - rule)[0, 1] > 0.8


def test_bad_input_is_refused_by_name() -> None:
    log, context = impressions(100, 0)
    q = MODEL[context]
    with pytest.raises(ValueError, match="at least one estimator"):
        importance_fitted({}, log, lambda rows: q[rows], seed=0)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        importance_fitted(ONE_STEP, log, lambda rows: q[rows], seed=0, draws=0)
    with pytest.raises(ValueError, match=r"log has 100 rows, too few: share 0\.02"):
        importance_fitted(ONE_STEP, log, lambda rows: q[rows], seed=0, share=0.02)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\), got 1"):
        subsampling_rule(TARGET, LOGGER, share=1)
    with pytest.raises(ValueError, match="q must have 2 dimension"):
        importance_fitted(ONE_STEP, log, lambda rows: q, seed=0)
    with pytest.raises(ValueError, match="the sum of target must be 1, got 1.5 in row 0"):
        Impressions(target=1.5 * log.target, logger=log.logger, item=log.item, reward=log.reward)
    with pytest.raises(ValueError, match="reward must be finite, got nan in row 2"):
        Impressions(
            target=log.target, logger=log.logger, item=log.item, reward=np.where(np.arange(100) == 2, np.nan, 1)
        )
    with pytest.raises(ValueError, match="item must be an id in 1..4, got 0 in row 0"):
        Impressions(target=log.target, logger=log.logger, item=log.item * 0, reward=log.reward)
    with pytest.raises(ValueError, match="reward must be"):
        Impressions(target=log.target, logger=log.logger, item=log.item, reward=log.reward[:5])
    never = np.tile([0.0, 1.0, 0.0, 0.0], (100, 1))
    row = int(np.flatnonzero(log.item != 2)[0])
    with pytest.raises(ValueError, match=f"logger at the item shown must be positive, got 0.0 in row {row}"):
        Impressions(target=log.target, logger=never, item=log.item, reward=log.reward)

    def refuses(log: Impressions, q: DoubleArray) -> DoubleArray:
        raise SupportError(f"{len(q)} rows of {log.item.size}")

    with pytest.raises(SupportError, match="none of refuses"):
        importance_fitted({"refuses": refuses}, log, lambda rows: q[rows], seed=0)
