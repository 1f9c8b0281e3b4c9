"""Rollouts in users whose values are known, right and wrong ones, alone and corrected by the log."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from recgym.checks import check_estimator
from recgym.env.session import SessionConfig, Sessions, SessionState
from recgym.ope import ModelBased, ModelDoublyRobust, Question
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.fqe import Values
from recgym.ope.importance import per_decision
from recgym.ope.model_rollouts import following, rollout_values
from recgym.ope.weights import step_ratios, target_probabilities
from recgym.rollout import collect
from recgym.types import IntArray, Transitions
from tests.ope.simulated import CALM, CONTRARY, RIGHT, WRONG, Drawn, TabularUsers, calm_value, resume
from tests.ope.worlds import END, LOGGER, MOVE, NEAR, REWARD, START, TARGET, Tabular, log, q_values, step_value, value

SESSION = Question(replicates=200)
PI, MU = np.array(TARGET.table), np.array(LOGGER.table)


def cells(logged: Transitions) -> tuple[IntArray, IntArray]:
    """State and item of each step."""
    assert logged.state is not None
    return logged.state.argmax(1), logged.action[:, 0] - 1


@pytest.mark.parametrize(("discount", "horizon"), [(1.0, None), (0.7, None), (1.0, 1), (0.9, 2)])
def test_rollouts_are_the_values_of_dynamic_programming(discount: float, horizon: int | None) -> None:
    logged = log(60, seed=3)
    found = rollout_values(RIGHT, resume, logged, TARGET, discount=discount, rollouts=150, seed=1, horizon=horizon)
    exact = q_values(TARGET, discount)
    if horizon is not None:
        exact = REWARD
        for _ in range(horizon - 1):
            after = (PI * exact).sum(1)
            exact = REWARD + discount * (1 - END) * (MOVE * after[0] + (1 - MOVE) * after[1])
    state, item = cells(logged)
    for error in (found.q - exact[state, item], found.v - (PI * exact).sum(1)[state]):
        assert abs(error.mean()) < 4 * error.std() / len(error) ** 0.5
        assert error.std() < 0.25
    np.testing.assert_array_equal(found.v_next, following(found.v, logged.episode))
    assert np.all(found.v_next[logged.terminated] == 0)


def test_v_is_what_the_policy_would_show_in_the_log_even_where_the_model_is_somewhere_else() -> None:
    def astray(sessions: Sessions[Any], logged: Transitions, rows: IntArray, keys: Tensor) -> SessionState:
        assert logged.state is not None
        return resume(sessions, replace(logged, state=1 - logged.state), rows, keys)

    logged = log(80, seed=3)
    found = rollout_values(RIGHT, astray, logged, TARGET, discount=0.7, rollouts=100, seed=1)
    exact = q_values(TARGET, 0.7)
    state, item = cells(logged)
    for error in (found.q - exact[1 - state, item], found.v - (PI[state] * exact[1 - state]).sum(1)):
        assert abs(error.mean()) < 4 * error.std() / len(error) ** 0.5


def test_the_luck_does_not_depend_on_the_policy() -> None:
    logged = log(40, seed=1)
    first, again = (rollout_values(RIGHT, resume, logged, TARGET, discount=1, rollouts=2, seed=s) for s in (5, 5))
    assert np.array_equal(first.q, again.q)
    always = Tabular(((1.0, 0.0, 0.0), (1.0, 0.0, 0.0)))
    shown = cells(logged)[1] == 0
    own = rollout_values(RIGHT, resume, logged, always, discount=1, rollouts=2, seed=5)
    np.testing.assert_array_equal(own.q[shown], own.v[shown])  # the same item under the same luck


@pytest.mark.parametrize("noisy", [False, True])
def test_the_doubly_robust_formula_is_unbiased_over_all_sessions_of_two_steps(noisy: bool) -> None:
    """All 2 (3 x 2 x 2) (3 x 2) sessions with their chances: whatever Q is, the mean is the value, to rounding."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 2, 3))  # of each step: wrong
    mean = chance_of_all = 0.0
    for s0, a0, r0, s1, a1, r1 in itertools.product((0, 1), range(3), (0, 1), (0, 1), range(3), (0, 1)):
        moves = MOVE[s0, a0] if s1 == 0 else 1 - MOVE[s0, a0]
        chance = START[s0] * MU[s0, a0] * abs(1 - r0 - REWARD[s0, a0]) * moves
        chance *= MU[s1, a1] * abs(1 - r1 - REWARD[s1, a1])
        ratios = np.array([PI[s0, a0] / MU[s0, a0], PI[s1, a1] / MU[s1, a1]])
        v = np.array([PI[s0] @ q[0, s0], PI[s1] @ q[1, s1]])
        taken = np.array([q[0, s0, a0], q[1, s1, a1]])
        if noisy:  # V from one item of the policy's own, averaged over which one it was
            v = sum(
                PI[s0, b0] * PI[s1, b1] * np.array([q[0, s0, b0], q[1, s1, b1]])
                for b0, b1 in itertools.product(range(3), range(3))
            )
        values = Values(q=taken, v=v, v_next=np.array([v[1], 0.0]))
        mean += chance * doubly_robust(ratios, np.array([r0, r1], np.float64), values, np.array([0, 0]), 0.9)[0]
        chance_of_all += chance
    last = (PI * REWARD).sum(1)
    exact = START @ (PI * (REWARD + 0.9 * (MOVE * last[0] + (1 - MOVE) * last[1]))).sum(1)
    assert chance_of_all == pytest.approx(1, abs=1e-12)
    assert mean == pytest.approx(exact, abs=1e-12)


