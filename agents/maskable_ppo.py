"""PPO that never weighs a forbidden item, with an item-scoring head, by sb3-contrib, on the batched users.

Masks come from the environments' `action_masks`. In this project's worlds a row says the same, and PPO reads it there;
in a Gymnasium environment (`agents.gym_task`) with a method `action_masks`, only this agent does.

Source: Huang and Ontanon (2022), "A closer look at invalid action masking in policy gradient algorithms"; Schulman et
al. (2017), "Proximal policy optimization algorithms".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sb3_contrib

from agents.actor_critic import MaskableItemActorCritic, networks, scorer_of
from agents.learning import check_choice, check_counts, check_shares, even_batch
from agents.sb3 import train
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class MaskablePPO:
    """Proximal policy optimisation with masks: several epochs of clipped policy gradient on each rollout."""

    total_steps: int = 160_000
    """User steps to learn from."""
    num_envs: int = 64
    """Sessions simulated side by side."""
    rollout: int = 16
    """Steps of each environment between updates."""
    batch_size: int = 512
    """Steps in a gradient step."""
    epochs: int = 3
    """Passes over each rollout."""
    learning_rate: float = 2e-3
    """Adam's step size."""
    discount: float = 0.98
    """Weight of a reward against the one a step earlier, gamma."""
    gae_lambda: float = 0.95
    """Bias-variance dial of generalised advantage estimation, lambda."""
    clip_range: float = 0.2
    """How far the probability ratio may move an update, epsilon."""
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
        check_counts(self, "total_steps", "num_envs", "rollout", "batch_size", "epochs", "hidden", "segments")
        steps = self.num_envs * self.rollout
        if even_batch(steps, self.batch_size) < 2:
            raise ValueError(
                f"a rollout of num_envs * rollout = {steps} steps splits into even batches of at most "
                f"{self.batch_size} as batches of one only: advantages are normalised over a batch"
            )
        check_shares(self, "discount", "gae_lambda")
        if not self.clip_range > 0:
            raise ValueError(f"clip_range is {self.clip_range}, expected above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""

        def model(env: Any) -> sb3_contrib.MaskablePPO:
            return sb3_contrib.MaskablePPO(
                MaskableItemActorCritic, env, learning_rate=self.learning_rate, n_steps=self.rollout,
                batch_size=even_batch(self.num_envs * self.rollout, self.batch_size), n_epochs=self.epochs,
                gamma=self.discount, gae_lambda=self.gae_lambda, clip_range=self.clip_range,
                ent_coef=self.entropy_weight, vf_coef=self.value_weight, device=task.device,
                policy_kwargs=networks(task, hidden=self.hidden, temperature=self.temperature),
            )  # fmt: skip

        def policy(model: Any) -> ScoringPolicy:
            scorer = scorer_of(model.policy)
            return ScoringPolicy(scorer=scorer, name="maskable-ppo", choice=self.choice, slate_size=task.slate_size)

        return train(self, model, policy, task, seed=seed, folder=folder, resume=resume, progress=progress)
