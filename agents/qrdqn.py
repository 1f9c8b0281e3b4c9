"""QR-DQN: learns Z quantiles of the return; greedy on their mean or on the mean of the lowest; masks everywhere.

    chances   tau_i = (i + 1/2) / Z, i = 0 .. Z-1
    target    y_j = r_1 + ... + gamma^n theta'_j(o_n, a*)
              a* = argmax over allowed a of rho(theta(o_n, a)) (double), or of rho(theta'(o_n, a)) (plain)
    loss      mean of weight * sum_i mean_j |tau_i - 1{y_j < theta_i}| huber_kappa(y_j - theta_i) / kappa
    risk      rho = the mean, or CVaR_alpha: the mean of the lowest share alpha of the returns, here and when acting
    optimism  acts on rho + c sqrt(log t / t) sqrt(1/(2Z) sum over i >= Z/2 of (theta_i - median)^2)

theta' is a copy of theta, made every `target_update_interval` steps. CVaR is taken anew at each step, of the return
from there on: a plan that it prefers at the start may be left later.

Source: Dabney et al. (2018), "Distributional reinforcement learning with quantile regression", equation 10 and
algorithm 1; Mavrin et al. (2019), "Distributional reinforcement learning for efficient exploration", whose bonus is
kept out of the targets here.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from agents.distributional import DistributionalPolicy, Quantiles, best_items
from agents.experience import Experience
from agents.learning import Row, check_counts, check_shares
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from recgym.policy import StoredPolicy
from recgym.types import Observation


@dataclass(frozen=True, kw_only=True)
class QRDQN:
    """Quantile regression Q-learning, greedy at the end."""

    quantiles: int = 50
    """Quantiles of a return, Z; the paper has 200 for at most 18 actions, and outputs are N Z."""
    risk: Literal["mean", "cvar"] = "mean"
    """What a return is worth: its mean, or the mean of its lowest share `level`."""
    level: float = 0.25
    """Share of the returns that risk "cvar" looks at, alpha."""
    kappa: float = 1.0
    """Difference up to which the loss is a square. It pulls the quantiles of returns that differ by less towards their
    mean, which hides risk where rewards are small; 0: quantiles proper."""
    optimism: float = 0.0
    """Weight of what may turn out better, while learning, c; falls with the steps (the paper: 50; 0: none)."""
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
    """User steps between copies of the network to its target."""
    exploration_fraction: float = 0.5
    """Share of `total_steps` over which epsilon falls from 1 to `final_epsilon`."""
    final_epsilon: float = 0.02
    """Chance of an exploring step at the end."""
    backbone_exploration: float = 0.3
    """Share of exploring steps drawn from softmax(backbone scores), where there is one; the rest is uniform."""
    double: bool = True
    """Choose the next item by the network and take its return from the target; the paper chooses by the target."""
    dueling: bool = False
    """Split the outputs into the state's and advantages of mean 0, as Rainbow does."""
    priority: float = 0.0
    """Exponent of the loss in the chance to be drawn from the replay; 0 draws uniformly (Rainbow: 0.5)."""
    priority_correction: float = 0.4
    """Exponent of the importance weights at the start; it rises to 1."""
    steps: int = 1
    """Steps of reward before the target looks ahead, n."""
    hidden: int = 64
    """Units of the head's MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first values, which rank as the backbone does; in reward."""
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
        if self.risk not in ("mean", "cvar"):
            raise ValueError(f"risk is {self.risk!r}, expected 'mean' or 'cvar'")
        if not min(self.kappa, self.optimism) >= 0:
            raise ValueError(f"kappa is {self.kappa} and optimism {self.optimism}: expected at least 0")
        Quantiles(num=self.quantiles, level=self.level)

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

    def __init__(self, config: QRDQN, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        self.quantiles = Quantiles(num=config.quantiles, level=config.level if config.risk == "cvar" else 1.0)
        gain = task.value_gain(config.initial_spread, seed)
        self.q = task.scorer(
            gain=gain, hidden=config.hidden, dueling=config.dueling, slate_size=1, outputs=config.quantiles
        )
        self.target = copy.deepcopy(self.q)
        self.optimiser = torch.optim.Adam(self.q.parameters(), lr=config.learning_rate)
        self.experience = Experience(task, config, seed, alpha=config.priority, beta=config.priority_correction)

    def advance(self, last: int) -> Row:
        """Act, keep, learn, up to user step `last`."""
        losses = self.experience.practise(
            last, lambda: self.experience.act(self._hopes), self._update, copied=(self.target, self.q)
        )
        return {"train/loss": float(torch.stack(losses).mean()) if losses else None, **self.experience.row()}

    def _hopes(self, observation: Observation) -> Tensor:
        """What the behaviour is greedy on: values, and the bonus of optimism, (B, N)."""
        outputs = self.q(observation)
        values = self.quantiles.value(outputs)
        if self.config.optimism:
            values = values + self.config.optimism * decay(self.experience.steps) * upper_variance(outputs).sqrt()
        return values

    def _update(self) -> Tensor:
        """One gradient step; its loss."""
        config, layout = self.config, self.experience.layout
        batch = self.experience.sample(config.batch_size, discount=config.discount, steps=config.steps)
        after = layout.unpack(batch.after)
        with torch.no_grad():
            values = self.quantiles.value((self.q if config.double else self.target)(after))
            best, left = best_items(values, after.mask)
            theirs = self.target(after, best)[:, 0]  # (n, Z)
            target = batch.reward.unsqueeze(1) + (batch.discount * left).unsqueeze(1) * theirs
        found = self.q(layout.unpack(batch.now), batch.action)[:, 0]  # (n, Z)
        errors = quantile_huber(found, target, config.kappa)  # (n,)
        loss = (batch.weight * errors).mean()
        descend(self.folder, self.optimiser, {"quantile regression": loss}, batch._asdict(), clip=self.q.parameters())
        self.experience.replay.reprioritise(batch.place, errors)
        return loss.detach()

    def policy(self) -> DistributionalPolicy:
        """Greedy on the mean, or on the conditional value at risk."""
        return DistributionalPolicy(
            scorer=self.q, reading=self.quantiles, name="qrdqn", slate_size=self.task.slate_size
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "q", "target", "optimiser", "experience")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)


