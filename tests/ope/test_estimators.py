"""Every estimator against a value known exactly, and against what it must refuse to say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from recgym.checks import check_estimator
from recgym.ope import FitConfig, FittedQ, ModelConfig, OffPolicy, Question, single_steps
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.fqe import Values
from recgym.ope.importance import per_decision, trajectory_wise
from recgym.ope.views import first_steps
from recgym.ope.weights import cumulative_weights, step_ratios, target_probabilities
from recgym.types import Estimator
from tests.ope.worlds import END, LOGGER, MOVE, TARGET, Tabular, log, q_values, step_value, value

FIT = FitConfig(width=16, rank=4, rounds=25, updates=40, batch_size=256, learning_rate=5e-3)
NAMES = {
    "session": {"ips": "per-decision IS", "trajectory": "trajectory IS", "snips": "weighted per-decision IS",
                "snips-trajectory": "weighted trajectory IS", "dr": "DR"},
    "step": {"ips": "IPS", "trajectory": "IPS", "snips": "SNIPS", "snips-trajectory": "SNIPS", "dr": "DR"},
}  # fmt: skip


def named(kind: str, question: Question) -> OffPolicy:
    """An estimator by what it is called in either question."""
    return OffPolicy(estimator=NAMES[question.per][kind], question=question, models=ModelConfig(fitting=FIT))


SESSION, STEP = Question(replicates=200), Question(per="step", replicates=200)
DISCOUNTED = Question(discount=0.7, replicates=200)


def test_the_world_knows_its_own_values() -> None:
    found = log(20_000, policy=TARGET, seed=1)
    returns = np.bincount(found.episode, found.reward)
    assert abs(returns.mean() - value(TARGET)) < 4 * returns.std() / 20_000**0.5
    discounted = np.bincount(found.episode, found.reward * 0.7**found.step)
    assert abs(discounted.mean() - value(TARGET, 0.7)) < 4 * discounted.std() / 20_000**0.5
    assert value(TARGET) != pytest.approx(value(LOGGER), abs=0.2)


@pytest.mark.parametrize("question", [SESSION, DISCOUNTED, STEP], ids=["session", "discounted", "step"])
@pytest.mark.parametrize("kind", ["ips", "trajectory", "snips", "snips-trajectory", "dr", "fqe"])
def test_the_interval_holds_the_truth(kind: str, question: Question) -> None:
    fitted = FittedQ(question=question, fitting=FIT)
    estimator: Estimator = fitted if kind == "fqe" else named(kind, question)
    truth = step_value(TARGET) if question.per == "step" else value(TARGET, question.discount)
    found = estimator.estimate(log(4000, seed=5), TARGET)
    spread = max((found.high - found.low) / 4, 0.02 * truth)  # the fit's own error is not in FQE's interval
    assert abs(found.value - truth) < 4 * spread, (found.value, truth)
    assert found.sample_size == (4000 if question.per == "session" else log(4000, seed=5).num_steps)
    assert found.low < found.value < found.high
    if question.per == "step" or kind == "fqe":
        assert found.verdict == ("weak" if kind == "fqe" else "supported")
    else:  # 0.7 E[rho^2] > 1, so the variance of a session's weight is infinite, and no log can show it
        assert found.verdict != "supported"


@pytest.mark.parametrize(
    "estimator", [named("ips", SESSION), named("snips", STEP), named("dr", STEP),
                  FittedQ(question=STEP, fitting=FIT)],
)  # fmt: skip
def test_the_contract_holds(estimator: Estimator) -> None:
    check_estimator(estimator, log(300), TARGET)


def test_importance_sampling_is_unbiased_over_small_logs() -> None:
    estimates = []
    for seed in range(400):
        small = log(25, seed=seed)
        ratios = step_ratios(target_probabilities(TARGET, small), small.propensity)
        reward = small.reward.astype(np.float64)
        estimates.append(
            [returns(ratios, reward, small.episode, 1.0).mean() for returns in (per_decision, trajectory_wise)]
        )
    both = np.array(estimates)
    error = np.abs(both.mean(0) - value(TARGET))
    assert (error < 4 * both.std(0) / 400**0.5).all()
    assert both[:, 0].std() < both[:, 1].std()


def values_of(q: np.ndarray[tuple[int, ...], np.dtype[np.float64]], found: object) -> Values:
    """Q and V along a log, exactly, with the next state's expectation over its chance."""
    logged = found
    state = logged.state.argmax(1)  # type: ignore[attr-defined]
    item = logged.action[:, 0] - 1  # type: ignore[attr-defined]
    v = (np.array(TARGET.table) * q).sum(1)
    after = np.append(v[state][1:], 0.0) * ~logged.terminated  # type: ignore[attr-defined]
    return Values(q=q[state, item], v=v[state], v_next=after)


def test_doubly_robust_is_right_with_a_wrong_q_and_better_with_the_right_one() -> None:
    big = log(6000, seed=9)
    ratios = step_ratios(target_probabilities(TARGET, big), big.propensity)
    reward = big.reward.astype(np.float64)
    exact = q_values(TARGET, 1.0)
    right = doubly_robust(ratios, reward, values_of(exact, big), big.episode, 1.0)
    wrong = doubly_robust(ratios, reward, values_of(np.full((2, 3), 3.0), big), big.episode, 1.0)
    for estimate in (right, wrong):
        assert abs(estimate.mean() - value(TARGET)) < 4 * estimate.std() / 6000**0.5
    assert right.std() < per_decision(ratios, reward, big.episode, 1.0).std()


