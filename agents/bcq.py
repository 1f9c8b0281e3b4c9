"""Discrete BCQ: Q-learning over the items that the log supports, by an imitator G of the logged choices.

    support    S(o) = allowed a with G(a | o) / max over allowed b of G(b | o) > tau
    target     y = r + gamma Q'(o', argmax over S(o') of Q(o', a)),    y = r where the user left
    loss       mean of huber(y - Q(o, a)) + mean of -log G(a | o) + .01 * mean of squared logits of G
    policy     softmax over S(o) of Q(o, a) / temperature, or its argmax, which is the paper's

An own page: d3rlpy's imitator is a linear layer of N outputs that takes no item head.

Source: Fujimoto, Conti, Ghavamzadeh, Pineau (2019), "Benchmarking batch deep reinforcement learning algorithms",
section 4, equations 9 to 11; defaults of its table 1 (tau .3), with this project's discount.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from agents import updates
from agents.choice import (
    allow,
    best_value,
    greedy_probabilities,
    sample_items,
    softmax_probabilities,
    top_items,
)
from agents.learning import Row, check_choice, check_counts, check_shares
from agents.networks import ItemScorer
from agents.offline import Offline
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from agents.updates import cloning_loss, with_logged
from recgym.policy import StoredPolicy
from recgym.types import Observation, Reads

_FAR = 1e3
"""How far scores outside of the support lie below those inside: their chance in a softmax is 0."""
_LOGITS_WEIGHT = 0.01
"""Of the imitator's squared logits."""


def support(logits: Tensor, mask: Tensor | None, threshold: float) -> Tensor:
    """Whether the log supports each item, (B, N): G(a) / max G > threshold, among the allowed ones."""
    likely = allow(logits, mask)
    return likely - likely.max(1, keepdim=True).values > math.log(threshold) if threshold else likely > -torch.inf


def supported_scores(q: Tensor, logits: Tensor, mask: Tensor | None, threshold: float) -> Tensor:
    """Q where the log supports the item; below all of those, the others by how likely they are: (B, N)."""
    inside = support(logits, mask, threshold)
    floor = q.masked_fill(~inside, torch.inf).min(1, keepdim=True).values
    behind = logits - allow(logits, mask).max(1, keepdim=True).values
    return torch.where(inside, q, floor.nan_to_num(posinf=0.0) - _FAR + behind)


