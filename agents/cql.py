"""CQL with an item-scoring head, from transitions alone: logged sessions, or collected ones.

    target        y = r + gamma Q'(o', argmax over allowed a of Q(o', a)),    y = r where the user left
    loss          mean of huber(y - Q(o, a)) + alpha * mean of [log sum over allowed b of exp Q(o, b) - Q(o, a)]

Q' is a copy of Q, made every `target_update_interval` updates. With `candidates` C the sum is estimated from C drawn
items (see `agents.candidates`), and the argmax is over them and the batch's logged items: a gradient step then costs as
much in a catalogue of any size, but for Adam's step on the item vectors where those are trained. The maximum of C items
is at most that of all: targets are lower, never higher.

`by_d3rlpy=True` lets d3rlpy make the updates, whose loss is the same without masks.

Source: Kumar, Zhou, Tucker, Levine (2020), "Conservative Q-learning for offline reinforcement learning", equation 4;
van Hasselt et al. (2016), "Deep reinforcement learning with double Q-learning", equation 4.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from agents import updates
from agents.candidates import Proposal, estimated_logsumexp
from agents.choice import allow, best_value
from agents.learning import Row, check_choice, check_counts, check_shares
from agents.networks import ItemScorer
from agents.offline import Minibatch, Offline
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping, check_finite, descend, restore, run, snapshot
from agents.updates import with_logged
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class CQL:
    """Conservative Q-learning: Q by temporal differences, pushed down for what the log does not show."""

    updates: int = 2_000
    """Gradient steps."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    discount: float = 0.95
    """Weight of a reward against the one a step earlier, gamma."""
    conservatism: float = 0.1
    """Weight of logsumexp Q - Q(logged), alpha."""
    candidates: int = 0
    """Items drawn for each gradient step in place of the catalogue, C; 0: the whole catalogue."""
    popular_share: float = 0.5
    """Share of the drawn items that follow the log's popularity; the rest is uniform."""
    by_d3rlpy: bool = False
    """Let d3rlpy make the updates: the whole catalogue, no masks, on the CPU."""
    target_update_interval: int = 200
    """Gradient steps between copies of the Q-network to its target."""
    hidden: int = 64
    """Units of the head's MLP."""
    train_items: bool = True
    """Learn the item vectors too, or keep the backbone's."""
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
        check_shares(self, "popular_share", "discount")
        if not (self.discount < 1 and min(self.conservatism, self.candidates) >= 0):
            raise ValueError(
                f"discount {self.discount}, conservatism {self.conservatism} and candidates {self.candidates}: "
                "expected [0, 1), at least 0 and at least 0"
            )
        if self.popular_share == 1:
            raise ValueError("popular_share is 1: items that the log never shows would never be drawn; expected less")
        if self.by_d3rlpy and self.candidates:
            raise ValueError(f"d3rlpy scores the whole catalogue: give candidates 0, not {self.candidates}")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train on `task.logged`; see `agents.task.Agent`.

        Raises:
            ValueError: the task has no transitions, or they lack the state or hold slates; or d3rlpy should make the
                updates where items are masked.
        """
        learner = _Library if self.by_d3rlpy else _Learner
        return run(
            self, lambda: learner(self, task, Path(folder)), task, total=self.updates, segments=self.segments,
            seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress, unit="update",
        )  # fmt: skip

    def scorer(self, task: Task, data: Offline) -> ItemScorer:
        """A fresh Q-network."""
        gain = data.value_gain(task, self.initial_spread)
        return task.scorer(gain=gain, hidden=self.hidden, train_items=self.train_items, slate_size=1)

    def policy(self, scorer: ItemScorer, task: Task) -> ScoringPolicy:
        """The policy that Q makes."""
        return ScoringPolicy(
            scorer=scorer, name="cql", choice=self.choice, temperature=self.temperature, slate_size=task.slate_size
        )


def cql_terms(q: ItemScorer, target: ItemScorer, batch: Minibatch, config: CQL) -> dict[str, Tensor]:
    """Both terms of the loss over the whole catalogue."""
    now, after = with_logged(q.layout.unpack(batch.now), batch.action), q.layout.unpack(batch.after)
    values = q(now)  # (n, N)
    found = values.gather(1, batch.action.unsqueeze(1))[:, 0]
    with torch.no_grad():
        y = batch.reward + config.discount * batch.going * best_value(target(after), q(after), after.mask)
    push = allow(values, now.mask).logsumexp(1) - found
    return {"temporal difference": smooth_l1_loss(found, y), "conservatism": config.conservatism * push.mean()}


def candidate_terms(
    q: ItemScorer, target: ItemScorer, batch: Minibatch, config: CQL, drawn: Tensor, log_expected: Tensor
) -> dict[str, Tensor]:
    """Both terms, estimated with the `drawn` items (C,) and their log(C p)."""
    now, after = with_logged(q.layout.unpack(batch.now), batch.action), q.layout.unpack(batch.after)
    numbers, size = torch.cat([batch.action, drawn]), len(batch.action)
    values = q(now, numbers)  # (n, n + C)
    found = values[:, :size].diagonal()
    with torch.no_grad():
        mask = None if after.mask is None else after.mask[:, numbers]
        best = best_value(target(after, numbers), q(after, numbers), mask)
        y = batch.reward + config.discount * batch.going * best
    counts = drawn != batch.action.unsqueeze(1)  # (n, C)
    if now.mask is not None:
        counts = counts & now.mask[:, drawn]
    push = estimated_logsumexp(found, values[:, size:], log_expected, counts) - found
    return {"temporal difference": smooth_l1_loss(found, y), "conservatism": config.conservatism * push.mean()}


class _Learner:
    """One run: the networks, the optimiser and the log."""

    def __init__(self, config: CQL, task: Task, folder: Path) -> None:
        self.config, self.task, self.folder, self.done = config, task, folder, 0
        self.data = Offline.of(task)
        self.q = config.scorer(task, self.data)
        self.target = copy.deepcopy(self.q)
        self.optimiser = torch.optim.Adam(self.q.parameters(), lr=config.learning_rate)
        self.proposal = Proposal(self.data.action, self.q.num_items, config.popular_share)

    def advance(self, last: int) -> Row:
        """Update to `last`."""
        return updates.learn(self, last)

    def update(self, number: int) -> dict[str, Tensor]:
        """One gradient step; its terms."""
        config, batch = self.config, self.data.sample(self.config.batch_size)
        if config.candidates:
            drawn = self.proposal.draw(config.candidates)
            terms = candidate_terms(self.q, self.target, batch, config, *drawn)
        else:
            terms = cql_terms(self.q, self.target, batch, config)
        found = descend(self.folder, self.optimiser, terms, batch._asdict())
        if number % config.target_update_interval == 0:
            self.target.load_state_dict(self.q.state_dict())
        return found

    def policy(self) -> ScoringPolicy:
        """By Q."""
        return self.config.policy(self.q, self.task)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "q", "target", "optimiser")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)


class _Library:
    """One run of d3rlpy's algorithm, with batches of ours."""

    def __init__(self, config: CQL, task: Task, folder: Path) -> None:
        from agents.d3 import discrete_cql

        self.config, self.task, self.folder, self.done = config, task, folder, 0
        self.data = Offline.of(task)
        if self.data.layout.shown:
            raise ValueError("d3rlpy knows no masks, and items are masked here: leave by_d3rlpy=False")
        self.algorithm = discrete_cql(
            self.data.layout, lambda: config.scorer(task, self.data), batch_size=config.batch_size,
            gamma=config.discount, learning_rate=config.learning_rate, alpha=config.conservatism,
            target_update_interval=config.target_update_interval,
        )  # fmt: skip
        modules = self.algorithm.impl.modules
        self.q, self.target, self.optimiser = modules.q_funcs, modules.targ_q_funcs, modules.optim.optim

    def advance(self, last: int) -> Row:
        """Update to `last`."""
        return updates.learn(self, last)

    def update(self, number: int) -> dict[str, Tensor]:
        """One gradient step; its terms, as d3rlpy names them."""
        from agents.d3 import minibatch

        self.algorithm._grad_step = number
        batch = self.data.sample(self.config.batch_size)
        terms = {name: torch.tensor(value) for name, value in self.algorithm.update(minibatch(batch)).items()}
        check_finite(self.folder, terms, batch._asdict())
        return terms

    def policy(self) -> ScoringPolicy:
        """By Q."""
        return self.config.policy(self.q[0].scorer, self.task)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "q", "target", "optimiser")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
