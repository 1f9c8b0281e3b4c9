"""Collected and logged transitions: whole sessions in order, the same luck for every policy, the log as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.env.session import SessionConfig, Sessions
from recgym.evaluation import exposure, latency, rank_policy, ranking_metrics, session_outcomes
from recgym.logs.pivot import build_sequences
from recgym.logs.readers.native import sample_log
from recgym.random import uniform
from recgym.rollout import collect, logged_transitions, reward_weights
from recgym.types import Observation, Reads
from recgym.users.storage import load_users
from simulators import make_world
from tests.users.small import small_users


@dataclass(frozen=True)
class Drawn:
    """Draws any item from its keys; the state must not matter."""

    num_items: int = 12
    reads: Reads = "state"
    name: ClassVar[str] = "drawn"

    def scores(self, observation: Observation) -> Tensor:
        return torch.zeros(len(observation.context), self.num_items)

    def probabilities(self, observation: Observation) -> Tensor:
        return torch.full((len(observation.context), self.num_items), 1 / self.num_items)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        return (uniform(keys, 1) * self.num_items).long() + 1


@dataclass(frozen=True)
class Always(Drawn):
    """Shows one item."""

    item: int = 3

    def scores(self, observation: Observation) -> Tensor:
        return torch.nn.functional.one_hot(
            torch.full((len(observation.context),), self.item - 1), self.num_items
        ).float()

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        return torch.full((len(keys), 1), self.item)


def test_batches_change_nothing_and_episodes_are_whole() -> None:
    sessions = Sessions(small_users(), SessionConfig(max_steps=6))
    whole = collect(sessions, Drawn(), num_sessions=50, seed=3, keep=("state", "history"), propensities=True)
    parts = collect(sessions, Drawn(), num_sessions=50, seed=3, keep=("state", "history"), batch_size=7)
    for name in ("reward", "action", "episode", "terminated", "state", "items", "final_state", "final_context", "user"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), atol=1e-5, err_msg=name)
    assert whole.num_episodes == 50
    assert (np.diff(whole.episode) >= 0).all()
    last = np.append(np.diff(whole.episode) == 1, True)
    assert ((whole.terminated | whole.truncated) == last).all()
    np.testing.assert_allclose(whole.context[:, 0] * 100, whole.step)
    np.testing.assert_allclose(whole.final_context[:, 0] * 100, np.bincount(whole.episode))
    np.testing.assert_allclose(whole.propensity, 1 / 12)
    assert np.isnan(parts.propensity).all()


def test_the_next_state_of_a_transition_belongs_to_the_same_session() -> None:
    users = small_users()
    sessions = Sessions(users, SessionConfig(max_steps=6))
    found = collect(sessions, Drawn(), num_sessions=20, seed=3, keep=("state", "history"))
    assert found.state is not None and found.items is not None and found.history is not None
    with torch.no_grad():
        read = users.backbone.prefill(torch.from_numpy(found.items), torch.from_numpy(found.history)).state
    first = found.step == 0
    np.testing.assert_allclose(found.state[first], read[torch.from_numpy(first)], atol=1e-5)
    inner = np.flatnonzero(~np.append(np.diff(found.episode) == 1, True))
    np.testing.assert_array_equal(found.items[inner + 1, -1], found.action[inner, 0])


def test_policies_meet_the_same_users_with_the_same_luck() -> None:
    sessions = Sessions(small_users(), SessionConfig(max_steps=6))
    first = collect(sessions, Always(item=3), num_sessions=200, seed=3)
    again = collect(sessions, Always(item=3, reads="history"), num_sessions=200, seed=3)
    np.testing.assert_array_equal(first.reward, again.reward)
    other = collect(sessions, Always(item=5), num_sessions=200, seed=3)
    np.testing.assert_array_equal(first.user, other.user)
    one, two = (np.bincount(x.episode, x.reward) for x in (first, other))
    unpaired = collect(sessions, Always(item=5), num_sessions=200, seed=4)
    three = np.bincount(unpaired.episode, unpaired.reward)
    assert np.var(one - two) < np.var(one - three)


def test_outcomes_by_hand() -> None:
    sessions = Sessions(small_users(), SessionConfig(max_steps=4))
    found = collect(sessions, Drawn(), num_sessions=30, seed=0)
    outcome = session_outcomes(found, sessions.users.kinds, discount=0.5)
    for episode in range(30):
        rows = found.episode == episode
        reward = found.reward[rows]
        assert outcome.reward[episode] == pytest.approx(reward.sum())
        assert outcome.discounted[episode] == pytest.approx((reward * 0.5 ** np.arange(len(reward))).sum())
        assert outcome.depth[episode] == len(reward)
        assert outcome.left[episode] == found.terminated[rows].any()
        assert outcome.feedback["dwell"][episode] == pytest.approx(found.feedback[rows, 0, 1].sum(), rel=1e-5)


def test_exposure_of_one_item_and_of_all() -> None:
    sessions = Sessions(small_users(), SessionConfig(max_steps=6))
    categories = np.arange(12) % 3
    popularity = np.arange(12)
    one = exposure(
        collect(sessions, Always(), num_sessions=50, seed=0), popularity, categories=categories, vectors=None
    )
    assert one.coverage == pytest.approx(1 / 12)
    assert one.gini == pytest.approx(11 / 12)
    assert one.diversity == 0
    assert one.popularity == pytest.approx(2.5 / 12)
    every = exposure(
        collect(sessions, Drawn(), num_sessions=500, seed=0), popularity, categories=categories, vectors=None
    )
    assert every.coverage == 1
    assert every.gini < 0.2
    assert every.diversity == pytest.approx(2 / 3, abs=0.05)


def test_logged_transitions_are_the_log() -> None:
    sequences, users = build_sequences(sample_log()), load_users("sample")
    chosen = np.array([5, 6, 40])
    found = logged_transitions(sequences, chosen, users.backbone, {"click": 1.0, "dwell": 0.01}, history=True)
    rows = np.concatenate([np.arange(*sequences.session_bounds[s : s + 2]) for s in chosen])
    np.testing.assert_array_equal(found.action[:, 0], sequences.item[rows])
    np.testing.assert_array_equal(found.propensity, sequences.propensity[rows])
    expected = sequences.feedback[rows, 0] + 0.01 * sequences.feedback[rows, 1]
    np.testing.assert_allclose(found.reward, expected, rtol=1e-5)
    assert found.terminated.sum() == 3
    assert found.state is not None and found.items is not None and found.history is not None
    with torch.no_grad():
        state = users.backbone.prefill(torch.from_numpy(found.items), torch.from_numpy(found.history)).state
    first = found.step == 0
    np.testing.assert_allclose(found.state[first], state[torch.from_numpy(first)], atol=1e-5)
    assert found.final_state is not None and found.final_state.shape == (3, users.backbone.width)


def test_a_policy_is_ranked_by_its_scores() -> None:
    sequences, users = build_sequences(sample_log()), load_users("sample")
    steps = np.flatnonzero(sequences.targets)[:200]
    ranks = rank_policy(Always(num_items=500, item=int(sequences.item[steps[0]])), users.backbone, sequences, steps)
    assert ranks[0] == 1
    assert (ranks[sequences.item[steps] != sequences.item[steps[0]]] > 1).all()
    found = ranking_metrics(ranks)
    assert set(found) == {"hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20"}


def test_rewards_of_unknown_kinds_are_refused_and_latency_is_positive() -> None:
    users = small_users()
    with pytest.raises(ValueError, match="weight for 'buy', but the feedback is click, dwell, like"):
        reward_weights(users.kinds, {"buy": 1.0})
    found = latency(Sessions(users), Drawn(), decisions=10)
    assert 0 < found["p50"] <= found["p99"]


def test_users_that_nobody_knows_are_numbered_across_batches() -> None:
    """Intervals resample users: the first sessions of two batches are not one user's."""
    sessions = Sessions(make_world("interest-evolution"), SessionConfig(max_steps=2))
    found = collect(sessions, Drawn(num_items=10), num_sessions=10, seed=0, batch_size=4)
    assert found.user.tolist() == list(range(10))
