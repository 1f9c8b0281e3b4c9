"""REINFORCE with a learned baseline, on slates by Plackett-Luce, on whole sessions or on stretches of them.

    G_t      = r_t + gamma r_{t+1} + ...      to the session's end; plus gamma^n b(o') where the record ends before it
    gradient = mean of (G_t - b(o_t)) grad log pi(a_t | o_t) + w grad H(pi(. | o_t))
    b        fitted to G by squared error

Advantages are divided by their standard deviation where `normalise` says so, which is this project's.

Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
theorem 1 with a reinforcement baseline; Sutton and Barto (2018), section 13.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from agents.learning import Row, check_choice, check_counts, check_shares, of_sessions
from agents.returns import returns_to_go
from agents.rollouts import Rollouts, slates
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping, check_finite, descend, restore, run, snapshot
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class REINFORCE:
    """Monte Carlo policy gradient: one step on each batch of sessions."""

    total_steps: int = 200_000
    """User steps to learn from."""
    num_envs: int = 64
    """Sessions simulated side by side."""
    rollout: int = 16
    """Steps of each environment between updates; 0: new sessions, each played to its end."""
    learning_rate: float = 2e-3
    """Adam's step size of the policy."""
    baseline_rate: float = 5e-3
    """Adam's step size of the baseline."""
    baseline_steps: int = 2
    """Gradient steps of the baseline for each of the policy."""
    discount: float = 0.98
    """Weight of a reward against the one a step earlier, gamma."""
    entropy_weight: float = 0.003
    """Weight of the entropy bonus, w."""
    normalise: bool = True
    """Divide the advantages of a batch by their standard deviation."""
    max_gradient: float = 0.5
    """Longest gradient of the policy."""
    temperature: float = 1.0
    """The policy starts as softmax(backbone scores / temperature)."""
    hidden: int = 64
    """Units of the policy's and of the baseline's MLP."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses: its best item, or a draw as in training."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "total_steps", "num_envs", "baseline_steps", "hidden", "segments")
        check_shares(self, "discount")
        if self.rollout < 0:
            raise ValueError(f"rollout is {self.rollout}, expected steps, or 0 for whole sessions")
        if not self.max_gradient > 0:
            raise ValueError(f"max_gradient is {self.max_gradient}, expected above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


class _Learner:
    """One run: the policy, the baseline, their optimisers and the sessions."""

    def __init__(self, config: REINFORCE, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        self.scorer = task.scorer(hidden=config.hidden, gain=1 / config.temperature)
        self.baseline = task.critic(hidden=config.hidden)
        self.optimiser = torch.optim.Adam(self.scorer.parameters(), lr=config.learning_rate)
        self.baseline_optimiser = torch.optim.Adam(self.baseline.parameters(), lr=config.baseline_rate)
        self.rollouts = Rollouts(task, config.num_envs, seed)

    def advance(self, last: int) -> Row:
        """Play and learn until `last` user steps are passed."""
        found: list[dict[str, Tensor]] = []
        while self.rollouts.steps < last:
            found.append(self._update())
        names = ("policy", "baseline", "entropy")
        losses = {f"train/{n}": float(torch.stack([one[n] for one in found]).mean()) if found else None for n in names}
        return {"step": self.rollouts.steps, **losses, **of_sessions(*self.rollouts.ended())}

    def _update(self) -> dict[str, Tensor]:
        """Play, then one step of the policy and `baseline_steps` of the baseline; the terms of the loss."""
        config = self.config
        batch = self.rollouts.collect(self.scorer, config.rollout)
        values, after = batch.values(self.baseline)
        target = returns_to_go(batch.reward, after, batch.terminated, batch.truncated, discount=config.discount)
        counts = batch.counts
        rows, action, target, advantage = (
            part[counts] for part in (batch.rows[:-1], batch.action, target, target - values)
        )
        if config.normalise:
            advantage = advantage / advantage.std(correction=0).clamp_min(1e-6)
        chosen = slates(self.scorer, rows)
        policy, entropy = -(advantage * chosen.log_prob(action)).mean(), chosen.entropy().mean()
        known = {"rows": rows, "action": action, "target": target}
        check_finite(self.folder, {"policy": policy, "entropy": entropy}, known)
        self.optimiser.zero_grad()
        (policy - config.entropy_weight * entropy).backward()
        torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), config.max_gradient)
        self.optimiser.step()
        for _ in range(config.baseline_steps):
            error = (self.baseline(self.baseline.layout.unpack(rows)) - target).square().mean()
            descend(self.folder, self.baseline_optimiser, {"baseline": error}, known)
        return {"policy": policy.detach(), "baseline": error.detach(), "entropy": entropy.detach()}

    def policy(self) -> ScoringPolicy:
        """As it plays."""
        config, size = self.config, self.task.slate_size
        return ScoringPolicy(scorer=self.scorer, name="reinforce", choice=config.choice, slate_size=size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "scorer", "baseline", "optimiser", "baseline_optimiser", "rollouts")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
