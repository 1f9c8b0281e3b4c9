"""Small worlds with a last step: every session that can happen, its chance, and the exact values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recgym.ope.fqe import Values
from recgym.types import DoubleArray, IntArray
from tests.ope import worlds

MU, PI = np.array(worlds.LOGGER.table), np.array(worlds.TARGET.table)  # (2, 3)


@dataclass(frozen=True, kw_only=True)
class World:
    """Two states, three items, at most `horizon` steps; rewards are certain."""

    horizon: int
    start: DoubleArray = field(default_factory=lambda: worlds.START)
    move: DoubleArray = field(default_factory=lambda: worlds.MOVE)
    end: float = worlds.END

    @property
    def following(self) -> DoubleArray:
        """Chance of each state next, (2, 3, 2); what lacks to 1 is the end."""
        return np.stack([self.move, 1 - self.move], 2) * (1 - self.end)

    def q(self, discount: float, policy: DoubleArray = PI) -> DoubleArray:
        """Q_t(s, a), (H, 2, 3)."""
        found = np.zeros((self.horizon + 1, 2, 3))
        for place in reversed(range(self.horizon)):
            found[place] = worlds.REWARD + discount * self.following @ (policy * found[place + 1]).sum(1)
        return found[: self.horizon]

    def value(self, discount: float, policy: DoubleArray = PI) -> float:
        return float(self.start @ (policy * self.q(discount, policy)[0]).sum(1))

    def visits(self, policy: DoubleArray) -> DoubleArray:
        """Chance of state s at step t, (H, 2)."""
        found = [self.start]
        for _ in range(self.horizon - 1):
            found.append(np.einsum("s,sa,sax->x", found[-1], policy, self.following))
        return np.array(found)


CERTAIN = World(horizon=4, start=np.array([0.0, 1.0]), move=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), end=0.0)
"""Nothing is left to chance but what the policy shows."""


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """E sessions as flat arrays of T steps, with the chance of each under both policies."""

    state: IntArray
    item: IntArray
    episode: IntArray
    place: IntArray
    chance_mu: DoubleArray  # (E,)
    chance_pi: DoubleArray  # (E,)

    @property
    def ratios(self) -> DoubleArray:
        found: DoubleArray = PI[self.state, self.item] / MU[self.state, self.item]
        return found

    @property
    def target(self) -> DoubleArray:
        found: DoubleArray = PI[self.state, self.item]
        return found

    @property
    def reward(self) -> DoubleArray:
        found: DoubleArray = worlds.REWARD[self.state, self.item]
        return found

    def values(self, q: DoubleArray) -> Values:
        """Q_t (H, 2, 3) and its expectation under the target, along the sessions."""
        v = (PI * q).sum(2)[self.place, self.state]
        goes_on = np.append(np.diff(self.episode) == 0, False)
        return Values(q=q[self.place, self.state, self.item], v=v, v_next=np.where(goes_on, np.append(v[1:], 0.0), 0.0))

    def take(self, which: IntArray) -> Sessions:
        """The given sessions, each as often as it is named."""
        start = np.searchsorted(self.episode, np.arange(len(self.chance_mu)))
        length = np.bincount(self.episode)
        rows = np.concatenate([np.arange(start[one], start[one] + length[one]) for one in which])
        episode = np.repeat(np.arange(len(which)), length[which])
        return Sessions(
            state=self.state[rows], item=self.item[rows], episode=episode, place=self.place[rows],
            chance_mu=self.chance_mu[which], chance_pi=self.chance_pi[which],
        )  # fmt: skip

    def draw(self, count: int, seed: int) -> Sessions:
        """Sessions as the logging policy would have them."""
        return self.take(np.random.default_rng(seed).choice(len(self.chance_mu), count, p=self.chance_mu))


def every(world: World) -> Sessions:
    """Every session that the logging policy can have."""
    ways = [([(state, item)], chance * MU[state, item], chance * PI[state, item])
            for state, chance in enumerate(world.start) for item in range(3) if chance > 0]  # fmt: skip
    done: list[tuple[list[tuple[int, int]], float, float]] = []
    while ways:
        way, mu, pi = ways.pop()
        last = world.following[way[-1]]
        ends = 1 - last.sum() if len(way) < world.horizon else 1.0
        if ends > 0:
            done.append((way, mu * ends, pi * ends))
        if len(way) < world.horizon:
            ways += [
                ([*way, (int(state), item)], mu * last[state] * MU[state, item], pi * last[state] * PI[state, item])
                for state in np.flatnonzero(last)
                for item in range(3)
            ]
    steps = np.array([step for way, _, _ in done for step in way])
    length = np.array([len(way) for way, _, _ in done])
    return Sessions(
        state=steps[:, 0], item=steps[:, 1], episode=np.repeat(np.arange(len(done)), length),
        place=np.concatenate([np.arange(one) for one in length]),
        chance_mu=np.array([mu for _, mu, _ in done]), chance_pi=np.array([pi for _, _, pi in done]),
    )  # fmt: skip
