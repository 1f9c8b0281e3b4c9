"""How bandits meet users: sessions side by side, one item a step, and nothing kept but what was earned at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.choice import allow
from agents.learning import Row, of_sessions
from agents.task import Task
from recgym.types import Observation


class Rounds:
    """Sessions in progress; the draws of who explores come from torch's global generator, seeded by segments."""

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        """Start `num_envs` sessions of the task's users, who have the given seed."""
        self.layout = task.layout(1)
        self.env = task.environment(num_envs, seed, slate_size=1)
        self.rows = torch.from_numpy(np.asarray(self.env.reset()))  # (B, W)
        self.steps, self.earned = 0, [0.0, 0.0]

    @property
    def observation(self) -> Observation:
        """What the platform sees now."""
        return self.layout.unpack(self.rows)

    def take(self, action: Tensor) -> Tensor:
        """Show items (B,), from 0, and earn (B,) float64."""
        after, reward, _, _ = self.env.step(action.numpy())
        self.rows = torch.from_numpy(np.asarray(after))
        self.steps += len(action)
        found = torch.from_numpy(np.asarray(reward)).double()
        self.earned = [self.earned[0] + float(found.sum()), self.earned[1] + len(found)]
        return found

    def row(self) -> Row:
        """Reward a step, and sessions that ended, since the last row."""
        total, count = self.earned
        self.earned = [0.0, 0.0]
        ended: Any = self.env.ended_sessions()  # type: ignore[attr-defined]
        return {"reward": total / count if count else None, **of_sessions(*ended)}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, between rows of the curve."""
        env: Any = self.env
        return {"rows": self.rows.clone(), "steps": self.steps, "env": env.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.rows, self.steps = state["rows"].clone(), state["steps"]
        self.env.load_state_dict(state["env"])  # type: ignore[attr-defined]


def best_action(scores: Tensor, observation: Observation) -> Tensor:
    """The best allowed action (B,), from 0, of scores (B, N); ties go by chance, so that a batch tries many items."""
    noise = torch.rand_like(scores) * 1e-9 * scores.abs().amax(1, keepdim=True).clamp_min(1.0)
    return allow(scores + noise, observation.mask).argmax(1)
