"""A2C with an item-scoring head, by Stable-Baselines3, on the batched users.

Source: Mnih et al. (2016), "Asynchronous methods for deep reinforcement learning", in its synchronous form.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import stable_baselines3

from agents.actor_critic import ItemActorCritic, scorer_maker, scorer_of
from agents.bridge import SessionsVecEnv
from agents.learning import describe, isolated_randomness, seed_segment
from agents.sb3 import learn
from agents.scoring import ScoringPolicy
from agents.task import Task


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

    def __post_init__(self) -> None:
        """Check the fields."""
        for field in ("total_steps", "num_envs", "rollout", "hidden", "segments"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, expected at least 1")
        if self.num_envs * self.rollout < 2:
            raise ValueError("num_envs * rollout is 1, expected at least 2: advantages are normalised over a rollout")
        if not (0 <= self.discount < 1 and 0 <= self.gae_lambda <= 1):
            raise ValueError(f"discount {self.discount} and gae_lambda {self.gae_lambda}: expected [0, 1) and [0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, expected above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> ScoringPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with isolated_randomness():
            env = SessionsVecEnv(task.sessions, self.num_envs, seed=seed)
            seed_segment(seed, -1)
            model = stable_baselines3.A2C(
                ItemActorCritic, env, learning_rate=self.learning_rate, n_steps=self.rollout, gamma=self.discount,
                gae_lambda=self.gae_lambda, ent_coef=self.entropy_weight, vf_coef=self.value_weight,
                use_rms_prop=False, normalize_advantage=True, device="cpu",
                policy_kwargs={
                    "make_scorer": scorer_maker(task, self.hidden, self.temperature), "hidden": self.hidden,
                },
            )  # fmt: skip
            learn(
                model, env, run=describe(self, seed), total_steps=self.total_steps, segments=self.segments, seed=seed,
                folder=folder, resume=resume, progress=progress,
            )  # fmt: skip
        slate_size = task.sessions.config.slate_size
        return ScoringPolicy(scorer=scorer_of(model.policy), name="a2c", choice=self.choice, slate_size=slate_size)
