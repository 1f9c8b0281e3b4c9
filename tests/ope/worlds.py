"""A tiny world whose values are known exactly: two states, three items, a session that ends by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recgym.types import DoubleArray, Observation, Reads, Transitions

REWARD = np.array([[0.1, 0.5, 0.9], [0.8, 0.2, 0.4]])
"""Chance of reward 1 by state and item."""
MOVE = np.array([[0.9, 0.5, 0.1], [0.2, 0.5, 0.8]])
"""Chance that the next state is 0."""
END = 0.3
"""Chance that the session ends after a step."""
START = np.array([0.6, 0.4])


@dataclass(frozen=True)
class Tabular:
    """A policy that is a table of probabilities, (2, 3)."""

    table: tuple[tuple[float, ...], ...]
    name: ClassVar[str] = "tabular"
    reads: ClassVar[Reads] = "state"

    def scores(self, observation: Observation) -> Tensor:
        return self.probabilities(observation).log()

    def probabilities(self, observation: Observation) -> Tensor:
        assert observation.state is not None
        return observation.state @ torch.tensor(self.table)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        return self.probabilities(observation).argmax(1, keepdim=True) + 1


LOGGER = Tabular(((0.5, 0.3, 0.2), (0.2, 0.4, 0.4)))
TARGET = Tabular(((0.2, 0.3, 0.5), (0.6, 0.2, 0.2)))
NEAR = Tabular(((0.45, 0.3, 0.25), (0.25, 0.38, 0.37)))
"""So near the logger that even sessions without a last step have weights of finite variance."""


def q_values(policy: Tabular, discount: float) -> DoubleArray:
    """Q(s, a) of `policy`, (2, 3), by solving Bellman's equation."""
    pi = np.array(policy.table)
    following = np.stack([MOVE, 1 - MOVE], 2) * (1 - END)  # (2, 3, 2)
    transition = (pi[:, :, None] * following).sum(1)
    value = np.linalg.solve(np.eye(2) - discount * transition, (pi * REWARD).sum(1))
    return REWARD + discount * following @ value


def value(policy: Tabular, discount: float = 1.0) -> float:
    """Expected discounted reward of a session."""
    return float(START @ (np.array(policy.table) * q_values(policy, discount)).sum(1))


def step_value(policy: Tabular, logger: Tabular = LOGGER) -> float:
    """Expected reward of one impression in the contexts that `logger` meets."""
    pi = np.array(logger.table)
    following = (pi[:, :, None] * np.stack([MOVE, 1 - MOVE], 2) * (1 - END)).sum(1)
    visits = np.linalg.solve(np.eye(2) - following.T, START)
    return float(visits @ (np.array(policy.table) * REWARD).sum(1) / visits.sum())


def log(sessions: int, *, policy: Tabular = LOGGER, seed: int = 0, users: int | None = None) -> Transitions:
    """Sessions served by `policy`; each is a user of its own unless `users` share them."""
    rng = np.random.default_rng(seed)
    table = np.array(policy.table)
    rows: list[tuple[int, int, int, float, bool, float]] = []
    last = []
    for episode in range(sessions):
        state = int(rng.random() >= START[0])
        while True:
            item = int(rng.choice(3, p=table[state]))
            reward = float(rng.random() < REWARD[state, item])
            ends = bool(rng.random() < END)
            rows.append((episode, state, item, reward, ends, float(table[state, item])))
            state = int(rng.random() >= MOVE[state, item])
            if ends:
                last.append(state)
                break
    table_of = np.array(rows, np.float64)  # (T, 6)
    count = len(rows)
    episodes, states, items = table_of[:, :3].T.astype(np.int64)
    rewards, over, chance = table_of[:, 3:].T
    one_hot = np.eye(2, dtype=np.float32)
    return Transitions(
        context=np.zeros((count, 1), np.float32), state=one_hot[states], items=None, history=None, mask=None,
        action=items[:, None] + 1, feedback=rewards.astype(np.float32)[:, None, None],
        reward=rewards.astype(np.float32), terminated=over > 0, truncated=np.zeros(count, np.bool_),
        propensity=chance.copy(), episode=episodes,
        user=np.arange(sessions) if users is None else np.arange(sessions) % users,
        final_context=np.zeros((sessions, 1), np.float32), final_state=one_hot[np.array(last)],
    )  # fmt: skip
