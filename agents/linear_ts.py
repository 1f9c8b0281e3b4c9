"""Linear Thompson sampling: draw a linear model of the reward from its posterior, and show what that one likes best.

    theta~ ~ N(theta, v^2 sigma^2 A^-1)        a = argmax over allowed j of theta~ . phi(s, j)

Source: Agrawal and Goyal (2013), "Thompson sampling for contextual bandits with linear payoffs", algorithm 1. Their
scale R sqrt(9 d ln(t / delta)) is for the proof of a bound; v counts residual deviations sigma here. It learns the
immediate reward alone (discount 0), which is its point beside agents that plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.choice import greedy_probabilities, top_items
from agents.learning import Row, check_counts
from agents.linear_reward import Features, Model, Ridge, check_model, features_of, in_double
from agents.rounds import Rounds, best_action
from agents.task import Task
from agents.training import Stopping, check_finite, restore, run, snapshot
from recgym.policy import StoredPolicy
from recgym.random import uniform
from recgym.trees import take
from recgym.types import Observation, Reads


@dataclass(frozen=True, kw_only=True)
class LinearTS:
    """Thompson sampling of a linear reward, learned online."""

    total_steps: int = 60_000
    """User steps to learn from."""
    num_envs: int = 128
    """Sessions simulated side by side."""
    scale: float = 1.0
    """Standard deviation of the draws while learning over the posterior's own, v."""
    final_scale: float = 1.0
    """The same of the policy that training ends with; 0: it shows what is expected to be best."""
    draws: int = 16
    """Draws of theta that the policy chooses among by its key, so that its probabilities are exact."""
    ridge: float = 1.0
    """Penalty on theta's squares: the prior's precision over that of the noise."""
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
        check_counts(self, "total_steps", "num_envs", "draws", "limit", "segments")
        if min(self.scale, self.final_scale) < 0 or not self.ridge > 0:
            raise ValueError(
                f"scale {self.scale} and final_scale {self.final_scale}: expected at least 0; "
                f"ridge {self.ridge}: more than 0"
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
class PosteriorDraws:
    """Shows the best items of one of S posterior draws, which the key chooses; ranks by the posterior mean."""

    features: Features
    theta: Tensor  # (M, P) float32: the posterior mean
    draws: Tensor  # (S, M, P) float32
    slate_size: int = 1

    name: ClassVar[str] = "linear-ts"
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
        """Expected rewards, (B, N)."""
        return self.features.means(observation, self.theta)

    def probabilities(self, observation: Observation) -> Tensor:
        """Share of the draws that like each allowed item best, (B, N)."""
        choices = [greedy_probabilities(self.features.means(observation, one), observation.mask) for one in self.draws]
        return torch.stack(choices).mean(0)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """The K best allowed items of a draw, (B, K); `keys` (B,) choose it."""
        chosen = (uniform(keys, 1)[:, 0] * len(self.draws)).long()  # (B,)
        slate = torch.zeros(len(keys), self.slate_size, dtype=torch.int64, device=keys.device)
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero()[:, 0]
            here = take(observation, rows)
            slate[rows] = top_items(self.features.means(here, self.draws[number]), here.mask, self.slate_size)
        return slate

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"slate_size": self.slate_size, "features": self.features.config()}

    def tensors(self) -> dict[str, Tensor]:
        """The posterior's mean and draws, and the item vectors that they read."""
        return {"theta": self.theta, "draws": self.draws, **self.features.tensors()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> PosteriorDraws:
        """The policy whose `config` and `tensors` these are."""
        return cls(
            features=Features.restore(config["features"], tensors), theta=tensors["theta"], draws=tensors["draws"],
            slate_size=config["slate_size"],
        )  # fmt: skip


def posterior_draws(theta: Tensor, covariance: Tensor, count: int) -> Tensor:
    """Draws (S, M, P) from N(theta, C), each of M models by itself: (M, P), (M, P, P); by torch's generator."""
    root = torch.linalg.cholesky(covariance)  # (M, P, P)
    noise = torch.randn(count, *theta.shape, dtype=theta.dtype)
    return theta + torch.einsum("mpq,smq->smp", root, noise)


class _Learner:
    """One run: the regressions and the sessions."""

    def __init__(self, config: LinearTS, task: Task, seed: int, folder: Path) -> None:
        self.config, self.folder, self.slate_size = config, folder, task.slate_size
        self.features = features_of(task, config.model, config.limit)
        self.ridge = Ridge(self.features.num_models, self.features.width, config.ridge)
        self.rounds = Rounds(task, config.num_envs, seed)
        self.seed = seed

    def advance(self, last: int) -> Row:
        """Draw, show, earn, solve, up to user step `last`."""
        features, ridge = self.features.double(), self.ridge
        while self.rounds.steps < last:
            seen = in_double(self.rounds.observation)
            action = best_action(self._sampled(features, seen), seen)
            reward = self.rounds.take(action)
            phi = features.chosen(seen, action)
            check_finite(self.folder, {"features": phi.sum(), "reward": reward.sum()}, {"phi": phi, "reward": reward})
            ridge.add(features.model_of(action), phi, reward)
        return {"train/noise": ridge.noise, **self.rounds.row()}

    def _sampled(self, features: Features, seen: Observation) -> Tensor:
        """Rewards under a draw for each session, (B, N); models that share no theta are drawn by their rewards."""
        ridge, scale = self.ridge, self.config.scale * self.ridge.noise
        if features.shared:
            draws = posterior_draws(ridge.theta, ridge.inverse, len(seen.context))[:, 0]  # (B, P)
            return features.means(seen, ridge.theta + scale * (draws - ridge.theta))
        means = features.means(seen, ridge.theta)
        return means + scale * features.variances(seen, ridge.inverse).sqrt() * torch.randn_like(means)

    def policy(self) -> PosteriorDraws:
        """Draws of the posterior as it is now, the same however often it is asked for."""
        ridge, scale = self.ridge, self.config.final_scale * self.ridge.noise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            draws = posterior_draws(ridge.theta, ridge.inverse, self.config.draws)
        return PosteriorDraws(
            features=self.features, theta=ridge.theta.float(),
            draws=(ridge.theta + scale * (draws - ridge.theta)).float(), slate_size=self.slate_size,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "ridge", "rounds")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
