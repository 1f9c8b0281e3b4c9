"""REINFORCE from logs: the top-K off-policy correction.

    gradient = mean over logged steps of  w lambda_K R grad log pi(a | o)
    w        = min(pi(a | o) / beta(a | o), c)          corrects for the policy that logged, beta
    lambda_K = K (1 - pi(a | o))^(K - 1)                of alpha = 1 - (1 - pi)^K, the chance to be among K draws
    R        = r_t + gamma r_{t+1} + ... to the end of the record

With K = 1 and no cap it is unbiased, step by step; with K items it climbs the mean of alpha(a | o) R. As in the paper
there is no baseline (for K > 1 one would bias it) and the states are those of the log.

Source: Chen et al. (2019), "Top-K off-policy correction for a REINFORCE recommender system", equations 3, 6 and 7, and
section 4.4 on the cap; beta is estimated as in section 4.2, by a network of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agents import updates
from agents.choice import allow
from agents.learning import Row, check_choice, check_counts, check_shares
from agents.networks import ItemScorer
from agents.offline import Offline
from agents.returns import returns_to_go
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping, check_finite, restore, run, snapshot
from agents.updates import with_logged
from recgym.policy import StoredPolicy
from recgym.types import Observation, Transitions


@dataclass(frozen=True, kw_only=True)
class TopKREINFORCE:
    """Off-policy policy gradient on logged steps."""

    updates: int = 4_000
    """Gradient steps."""
    batch_size: int = 256
    """Logged steps in each."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    discount: float = 0.98
    """Weight of a reward against the one a step earlier, gamma."""
    top: int = 0
    """Items that the policy will show, K; 0: as many as the task's slates."""
    weight_cap: float = 20.0
    """Largest importance weight, c: the paper's e^3."""
    behaviour: Literal["auto", "logged", "estimated"] = "auto"
    """Where beta comes from: logged propensities, an estimate, or (auto) an estimate where a propensity is unknown."""
    entropy_weight: float = 0.0
    """Weight of an entropy bonus, which the paper has not."""
    temperature: float = 1.0
    """The policy starts as softmax(backbone scores / temperature)."""
    hidden: int = 64
    """Units of the head's MLP."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses: its best item, or a draw."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "updates", "batch_size", "hidden", "segments")
        check_shares(self, "discount")
        if self.behaviour not in ("auto", "logged", "estimated"):
            raise ValueError(f"behaviour is {self.behaviour!r}, expected 'auto', 'logged' or 'estimated'")
        if self.top < 0 or not self.weight_cap > 0:
            raise ValueError(f"top {self.top} and weight_cap {self.weight_cap}: expected at least 0, and above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train on `task.logged`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, Path(folder)), task, total=self.updates, segments=self.segments,
            seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress, unit="update",
        )  # fmt: skip


def multiplier(log_chance: Tensor, top: int) -> Tensor:
    """lambda_K = K (1 - pi)^(K - 1), of log pi in any shape."""
    return top * (-torch.expm1(log_chance)).clamp_min(0) ** (top - 1)


def top_k_loss(log_chance: Tensor, log_behaviour: Tensor, returns: Tensor, *, top: int, cap: float) -> Tensor:
    """What minus the gradient above is the gradient of, item by item.

    Args:
        log_chance: (n, S) log pi of the items shown.
        log_behaviour: (n, S) log beta of the same.
        returns: (n, 1), R.
        top: K.
        cap: c.
    """
    with torch.no_grad():
        weight = (log_chance - log_behaviour).exp().clamp_max(cap) * multiplier(log_chance, top)
    return -weight * returns * log_chance


class _Learner:
    """One run: the log, the policy, and the estimate of the one that logged."""

    def __init__(self, config: TopKREINFORCE, task: Task, folder: Path) -> None:
        self.config, self.task, self.folder, self.done = config, task, folder, 0
        self.data = Offline.of(task, layout=task.layout(), slates=True)
        logged: Any = task.logged
        self.top = config.top or task.slate_size
        self.scorer = task.scorer(hidden=config.hidden, gain=1 / config.temperature)
        self.estimate = task.scorer(hidden=config.hidden)
        self.optimiser = torch.optim.Adam(self.scorer.parameters(), lr=config.learning_rate)
        self.estimate_optimiser = torch.optim.Adam(self.estimate.parameters(), lr=config.learning_rate)
        self.returns = _returns(logged, config.discount).to(task.device)  # (T, 1)
        self.log_propensity = torch.from_numpy(logged.propensity).float().log().unsqueeze(1).to(task.device)  # (T, 1)
        known = logged.action.shape[1] == 1 and bool((logged.propensity > 0).all())
        if config.behaviour == "logged" and not known:
            raise ValueError(
                "behaviour is 'logged', but propensities of single items are not known for every step; say 'estimated'"
            )
        self.estimated = config.behaviour == "estimated" or not known

    def advance(self, last: int) -> Row:
        """Update to `last`."""
        return updates.learn(self, last)

    def update(self, number: int) -> dict[str, Tensor]:  # noqa: ARG002
        """One step of the policy, and of the estimate where there is one; the terms of the loss."""
        config, data = self.config, self.data
        drawn = torch.randint(len(data), (config.batch_size,)).to(data.drawn.device)
        rows, action, returns = data.at(drawn).now, data.slates[drawn], self.returns[drawn]
        seen = with_logged(data.layout.unpack(rows), action)
        terms: dict[str, Tensor] = {}
        if self.estimated:
            log_behaviour = _log_chances(self.estimate, seen).gather(1, action)
            terms["behaviour"] = -log_behaviour.mean()
        else:
            log_behaviour = self.log_propensity[drawn]
        everything = _log_chances(self.scorer, seen)  # (n, N)
        chance = everything.gather(1, action)  # (n, S)
        terms["policy"] = top_k_loss(chance, log_behaviour, returns, top=self.top, cap=config.weight_cap).mean()
        terms["entropy"] = -(everything.exp() * everything.clamp_min(torch.finfo(torch.float32).min)).sum(1).mean()
        check_finite(self.folder, terms, {"rows": rows, "action": action, "returns": returns})
        for optimiser in (self.optimiser, self.estimate_optimiser):
            optimiser.zero_grad()
        loss = terms["policy"] - config.entropy_weight * terms["entropy"]
        (loss + terms["behaviour"] if self.estimated else loss).backward()
        self.optimiser.step()
        if self.estimated:
            self.estimate_optimiser.step()
        return {name: term.detach() for name, term in terms.items()}

    def policy(self) -> ScoringPolicy:
        """As it is now."""
        config, size = self.config, self.task.slate_size
        return ScoringPolicy(scorer=self.scorer, name="topk-reinforce", choice=config.choice, slate_size=size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "scorer", "estimate", "optimiser", "estimate_optimiser")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)


def _log_chances(scorer: ItemScorer, observation: Observation) -> Tensor:
    return torch.log_softmax(allow(scorer(observation), observation.mask), 1)


def _returns(logged: Transitions, discount: float) -> Tensor:
    """R of each step, (T, 1): nothing is added for what the record does not hold."""
    last = torch.from_numpy(np.append(np.diff(logged.episode) != 0, True)).unsqueeze(1)
    reward = torch.from_numpy(logged.reward).float().unsqueeze(1)
    return returns_to_go(reward, torch.zeros_like(reward), last, torch.zeros_like(last), discount=discount)
