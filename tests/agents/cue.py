"""A task that only a memory solves: a cue at the first step, asked for some steps later."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Cue(gymnasium.Env[Any, Any]):
    """Two signs, of which the first step shows one, and whether the answer is due; reward 1 for the sign's number.

    A policy without memory earns 1/2 on average, one that remembers earns 1.
    """

    observation_space = gymnasium.spaces.Box(0, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, delay: int = 4) -> None:
        self.delay = delay

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cue, self.step_number = int(self.np_random.integers(2)), 0
        return np.array([self.cue == 0, self.cue == 1, False], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        asked = self.step_number == self.delay
        self.step_number += 1
        seen = np.array([False, False, self.step_number == self.delay], np.float32)
        return seen, float(asked and int(action) == self.cue), asked, False, {}
