"""DQN with an item-scoring head, by Stable-Baselines3, on the batched users.

Source: Mnih et al. (2015), "Human-level control through deep reinforcement learning"; the head and the exploration by
the backbone's own ranking are this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor

from agents.bridge import SessionsVecEnv
from agents.learning import describe, isolated_randomness, seed_segment
from agents.networks import ItemScorer, features_of, spread_gain
from agents.sb3 import learn
from agents.scoring import ScoringPolicy
from agents.task import Task
from recgym.random import session_keys
from recgym.types import IntArray


@dataclass(frozen=True, kw_only=True)
class DQN:
    """Deep Q-network: Q(s, a) by temporal differences, greedy at the end."""

    total_steps: int = 60_000
    """User steps to learn from."""
    num_envs: int = 128
    """Sessions simulated side by side."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    discount: float = 0.95
    """Weight of a reward against the one a step earlier, gamma."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    gradient_steps: int = 8
    """Gradient steps after each batch of `num_envs` user steps."""
    buffer_size: int = 100_000
    """Transitions kept for replay."""
    learning_starts: int = 5_000
    """User steps, all exploring, before the first gradient step."""
    target_update_interval: int = 2_000
    """User steps between copies of the Q-network to its target."""
    exploration_fraction: float = 0.5
    """Share of `total_steps` over which epsilon falls from 1 to `final_epsilon`."""
    final_epsilon: float = 0.02
    """Chance of an exploring step at the end."""
    backbone_exploration: float = 0.3
    """Share of exploring steps drawn from softmax(backbone scores); the rest is uniform over the items."""
    hidden: int = 64
    """Units of the head's MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first Q-values, which rank as the backbone does; in reward."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for field in ("total_steps", "num_envs", "batch_size", "gradient_steps", "buffer_size", "hidden", "segments"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, expected at least 1")
        for field in ("exploration_fraction", "final_epsilon", "backbone_exploration"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} is {getattr(self, field)}, expected a share in [0, 1]")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount is {self.discount}, expected [0, 1)")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> ScoringPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vectors, bias = task.item_vectors()
        start = task.sessions.observe(task.sessions.reset(session_keys(seed, 256)), "state")
        gain = spread_gain(features_of(start)[:, :-1], vectors, bias, self.initial_spread)

        def scorer() -> ItemScorer:
            return ItemScorer(vectors.shape[1], vectors, bias, hidden=self.hidden, gain=gain)

        with isolated_randomness():
            env = SessionsVecEnv(task.sessions, self.num_envs, seed=seed)
            seed_segment(seed, -1)
            model = _ExploringDQN(
                _ItemQPolicy, env, learning_rate=self.learning_rate, buffer_size=self.buffer_size,
                learning_starts=self.learning_starts, batch_size=self.batch_size, gamma=self.discount,
                train_freq=1, gradient_steps=self.gradient_steps,
                target_update_interval=max(self.target_update_interval, self.num_envs),
                exploration_fraction=self.exploration_fraction, exploration_final_eps=self.final_epsilon,
                policy_kwargs={"make_scorer": scorer}, device="cpu",
            )  # fmt: skip
            model.prior = lambda features: torch.addmm(bias, features[:, :-1], vectors.T)
            model.prior_share = self.backbone_exploration
            model.env_items = len(bias)
            learn(
                model, env, run=describe(self, seed), total_steps=self.total_steps, segments=self.segments, seed=seed,
                folder=folder, resume=resume, progress=progress,
            )  # fmt: skip
        scorer_found = model.q_net.q_net
        assert isinstance(scorer_found, ItemScorer)
        return ScoringPolicy(scorer=scorer_found, name="dqn", slate_size=task.sessions.config.slate_size)


class _ItemQPolicy(DQNPolicy):
    """SB3's DQN policy whose Q-networks are item scorers."""

    def __init__(self, *args: Any, make_scorer: Callable[[], ItemScorer], **kwargs: Any) -> None:
        self._make_scorer = make_scorer
        super().__init__(*args, **{**kwargs, "net_arch": []})

    def make_q_net(self) -> QNetwork:
        network = super().make_q_net()
        network.q_net = self._make_scorer()  # type: ignore[assignment]
        return network


class _ExploringDQN(stable_baselines3.DQN):
    """Explores row by row (SB3: all environments or none), half of the time with the backbone's own choices."""

    prior: Callable[[Tensor], Tensor]
    prior_share: float
    env_items: int

    def _sample_action(
        self,
        learning_starts: int,
        action_noise: Any = None,  # noqa: ARG002
        n_envs: int = 1,
    ) -> tuple[IntArray, IntArray]:
        features = torch.from_numpy(self._last_obs)  # (B, D + 1)
        epsilon = 1.0 if self.num_timesteps < learning_starts else self.exploration_rate
        draws = torch.rand(n_envs, 2)
        anything = torch.randint(self.env_items, (n_envs,))
        liked = torch.multinomial(torch.softmax(self.prior(features), 1), 1)[:, 0]
        tried = torch.where(draws[:, 1] < self.prior_share, liked, anything)
        with torch.no_grad():
            best = self.q_net(features).argmax(1)
        action = np.asarray(torch.where(draws[:, 0] < epsilon, tried, best))
        return action, action
