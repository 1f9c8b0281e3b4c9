"""Gymnasium environments whose values and best actions are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from agents.gym_task import GymTask
from recgym.types import FloatArray

Step = tuple[FloatArray, float, bool, bool, dict[str, Any]]


class Known(gymnasium.Env[FloatArray, Any]):
    """One-hot states and numbered actions; `reward` and `follow` say the rest."""

    def __init__(self, num_states: int, num_actions: int) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (num_states,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(num_actions)
        self.num_states, self.state = num_states, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[FloatArray, Any]:
        super().reset(seed=seed)
        self.state = self.first()
        return self.seen(), {}

    def step(self, action: Any) -> Step:
        reward = self.reward(int(action))
        self.state, over = self.follow(int(action))
        return self.seen(), reward, over, False, {}

    def seen(self) -> FloatArray:
        seen = np.zeros(self.num_states, np.float32)
        seen[self.state] = 1
        return seen

    def first(self) -> int:
        return 0

    def reward(self, action: int) -> float:
        raise NotImplementedError

    def follow(self, action: int) -> tuple[int, bool]:
        raise NotImplementedError


class Constant(Known):
    """A reward of 1 at every step: the value is 1 / (1 - discount)."""

    def reward(self, action: int) -> float:
        return 1.0

    def follow(self, action: int) -> tuple[int, bool]:
        return 0, False


class Identity(Known):
    """1 for the action of the state's number; states follow each other at random."""

    def first(self) -> int:
        return int(self.np_random.integers(self.num_states))

    def reward(self, action: int) -> float:
        return float(action == self.state)

    def follow(self, action: int) -> tuple[int, bool]:
        return self.first(), False


CHANCES = np.array([[0.9, 0.3, 0.2, 0.1], [0.1, 0.2, 0.8, 0.4], [0.2, 0.7, 0.3, 0.1]])
"""Of a reward of 1, by context and arm."""


class Bandit(Known):
    """Three contexts, four arms, one step."""

    def first(self) -> int:
        return int(self.np_random.integers(3))

    def reward(self, action: int) -> float:
        return float(self.np_random.random() < CHANCES[self.state, action])

    def follow(self, action: int) -> tuple[int, bool]:
        return self.state, True


class TwoPaths(Known):
    """Action 0 leads to a sure 1; action 1 to 5 or -1, each half of the time: mean 2, mean of the worst half -1."""

    def reward(self, action: int) -> float:
        return [0.0, 1.0, 5.0 if self.np_random.random() < 0.5 else -1.0][self.state]

    def follow(self, action: int) -> tuple[int, bool]:
        return (1 + action, False) if self.state == 0 else (0, True)


class Noise(Known):
    """Rewards of mean 0 and deviation 1, whatever is done, for ever: every value is 0."""

    def reward(self, action: int) -> float:
        return float(self.np_random.normal())

    def follow(self, action: int) -> tuple[int, bool]:
        return 0, False


def task(make: Callable[[], Known], max_steps: int = 10) -> Any:
    """Episodes that are cut at `max_steps`: a `GymTask`, which does what a `Task` does."""
    return GymTask(make=lambda: TimeLimit(make(), max_steps))
