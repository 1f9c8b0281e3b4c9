"""An LSTM over a session, read by item scorers and critics beside the observation.

    m_t = LSTM(m_{t-1}, x_t)         memory once the observation of step t is read
    score = scorer(o_t, m_t)         see `agents.networks.ItemScorer`

    x_t = [sum_k E_k, sum_k a_kf E_k, sum_k a_kf]      where the layout has a visible history: the last slate's items
                                                       and their feedback a = sign(f) log(1 + |f|)
    x_t = [state_t, context_t]                         where it has none

The scorer always reads the state and the context of now. With a visible history the LSTM reads nothing else than that
history, since a log keeps no states: so a memory carried from step to step equals the LSTM unrolled over the history
that one observation shows, as long as all of it is still visible. Each step must add its slate to that history.

Source: Hausknecht & Stone (2015), "Deep recurrent Q-learning for partially observable MDPs", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.encoders import recent
from agents.layout import Layout
from agents.networks import ItemScorer
from agents.scoring import ScoringPolicy
from agents.task import Task
from recgym.trees import take
from recgym.types import Observation


class Memory(NamedTuple):
    """What an LSTM keeps of B sessions."""

    hidden: Tensor  # (B, H) what the networks read
    cell: Tensor  # (B, H)


class Recurrence(nn.Module):
    """Reads observations into a memory: one step where there is one already, else the visible history."""

    def __init__(self, layout: Layout, *, width: int, item_width: int) -> None:
        """Build it.

        Args:
            layout: what an observation holds.
            width: units of the LSTM, H.
            item_width: of the vectors that a history is read with, E.
        """
        super().__init__()
        self.layout, kinds = layout, layout.num_feedback
        inputs = (1 + kinds) * item_width + kinds if layout.history else layout.state_width + 1
        self.lstm = nn.LSTM(inputs, width)

    @property
    def width(self) -> int:
        """Units of the LSTM, H."""
        return int(self.lstm.hidden_size)

    def forward(
        self, observation: Observation, vectors: Tensor | None, before: Memory | None = None, *, met: int | None = None
    ) -> Memory:
        """The memory of B sessions once `observation` is read.

        Args:
            observation: of B sessions.
            vectors: (N, E), what a history is read with.
            before: their memories one step earlier; None: of sessions that start here.
            met: items that the last step showed, read one after the other where slates were smaller in training; None:
                as many as in training.
        """
        memory = self.first(observation, vectors) if before is None else before
        count = self.layout.slate_size if before is None or met is None else met
        for slate in self._slates(observation, vectors, count):
            memory = self._step(*slate, memory)
        return memory

    def first(self, observation: Observation, vectors: Tensor | None) -> Memory:
        """The memory before the last slate: of the visible history up to it, zero where there is none."""
        nothing = torch.zeros(len(observation.context), self.width, device=observation.context.device)
        memory = Memory(nothing, nothing)
        if self.layout.history:
            for slate in self._slates(observation, vectors, self.layout.history)[:-1]:
                memory = self._step(*slate, memory)
        return memory

    def sequence(self, observation: Observation, vectors: Tensor | None, before: Memory, fresh: Tensor) -> Memory:
        """Memories (T, n, H) along n sequences of T steps, which may cross the ends of sessions.

        Args:
            observation: of T n steps, step after step.
            vectors: (N, E).
            before: (n, H) memories before the first step.
            fresh: (T, n) bool: a session starts here, and what was before is forgotten.
        """
        ((inputs, there),) = self._slates(observation, vectors, self.layout.slate_size)
        steps, count = fresh.shape
        rows = fresh.flatten().nonzero()[:, 0]
        starts = self.first(take(observation, rows), vectors)
        hidden, cell = (torch.zeros(steps * count, self.width, device=inputs.device) for _ in range(2))
        begin = Memory(*(full.index_put((rows,), part) for full, part in zip((hidden, cell), starts, strict=True)))
        found, memory = [], before
        for step in range(steps):
            here = slice(step * count, (step + 1) * count)
            new = fresh[step].unsqueeze(1)
            memory = Memory(*(torch.where(new, one[here], other) for one, other in zip(begin, memory, strict=True)))
            memory = self._step(inputs[here], there[here], memory)
            found.append(memory)
        return Memory(torch.stack([one.hidden for one in found]), torch.stack([one.cell for one in found]))

    def _slates(self, observation: Observation, vectors: Tensor | None, count: int) -> list[tuple[Tensor, Tensor]]:
        """The newest `count` items slate by slate: inputs (B, I), and whether there is something to read, (B,).

        One input of the state where there is no history.
        """
        if self.layout.history:
            size = self.layout.slate_size
            items, feedback = recent(observation, count)
            ends = range(size + count % size, count + 1, size)
            return [_read(items[:, end - size : end], feedback[:, end - size : end], vectors) for end in ends]
        if observation.state is None:
            raise ValueError("the observation has no state; ask the environment for observation='state'")
        inputs = torch.cat([observation.state[:, : self.layout.state_width], observation.context], 1)
        return [(inputs, torch.ones(len(inputs), dtype=torch.bool, device=inputs.device))]

    def _step(self, inputs: Tensor, there: Tensor, before: Memory) -> Memory:
        """One step of the LSTM; rows with nothing `there` stay as they are."""
        _, (hidden, cell) = self.lstm(inputs.unsqueeze(0), (before.hidden.unsqueeze(0), before.cell.unsqueeze(0)))
        keep = there.unsqueeze(1)
        return Memory(torch.where(keep, hidden[0], before.hidden), torch.where(keep, cell[0], before.cell))


class RecurrentScorer(nn.Module):
    """An `ItemScorer` of the observation and the memory that it brings, or that is made of what it shows."""

    def __init__(self, scorer: ItemScorer) -> None:
        """Put a fresh LSTM before `scorer`, which reads a memory of `scorer.memory` units."""
        super().__init__()
        self.scorer, self.layout, self.num_items = scorer, scorer.layout, scorer.num_items
        self.recurrence = Recurrence(scorer.layout, width=scorer.memory, item_width=scorer.item_width)

    @property
    def vectors(self) -> Tensor | None:
        """Item vectors (N, E) that a history is read with."""
        return None if self.layout.candidate_width else self.scorer.items

    def recall(self, observation: Observation, before: Memory | None, *, met: int | None = None) -> Memory:
        """See `Recurrence.forward`."""
        found: Memory = self.recurrence(observation, self.vectors, before, met=met)
        return found

    def forward(self, observation: Observation) -> Tensor:
        """Scores (B, N)."""
        if observation.memory is None:
            observation = observation._replace(memory=self.recall(observation, None))
        scores: Tensor = self.scorer(observation)
        return scores

    def config(self) -> dict[str, Any]:
        """That of the scorer."""
        return self.scorer.config()

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> RecurrentScorer:
        """The network whose `config` and `state_dict` these are."""
        name = "scorer."
        mine = {key.removeprefix(name): tensor for key, tensor in tensors.items() if key.startswith(name)}
        network = cls(ItemScorer.restore(config, mine))
        network.load_state_dict(tensors)
        return network


def recurrent_scorer(task: Task, *, width: int, **fields: Any) -> RecurrentScorer:
    """A fresh network for `task`; `fields` are those of `Task.scorer`.

    Raises:
        ValueError: the users' visible history is not what was shown to them.
    """
    users = task.users
    if task.history and not getattr(users, "exposures", True):
        raise ValueError(
            f"history is {task.history}, but these users' history leaves out what they did not choose, so an LSTM "
            "cannot tell the last slate from it: use Task(history=0), whose state the backbone makes of the choices"
        )
    return RecurrentScorer(task.scorer(memory=width, **fields)).to(task.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class RecurrentPolicy(ScoringPolicy):
    """A `ScoringPolicy` that remembers its session; see `recgym.types.RemembersSessions`."""

    scorer: RecurrentScorer  # type: ignore[assignment]

    def recall(self, observation: Observation, memory: Memory | None) -> Memory:
        """The memory of B sessions once `observation` is read; `memory` is that of the step before, None at first."""
        with torch.no_grad():
            return self.scorer.recall(observation, memory, met=self.slate_size)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> RecurrentPolicy:
        """The policy whose `config` and `tensors` these are."""
        rest = {name: value for name, value in config.items() if name != "scorer"}
        return cls(scorer=RecurrentScorer.restore(config["scorer"], tensors), **rest)


def _read(items: Tensor, feedback: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor]:
    """Inputs (B, I) of slates (B, K) with feedback (B, K, F), and whether there is an item, (B,)."""
    assert vectors is not None
    there = (items > 0).unsqueeze(2).to(vectors.dtype)  # (B, K, 1)
    amounts = feedback.sign() * feedback.abs().log1p() * there  # (B, K, F)
    weights = torch.cat([there, amounts], 2).transpose(1, 2)  # (B, 1 + F, K)
    bags = torch.bmm(weights, vectors[(items - 1).clamp_min(0)])  # (B, 1 + F, E)
    return torch.cat([bags.flatten(1), amounts.sum(1)], 1), (items > 0).any(1)
