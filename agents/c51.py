"""C51: learns the chances of Z fixed returns, not their mean alone; masks everywhere.

    atoms     z_i = v_min + i (v_max - v_min) / (Z - 1)
    value     Q(o, a) = sum_i z_i p_i(o, a)
    target    m_i = sum_j [1 - |clip(r_1 + ... + gamma^n z_j, v_min, v_max) - z_i| / (z_1 - z_0)]_0^1 p'_j(o_n, a*)
              a* = argmax over allowed a of Q(o_n, a) (double), or of Q'(o_n, a) (plain)
    loss      mean of weight * cross-entropy, - sum_i m_i log p_i(o, a)

p' is a copy of p, made every `target_update_interval` steps. `agents.distributional` says how outputs become chances.

Source: Bellemare, Dabney, Munos (2017), "A distributional perspective on reinforcement learning", equation 7 and
algorithm 1; Hessel et al. (2018), "Rainbow", for the switches and the loss as priority.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.distributional import Atoms, DistributionalPolicy, best_items
from agents.experience import Experience
from agents.learning import Row, check_counts, check_shares
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class C51:
    """Categorical distributional Q-learning, greedy on the expected return at the end."""

    atoms: int = 51
    """Returns of the distribution, Z."""
    v_min: float = -10.0
    """Lowest return; what lies below is counted there, and `train/outside` in the curve says how much."""
    v_max: float = 10.0
    """Highest return; as `v_min`."""
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
        Atoms(num=self.atoms, v_min=self.v_min, v_max=self.v_max)

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

    def __init__(self, config: C51, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        gain = task.value_gain(config.initial_spread, seed)
        self.atoms = Atoms(num=config.atoms, v_min=config.v_min, v_max=config.v_max, gain=gain)
        self.q = task.scorer(hidden=config.hidden, dueling=config.dueling, slate_size=1, outputs=config.atoms)
        self.target = copy.deepcopy(self.q)
        self.optimiser = torch.optim.Adam(self.q.parameters(), lr=config.learning_rate)
        self.experience = Experience(task, config, seed, alpha=config.priority, beta=config.priority_correction)

    def advance(self, last: int) -> Row:
        """Act, keep, learn, up to user step `last`."""
        terms = self.experience.practise(last, self._act, self._update, copied=(self.target, self.q))
        loss, outside = torch.stack(terms).mean(0).tolist() if terms else (None, None)
        return {"train/loss": loss, "train/outside": outside, **self.experience.row()}

    def _act(self) -> None:
        self.experience.act(lambda observation: self.atoms.value(self.q(observation)))

    def _update(self) -> Tensor:
        """One gradient step; its loss, and the share of the target outside of the atoms, (2,)."""
        config, layout, atoms = self.config, self.experience.layout, self.atoms
        batch = self.experience.sample(config.batch_size, discount=config.discount, steps=config.steps)
        after = layout.unpack(batch.after)
        with torch.no_grad():
            best, left = best_items(atoms.value((self.q if config.double else self.target)(after)), after.mask)
            chances = atoms.log_chances(self.target(after, best)[:, 0]).exp()  # (n, Z)
            discount = batch.discount * left
            target = project(chances, batch.reward, discount, atoms)
            outside = (chances * outlying(batch.reward, discount, atoms)).sum(1).mean()
        found = atoms.log_chances(self.q(layout.unpack(batch.now), batch.action)[:, 0])  # (n, Z)
        errors = -(target * found).sum(1)  # (n,)
        loss = (batch.weight * errors).mean()
        descend(self.folder, self.optimiser, {"cross-entropy": loss}, batch._asdict(), clip=self.q.parameters())
        self.experience.replay.reprioritise(batch.place, errors)
        return torch.stack([loss.detach(), outside])

    def policy(self) -> DistributionalPolicy:
        """Greedy on the expected return."""
        return DistributionalPolicy(scorer=self.q, reading=self.atoms, name="c51", slate_size=self.task.slate_size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "q", "target", "optimiser", "experience")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)


def project(chances: Tensor, reward: Tensor, discount: Tensor, atoms: Atoms) -> Tensor:
    """The distribution of reward + discount * z on the atoms, each return shared between its two neighbours.

    Args:
        chances: (n, Z) of the atoms z after the transition.
        reward: (n,).
        discount: (n,) of what follows, 0 where nothing does.
        atoms: the support.

    Returns:
        (n, Z) chances; they have the same mean, but for what lies outside of the atoms, which goes to the ends.

    Source: Bellemare, Dabney, Munos (2017), equation 7.
    """
    moved = reward.unsqueeze(1) + discount.unsqueeze(1) * atoms.returns(chances)  # (n, Z) from
    place = (moved.clamp(atoms.v_min, atoms.v_max) - atoms.v_min) / atoms.spacing
    numbers = torch.arange(atoms.num, dtype=chances.dtype, device=chances.device)
    share = (1 - (place.unsqueeze(1) - numbers.unsqueeze(1)).abs()).clamp_min(0)  # (n, Z to, Z from)
    projected: Tensor = (share @ chances.unsqueeze(2)).squeeze(2)
    return projected


def outlying(reward: Tensor, discount: Tensor, atoms: Atoms) -> Tensor:
    """Where reward + discount * z lies outside of the atoms by more than rounding: (n,), (n,) -> (n, Z) bool."""
    moved = reward.unsqueeze(1) + discount.unsqueeze(1) * atoms.returns(reward)
    return (moved < atoms.v_min - 1e-4 * atoms.spacing) | (moved > atoms.v_max + 1e-4 * atoms.spacing)
