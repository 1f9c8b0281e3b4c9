"""TRPO with an item-scoring head, by sb3-contrib, on the batched users.

    maximise  mean of pi(a | o) / pi_old(a | o) A(o, a)     subject to  mean KL(pi || pi_old) < delta

by one step along F^-1 g (conjugate gradients, F the divergence's second derivative), shortened until both hold. The
divergence of slates is taken slot by slot (`agents.actor_critic.slot_divergence`).

Source: Schulman et al. (2015), "Trust region policy optimization", equation 14 and appendix C.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sb3_contrib

from agents.actor_critic import ItemActorCritic, networks, scorer_of
from agents.learning import check_choice, check_counts, check_shares
from agents.sb3 import train
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class TRPO:
    """Trust region policy optimisation: one natural-gradient step on each rollout, no longer than the region."""

    total_steps: int = 160_000
    """User steps to learn from."""
    num_envs: int = 64
    """Sessions simulated side by side."""
    rollout: int = 16
    """Steps of each environment between updates."""
    batch_size: int = 256
    """Steps in a gradient step of the critic."""
    critic_epochs: int = 10
    """The critic's passes over each rollout."""
    learning_rate: float = 1e-3
    """Adam's step size of the critic."""
    discount: float = 0.98
    """Weight of a reward against the one a step earlier, gamma."""
    gae_lambda: float = 0.95
    """Bias-variance dial of generalised advantage estimation, lambda."""
    region: float = 0.01
    """Largest mean divergence of an update, delta."""
    damping: float = 0.1
    """Added to F's diagonal."""
    conjugate_steps: int = 10
    """Steps of conjugate gradients."""
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
        check_counts(
            self,
            "total_steps",
            "num_envs",
            "rollout",
            "batch_size",
            "critic_epochs",
            "conjugate_steps",
            "hidden",
            "segments",
        )
        if self.num_envs * self.rollout < 2:
            raise ValueError("num_envs * rollout is 1, expected at least 2: advantages are normalised over a rollout")
        check_shares(self, "discount", "gae_lambda")
        if not self.region > 0:
            raise ValueError(f"region is {self.region}, expected above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""

        def model(env: Any) -> sb3_contrib.TRPO:
            return sb3_contrib.TRPO(
                ItemActorCritic, env, learning_rate=self.learning_rate, n_steps=self.rollout,
                batch_size=min(self.batch_size, self.num_envs * self.rollout), n_critic_updates=self.critic_epochs,
                gamma=self.discount, gae_lambda=self.gae_lambda, target_kl=self.region, cg_damping=self.damping,
                cg_max_steps=self.conjugate_steps, device=task.device,
                policy_kwargs=networks(task, hidden=self.hidden, temperature=self.temperature),
            )  # fmt: skip

        def policy(model: Any) -> ScoringPolicy:
            scorer = scorer_of(model.policy)
            return ScoringPolicy(scorer=scorer, name="trpo", choice=self.choice, slate_size=task.slate_size)

        return train(self, model, policy, task, seed=seed, folder=folder, resume=resume, progress=progress)
