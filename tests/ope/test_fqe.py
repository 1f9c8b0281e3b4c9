"""Fitted Q against dynamic programming, where nothing is left to chance, and what an ensemble adds to its interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recgym.ope import FitConfig, FittedQ, Question
from recgym.ope.diagnostics import MODEL_ERROR
from recgym.ope.fqe import LoggedTarget, fit, read
from recgym.ope.targets import PolicyTarget
from recgym.ope.views import resampled
from recgym.types import Transitions
from tests.ope.worlds import END, LOGGER, MOVE, REWARD, TARGET, Tabular, log, q_values

FIT = FitConfig(width=16, rank=4, rounds=30, updates=40, batch_size=512, learning_rate=1e-2, weight_decay=0.0)
QUICK = FitConfig(width=8, rank=2, rounds=6, updates=20, batch_size=128, learning_rate=1e-2)
DETERMINISTIC = Tabular(((0.0, 0.0, 1.0), (1.0, 0.0, 0.0)))


def whole_world() -> Transitions:
    """Each state, item and what follows, 100 rows each in exactly their shares: rewards are their means."""
    rows = []
    for state in (0, 1):
        for item in range(3):
            stays = round(100 * (1 - END) * MOVE[state, item])
            goes = round(100 * (1 - END)) - stays
            rows += [(state, item, 0, False)] * stays + [(state, item, 1, False)] * goes
            rows += [(state, item, 0, True)] * round(100 * END)
    table = np.array(rows, np.int64)  # (600, 4)
    count = len(table)
    reward = REWARD[table[:, 0], table[:, 1]].astype(np.float32)
    one_hot = np.eye(2, dtype=np.float32)
    nothing = np.zeros((count, 1), np.float32)
    return Transitions(
        context=nothing, state=one_hot[table[:, 0]], items=None, history=None, mask=None, action=table[:, 1:2] + 1,
        feedback=reward[:, None, None], reward=reward, terminated=table[:, 3] > 0, truncated=table[:, 3] == 0,
        propensity=np.full(count, 1 / 3), episode=np.arange(count), user=np.arange(count), final_context=nothing,
        final_state=one_hot[table[:, 2]],
    )  # fmt: skip


@pytest.mark.parametrize("discount", [0.7, 1.0])
@pytest.mark.parametrize("policy", [TARGET, DETERMINISTIC], ids=["stochastic", "deterministic"])
def test_fitted_q_is_the_q_of_dynamic_programming(policy: Tabular, discount: float) -> None:
    logged = whole_world()
    assert logged.num_steps == 600
    target = LoggedTarget(logged, PolicyTarget(policy=policy, logged=logged))
    found = read(fit(target, FIT, discount=discount, seed=0), target)
    exact, other = q_values(policy, discount), q_values(LOGGER, discount)  # of up to 3
    close = 0.03 * exact.max()
    assert np.abs(exact - other).max() > 3 * close
    assert logged.state is not None
    state, item = logged.state.argmax(1), logged.action[:, 0] - 1
    np.testing.assert_allclose(found.q, exact[state, item], atol=close)
    np.testing.assert_allclose(found.v, (np.array(policy.table) * exact).sum(1)[state], atol=close)


def test_members_are_fitted_to_whole_users_drawn_anew() -> None:
    logged = log(200, seed=1, users=50)
    rows = resampled(logged, seed=3)
    times = np.bincount(rows, minlength=logged.num_steps)
    user = logged.user[logged.episode]
    for one in range(50):
        assert len(set(times[user == one])) == 1  # all of a user's steps as often as each other
    drawn = [times[user == one][0] for one in range(50)]
    assert sum(drawn) == 50 and 0.25 < np.mean(np.array(drawn) == 0) < 0.5
    assert not np.array_equal(rows, resampled(logged, seed=4))
    every = np.arange(logged.num_steps)
    target = LoggedTarget(logged, PolicyTarget(policy=TARGET, logged=logged))
    ours, theirs = (fit(target, QUICK, discount=1.0, seed=0, rows=rows) for rows in (None, every))
    assert all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_only_the_rows_given_are_learned_from() -> None:
    logged = log(300, seed=2)
    changed = replace(logged, reward=np.where(logged.episode < 150, logged.reward, 9).astype(np.float32))
    rows = np.flatnonzero(logged.episode < 150)
    target = LoggedTarget(changed, PolicyTarget(policy=TARGET, logged=changed))
    q = fit(target, QUICK, discount=0.0, seed=0, rows=rows)
    assert read(q, target).q.mean() < 1  # the rewards of 9 were not seen


@pytest.mark.parametrize("usual", [0.0, 0.3, 1e6])
def test_a_feature_that_never_varied_where_it_was_learned_says_nothing_elsewhere(usual: float) -> None:
    logged = log(200, seed=5)
    assert logged.state is not None and logged.final_state is not None
    rows = np.flatnonzero(logged.episode < 100)

    def with_feature(values: np.ndarray) -> LoggedTarget:
        state, final = logged.state, logged.final_state
        assert state is not None and final is not None
        more = replace(
            logged, state=np.hstack([state, values[:, None]]).astype(np.float32),
            final_state=np.hstack([final, np.full((len(final), 1), usual)]).astype(np.float32),
        )  # fmt: skip
        return LoggedTarget(more, PolicyTarget(policy=TARGET, logged=logged))

    still = np.full(logged.num_steps, usual)
    q = fit(with_feature(still), QUICK, discount=0.0, seed=0, rows=rows)
    moved = np.where(logged.episode < 100, usual, usual + 1)
    there, here = (read(q, with_feature(values)).q for values in (moved, still))
    np.testing.assert_array_equal(there, here)


def test_what_lies_far_from_all_that_was_seen_is_read_as_near() -> None:
    logged = log(200, seed=5)
    seldom = np.zeros(logged.num_steps)
    seldom[0] = 1.0  # 1 row of many: standardised, another such row lies tens of deviations away

    def with_feature(values: np.ndarray) -> LoggedTarget:
        assert logged.state is not None
        more = replace(logged, state=np.hstack([logged.state, values[:, None]]).astype(np.float32),
                       final_state=np.zeros((logged.num_episodes, logged.state.shape[1] + 1), np.float32))  # fmt: skip
        return LoggedTarget(more, PolicyTarget(policy=TARGET, logged=logged))

    q = fit(with_feature(seldom), QUICK, discount=0.0, seed=0)
    far, further = (read(q, with_feature(np.full(logged.num_steps, value))).q for value in (1.0, 1e6))
    np.testing.assert_allclose(far, further, atol=1e-6)
    assert np.abs(further).max() < 20


def test_an_ensemble_is_the_mean_of_its_members_with_a_wider_interval() -> None:
    logged = log(400, seed=7)
    asked = Question(replicates=200)
    alone, several = (FittedQ(question=asked, fitting=QUICK, members=m).estimate(logged, TARGET) for m in (1, 4))
    target = LoggedTarget(logged, PolicyTarget(policy=TARGET, logged=logged))
    means = []
    for number in range(4):
        rows = resampled(logged, seed=number)
        values = read(fit(target, QUICK, discount=1.0, seed=number, rows=rows), target)
        means.append(values.v[np.flatnonzero(logged.step == 0)].mean())
    assert several.value == pytest.approx(np.mean(means))
    assert several.high - several.low > 3 * (alone.high - alone.low)
    assert several.high - several.value > 3.18 * np.std(means, ddof=1)  # t with 3 degrees of freedom at most
    assert several.verdict == "weak"
    assert "over 4 fits to resampled users" in several.warnings[0]
    assert alone.warnings[0] == MODEL_ERROR and MODEL_ERROR not in several.warnings
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        FittedQ(members=0)


def test_one_member_that_diverges_is_enough_to_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def starts(_: FittedQ, target: LoggedTarget) -> object:
        return np.stack([np.full(target.logged.num_episodes, number) for number in (2.0, np.nan, 2.1)])

    monkeypatch.setattr(FittedQ, "_starts", starts)
    found = FittedQ(members=3).estimate(log(100), TARGET)
    assert found.verdict == "cannot say" and "diverged" in found.warnings[0]
