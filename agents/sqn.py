"""SQN: a Q head joined to the supervised network of the next item, which it regularises towards reward.

    supervised   L_s = mean of -log pi(a | o),    pi = softmax of the logits of the allowed items
    Q            L_q = mean of (r + gamma Q'(o', argmax over allowed b of Q(o', b)) - Q(o, a))^2,  r where the user left
    loss         L_s + q_weight * L_q

The supervised head chooses. The body is a head on the task's backbone states, and starts as its ranking. The paper
learns two copies of the network in turn, each valued by the other; here the other is a lagging copy.

Source: Xin, Karatzoglou, Arapakis, Jose (2020), "Self-supervised reinforcement learning for recommender systems",
equations 4 to 6; gamma .5 as in its section 5.1.4.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from agents import updates
from agents.choice import best_value
from agents.joined import Joined
from agents.learning import Row, check_choice, check_counts, check_shares
from agents.offline import Minibatch, Offline
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from agents.updates import HeldOut, cloning_loss, with_logged
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class SQN:
    """Self-supervised Q-learning."""

    updates: int = 3_000
    """Gradient steps."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    discount: float = 0.5
    """Weight of a reward against the one a step earlier, gamma."""
    q_weight: float = 1.0
    """Weight of the Q loss; 0 leaves the supervised network alone."""
    target_update_interval: int = 100
    """Gradient steps between copies of the network to its target."""
    held_out: float = 0.1
    """Share of the sessions held out; the result is the network that predicts them best. 0: the last network."""
    patience: int = 0
    """Segments without a lower loss on what is held out after which nothing more is learned; 0: it goes on."""
    hidden: int = 64
    """Units of the heads' MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first Q-values, which rank as the backbone does; in reward."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses, by the supervised head: its best item bores where it is shown again and again."""
    temperature: float = 1.0
    """Divides the logits for choice "softmax"."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies by reward on the way and keep the best."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "updates", "batch_size", "target_update_interval", "hidden", "segments")
        check_shares(self, "discount", "held_out")
        if not self.q_weight >= 0:
            raise ValueError(f"q_weight is {self.q_weight}, expected at least 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train on `task.logged`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, Path(folder)), task, total=self.updates, segments=self.segments,
            seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress, unit="update",
        )  # fmt: skip


def sqn_terms(network: Joined, target: Joined, batch: Minibatch, config: SQN) -> dict[str, Tensor]:
    """Both terms of the loss."""
    layout = network.scorer.layout
    now, after = with_logged(layout.unpack(batch.now), batch.action), layout.unpack(batch.after)
    logits, q = network(now)
    with torch.no_grad():
        best = best_value(target(after)[1], network(after)[1], after.mask)
        y = batch.reward + config.discount * batch.going * best
    found = q.gather(1, batch.action.unsqueeze(1))[:, 0]
    return {
        "supervised": cloning_loss(logits, batch.action, now.mask).mean(),
        "temporal difference": config.q_weight * (y - found).square().mean(),
    }


class _Learner:
    """One run: the network, its target, the optimiser and the log."""

    def __init__(self, config: SQN, task: Task, folder: Path) -> None:
        self.config, self.task, self.folder, self.done = config, task, folder, 0
        data = Offline.of(task)
        self.network = Joined(task, data, hidden=config.hidden, initial_spread=config.initial_spread).to(task.device)
        self.target = copy.deepcopy(self.network)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.held = HeldOut(data, config.held_out, config.patience)

    def advance(self, last: int) -> Row:
        """Update to `last`, unless the held-out loss says that it would not help."""
        row = {} if self.held.over else updates.learn(self, last)
        return {**row, **self.held.judge(self.network, self.network.supervised_loss)}

    def update(self, number: int) -> dict[str, Tensor]:
        """One gradient step; its terms."""
        batch = self.held.training.sample(self.config.batch_size)
        terms = sqn_terms(self.network, self.target, batch, self.config)
        found = descend(self.folder, self.optimiser, terms, batch._asdict())
        if number % self.config.target_update_interval == 0:
            self.target.load_state_dict(self.network.state_dict())
        return found

    def policy(self) -> ScoringPolicy:
        """By the supervised head."""
        scorer, config = self.held.pick(self.network).recommender(), self.config
        return ScoringPolicy(
            scorer=scorer, name="sqn", choice=config.choice, temperature=config.temperature,
            slate_size=self.task.slate_size,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "network", "target", "optimiser", "held")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