@dataclass(frozen=True, kw_only=True)
class BCQ:
    """Batch-constrained Q-learning for discrete actions."""

    updates: int = 2_000
    """Gradient steps."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    discount: float = 0.95
    """Weight of a reward against the one a step earlier, gamma."""
    threshold: float = 0.3
    """How likely an item must be against the likeliest, tau: 0 is Q-learning, near 1 is cloning."""
    target_update_interval: int = 200
    """Gradient steps between copies of the Q-network to its target."""
    hidden: int = 64
    """Units of each head's MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first Q-values, which rank as the backbone does; in reward."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses: its best item bores where it is shown again and again."""
    temperature: float = 0.2
    """Divides Q for choice "softmax"."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "updates", "batch_size", "target_update_interval", "hidden", "segments")
        check_shares(self, "discount", "threshold")
        if self.threshold == 1:
            raise ValueError("threshold is 1: not even the likeliest item would be supported; expected less")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train on `task.logged`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, Path(folder)), task, total=self.updates, segments=self.segments,
            seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress, unit="update",
        )  # fmt: skip


class _Learner:
    """One run: Q, its target, the imitator, the optimiser and the log."""

    def __init__(self, config: BCQ, task: Task, folder: Path) -> None:
        self.config, self.task, self.folder, self.done = config, task, folder, 0
        self.data = Offline.of(task)
        gain = self.data.value_gain(task, config.initial_spread)
        self.q = task.scorer(gain=gain, hidden=config.hidden, slate_size=1)
        self.target = copy.deepcopy(self.q)
        self.imitator = task.scorer(hidden=config.hidden, slate_size=1)
        parameters = [*self.q.parameters(), *self.imitator.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)

    def advance(self, last: int) -> Row:
        """Update to `last`."""
        return updates.learn(self, last)

    def update(self, number: int) -> dict[str, Tensor]:
        """One gradient step; its terms."""
        config, layout, batch = self.config, self.data.layout, self.data.sample(self.config.batch_size)
        now, after = with_logged(layout.unpack(batch.now), batch.action), layout.unpack(batch.after)
        with torch.no_grad():
            inside = support(self.imitator(after), after.mask, config.threshold)
            best = best_value(self.target(after), self.q(after), inside)
            y = batch.reward + config.discount * batch.going * best
        found = self.q(now).gather(1, batch.action.unsqueeze(1))[:, 0]
        logits = self.imitator(now)
        terms = {
            "temporal difference": smooth_l1_loss(found, y),
            "imitation": cloning_loss(logits, batch.action, now.mask).mean(),
            "logits": _LOGITS_WEIGHT * logits.square().mean(),
        }
        losses = descend(self.folder, self.optimiser, terms, batch._asdict())
        if number % config.target_update_interval == 0:
            self.target.load_state_dict(self.q.state_dict())
        return losses

    def policy(self) -> BCQPolicy:
        """By Q where the log supports it."""
        config = self.config
        return BCQPolicy(
            q=self.q, imitator=self.imitator, threshold=config.threshold, choice=config.choice,
            temperature=config.temperature, slate_size=self.task.slate_size,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "q", "target", "imitator", "optimiser")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)


@dataclass(frozen=True, kw_only=True, eq=False)
class BCQPolicy:
    """Shows items by Q among those that the imitator finds likely enough; others only where a slate needs more."""

    q: ItemScorer
    imitator: ItemScorer
    threshold: float = 0.3
    choice: Literal["greedy", "softmax"] = "greedy"
    temperature: float = 0.2
    """Divides Q for choice "softmax"."""
    slate_size: int = 1
    name: str = "bcq"

    @property
    def reads(self) -> Reads:
        """State, or everything where the networks read the history too."""
        return self.q.layout.reads

    @property
    def sizes(self) -> dict[str, int]:
        """What it reads; see `recgym.policy.check_fits`."""
        return self.q.layout.sizes

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return self.q.num_items

    def scores(self, observation: Observation) -> Tensor:
        """Q of the supported items, and lower numbers for the others, (B, N)."""
        return self._scores(observation, None)

    def probabilities(self, observation: Observation) -> Tensor:
        """Chance of each item at slot 0, (B, N)."""
        chances = greedy_probabilities if self.choice == "greedy" else softmax_probabilities
        return chances(self._scores(observation, observation.mask), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """A slate, (B, K) item ids; `keys` (B,)."""
        scores = self._scores(observation, observation.mask)
        if self.choice == "greedy":
            return top_items(scores, observation.mask, self.slate_size)
        return sample_items(scores, observation.mask, self.slate_size, keys)

    def _scores(self, observation: Observation, mask: Tensor | None) -> Tensor:
        with torch.no_grad():
            q, logits = self.q(observation) / self.temperature, self.imitator(observation)
            return supported_scores(q, logits, mask, self.threshold)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {
            "threshold": self.threshold,
            "choice": self.choice,
            "temperature": self.temperature,
            "slate_size": self.slate_size,
            "q": self.q.config(),
            "imitator": self.imitator.config(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Weights of both networks."""
        parts = {"q": self.q, "imitator": self.imitator}
        return {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> BCQPolicy:
        """The policy whose `config` and `tensors` these are."""

        def network(part: str) -> ItemScorer:
            theirs = {name.split(".", 1)[1]: value for name, value in tensors.items() if name.startswith(f"{part}.")}
            return ItemScorer.restore(config[part], theirs)

        rest = {name: value for name, value in config.items() if name not in ("q", "imitator")}
        return cls(q=network("q"), imitator=network("imitator"), **rest)