def quantile_huber(found: Tensor, target: Tensor, kappa: float = 1.0) -> Tensor:
    """sum_i mean_j |tau_i - 1{y_j < theta_i}| huber_kappa(y_j - theta_i) / kappa: theta (n, Z), y (n, Y) -> (n,).

    Source: Dabney et al. (2018), equation 10; divided by kappa so that it is |y_j - theta_i| where kappa is 0.
    """
    chance = (torch.arange(found.shape[1], device=found.device) + 0.5) / found.shape[1]  # (Z,) tau
    ours, theirs = torch.broadcast_tensors(found.unsqueeze(2), target.unsqueeze(1))  # (n, Z, Y)
    weight = (chance.view(1, -1, 1) - (theirs < ours).to(found.dtype)).abs()
    errors: Tensor = (weight * smooth_l1_loss(ours, theirs, reduction="none", beta=kappa)).mean(2).sum(1)
    return errors


def upper_variance(outputs: Tensor) -> Tensor:
    """1/(2Z) sum over the upper half of (theta_i - median)^2: (..., Z) quantiles in any order -> (...).

    Source: Mavrin et al. (2019), the left truncated variance.
    """
    ordered, half = outputs.sort(-1).values, outputs.shape[-1] // 2
    return (ordered[..., half:] - ordered[..., half : half + 1]).square().sum(-1) / (2 * outputs.shape[-1])


def decay(step: int) -> float:
    """sqrt(log t / t), 0 before the second step: the schedule of Mavrin et al. (2019)."""
    return float((math.log(step) / step) ** 0.5) if step > 1 else 0.0