def test_the_correction_is_unbiased_with_wrong_users_and_varies_far_less_with_right_ones() -> None:
    logged = collect(CALM, Drawn(LOGGER.table), num_sessions=2000, seed=1, keep=("state",), propensities=True)
    ratios = step_ratios(target_probabilities(TARGET, logged), logged.propensity)
    reward = logged.reward.astype(np.float64)
    truth, terms = calm_value(TARGET), {}
    for name, sessions in (("right", CALM), ("wrong", CONTRARY)):
        values = rollout_values(sessions, resume, logged, TARGET, discount=1.0, rollouts=16, seed=2)
        terms[name] = doubly_robust(ratios, reward, values, logged.episode, 1.0)
        assert abs(terms[name].mean() - truth) < 3 * terms[name].std() / 2000**0.5
    plain = per_decision(ratios, reward, logged.episode, 1.0)
    assert terms["right"].var() < 0.03 * plain.var()
    assert terms["right"].var() < 0.03 * terms["wrong"].var()
    alone = ModelBased(sessions=CONTRARY, resume=resume, question=SESSION).estimate(logged, TARGET)
    assert abs(alone.value - truth) > 6 * terms["wrong"].std() / 2000**0.5  # what the correction had to mend


def test_right_users_are_called_right_and_wrong_ones_contradicted() -> None:
    logged = log(3000, seed=4)
    own = ModelBased(sessions=RIGHT, resume=resume, question=SESSION).estimate(logged, NEAR)
    assert own.low < value(NEAR) < own.high
    assert own.verdict == "supported"
    assert any("agrees" in words for words in own.warnings)
    wrong = ModelBased(sessions=WRONG, resume=resume, question=SESSION).estimate(logged, NEAR)
    assert wrong.verdict == "weak"
    assert any("contradicts" in words for words in wrong.warnings)
    narrow = log(400, policy=Tabular(((0.98, 0.01, 0.01), (0.98, 0.01, 0.01))))
    elsewhere = Tabular(((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)))
    assert (
        ModelBased(sessions=RIGHT, resume=resume, question=SESSION).estimate(narrow, elsewhere).verdict != "supported"
    )


