"""How on-policy agents meet users: sessions side by side, T steps at a time or to the end of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.actor_critic import Slates
from agents.choice import allow
from agents.networks import Critic, ItemScorer
from agents.returns import following
from agents.task import Task


class Rollout(NamedTuple):
    """T steps of B sessions."""

    rows: Tensor  # (T + 1, B, W), with those after the last step
    action: Tensor  # (T, B, K) item numbers from 0
    reward: Tensor  # (T, B)
    terminated: Tensor  # (T, B) bool, the user left
    truncated: Tensor  # (T, B) bool, the record was cut
    last: Tensor  # (C, W) rows after the steps that were cut, in time order
    counts: Tensor  # (T, B) bool, whether to learn from the step

    def values(self, critic: Critic) -> tuple[Tensor, Tensor]:
        """V(o_t) and V of what followed, both (T, B) without gradients, for `agents.returns`."""
        steps, batch = self.reward.shape
        with torch.no_grad():
            found: Tensor = critic(critic.layout.unpack(torch.cat([self.rows.flatten(0, 1), self.last])))
        values = found[: (steps + 1) * batch].view(steps + 1, batch)
        return values[:-1], following(values, self.truncated, found[(steps + 1) * batch :])


class Rollouts:
    """Sessions side by side under the policy that learns; its draws come from torch's global generator."""

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        """Start the sessions."""
        self.env, self.layout, self.device = task.environment(num_envs, seed), task.layout(), task.device
        self.rows = self._tensor(self.env.reset())
        self.steps = 0

    def collect(self, scorer: ItemScorer, steps: int) -> Rollout:
        """Go on for so many steps of every session; 0: start new sessions and go on until each has ended once.

        Of new sessions only the first of each environment counts: what began later and ended in time would be the
        short ones.
        """
        if not steps:
            self.rows = self._tensor(self.env.reset())
        rows, last = [self.rows], list[Tensor]()
        parts: list[tuple[Tensor, ...]] = []
        first = torch.ones(len(self.rows), dtype=torch.bool, device=self.device)
        while len(parts) < steps or (not steps and bool(first.any())):
            with torch.no_grad():
                action = slates(scorer, self.rows).sample()
            after, reward, done, infos = self.env.step(action.cpu().numpy())
            cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos]) & done
            last += [self._tensor(infos[row]["terminal_observation"]) for row in np.flatnonzero(cut)]
            ends = self._tensor(done & ~cut), self._tensor(cut)
            parts.append((action.view(len(first), -1), self._tensor(reward).float(), *ends, first))
            first = first if steps else first & ~self._tensor(done)
            self.rows = self._tensor(after)
            rows.append(self.rows)
            self.steps += len(first)
        actions, rewards, terminated, truncated, counts = (torch.stack(part) for part in zip(*parts, strict=True))
        lasts = torch.stack(last) if last else torch.zeros(0, self.layout.width, device=self.device)
        return Rollout(torch.stack(rows), actions, rewards, terminated, truncated, lasts, counts)

    def ended(self) -> tuple[Tensor, Tensor]:
        """Returns (E,) and lengths (E,) of the sessions that ended since the last call."""
        returns, lengths = self.env.ended_sessions()  # type: ignore[attr-defined]
        return torch.from_numpy(np.asarray(returns)), torch.from_numpy(np.asarray(lengths))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        env: dict[str, Any] = self.env.state_dict()  # type: ignore[attr-defined]
        return {"rows": self.rows.clone(), "steps": self.steps, "env": env}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.rows, self.steps = state["rows"].to(self.device).clone(), state["steps"]
        self.env.load_state_dict(state["env"])  # type: ignore[attr-defined]

    def _tensor(self, values: Any) -> Tensor:
        return torch.from_numpy(np.asarray(values)).to(self.device)


def slates(scorer: ItemScorer, rows: Tensor) -> Slates:
    """pi(. | o) of rows (B, W): Plackett-Luce of the scores of the allowed items."""
    observation = scorer.layout.unpack(rows)
    return Slates(scorer.layout.slate_size).proba_distribution(allow(scorer(observation), observation.mask))
