"""DQN with double estimation, a dueling head, prioritised replay and n-step returns as switches; masks everywhere.

    target   y = r_1 + gamma r_2 + ... + gamma^n Q'(o_n, argmax over allowed a of Q(o_n, a))       (double)
             y = r_1 + gamma r_2 + ... + gamma^n max over allowed a of Q'(o_n, a)                   (plain)
    loss     mean of weight * huber(y - Q(o, a))

Q' is a copy of Q, made every `target_update_interval` steps. Exploration draws some of its items from the backbone's
own ranking, which is this project's.

Source: Mnih et al. (2015), "Human-level control through deep reinforcement learning"; van Hasselt et al. (2016), "Deep
reinforcement learning with double Q-learning", equation 4; Wang et al. (2016), "Dueling network architectures",
equation 9; Schaul et al. (2016), "Prioritized experience replay", algorithm 1; Hessel et al. (2018), "Rainbow".
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from agents.choice import best_value
from agents.experience import Experience
from agents.learning import Row, check_counts, check_shares
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class DQN:
    """Deep Q-network: Q(o, a) by temporal differences, greedy at the end."""

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
    """Share of exploring steps drawn from softmax(backbone scores), where there is one; the rest is uniform."""
    double: bool = True
    """Choose the next item by Q and value it by Q', which does not favour errors that are too high."""
    dueling: bool = False
    """Split Q into the state's value and advantages of mean 0."""
    priority: float = 0.0
    """Exponent of |error| in the chance to be drawn from the replay, alpha; 0 draws uniformly (the paper: 0.6)."""
    priority_correction: float = 0.4
    """Exponent of the importance weights at the start, beta; it rises to 1."""
    steps: int = 1
    """Steps of reward before the target looks at Q', n."""
    hidden: int = 64
    """Units of the head's MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first Q-values, which rank as the backbone does; in reward."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(
            self, "total_steps", "num_envs", "batch_size", "gradient_steps", "buffer_size", "target_update_interval",
            "steps", "hidden", "segments",
        )  # fmt: skip
        check_shares(
            self, "exploration_fraction", "final_epsilon", "backbone_exploration", "priority", "priority_correction",
            "discount",
        )  # fmt: skip

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`, one item a step; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


class _Learner:
    """One run: the networks, the optimiser and the experience."""

    def __init__(self, config: DQN, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        gain = task.value_gain(config.initial_spread, seed)
        self.q = task.scorer(gain=gain, hidden=config.hidden, dueling=config.dueling, slate_size=1)
        self.target = copy.deepcopy(self.q)
        self.optimiser = torch.optim.Adam(self.q.parameters(), lr=config.learning_rate)
        self.experience = Experience(task, config, seed, alpha=config.priority, beta=config.priority_correction)

    def advance(self, last: int) -> Row:
        """Act, keep, learn, up to user step `last`."""
        losses = self.experience.practise(
            last, lambda: self.experience.act(self.q), self._update, copied=(self.target, self.q)
        )
        return {"train/loss": float(torch.stack(losses).mean()) if losses else None, **self.experience.row()}

    def _update(self) -> Tensor:
        """One gradient step; its loss."""
        config, layout = self.config, self.experience.layout
        batch = self.experience.sample(config.batch_size, discount=config.discount, steps=config.steps)
        after = layout.unpack(batch.after)
        with torch.no_grad():
            theirs = self.target(after)  # (n, N)
            value = best_value(theirs, self.q(after) if config.double else theirs, after.mask)
            target = batch.reward + batch.discount * value
        found = self.q(layout.unpack(batch.now)).gather(1, batch.action)[:, 0]
        loss = (batch.weight * smooth_l1_loss(found, target, reduction="none")).mean()
        descend(self.folder, self.optimiser, {"temporal difference": loss}, batch._asdict(), clip=self.q.parameters())
        self.experience.replay.reprioritise(batch.place, target - found)
        return loss.detach()

    def policy(self) -> ScoringPolicy:
        """Greedy on Q."""
        return ScoringPolicy(scorer=self.q, name="dqn", slate_size=self.task.slate_size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "q", "target", "optimiser", "experience")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
