"""Agents find what is best where that is known, and beat chance on the sample users over five seeds (minutes: slow)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import AGENTS, Task, make_agent
from agents.baselines import BackboneGreedy, Random
from recgym.backbones.backbone import BackboneConfig, make_backbone
from recgym.env.session import SessionConfig, Sessions
from recgym.logs.pivot import build_sequences
from recgym.logs.readers.native import sample_log
from recgym.logs.splits import TRAIN, sessions_of, temporal
from recgym.ope import seeds_and_users
from recgym.random import fold, uniform
from recgym.rollout import collect, logged_transitions
from recgym.types import DoubleArray, FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History
from recgym.users.storage import load_users

pytestmark = [
    pytest.mark.slow,
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
CLICK = torch.tensor([0.95, 0.5, 0.1, 0.1, 0.1])
LEAVE = torch.tensor([0.9, 0.05, 0.2, 0.2, 0.2])


class BaitState(NamedTuple):
    keys: Tensor
    depth: Tensor
    history: History


class Bait:
    """Item 1 is clicked nearly always and ends the session; item 2 is clicked half of the time and keeps it alive."""

    num_items = 5
    kinds = (FeedbackKind(name="click"),)

    def reset(self, keys: Tensor) -> BaitState:
        return BaitState(keys, torch.zeros_like(keys), ring.empty(len(keys), 4, 1))

    def step(self, state: BaitState, slates: Tensor) -> tuple[BaitState, Response]:
        item = slates[:, 0] - 1
        draws = uniform(fold(state.keys, state.depth + 1), 2)
        click = (draws[:, 0] < CLICK[item]).float()
        history = ring.push(state.history, slates[:, 0], click.unsqueeze(1))
        response = Response(click.view(-1, 1, 1), draws[:, 1] < LEAVE[item], torch.full_like(click, torch.nan))
        return BaitState(state.keys, state.depth + 1, history), response

    def visible(self, state: BaitState) -> Visible:
        return Visible(state.depth.unsqueeze(1).float() / 10)

    def history(self, state: BaitState) -> tuple[Tensor, Tensor]:
        return ring.ordered(state.history)

    def truth(self, state: BaitState) -> dict[str, Tensor]:
        return {"depth": state.depth}


@pytest.mark.parametrize(
    "name", ["dqn", "ppo", "a2c", "reinforce", "a3c", "trpo", "maskable-ppo", "slateq", "topk", "wolpertinger"]
)
def test_planning_agents_leave_the_bait_alone(name: str, tmp_path: Path) -> None:
    backbone = make_backbone(BackboneConfig(width=8, layers=1, length=4), 5, np.ones(1, np.float32))
    sessions = Sessions(Bait(), SessionConfig(max_steps=20), encoder=backbone)
    budget: dict[str, Any] = {"total_steps": 60_000}
    if name == "dqn":
        budget = {"total_steps": 20_000, "learning_rate": 1e-3}
    if name == "slateq":
        budget = {
            "total_steps": 20_000, "learning_starts": 2_000, "target_update_interval": 2_000, "discount": 0.95,
            "gradient_steps": 8, "batch_size": 256,
        }  # fmt: skip
    if name == "wolpertinger":
        budget = {"total_steps": 16_000, "nearest": 3, "actor_learning_rate": 1e-3}
    policy = make_agent(name, **budget).train(Task(sessions=sessions, backbone=backbone), seed=0, folder=tmp_path)
    found = collect(sessions, policy, num_sessions=500, seed=9)
    best = 0.5 * (1 - 0.95**20) / 0.05  # item 2 throughout
    myopic = 0.95 / (1 - 0.1)
    assert found.reward.sum() / 500 > 0.85 * best > 3 * myopic


def rewards(sessions: Sessions[Any], policy: Any) -> DoubleArray:
    found = collect(sessions, policy, num_sessions=1000, seed=1000)
    return np.bincount(found.episode, found.reward).astype(np.float64)


@pytest.mark.parametrize("name", sorted(set(AGENTS) - {"epsilon-greedy"}))  # one item for all, which bores
def test_every_agent_beats_chance_over_five_seeds(name: str, tmp_path: Path) -> None:
    users = load_users("sample")
    sessions = Sessions(users, SessionConfig())
    sequences = build_sequences(sample_log())
    training = sessions_of(sequences, temporal(sequences), TRAIN)
    logged = logged_transitions(sequences, training, users.backbone, sessions.weights, history=True)
    task = Task(sessions=sessions, backbone=users.backbone, logged=logged)
    learned = np.stack(
        [rewards(sessions, make_agent(name).train(task, seed=seed, folder=tmp_path / str(seed))) for seed in range(5)]
    )
    who = collect(sessions, Random(num_items=500), num_sessions=1000, seed=1000).user
    chance = seeds_and_users(learned - rewards(sessions, Random(num_items=500)), who)
    assert chance.low > 0, chance
    if name in ("ppo", "a2c"):
        ranker = seeds_and_users(learned - rewards(sessions, BackboneGreedy.of(users.backbone)), who)
        assert ranker.low > 0, ranker
