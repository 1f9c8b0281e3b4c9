"""epsilon-greedy: the item of the highest mean reward so far, and with chance epsilon any item.

    Q_j = (sum of rewards of item j + prior * mean reward of all) / (times j was shown + prior)

Source: Sutton and Barto (2018), "Reinforcement learning: an introduction", section 2.2, with sample averages; the prior
is this project's. It learns the immediate reward alone (discount 0) and sees nothing of the user: the least of all
agents that learn online. Where each step brings fresh candidates, its items are places among them, which mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.choice import explore, greedy_probabilities, sample_items, top_items, uniform_probabilities
from agents.learning import Row, check_counts, check_shares
from agents.rounds import Rounds, best_action
from agents.task import Task
from agents.training import Stopping, check_finite, run
from recgym.policy import StoredPolicy
from recgym.random import fold
from recgym.types import Observation, Reads


@dataclass(frozen=True, kw_only=True)
class EpsilonGreedy:
    """Mean reward of each item, learned online."""

    total_steps: int = 60_000
    """User steps to learn from."""
    num_envs: int = 128
    """Sessions simulated side by side."""
    epsilon: float = 0.1
    """Chance of an item drawn uniformly, while learning."""
    final_epsilon: float = 0.0
    """The same of the policy that training ends with."""
    prior: float = 1.0
    """Shows that each item's mean is drawn towards the overall mean by."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, "total_steps", "num_envs", "segments")
        check_shares(self, "epsilon", "final_epsilon")
        if not self.prior > 0:
            raise ValueError(f"prior is {self.prior}, expected more than 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`, one item a step; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanReward:
    """Shows the items of the highest mean reward; with chance epsilon a slate drawn uniformly."""

    means: Tensor  # (N,) float32
    epsilon: float = 0.0
    """Chance of a slate drawn uniformly from the allowed items instead."""
    slate_size: int = 1

    name: ClassVar[str] = "epsilon-greedy"
    reads: ClassVar[Reads] = "state"

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.means)

    def scores(self, observation: Observation) -> Tensor:
        """Mean rewards, (B, N)."""
        return self.means.to(observation.context.device).expand(len(observation.context), -1)

    def probabilities(self, observation: Observation) -> Tensor:
        """Chance of each item at slot 0, (B, N)."""
        scores, mask = self.scores(observation), observation.mask
        best = greedy_probabilities(scores, mask)
        return (1 - self.epsilon) * best + self.epsilon * uniform_probabilities(scores, mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """A slate, (B, K) item ids; `keys` (B,)."""
        scores, mask = self.scores(observation), observation.mask
        slate = top_items(scores, mask, self.slate_size)
        if not self.epsilon:
            return slate
        anything = sample_items(torch.zeros_like(scores), mask, self.slate_size, fold(keys, 0))
        return explore(slate, anything, self.epsilon, keys)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"epsilon": self.epsilon, "slate_size": self.slate_size}

    def tensors(self) -> dict[str, Tensor]:
        """The means."""
        return {"means": self.means}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> MeanReward:
        """The policy whose `config` and `tensors` these are."""
        return cls(**{**config, **tensors})


class _Learner:
    """One run: sums and counts of each item."""

    def __init__(self, config: EpsilonGreedy, task: Task, seed: int, folder: Path) -> None:
        self.config, self.folder, self.slate_size = config, folder, task.slate_size
        self.rounds = Rounds(task, config.num_envs, seed)
        self.sums = torch.zeros(self.rounds.layout.num_items, dtype=torch.float64)
        self.counts = torch.zeros_like(self.sums)

    def advance(self, last: int) -> Row:
        """Show and count, up to user step `last`."""
        while self.rounds.steps < last:
            seen = self.rounds.observation
            batch = len(seen.context)
            best = best_action(self.means().expand(batch, -1), seen)
            anything = best_action(torch.rand(batch, len(self.sums), dtype=torch.float64), seen)
            action = torch.where(torch.rand(batch) < self.config.epsilon, anything, best)
            reward = self.rounds.take(action)
            check_finite(self.folder, {"reward": reward.sum()}, {"action": action, "reward": reward})
            self.sums.index_add_(0, action, reward)
            self.counts.index_add_(0, action, torch.ones_like(reward))
        return {"items_shown": float((self.counts > 0).sum()), **self.rounds.row()}

    def means(self) -> Tensor:
        """Q, (N,)."""
        overall, prior = self.sums.sum() / self.counts.sum().clamp_min(1), self.config.prior
        return (self.sums + prior * overall) / (self.counts + prior)

    def policy(self) -> MeanReward:
        """Greedy on the means."""
        return MeanReward(
            means=self.means().float(), epsilon=self.config.final_epsilon, slate_size=self.slate_size
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return {"sums": self.sums.clone(), "counts": self.counts.clone(), "rounds": self.rounds.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.sums, self.counts = state["sums"].clone(), state["counts"].clone()
        self.rounds.load_state_dict(state["rounds"])
