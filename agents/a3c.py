"""A3C: workers on processes of their own compute gradients, each with sessions of its own, for shared parameters.

    g       = grad of  mean of -(R_t - V(o_t)) log pi(a_t | o_t) - w H(pi) + v (R_t - V(o_t))^2
    R_t     = r_t + gamma r_{t+1} + ... + gamma^n V(o')           n steps, fewer where the user leaves
    square  = rho square + (1 - rho) g^2
    theta   = theta - rate g / sqrt(square + epsilon)             shared: theta and square; rate falls to 0

A worker copies theta, plays, computes g while the others do theirs, applies it, and copies theta again.

In the paper whoever is ready applies its gradient (`order` "free"): no two such runs are alike. By default workers
compute side by side but take turns to apply, 0, 1, ..., W - 1, 0, ...: each gradient is then W - 1 updates old, and the
same seed gives the same weights. Where processes cannot be forked (a machine with a GPU, no Linux, a plain Gymnasium
environment, whose state cannot be carried between processes) the workers take the same turns in this process, to the
same numbers; so does one worker.

Source: Mnih et al. (2016), "Asynchronous methods for deep reinforcement learning", algorithm S3 and, for the shared
RMSProp, equation S2.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from agents.learning import Row, check_choice, check_counts, check_shares, of_sessions
from agents.returns import returns_to_go
from agents.rollouts import Rollouts, slates
from agents.scoring import ScoringPolicy
from agents.task import Task
from agents.training import Stopping, check_finite, run
from agents.workers import Turns, can_fork, check_parent, forked
from recgym.policy import StoredPolicy
from recgym.random import session_keys


@dataclass(frozen=True, kw_only=True)
class A3C:
    """Asynchronous advantage actor-critic."""

    total_steps: int = 200_000
    """User steps to learn from, of all workers together."""
    workers: int = 4
    """Processes, W."""
    order: Literal["fixed", "free"] = "fixed"
    """Whether workers apply their gradients in turns, or whenever they are ready."""
    num_envs: int = 32
    """Sessions of each worker side by side (the paper: 1)."""
    rollout: int = 8
    """Steps of each session between updates (the paper: 5)."""
    learning_rate: float = 3e-3
    """RMSProp's step size at the start; it falls linearly to 0."""
    rms_decay: float = 0.99
    """RMSProp's rho."""
    rms_epsilon: float = 1e-5
    """RMSProp's epsilon."""
    max_gradient: float = 0.5
    """Longest gradient."""
    discount: float = 0.98
    """Weight of a reward against the one a step earlier, gamma."""
    entropy_weight: float = 0.003
    """Weight of the entropy bonus, w."""
    value_weight: float = 0.5
    """Weight of the critic's squared error, v."""
    normalise: bool = True
    """Divide the advantages of a rollout by their standard deviation, which is this project's."""
    temperature: float = 1.0
    """The actor starts as softmax(backbone scores / temperature)."""
    hidden: int = 64
    """Units of the actor's and of the critic's MLP."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses: its best item, or a draw as in training."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each; workers meet where one ends."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "total_steps", "workers", "num_envs", "rollout", "hidden", "segments")
        check_shares(self, "discount", "rms_decay")
        if self.order not in ("fixed", "free"):
            raise ValueError(f"order is {self.order!r}, expected 'fixed' or 'free'")
        if not min(self.max_gradient, self.rms_epsilon) > 0:
            found = f"max_gradient {self.max_gradient} and rms_epsilon {self.rms_epsilon}"
            raise ValueError(f"{found}: expected above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


class _Worker:
    """Sessions, a copy of the parameters, and a random stream of its own."""

    def __init__(self, config: A3C, task: Task, seed: int, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.scorer = task.scorer(hidden=config.hidden, gain=1 / config.temperature)
        self.critic = task.critic(hidden=config.hidden)
        self.parameters = [p for part in (self.scorer, self.critic) for p in part.parameters() if p.requires_grad]
        self.rollouts = Rollouts(task, config.num_envs, seed)
        self.losses: list[Tensor] = []

    def begin(self, shared: Tensor, seed: int) -> None:
        """Start a segment."""
        self.random, self.losses = torch.Generator().manual_seed(seed).get_state(), []
        self.copy(shared)

    def copy(self, shared: Tensor) -> None:
        """Take the shared parameters (P,)."""
        with torch.no_grad():
            vector_to_parameters(shared.clone(), self.parameters)

    def gradient(self) -> Tensor:
        """Play and differentiate: (P,)."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random)
            batch = self.rollouts.collect(self.scorer, self.config.rollout)
            self.random = torch.get_rng_state()
        config, (_, after) = self.config, batch.values(self.critic)
        target = returns_to_go(batch.reward, after, batch.terminated, batch.truncated, discount=config.discount)
        rows, action, target = batch.rows[:-1].flatten(0, 1), batch.action.flatten(0, 1), target.flatten()
        values, chosen = self.critic(self.critic.layout.unpack(rows)), slates(self.scorer, rows)
        advantage = target - values.detach()
        if config.normalise:
            advantage = advantage / advantage.std(correction=0).clamp_min(1e-6)
        policy, entropy = -(advantage * chosen.log_prob(action)).mean(), chosen.entropy().mean()
        value = (target - values).square().mean()
        terms = {"policy": policy, "value": value, "entropy": entropy}
        check_finite(self.folder, terms, {"rows": rows, "action": action, "target": target})
        loss = policy + config.value_weight * value - config.entropy_weight * entropy
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self.losses.append(torch.stack([term.detach() for term in terms.values()]).cpu())
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
        flat = parameters_to_vector(parts)
        clipped: Tensor = flat * (config.max_gradient / flat.norm().clamp_min(config.max_gradient))
        return clipped


