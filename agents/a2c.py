"""A2C with an item-scoring head, by Stable-Baselines3, on the batched users.

Source: Mnih et al. (2016), "Asynchronous methods for deep reinforcement learning", in its synchronous form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import stable_baselines3

from agents.actor_critic import ItemActorCritic, networks, scorer_of
from agents.learning import check_choice, check_counts, check_shares
from agents.sb3 import train
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class A2C:
    """Advantage actor-critic: one policy-gradient step on each short rollout."""

    total_steps: int = 200_000
    """User steps to learn from."""
    num_envs: int = 64
    """Sessions simulated side by side."""
    rollout: int = 8
    """Steps of each environment between updates."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    discount: float = 0.98
    """Weight of a reward against the one a step earlier, gamma."""
    gae_lambda: float = 0.95
    """Bias-variance dial of generalised advantage estimation, lambda."""
    entropy_weight: float = 0.003
    """Weight of the entropy bonus."""
    value_weight: float = 0.5
    """Weight of the critic's squared error."""
    temperature: float = 1.0
    """The actor starts as softmax(backbone scores / temperature)."""
    hidden: int = 64
    """Units of the actor's and of the critic's MLP."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses: its best item, or a draw as in training."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "total_steps", "num_envs", "rollout", "hidden", "segments")
        if self.num_envs * self.rollout < 2:
            raise ValueError("num_envs * rollout is 1, expected at least 2: advantages are normalised over a rollout")
        check_shares(self, "discount", "gae_lambda")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""

        def model(env: Any) -> stable_baselines3.A2C:
            return stable_baselines3.A2C(
                ItemActorCritic, env, learning_rate=self.learning_rate, n_steps=self.rollout, gamma=self.discount,
                gae_lambda=self.gae_lambda, ent_coef=self.entropy_weight, vf_coef=self.value_weight,
                use_rms_prop=False, normalize_advantage=True, device=task.device,
                policy_kwargs=networks(task, hidden=self.hidden, temperature=self.temperature),
            )  # fmt: skip

        def policy(model: Any) -> ScoringPolicy:
            scorer = scorer_of(model.policy)
            return ScoringPolicy(scorer=scorer, name="a2c", choice=self.choice, slate_size=task.slate_size)

        return train(self, model, policy, task, seed=seed, folder=folder, resume=resume, progress=progress)