def test_doubly_robust_has_no_variance_where_nothing_is_random_and_q_is_exact() -> None:
    big = log(500, seed=2)
    state, item = big.state, big.action[:, 0] - 1
    assert state is not None
    now = state.argmax(1)
    reward = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[now, item]
    bandit = single_steps(replace(big, reward=reward.astype(np.float32)))
    q = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    v = (np.array(TARGET.table) * q).sum(1)
    exact = Values(q=q[now, item], v=v[now], v_next=np.zeros(len(now)))
    ratios = step_ratios(target_probabilities(TARGET, bandit), bandit.propensity)
    np.testing.assert_allclose(doubly_robust(ratios, reward, exact, bandit.episode, 1.0), v[now], atol=1e-6)


def test_without_propensities_weights_are_refused_and_fitted_q_warns() -> None:
    blind = replace(log(300), propensity=np.full(log(300).num_steps, np.nan))
    for estimator in (named("ips", SESSION), named("snips", SESSION), named("dr", SESSION)):
        found = estimator.estimate(blind, TARGET)
        assert found.verdict == "cannot say"
        assert math.isnan(found.value)
        assert "have no logged propensity" in found.warnings[0]
    fitted = FittedQ(question=SESSION, fitting=FIT).estimate(blind, TARGET)
    assert fitted.verdict == "weak"
    assert math.isfinite(fitted.value)
    assert any("support cannot be checked" in words for words in fitted.warnings)


def test_without_overlap_the_logs_cannot_say() -> None:
    narrow = log(400, policy=Tabular(((0.98, 0.01, 0.01), (0.98, 0.01, 0.01))))
    elsewhere = Tabular(((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)))
    found = named("ips", SESSION).estimate(narrow, elsewhere)
    assert found.verdict == "cannot say"
    assert found.effective_sample_size < 20
    assert found.warnings


def test_wrong_propensities_are_noticed() -> None:
    real = log(3000)
    halved = replace(real, propensity=real.propensity / 2)
    found = named("ips", STEP).estimate(halved, TARGET)
    assert found.verdict == "cannot say"
    assert any("should be 1" in words for words in found.warnings)
    with pytest.raises(ValueError, match=r"propensity must lie in \(0, 1\]"):
        named("ips", STEP).estimate(replace(real, propensity=real.propensity * 0), TARGET)


def test_sessions_cut_by_the_log_are_mentioned() -> None:
    real = log(500)
    last = np.append(np.diff(real.episode) == 1, True)
    cut = replace(real, terminated=real.terminated & ~last, truncated=last)
    assert any(
        "cut while the user was still there" in words for words in named("ips", SESSION).estimate(cut, TARGET).warnings
    )


def test_the_effective_sample_size_by_hand() -> None:
    real = log(800)
    found = named("ips", SESSION).estimate(real, LOGGER)
    assert found.effective_sample_size == pytest.approx(800, rel=1e-5)
    assert found.value == pytest.approx(np.bincount(real.episode, real.reward).mean(), rel=1e-5)
    ratios = np.array([2.0, 0.5, 3.0, 1.0])
    np.testing.assert_allclose(cumulative_weights(ratios, np.array([0, 0, 1, 1])), [2, 1, 3, 3])
    assert first_steps(np.array([0, 0, 1, 1])).tolist() == [0, 2]
    with pytest.raises(ValueError, match="numbered 0, 1, 2"):
        first_steps(np.array([0, 2]))


def test_sessions_of_one_user_widen_the_interval() -> None:
    alone, shared = log(1000, seed=4), log(1000, seed=4, users=40)
    first, second = (named("snips", SESSION).estimate(one, TARGET) for one in (alone, shared))
    assert first.value == pytest.approx(second.value)
    assert first.low != second.low
    assert any("too few" in words for words in named("snips", SESSION).estimate(log(200, users=10), TARGET).warnings)


@pytest.mark.parametrize(("field", "bad"), [("per", "year"), ("discount", 1.5), ("level", 1.0), ("replicates", 1)])
def test_questions_without_an_answer_are_refused(field: str, bad: object) -> None:
    with pytest.raises(ValueError, match=f"{field} must"):
        Question(**{field: bad})  # type: ignore[arg-type]
    assert END < 1 and MOVE.shape == (2, 3)


def test_real_uniform_logging_gives_the_mean_click_exactly(real_data: object, tmp_path: object) -> None:
    import shutil
    from pathlib import Path

    from recgym.logs.pivot import build_sequences
    from recgym.logs.readers import read_log

    assert isinstance(real_data, Path) and isinstance(tmp_path, Path)
    shutil.copy(real_data / "obd_men" / "random_men.csv.gz", tmp_path / "men.csv.gz")
    found = build_sequences(read_log(tmp_path, "open-bandit"))
    ratios = step_ratios(np.full(found.num_steps, 1 / 34), found.propensity)
    returns = per_decision(ratios, found.feedback[:, 0].astype(np.float64), np.arange(found.num_steps), 1.0)
    assert returns.mean() == pytest.approx(46 / 10_000, rel=1e-6)
