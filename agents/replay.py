"""Replay for off-policy agents: what B environments met step by step, each row kept once.

The row after a step is the next one of the same environment; only where a session was cut is its last row kept beside.
So a transition costs one row of ids and amounts (see `agents.layout`), not two of states. Drawn uniformly, or in
proportion to priority^alpha by a sum tree.

Source of the priorities: Schaul et al. (2016), "Prioritized experience replay", section 3.3 and appendix B.2.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_LEAST = 1e-6
"""Added to every priority, so that each transition can be drawn."""


class Batch(NamedTuple):
    """n transitions of one or more steps each."""

    now: Tensor  # (n, W) rows
    action: Tensor  # (n, K) int64 item numbers from 0
    reward: Tensor  # (n,) discounted sum over the steps
    after: Tensor  # (n, W) row after the last step; any row where nothing follows
    discount: Tensor  # (n,) of the value of `after`: gamma^steps, 0 where the user left
    feedback: Tensor  # (n, K, F) of the first step
    weight: Tensor  # (n,) importance weight of the draw, at most 1
    place: Tensor  # (n,) where they stand, for `reprioritise`
    following: Tensor  # (n, K) int64 items shown after the last step, from 0; -1 where the session was over


class Replay:
    """The last `capacity` steps, rounded up to whole steps of all environments."""

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        width: int,
        *,
        slate_size: int = 1,
        num_feedback: int = 1,
        alpha: float = 0.0,
    ) -> None:
        """Reserve room.

        Args:
            capacity: steps kept.
            num_envs: environments in lockstep, B.
            width: numbers of a row, W.
            slate_size: items a step, K.
            num_feedback: kinds of feedback, F.
            alpha: exponent of the priorities; 0 draws uniformly.
        """
        self.length, self.num_envs, self.alpha = max(2, -(-capacity // num_envs)), num_envs, alpha
        shape = (self.length, num_envs)
        self.row = torch.zeros(*shape, width)
        self.action = torch.zeros(*shape, slate_size, dtype=torch.int32)
        self.feedback = torch.zeros(*shape, slate_size, num_feedback)
        self.reward = torch.zeros(shape)
        self.over = torch.zeros(shape, dtype=torch.bool)
        self.left = torch.zeros(shape, dtype=torch.bool)
        self.last: dict[int, tuple[Tensor, Tensor]] = {}  # place of a step: environments that were cut, their rows
        self.tree = SumTree(self.length * num_envs) if alpha else None
        self.place, self.size, self.highest = 0, 0, 1.0

    def __len__(self) -> int:
        return self.size * self.num_envs

    def add(
        self, row: Tensor, action: Tensor, reward: Tensor, left: Tensor, cut: Tensor, last: Tensor, feedback: Tensor
    ) -> None:
        """Keep one step of every environment.

        Args:
            row: (B, W) before the step.
            action: (B, K) numbers from 0.
            reward: (B,).
            left: (B,) bool, the user left.
            cut: (B,) bool, the session was truncated.
            last: (C, W) rows after the step of those that were cut, in order.
            feedback: (B, K, F).
        """
        place = self.place
        self.row[place], self.reward[place], self.left[place] = row, reward, left
        self.action[place], self.feedback[place] = action.view(self.num_envs, -1), feedback
        self.over[place] = left | cut
        self.last.pop(place, None)
        if bool(cut.any()):
            self.last[place] = (cut.nonzero()[:, 0], last)
        if self.tree is not None:
            everywhere = place * self.num_envs + torch.arange(self.num_envs)
            self.tree.set(everywhere, torch.full((self.num_envs,), self.highest**self.alpha, dtype=torch.float64))
        self.place = (place + 1) % self.length
        self.size = min(self.size + 1, self.length)

    def sample(self, count: int, *, discount: float, steps: int = 1, beta: float = 1.0) -> Batch:
        """Draw transitions with torch's global generator.

        Args:
            count: n.
            discount: gamma.
            steps: environment steps of a transition; fewer where a session ends.
            beta: how far importance weights undo the priorities.
        """
        index, weight = self._draw(count, steps, beta)
        first, env = index // self.num_envs, index % self.num_envs
        reward, place = torch.zeros(count), first
        going, factor = torch.ones(count, dtype=torch.bool), torch.ones(count)
        for step in range(steps):
            if step:
                going = going & ~self.over[place, env]
                place = torch.where(going, (place + 1) % self.length, place)
            reward += torch.where(going, factor * self.reward[place, env], torch.zeros(()))
            factor = torch.where(going, factor * discount, factor)
        after = self.row[(place + 1) % self.length, env]
        for row in (self.over & ~self.left)[place, env].nonzero()[:, 0].tolist():
            envs, rows = self.last[int(place[row])]
            after[row] = rows[(envs == env[row]).nonzero()[0, 0]]
        following = self.action[(place + 1) % self.length, env].long()
        following[self.over[place, env]] = -1
        return Batch(
            now=self.row[first, env], action=self.action[first, env].long(), reward=reward, after=after,
            discount=factor * ~self.left[place, env], feedback=self.feedback[first, env], weight=weight, place=index,
            following=following,
        )  # fmt: skip

    def reprioritise(self, index: Tensor, error: Tensor) -> None:
        """Give the transitions at `index` (n,) the priority |error| (n,); nothing where draws are uniform."""
        if self.tree is not None:
            priority = error.detach().abs().double().cpu() + _LEAST
            self.highest = max(self.highest, float(priority.max()))
            self.tree.set(index.cpu(), priority**self.alpha)

    def _draw(self, count: int, steps: int, beta: float) -> tuple[Tensor, Tensor]:
        """Places whose `steps` steps are all there, (n,), and their weights (n,)."""
        oldest, usable = (self.place - self.size) % self.length, self.size - steps
        if usable < 1:
            raise ValueError(f"the replay holds {self.size} steps of each session, expected more than {steps}")
        if self.tree is None:
            index = torch.randint(usable * self.num_envs, (count,))
            return (index + oldest * self.num_envs) % (self.length * self.num_envs), torch.ones(count)
        newest = (self.place - 1 - torch.arange(steps)) % self.length * self.num_envs
        hidden = (newest.unsqueeze(1) + torch.arange(self.num_envs)).flatten()
        kept = self.tree.value[self.tree.leaves + hidden].clone()
        self.tree.set(hidden, torch.zeros_like(kept))
        index = self.tree.find(torch.rand(count, dtype=torch.float64))
        chance = self.tree.value[self.tree.leaves + index] / self.tree.value[1]
        self.tree.set(hidden, kept)
        weight = (chance * usable * self.num_envs) ** -beta
        return index, (weight / weight.max()).float()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        arrays = {name: getattr(self, name)[: self.size].clone() for name in _ARRAYS}
        tree = None if self.tree is None else self.tree.value.clone()
        last = [[place, *pair] for place, pair in self.last.items()]
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {"arrays": arrays, "counters": counters, "tree": tree, "last": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name, values in state["arrays"].items():
            getattr(self, name)[: len(values)] = values
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.last = {place: (envs, rows) for place, envs, rows in state["last"]}
        if self.tree is not None:
            self.tree.value = state["tree"].clone()


_COUNTERS = ("place", "size", "highest")
_ARRAYS = ("row", "action", "feedback", "reward", "over", "left")


class SumTree:
    """Numbers in the leaves of a binary tree whose nodes hold sums: draws in proportion to them in log time."""

    def __init__(self, count: int) -> None:
        """All zero."""
        self.leaves = 1 << max(1, (count - 1).bit_length())
        self.value = torch.zeros(2 * self.leaves, dtype=torch.float64)

    def set(self, index: Tensor, value: Tensor) -> None:
        """Set leaves `index` (n,) to `value` (n,)."""
        node = index + self.leaves
        self.value[node] = value
        while int(node[0]) > 1:
            node = (node // 2).unique()
            self.value[node] = self.value[2 * node] + self.value[2 * node + 1]

    def find(self, share: Tensor) -> Tensor:
        """Leaves (n,) up to which the given shares (n,) of the total lie."""
        rest, node = share * self.value[1], torch.ones(len(share), dtype=torch.int64)
        while int(node[0]) < self.leaves:
            left = self.value[2 * node]
            right = (rest >= left) & (self.value[2 * node + 1] > 0)
            rest = torch.where(right, rest - left, rest)
            node = 2 * node + right
        return node - self.leaves
