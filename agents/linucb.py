"""LinUCB: the item whose reward may be the highest, by a linear model of it and how little is known of it.

    a = argmax over allowed j of  theta . phi(s, j) + alpha sigma sqrt(phi^T A^-1 phi)

Source: Li et al. (2010), "A contextual-bandit approach to personalized news article recommendation", algorithm 1. The
unit of alpha, the residual deviation sigma, is this project's: the paper's rewards lie in [0, 1]. It learns the
immediate reward alone (discount 0), which is its point beside agents that plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from agents.choice import greedy_probabilities, top_items
from agents.learning import Row, check_counts
from agents.linear_reward import Features, Model, Ridge, check_model, features_of, in_double
from agents.rounds import Rounds, best_action
from agents.task import Task
from agents.training import Stopping, check_finite, restore, run, snapshot
from recgym.policy import StoredPolicy
from recgym.types import Observation, Reads


@dataclass(frozen=True, kw_only=True)
class LinUCB:
    """Upper confidence bounds of a linear reward, learned online."""

    total_steps: int = 60_000
    """User steps to learn from."""
    num_envs: int = 128
    """Sessions simulated side by side."""
    alpha: float = 1.0
    """Width of the confidence bound while learning, in standard deviations."""
    bonus: float = 0.0
    """The same of the policy that training ends with; 0: it shows what is expected to be best."""
    ridge: float = 1.0
    """Penalty on theta's squares."""
    model: Model = "auto"
    """"disjoint": a theta an item; "shared": one for all, on crossed features; "auto": disjoint within `limit`."""
    limit: int = 8_000_000
    """Most numbers in all matrices A of a disjoint model, N P^2 (8 bytes each, twice)."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, "total_steps", "num_envs", "limit", "segments")
        if min(self.alpha, self.bonus) < 0 or not self.ridge > 0:
            raise ValueError(
                f"alpha {self.alpha} and bonus {self.bonus}: expected at least 0; ridge {self.ridge}: more than 0"
            )
        check_model(self.model)

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`, one item a step; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearBound:
    """Shows the items of the highest theta . phi + bonus * its posterior deviation."""

    features: Features
    theta: Tensor  # (M, P) float32
    covariance: Tensor  # (M, P, P) float32: sigma^2 A^-1
    bonus: float = 0.0
    """Deviations added; 0: the expected reward alone."""
    slate_size: int = 1

    name: ClassVar[str] = "linucb"
    reads: ClassVar[Reads] = "state"

    @property
    def sizes(self) -> dict[str, int]:
        """What it reads; see `recgym.policy.check_fits`."""
        return self.features.layout.sizes

    @property
    def num_items(self) -> int:
        """Size of the catalogue, or candidates a step, N."""
        return self.features.layout.num_items

    def scores(self, observation: Observation) -> Tensor:
        """Bounds, (B, N)."""
        scores = self.features.means(observation, self.theta)
        if self.bonus:
            scores = scores + self.bonus * self.features.variances(observation, self.covariance).sqrt()
        return scores

    def probabilities(self, observation: Observation) -> Tensor:
        """One-hot, (B, N)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002
        """The K best allowed items, (B, K)."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"bonus": self.bonus, "slate_size": self.slate_size, "features": self.features.config()}

    def tensors(self) -> dict[str, Tensor]:
        """The model, and the item vectors that it reads."""
        return {"theta": self.theta, "covariance": self.covariance, **self.features.tensors()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> LinearBound:
        """The policy whose `config` and `tensors` these are."""
        return cls(
            features=Features.restore(config["features"], tensors), theta=tensors["theta"],
            covariance=tensors["covariance"], bonus=config["bonus"], slate_size=config["slate_size"],
        )  # fmt: skip


class _Learner:
    """One run: the regressions and the sessions."""

    def __init__(self, config: LinUCB, task: Task, seed: int, folder: Path) -> None:
        self.config, self.folder, self.slate_size = config, folder, task.slate_size
        self.features = features_of(task, config.model, config.limit)
        self.ridge = Ridge(self.features.num_models, self.features.width, config.ridge)
        self.rounds = Rounds(task, config.num_envs, seed)

    def advance(self, last: int) -> Row:
        """Show, earn, solve, up to user step `last`."""
        features, ridge = self.features.double(), self.ridge
        while self.rounds.steps < last:
            seen = in_double(self.rounds.observation)
            width = features.variances(seen, ridge.inverse).sqrt() * (self.config.alpha * ridge.noise)
            action = best_action(features.means(seen, ridge.theta) + width, seen)
            reward = self.rounds.take(action)
            phi = features.chosen(seen, action)
            check_finite(self.folder, {"features": phi.sum(), "reward": reward.sum()}, {"phi": phi, "reward": reward})
            ridge.add(features.model_of(action), phi, reward)
        return {"train/noise": ridge.noise, **self.rounds.row()}

    def policy(self) -> LinearBound:
        """Greedy on the bound with the policy's own bonus."""
        covariance = (self.ridge.inverse * self.ridge.noise**2).float()
        return LinearBound(
            features=self.features, theta=self.ridge.theta.float(), covariance=covariance,
            bonus=self.config.bonus, slate_size=self.slate_size,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "ridge", "rounds")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
