"""DRQN: deep Q-learning with an LSTM, from sequences with stored states and a burn-in; masks everywhere.

    m_t      = LSTM(m_{t-1}, x_t)                                          reset where a session starts
    target   y_t = r_t + gamma Q'(o_{t+1}, m'_{t+1}, argmax over allowed a of Q(o_{t+1}, m_{t+1}, a))    (double)
             y_t = r_t + gamma max over allowed a of Q'(o_{t+1}, m'_{t+1}, a)                             (plain)
    loss     mean over the sequences' last `length` steps of huber(y_t - Q(o_t, m_t, a_t))

A sequence starts from the memory that stood there when it was met. Its first `burn_in` steps only bring that memory up
to date, for Q and for Q' each with its own weights; gradients flow through the `length` steps after them.

Source: Hausknecht & Stone (2015), "Deep recurrent Q-learning for partially observable MDPs"; Kapturowski et al. (2019),
"Recurrent experience replay in distributed reinforcement learning" (R2D2), section 3; van Hasselt et al. (2016),
"Deep reinforcement learning with double Q-learning", equation 4. Without R2D2's priorities, its value rescaling and its
n-step returns; here sequences may cross the ends of sessions.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from agents.choice import best_value
from agents.experience import Experience
from agents.learning import Row, check_counts, check_shares
from agents.recurrence import Memory, RecurrentPolicy, RecurrentScorer, recurrent_scorer
from agents.sequences import SequenceBatch, SequenceRing
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from recgym.policy import StoredPolicy
from recgym.trees import put, take
from recgym.types import Observation


@dataclass(frozen=True, kw_only=True)
class DRQN:
    """Deep recurrent Q-network, greedy at the end."""

    total_steps: int = 60_000
    """User steps to learn from."""
    num_envs: int = 128
    """Sessions simulated side by side."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    discount: float = 0.95
    """Weight of a reward against the one a step earlier, gamma."""
    batch_size: int = 32
    """Sequences in a gradient step."""
    length: int = 10
    """Steps of a sequence that are learned from, and through which gradients flow."""
    burn_in: int = 5
    """Steps before them that only make the memory; 0: the stored one is taken as it is."""
    gradient_steps: int = 4
    """Gradient steps after each batch of `num_envs` user steps."""
    buffer_size: int = 100_000
    """Steps kept for replay."""
    learning_starts: int = 5_000
    """User steps, all exploring, before the first gradient step."""
    target_update_interval: int = 2_000
    """User steps between copies of the Q-network to its target."""
    exploration_fraction: float = 0.5
    """Share of `total_steps` over which epsilon falls from 1 to `final_epsilon`."""
    final_epsilon: float = 0.02
    """Chance of an exploring step at the end."""
    backbone_exploration: float = 0.3
    """Share of exploring steps drawn from softmax(backbone scores), where there is one; the rest is uniform."""
    double: bool = True
    """Choose the next item by Q and value it by Q', which does not favour errors that are too high."""
    dueling: bool = False
    """Split Q into the state's value and advantages of mean 0."""
    memory: int = 64
    """Units of the LSTM."""
    hidden: int = 64
    """Units of the head's MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first Q-values, which rank as the backbone does; in reward."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(
            self, "total_steps", "num_envs", "batch_size", "length", "gradient_steps", "buffer_size", "memory",
            "target_update_interval", "hidden", "segments",
        )  # fmt: skip
        check_shares(self, "exploration_fraction", "final_epsilon", "backbone_exploration", "discount")
        if self.burn_in < 0:
            raise ValueError(f"burn_in is {self.burn_in}, expected at least 0")
        if self.buffer_size <= self.num_envs * self.sequence:
            raise ValueError(
                f"buffer_size is {self.buffer_size}, expected more than {self.num_envs * self.sequence}: "
                "num_envs * (burn_in + length) steps make one sequence of each session"
            )

    @property
    def sequence(self) -> int:
        """Steps of a whole sequence."""
        return self.burn_in + self.length

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`, one item a step; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


class _Learner:
    """One run: the networks, the optimiser, the experience, and what the acting network remembers of its sessions."""

    def __init__(self, config: DRQN, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        gain = task.value_gain(config.initial_spread, seed)
        self.q = recurrent_scorer(
            task, width=config.memory, gain=gain, hidden=config.hidden, dueling=config.dueling, slate_size=1
        )
        self.target = copy.deepcopy(self.q)
        self.optimiser = torch.optim.Adam(self.q.parameters(), lr=config.learning_rate)
        self.experience = Experience(task, config, seed, reach=config.sequence)
        self.ring = SequenceRing(self.experience.replay, config.memory)
        nothing = torch.zeros(config.num_envs, config.memory, device=task.device)
        self.memory, self.fresh = Memory(nothing, nothing), torch.ones(config.num_envs, dtype=torch.bool)

    def advance(self, last: int) -> Row:
        """Act, keep, learn, up to user step `last`."""
        losses = self.experience.practise(last, self._act, self._update, copied=(self.target, self.q))
        return {"train/loss": float(torch.stack(losses).mean()) if losses else None, **self.experience.row()}

    def _act(self) -> None:
        """One step of every session, and the memory it leaves."""
        replay = self.experience.replay
        self.ring.note(self.memory, self.fresh)
        place = replay.place
        self.experience.act(self._scores)
        self.fresh = replay.over[place].clone()

    def _scores(self, observation: Observation) -> Tensor:
        """Q of every item, (B, N), with the memory that each session leaves noted."""
        after = self.q.recall(observation, self.memory)
        if bool(self.fresh.any()):
            rows = self.fresh.nonzero()[:, 0].to(self.task.device)
            put(after, rows, self.q.recall(take(observation, rows), None))
        self.memory = after
        scores: Tensor = self.q(observation._replace(memory=after))
        return scores

    def _update(self) -> Tensor:
        """One gradient step; its loss."""
        drawn = self.ring.sample(self.config.batch_size, self.config.sequence)
        batch = SequenceBatch(*(part.to(self.task.device) for part in drawn))
        used = slice(self.config.burn_in, None)
        found, memory = self._values(self.q, batch)  # (T + 1, n, N)
        taken = found[:-1].gather(2, batch.action[used])[..., 0]  # (T, n)
        with torch.no_grad():
            theirs, their_memory = self._values(self.target, batch)
            after = self._best(self.experience.layout.unpack(batch.row[used][1:].flatten(0, 1)), found[1:], theirs[1:])
            self._value_of_cut(batch, memory, their_memory, after)
            target = batch.reward[used] + self.config.discount * after * ~batch.left[used]
        loss = smooth_l1_loss(taken, target)
        descend(self.folder, self.optimiser, {"temporal difference": loss}, batch._asdict(), clip=self.q.parameters())
        return loss.detach()

    def _values(self, network: RecurrentScorer, batch: SequenceBatch) -> tuple[Tensor, Memory]:
        """Q of every item along the steps after the burn-in and the row behind them, (T + 1, n, N), and memories."""
        layout, burn, before = self.experience.layout, self.config.burn_in, batch.memory()
        if burn:
            with torch.no_grad():
                burnt = layout.unpack(batch.row[:burn].flatten(0, 1))
                steps = network.recurrence.sequence(burnt, network.vectors, before, batch.fresh[:burn])
            before = Memory(steps.hidden[-1], steps.cell[-1])
        observation = layout.unpack(batch.row[burn:].flatten(0, 1))
        memory = network.recurrence.sequence(observation, network.vectors, before, batch.fresh[burn:])
        there = Memory(memory.hidden.flatten(0, 1), memory.cell.flatten(0, 1))
        return network(observation._replace(memory=there)).unflatten(0, memory.hidden.shape[:2]), memory

    def _value_of_cut(self, batch: SequenceBatch, ours: Memory, theirs: Memory, after: Tensor) -> None:
        """Write into `after` (T, n) what lies ahead where a session was cut: the row behind is another session's."""
        step, one = batch.cut[:, 0] - self.config.burn_in, batch.cut[:, 1]
        used = step >= 0
        step, one = step[used], one[used]
        if len(step):
            last = self.experience.layout.unpack(batch.last[used])
            scores = [
                network(last._replace(memory=network.recall(last, Memory(*(part[step, one] for part in memory)))))
                for network, memory in ((self.q, ours), (self.target, theirs))
            ]
            after[step, one] = self._best(last, *scores)

    def _best(self, observation: Observation, ours: Tensor, theirs: Tensor) -> Tensor:
        """Q' of the best allowed item, by Q or by Q' itself; of scores (..., N)."""
        flat, shape = theirs.reshape(-1, theirs.shape[-1]), theirs.shape[:-1]
        chosen = ours.reshape(flat.shape) if self.config.double else flat
        return best_value(flat, chosen, observation.mask).view(shape)

    def policy(self) -> RecurrentPolicy:
        """Greedy on Q."""
        return RecurrentPolicy(scorer=self.q, name="drqn", slate_size=self.task.slate_size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        parts = snapshot(self, "q", "target", "optimiser", "experience", "ring")
        return {**parts, "memory": torch.stack(self.memory), "fresh": self.fresh.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        parts = dict(state)
        self.memory = Memory(*parts.pop("memory").to(self.task.device).unbind(0))
        restore(self, parts)