class _Learner:
    """One run: the shared parameters and statistics, and the workers as they stand between segments."""

    def __init__(self, config: A3C, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task = config, task
        seeds = (session_keys(seed, config.workers) % 2**31).tolist()
        self.workers = [_Worker(config, task, one, folder) for one in seeds]
        self.shared = parameters_to_vector(self.workers[0].parameters).detach().clone()  # (P,)
        self.square = torch.zeros_like(self.shared)  # (P,)
        self.updates = 0
        self.processes = config.workers > 1 and can_fork() and bool(self.workers[0].rollouts.env.state_dict())  # type: ignore[attr-defined]
        if self.processes:
            self.shared.share_memory_()
            self.square.share_memory_()

    def advance(self, last: int) -> Row:
        """All updates up to user step `last`, rounded up to whole ones."""
        config, first = self.config, self.updates
        size = config.num_envs * config.rollout
        self.updates = max(first, -(-last // size))
        for worker, seed in zip(self.workers, torch.randint(2**62, (config.workers,)).tolist(), strict=True):
            worker.begin(self.shared, seed)
        found = (self._side_by_side if self.processes else self._one_by_one)(range(first, self.updates))
        losses = torch.cat([one["losses"] for one in found])
        row: Row = {"step": self.updates * size}
        if len(losses):
            row |= dict(zip(("train/policy", "train/value", "train/entropy"), losses.mean(0).tolist(), strict=True))
        return {**row, **of_sessions(*(torch.cat([one[name] for one in found]) for name in ("returns", "lengths")))}

    def _one_by_one(self, updates: range) -> list[dict[str, Any]]:
        """The turns that the processes would take."""
        for place, update in enumerate(updates):
            worker = self.workers[place % len(self.workers)]
            self._apply(worker.gradient(), update)
            worker.copy(self.shared)
        return [_ended(worker) for worker in self.workers]

    def _side_by_side(self, updates: range) -> list[dict[str, Any]]:
        """The same on processes."""
        count, parent = len(self.workers), os.getpid()
        turns = Turns(count) if self.config.order == "fixed" else None

        def job(index: int, worker: _Worker) -> Callable[[], dict[str, Any]]:
            def work() -> dict[str, Any]:
                for update in updates[index::count]:
                    gradient = worker.gradient()
                    check_parent(parent)
                    with turns.turn(index) if turns else nullcontext():
                        self._apply(gradient, update)
                        worker.copy(self.shared)
                return {**_ended(worker), "sessions": worker.rollouts.state_dict()}

            return work

        found = forked([job(index, worker) for index, worker in enumerate(self.workers)])
        for worker, one in zip(self.workers, found, strict=True):
            worker.rollouts.load_state_dict(one["sessions"])
        return found

    def _apply(self, gradient: Tensor, update: int) -> None:
        """One step of the shared RMSProp; without a lock, as in the paper."""
        config = self.config
        done = update * config.num_envs * config.rollout / config.total_steps
        self.square.mul_(config.rms_decay).addcmul_(gradient, gradient, value=1 - config.rms_decay)
        scaled = gradient / (self.square + config.rms_epsilon).sqrt()
        self.shared.sub_(config.learning_rate * max(0.0, 1 - done) * scaled)

    def policy(self) -> ScoringPolicy:
        """The shared actor."""
        self.workers[0].copy(self.shared)
        scorer = copy.deepcopy(self.workers[0].scorer)
        return ScoringPolicy(scorer=scorer, name="a3c", choice=self.config.choice, slate_size=self.task.slate_size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        sessions = [worker.rollouts.state_dict() for worker in self.workers]
        shared, square = self.shared.clone(), self.square.clone()
        return {"updates": self.updates, "shared": shared, "square": square, "sessions": sessions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.updates = state["updates"]
        self.shared.copy_(state["shared"])
        self.square.copy_(state["square"])
        for worker, sessions in zip(self.workers, state["sessions"], strict=True):
            worker.rollouts.load_state_dict(sessions)


def _ended(worker: _Worker) -> dict[str, Any]:
    """Losses (U, 3) of a worker's updates and the sessions that ended in them."""
    returns, lengths = worker.rollouts.ended()
    losses = torch.stack(worker.losses) if worker.losses else torch.zeros(0, 3)
    return {"losses": losses, "returns": returns, "lengths": lengths}
