"""PPO with an item-scoring head, by Stable-Baselines3, on the batched users.

Source: Schulman et al. (2017), "Proximal policy optimization algorithms".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import stable_baselines3

from agents.actor_critic import ItemActorCritic, networks, scorer_of
from agents.learning import check_choice, check_counts, check_shares, even_batch
from agents.sb3 import train
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Proximal policy optimisation: several epochs of clipped policy gradient on each rollout."""

    total_steps: int = 160_000
    """User steps to learn from."""
    num_envs: int = 64
    """Sessions simulated side by side."""
    rollout: int = 16
    """Steps of each environment between updates."""
    batch_size: int = 512
    """Steps in a gradient step, at most: a rollout is cut into equal batches."""
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
    anneal: bool = False
    """Let the step size and the entropy bonus fall to 0 over the run, linearly."""
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
        if self.num_envs * self.rollout < 2:
            raise ValueError("num_envs * rollout is 1, expected at least 2: advantages are normalised over a rollout")
        check_shares(self, "discount", "gae_lambda")
        if not self.clip_range > 0:
            raise ValueError(f"clip_range is {self.clip_range}, expected above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""

        def model(env: Any) -> stable_baselines3.PPO:
            step_size = (lambda left: self.learning_rate * left) if self.anneal else self.learning_rate
            return (_Annealed if self.anneal else stable_baselines3.PPO)(
                ItemActorCritic, env, learning_rate=step_size, n_steps=self.rollout,
                batch_size=even_batch(self.num_envs * self.rollout, self.batch_size), n_epochs=self.epochs,
                gamma=self.discount, gae_lambda=self.gae_lambda, clip_range=self.clip_range,
                ent_coef=self.entropy_weight, vf_coef=self.value_weight, device=task.device,
                policy_kwargs=networks(task, hidden=self.hidden, temperature=self.temperature),
            )  # fmt: skip

        def policy(model: Any) -> ScoringPolicy:
            scorer = scorer_of(model.policy)
            return ScoringPolicy(scorer=scorer, name="ppo", choice=self.choice, slate_size=task.slate_size)

        return train(self, model, policy, task, seed=seed, folder=folder, resume=resume, progress=progress)


class _Annealed(stable_baselines3.PPO):
    """SB3's PPO whose entropy bonus falls with what is left of the run, as its step size can by itself."""

    def train(self) -> None:
        first = self.ent_coef
        self.ent_coef = first * self._current_progress_remaining
        super().train()
        self.ent_coef = first
