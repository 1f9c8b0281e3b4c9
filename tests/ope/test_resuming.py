"""Learned users before logged steps are the users that met what was logged; the estimators run on the sample users."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from recgym.env.session import SessionConfig, Sessions
from recgym.ope import ModelBased, ModelDoublyRobust, Question
from recgym.ope.resuming import resume_learned
from recgym.random import session_keys, uniform
from recgym.rollout import collect
from recgym.trees import leaves, take
from recgym.types import Observation, Reads
from recgym.users.learned import LearnedUsers
from recgym.users.storage import load_users
from tests.users.small import small_users


class Leaning:
    """Shows item j in proportion to weights that lean to one end, more among items that were never met."""

    name: ClassVar[str] = "leaning"
    reads: ClassVar[Reads] = "history"

    def __init__(self, num_items: int, lean: float) -> None:
        self.weights = torch.exp(lean * torch.linspace(-1, 1, num_items))

    def scores(self, observation: Observation) -> torch.Tensor:
        return self.probabilities(observation).log()

    def probabilities(self, observation: Observation) -> torch.Tensor:
        assert observation.items is not None
        found = self.weights.expand(len(observation.items), -1).clone()
        met = torch.zeros(len(found), found.shape[1] + 1).scatter_(1, observation.items, 1.0)[:, 1:]
        found = found * (1 + (1 - met))
        if observation.mask is not None:
            found = found * observation.mask
        return found / found.sum(1, keepdim=True)

    def act(self, observation: Observation, keys: torch.Tensor) -> torch.Tensor:
        below = self.probabilities(observation).cumsum(1)[:, :-1]
        return (uniform(keys, 1) >= below).sum(1, keepdim=True) + 1


def states_met(sessions: Sessions[Any], logged: Any, seed: int) -> list[Any]:
    """The simulated states before each step of `collect`'s sessions, by serving what it logged again."""
    found = []
    first = np.searchsorted(logged.episode, np.arange(logged.num_episodes))
    for episode, begin in enumerate(first):
        state = sessions.reset(session_keys(seed, 1, first=episode))
        for step in range(int((logged.episode == episode).sum())):
            found.append(take(state, torch.tensor([0])))
            state, _ = sessions.step(state, torch.from_numpy(logged.action[begin + step : begin + step + 1]))
    return found


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize(("model", "exposures", "slate"), [("gru", True, 1), ("gru", False, 2), ("sasrec", True, 2)])
def test_replayed_sessions_are_where_they_were(model: str, exposures: bool, slate: int, encoder: bool) -> None:
    users = small_users(model, exposures=exposures)
    config = SessionConfig(slate_size=slate, max_steps=9, repeats="mask" if slate == 1 else "allow")
    sessions = Sessions(users, config, encoder=small_users("gru").backbone if encoder else None)
    policy = Leaning(12, 0.5) if slate == 1 else Pairs(12, 0.5)
    logged = collect(sessions, policy, num_sessions=12, seed=4, keep=("history",))
    assert logged.step.max() >= 7  # longer than the history of 6 items
    rows = np.random.default_rng(0).permutation(logged.num_steps)
    found = resume_learned(sessions, logged, rows, session_keys(1, len(rows)))
    expected = states_met(sessions, logged, 4)
    for place, row in enumerate(rows):
        mine, its = take(found, torch.tensor([place])), expected[row]
        parts = [
            (one.users.cache, one.users.recent, users.history(one.users), one.steps, one.shown) for one in (mine, its)
        ]
        assert leaves(parts[0])
        for ours, theirs in zip(leaves(parts[0]), leaves(parts[1]), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        if encoder:
            torch.testing.assert_close(mine.encoded.state, its.encoded.state, rtol=1e-4, atol=1e-5)
        same = users.opinions(mine.users, torch.tensor([[3, 8]])), users.opinions(its.users, torch.tensor([[3, 8]]))
        torch.testing.assert_close(*same, rtol=1e-4, atol=1e-5)


class Pairs(Leaning):
    def act(self, observation: Observation, keys: torch.Tensor) -> torch.Tensor:
        first = super().act(observation, keys)
        return torch.cat([first, first % 12 + 1], 1)


def test_nothing_of_the_step_itself_or_later_is_read() -> None:
    sessions: Sessions[Any] = Sessions(small_users(), SessionConfig(max_steps=6))
    logged = collect(sessions, Leaning(12, 0.0), num_sessions=20, seed=1, keep=("history",))
    rows = np.flatnonzero(logged.step == 2)
    later = logged.step >= 2
    items, feedback, action = logged.history.copy(), logged.feedback.copy(), logged.action.copy()  # type: ignore[union-attr]
    items[logged.step > 2], feedback[later], action[later] = 0, 0, 1
    hidden = replace(logged, history=items, feedback=feedback, action=action)
    keys = session_keys(3, len(rows))
    for ours, theirs in zip(
        leaves(resume_learned(sessions, logged, rows, keys)),
        leaves(resume_learned(sessions, hidden, rows, keys)),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_logs_that_cannot_be_resumed_are_refused() -> None:
    sessions: Sessions[Any] = Sessions(small_users(), SessionConfig(max_steps=6))
    logged = collect(sessions, Leaning(12, 0.0), num_sessions=5, seed=1, keep=("history",))
    rows, keys = np.arange(3), session_keys(0, 3)
    for odd, words in (
        (replace(logged, items=None), "has no history"),
        (replace(logged, visit=np.zeros(logged.num_steps, np.int64)), "life of several sessions"),
    ):
        with pytest.raises(ValueError, match=words):
            resume_learned(sessions, odd, rows, keys)
    masked: Sessions[Any] = Sessions(small_users(), SessionConfig(repeats="mask"))
    with pytest.raises(ValueError, match="the log has no mask"):
        resume_learned(masked, logged, rows, keys)


def test_clock_and_profile_are_those_of_a_start_of_the_same_user() -> None:
    sessions: Sessions[Any] = Sessions(small_users(), SessionConfig(max_steps=6))
    logged = collect(sessions, Leaning(12, 0.0), num_sessions=40, seed=1, keep=("history",))
    state = resume_learned(sessions, logged, np.arange(logged.num_steps), session_keys(2, logged.num_steps)).users
    user = torch.from_numpy(logged.user[logged.episode])
    assert torch.equal(state.user, user)
    assert isinstance(sessions.users, LearnedUsers)
    assert torch.equal(sessions.users.starts.user[state.start], user)
    assert len(torch.unique(state.start[user == 0])) > 1
    strangers = replace(logged, user=logged.user + 1000)
    assert len(torch.unique(resume_learned(sessions, strangers, np.arange(20), session_keys(2, 20)).users.start)) > 3


def test_the_sample_users_give_the_value_that_they_were_logged_with() -> None:
    users = load_users("sample")
    assert isinstance(users, LearnedUsers)
    sessions = Sessions(users, SessionConfig(max_steps=12))
    logger, target = Leaning(users.num_items, 0.0), Leaning(users.num_items, 0.6)
    logged = collect(sessions, logger, num_sessions=80, seed=7, keep=("history",), propensities=True)
    truth = collect(sessions, target, num_sessions=1500, seed=8).returns
    question = Question(replicates=200)
    alone = ModelBased(sessions=sessions, question=question, rollouts=8).estimate(logged, target)
    assert abs(alone.value - truth.mean()) < 4 * truth.std() / 80**0.5
    anywhere = ModelBased(sessions=sessions, question=question, rollouts=8, resume=None).estimate(logged, target)
    assert abs(anywhere.value - truth.mean()) < 4 * truth.std() / 640**0.5
    corrected = ModelDoublyRobust(sessions=sessions, question=question, rollouts=1).estimate(logged, target)
    assert corrected.low < truth.mean() < corrected.high
