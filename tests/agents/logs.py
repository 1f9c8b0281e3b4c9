"""Small logged problems whose answers are known: bandits with contexts, and a corridor."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from agents.gym_task import GymTask
from recgym.types import IntArray, Observation, Transitions


class Numbered(gymnasium.Env[Any, Any]):
    """Says only how wide a state is and how many actions there are."""

    def __init__(self, num_states: int, num_actions: int) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 1, (num_states,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(num_actions)


def logged(state: IntArray, after: IntArray, action: IntArray, reward: Any, over: Any, num_states: int) -> Transitions:
    """Steps (T,) between numbered states, a session after the other; `over` (T,) where one terminates."""
    one_hot, count = np.eye(num_states, dtype=np.float32), len(state)
    episode = np.concatenate([[0], np.cumsum(over)[:-1]]).astype(np.int64)
    num_episodes = int(episode[-1]) + 1
    last = np.flatnonzero(over)
    return Transitions(
        context=np.zeros((count, 1), np.float32), state=one_hot[state], items=None, history=None, mask=None,
        action=action[:, None] + 1, feedback=np.zeros((count, 1, 1), np.float32), reward=np.asarray(reward, np.float32),
        terminated=over, truncated=np.zeros(count, np.bool_), propensity=np.full(count, np.nan), episode=episode,
        user=np.arange(num_episodes), final_context=np.zeros((num_episodes, 1), np.float32),
        final_state=one_hot[after[last]],
    )  # fmt: skip


def bandit(chance: Any, reward: Any, count: int) -> GymTask:
    """One step a session: contexts drawn evenly, actions with `chance` (S, A), which earn `reward` (S, A)."""
    generator = np.random.default_rng(0)
    chance, reward = np.asarray(chance), np.asarray(reward)
    state = generator.integers(len(chance), size=count)
    action = (generator.random(count)[:, None] > chance.cumsum(1)[state]).sum(1)
    steps = logged(state, state, action, reward[state, action], np.ones(count, np.bool_), len(chance))
    return GymTask(make=lambda: Numbered(*chance.shape), logged=steps)


def corridor(length: int, right: float, sessions: int) -> GymTask:
    """Action 1 goes right, towards a reward of 1 at the end; 0 goes left; logged by one who rarely goes right."""
    generator = np.random.default_rng(0)
    rows: list[tuple[int, int, int, float, bool]] = []
    for _ in range(sessions):
        place = int(generator.integers(length))
        for step in range(40):
            action = int(generator.random() < right)
            after = place + 1 if action else max(0, place - 1)
            there = after == length
            rows.append((place, min(after, length - 1), action, float(there), there or step == 39))
            if there:
                break
            place = after
    state, after_all, actions, reward, over = (np.array(column) for column in zip(*rows, strict=True))
    steps = logged(state, after_all, actions, reward, over, length)
    return GymTask(make=lambda: Numbered(length, 2), logged=steps)


def everywhere(num_states: int) -> Observation:
    """One session in every state."""
    return Observation(torch.zeros(num_states, 1), state=torch.eye(num_states))
