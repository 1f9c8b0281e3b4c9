"""IQL for discrete actions: the best value within the log by an expectile, never asking for an item it does not hold.

    V loss     mean of |tau - 1[u < 0]| u^2,    u = min of Q1', Q2'(o, a) - V(o)
    Q loss     mean of (r + gamma V(o') - Q_i(o, a))^2, i = 1, 2;    r alone where the user left
    policy     mean of -min(exp(u / temperature), 100) log pi(a | o),  pi = softmax of the scores of the allowed items
    targets    Q_i' <- (1 - rate) Q_i' + rate Q_i

Only the policy scores the whole catalogue; Q scores the logged item, so it costs the same in a catalogue of any size.

Source: Kostrikov, Nair, Levine (2022), "Offline reinforcement learning with implicit Q-learning", equations 5 to 7 and
algorithm 1; defaults of its appendix B (tau .7, 1 / temperature 3, rate .005), with this project's discount.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agents import updates
from agents.learning import Row, check_choice, check_counts, check_shares
from agents.offline import Minibatch, Offline
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from agents.updates import cloning_loss, with_logged
from recgym.policy import StoredPolicy

_MOST = 100.0
"""Weight of an item in the cloning, at most."""


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """|tau - 1[u < 0]| u^2 of differences u (n,), averaged."""
    return (torch.where(difference < 0, 1 - expectile, expectile) * difference.square()).mean()


@dataclass(frozen=True, kw_only=True)
class IQL:
    """Implicit Q-learning."""

    updates: int = 4_000
    """Gradient steps."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    learning_rate: float = 3e-4
    """Adam's step size, of all networks."""
    discount: float = 0.95
    """Weight of a reward against the one a step earlier, gamma."""
    expectile: float = 0.7
    """tau: .5 values the log's policy, near 1 the best within the log."""
    temperature: float = 1 / 3
    """Advantage, in reward, that makes an item e times as heavy in the cloning; 1 / beta of the paper."""
    target_rate: float = 0.005
    """Share of the Q-networks that their targets take over in each update."""
    hidden: int = 64
    """Units of each MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first Q-values, which rank as the backbone does; in reward."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses; softmax is the policy that was learned."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "updates", "batch_size", "hidden", "segments")
        check_shares(self, "discount", "expectile", "target_rate")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train on `task.logged`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, Path(folder)), task, total=self.updates, segments=self.segments,
            seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress, unit="update",
        )  # fmt: skip


class _Learner:
    """One run: two Q-networks, their targets, the value, the policy, the optimiser and the log."""

    def __init__(self, config: IQL, task: Task, folder: Path) -> None:
        self.config, self.task, self.folder, self.done = config, task, folder, 0
        self.data = Offline.of(task)
        gain = self.data.value_gain(task, config.initial_spread)
        self.q = nn.ModuleList(task.scorer(gain=gain, hidden=config.hidden, slate_size=1) for _ in range(2))
        self.target = copy.deepcopy(self.q)
        self.value = task.critic(hidden=config.hidden, slate_size=1)
        self.actor = task.scorer(hidden=config.hidden, slate_size=1)
        parameters = [*self.q.parameters(), *self.value.parameters(), *self.actor.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)

    def advance(self, last: int) -> Row:
        """Update to `last`."""
        return updates.learn(self, last)

    def update(self, number: int) -> dict[str, Tensor]:  # noqa: ARG002
        """One gradient step on all networks; its terms."""
        batch = self.data.sample(self.config.batch_size)
        found = descend(self.folder, self.optimiser, self._terms(batch), batch._asdict())
        with torch.no_grad():
            for theirs, ours in zip(self.target.parameters(), self.q.parameters(), strict=True):
                theirs.lerp_(ours, self.config.target_rate)
        return found

    def _terms(self, batch: Minibatch) -> dict[str, Tensor]:
        config, layout, action = self.config, self.data.layout, batch.action.unsqueeze(1)
        now, after = with_logged(layout.unpack(batch.now), batch.action), layout.unpack(batch.after)
        with torch.no_grad():
            theirs = torch.stack([q(now, action)[:, 0] for q in self.target])
            y = batch.reward + config.discount * batch.going * self.value(after)
        difference = theirs.min(0).values - self.value(now)
        ours = torch.stack([q(now, action)[:, 0] for q in self.q])
        weight = (difference.detach() / config.temperature).exp().clamp(max=_MOST)
        return {
            "value": expectile_loss(difference, config.expectile),
            "temporal difference": (ours - y).square().mean(1).sum(),
            "cloning": (weight * cloning_loss(self.actor(now), batch.action, now.mask)).mean(),
        }

    def policy(self) -> ScoringPolicy:
        """By the cloned scores."""
        return ScoringPolicy(scorer=self.actor, name="iql", choice=self.config.choice, slate_size=self.task.slate_size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "q", "target", "value", "actor", "optimiser")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