@pytest.mark.parametrize(
    "question",
    [SESSION, Question(discount=0.7, replicates=200), Question(per="step", replicates=200)],
    ids=["session", "discounted", "step"],
)
def test_each_question_is_answered(question: Question) -> None:  # fmt: skip
    logged = log(1500, seed=6)
    truth = step_value(NEAR) if question.per == "step" else value(NEAR, question.discount)
    corrected = ModelDoublyRobust(sessions=WRONG, resume=resume, question=question, rollouts=2).estimate(logged, NEAR)
    assert abs(corrected.value - truth) < corrected.high - corrected.low  # four standard errors
    assert corrected.verdict == "supported"
    if question.per == "step":  # what comes later is not asked for, and would only add noise
        one = ModelDoublyRobust(sessions=WRONG, resume=resume, question=question, rollouts=2, horizon=1)
        assert one.estimate(logged, NEAR) == corrected
    alone = ModelBased(sessions=RIGHT, resume=resume, question=question, rollouts=4).estimate(logged, NEAR)
    assert abs(alone.value - truth) < 0.03 * truth
    assert alone.sample_size == (logged.num_steps if question.per == "step" else 1500)


def test_short_rollouts_correct_less_and_stay_unbiased() -> None:
    logged = collect(CALM, Drawn(LOGGER.table), num_sessions=1500, seed=2, keep=("state",), propensities=True)
    widths = []
    for horizon in (1, 3, None):
        estimator = ModelDoublyRobust(sessions=CALM, resume=resume, question=SESSION, rollouts=8, horizon=horizon)
        found = estimator.estimate(logged, TARGET)
        assert found.low < calm_value(TARGET) < found.high
        widths.append(found.high - found.low)
    assert widths[0] > 1.3 * widths[1] and widths[1] > 1.1 * widths[2]


def test_sessions_may_begin_anywhere() -> None:
    fresh = ModelBased(sessions=RIGHT, resume=None, question=SESSION, rollouts=6).estimate(log(1000), TARGET)
    assert abs(fresh.value - value(TARGET)) < 0.06
    assert fresh.sample_size == 1000
    with pytest.raises(ValueError, match="needs resume"):
        ModelBased(sessions=RIGHT, resume=None, question=Question(per="step"))


def test_the_contract_holds() -> None:
    for estimator in (
        ModelBased(sessions=RIGHT, resume=resume, question=SESSION),
        ModelBased(sessions=RIGHT, resume=None, question=SESSION),
        ModelDoublyRobust(sessions=RIGHT, resume=resume, question=SESSION),
    ):
        check_estimator(estimator, log(200), TARGET)


def test_what_does_not_fit_is_refused() -> None:
    logged = log(50)
    estimator = ModelDoublyRobust(sessions=RIGHT, resume=resume, question=SESSION)
    with pytest.raises(ValueError, match=r"reward of step 7 is 3 in the log"):
        odd = logged.reward.copy()
        odd[7] = 3
        estimator.estimate(replace(logged, reward=odd), TARGET)
    users = TabularUsers(REWARD, MOVE)
    with pytest.raises(ValueError, match="steps, the simulated ones end after 2"):
        ModelBased(sessions=Sessions(users, SessionConfig(max_steps=2)), resume=resume).estimate(logged, TARGET)
    with pytest.raises(ValueError, match="slates of 1 with 1 kinds"):
        ModelBased(sessions=Sessions(users, SessionConfig(slate_size=2)), resume=resume).estimate(logged, TARGET)
    with pytest.raises(ValueError, match="is for LearnedUsers, got TabularUsers"):
        ModelBased(sessions=RIGHT).estimate(logged, TARGET)
    with pytest.raises(ValueError, match="rollouts must be at least 1, got 0"):
        ModelBased(sessions=RIGHT, rollouts=0)
    with pytest.raises(ValueError, match="horizon must be at least 1 or None, got 0"):
        ModelDoublyRobust(sessions=RIGHT, horizon=0)
