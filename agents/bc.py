"""Behaviour cloning: the policy that the log's items are likeliest under; filtered, that of its best sessions.

    loss   mean of -log pi(a | o),   pi = softmax of the scores of the allowed items

With `top_share` below 1 only the sessions with the highest returns are learned from: the ablation that
return-conditioned policies must beat.

Source: Pomerleau (1991), "Efficient training of artificial neural networks for autonomous navigation"; the filtered
form: Chen et al. (2021), "Decision Transformer", section 5.1 ("percentile behavior cloning").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from agents import updates
from agents.learning import Row, check_choice, check_counts, check_shares
from agents.offline import Minibatch, Offline
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from agents.updates import HeldOut, cloning_loss, with_logged
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class BC:
    """Behaviour cloning."""

    updates: int = 3_000
    """Gradient steps."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    top_share: float = 1.0
    """Share of the sessions that are learned from, those of the highest returns (the paper: .1, .25, .4 and 1)."""
    held_out: float = 0.1
    """Share of these sessions held out; the result is the network that predicts them best. 0: the last network."""
    patience: int = 0
    """Segments without a lower loss on what is held out after which nothing more is learned; 0: it goes on."""
    hidden: int = 64
    """Units of the head's MLP."""
    train_items: bool = True
    """Learn the item vectors too, or keep the backbone's."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the policy chooses; softmax is the behaviour."""
    temperature: float = 1.0
    """Divides the scores for choice "softmax"."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies by reward on the way and keep the best."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "updates", "batch_size", "hidden", "segments")
        check_shares(self, "top_share", "held_out")
        if not self.top_share:
            raise ValueError("top_share is 0, expected a share of the sessions in (0, 1]")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train on `task.logged`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, Path(folder)), task, total=self.updates, segments=self.segments,
            seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress, unit="update",
        )  # fmt: skip


class _Learner:
    """One run: the network, the optimiser and the log."""

    def __init__(self, config: BC, task: Task, folder: Path) -> None:
        self.config, self.task, self.folder, self.done = config, task, folder, 0
        data = Offline.of(task).best(config.top_share)
        self.scorer = task.scorer(hidden=config.hidden, train_items=config.train_items, slate_size=1)
        self.optimiser = torch.optim.Adam(self.scorer.parameters(), lr=config.learning_rate)
        self.held = HeldOut(data, config.held_out, config.patience)

    def advance(self, last: int) -> Row:
        """Update to `last`, unless the held-out loss says that it would not help."""
        row = {} if self.held.over else updates.learn(self, last)
        return {**row, **self.held.judge(self.scorer, self._loss)}

    def update(self, number: int) -> dict[str, Tensor]:  # noqa: ARG002
        """One gradient step; its terms."""
        batch = self.held.training.sample(self.config.batch_size)
        return descend(self.folder, self.optimiser, {"cloning": self._loss(batch).mean()}, batch._asdict())

    def _loss(self, batch: Minibatch) -> Tensor:
        seen = with_logged(self.held.training.layout.unpack(batch.now), batch.action)
        return cloning_loss(self.scorer(seen), batch.action, seen.mask)

    def policy(self) -> ScoringPolicy:
        """The network that predicts what is held out best, or the last one."""
        scorer, config = self.held.pick(self.scorer), self.config
        return ScoringPolicy(
            scorer=scorer, name="bc", choice=config.choice, temperature=config.temperature,
            slate_size=self.task.slate_size,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "scorer", "optimiser", "held")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
