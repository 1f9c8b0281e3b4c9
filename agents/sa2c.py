"""SA2C: the next item weighted by its advantage over sampled ones, on a Q head that learns from negatives too.

    Q, shown     L_p = mean of (r + gamma Q'(o', argmax over allowed b of Q(o', b)) - Q(o, a))^2
    Q, negative  L_n = mean over the batch of the sum over its n sampled items c, none of them a, of
                       (r_n + gamma Q'(o, argmax over allowed b of Q(o, b)) - Q(o, c))^2        o stays as it is
    advantage    A = Q(o, a) - [Q(o, a) + sum over c of Q(o, c)] / (1 + n),   clipped to [-clip, clip]
    loss         warm-up:  L_s + q_weight (L_p + L_n),  L_s as in SQN: this alone is the paper's SNQN
                 then:     mean of A * -log pi(a | o) + q_weight (L_p + L_n),  at `second_learning_rate`

The supervised head chooses. As in `agents.sqn` the network's other copy is a lagging one; the paper's smoothed
importance weight of the logged choice is left out (its default power 0).

Source: Xin, Karatzoglou, Arapakis, Jose (2022), "Supervised advantage actor-critic for recommender systems",
equations 6 to 9 and algorithm 1.
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
class SA2C:
    """Supervised advantage actor-critic."""

    updates: int = 3_000
    """Gradient steps."""
    warm_up: int = 1_500
    """Gradient steps with a plain supervised loss, until Q means something (the paper: 15,000)."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    learning_rate: float = 1e-3
    """Adam's step size in the warm-up."""
    second_learning_rate: float = 2e-4
    """Adam's step size after it."""
    discount: float = 0.5
    """Weight of a reward against the one a step earlier, gamma."""
    negatives: int = 10
    """Items sampled against each logged one, n."""
    negative_reward: float = 0.0
    """Reward of a sampled item, r_n."""
    q_weight: float = 1.0
    """Weight of the Q losses."""
    clip: float = 10.0
    """Bound of the advantage, in reward."""
    target_update_interval: int = 100
    """Gradient steps between copies of the network to its target."""
    held_out: float = 0.0
    """Share of the sessions held out; the result is the network that predicts them best, unweighted, which is one of
    the warm-up where the advantages trade prediction for reward. 0: the last network."""
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
        check_counts(self, "updates", "batch_size", "negatives", "target_update_interval", "hidden", "segments")
        check_shares(self, "discount", "held_out")
        if not (self.q_weight >= 0 and self.warm_up >= 0 and self.clip > 0):
            raise ValueError(
                f"q_weight {self.q_weight}, warm_up {self.warm_up} and clip {self.clip}: "
                "expected at least 0, at least 0 and a positive number"
            )

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train on `task.logged`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, Path(folder)), task, total=self.updates, segments=self.segments,
            seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress, unit="update",
        )  # fmt: skip


def draw_negatives(action: Tensor, num_items: int, count: int) -> Tensor:
    """Items (n, count) drawn uniformly from those other than `action` (n,), with torch's global generator."""
    drawn = torch.randint(num_items - 1, (len(action), count)).to(action.device)
    return drawn + (drawn >= action.unsqueeze(1))


def sa2c_terms(
    network: Joined, target: Joined, batch: Minibatch, negative: Tensor, config: SA2C, *, actor: bool
) -> dict[str, Tensor]:
    """The terms of the loss, with `negative` (n, C) items; `actor`: weighted by advantages."""
    layout, action = network.scorer.layout, batch.action.unsqueeze(1)
    now, after = with_logged(layout.unpack(batch.now), batch.action), layout.unpack(batch.after)
    logits, q = network(now)
    with torch.no_grad():
        best = best_value(target(after)[1], network(after)[1], after.mask)
        y = batch.reward + config.discount * batch.going * best
        stay = config.negative_reward + config.discount * best_value(target(now)[1], q, now.mask)
    found, others = q.gather(1, action)[:, 0], q.gather(1, negative)  # (n,), (n, C)
    supervised = cloning_loss(logits, batch.action, now.mask)
    if actor:
        mean = (found + others.sum(1)) / (1 + config.negatives)
        supervised = (found - mean).detach().clamp(-config.clip, config.clip) * supervised
    return {
        "supervised": supervised.mean(),
        "temporal difference": config.q_weight * (y - found).square().mean(),
        "negatives": config.q_weight * (stay.unsqueeze(1) - others).square().sum(1).mean(),
    }


class _Learner:
    """One run: the network, its target, the optimiser and the log."""

    def __init__(self, config: SA2C, task: Task, folder: Path) -> None:
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
        config, actor = self.config, number >= self.config.warm_up
        self.optimiser.param_groups[0]["lr"] = config.second_learning_rate if actor else config.learning_rate
        batch = self.held.training.sample(config.batch_size)
        negative = draw_negatives(batch.action, self.network.scorer.num_items, config.negatives)
        terms = sa2c_terms(self.network, self.target, batch, negative, config, actor=actor)
        found = descend(self.folder, self.optimiser, terms, batch._asdict())
        if number % config.target_update_interval == 0:
            self.target.load_state_dict(self.network.state_dict())
        return found

    def policy(self) -> ScoringPolicy:
        """By the supervised head."""
        scorer, config = self.held.pick(self.network).recommender(), self.config
        return ScoringPolicy(
            scorer=scorer, name="sa2c", choice=config.choice, temperature=config.temperature,
            slate_size=self.task.slate_size,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "network", "target", "optimiser", "held")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
