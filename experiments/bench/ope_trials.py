"""A/B tests in a world whose users are known: what a session of theirs brings is drawn from its exact distribution.

So a test of any size costs what its sums cost. A user starts every session in the same state; CUPED reads what the
same user brought in an earlier session, under production.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from experiments.bench.ope_worlds import World
from experiments.looks import Design, Outcomes, looks, users_per_arm
from recgym.ope.compare import Statement
from recgym.types import DoubleArray

FEWEST = 30
"""Users of each arm below which means are not yet normal."""
MOST = 100_000
"""Users of each arm beyond which nobody runs a test."""
_DESIGNS: tuple[Design, Design] = ("fixed", "sequential")
_BATCHES, _BATCH = 20, 200
"""Looks of a sequential test at most, and the fewest users of each arm between two."""


def return_chances(world: World, policy: DoubleArray) -> DoubleArray:
    """P(a session that starts in s brings k), (S, H + 1), of a policy (S, N), by backward induction.

    f_t(s, k) = sum_a pi(a | s) [(1 - c) g(k) + c g(k - 1)] with c the chance of a click and g = sum_s' move f_t+1(s').
    """
    states, leave = len(world.start), 1 - world.move.sum(axis=2)  # (S, N)
    ended = np.eye(1, world.horizon + 1)[0]  # (H + 1,) brings 0
    chances = np.tile(ended, (states, 1))
    for _ in range(world.horizon):
        after = world.move @ chances + leave[:, :, None] * ended  # (S, N, H + 1)
        one_more = np.roll(after, 1, axis=2)  # the last column is 0: a session of H steps brings H at most
        given = (1 - world.click[:, :, None]) * after + world.click[:, :, None] * one_more
        chances = (policy[:, :, None] * given).sum(axis=1)
    return chances


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What users bring under one policy."""

    chance: DoubleArray  # (H + 1, H + 1) of x in an earlier session under production, and of y in the test

    @classmethod
    def of(cls, world: World, policy: DoubleArray, production: DoubleArray) -> Arm:
        """The arm of a policy (S, N)."""
        before, now = return_chances(world, production), return_chances(world, policy)
        return cls(chance=np.einsum("s,sx,sy->xy", world.start, before, now))

    @property
    def mean(self) -> float:
        """Of y."""
        return float(self.chance.sum(axis=0) @ np.arange(len(self.chance)))

    @property
    def variance(self) -> float:
        """Of y."""
        return float(self.chance.sum(axis=0) @ (np.arange(len(self.chance)) - self.mean) ** 2)

    @property
    def correlation(self) -> float:
        """Of x and y."""
        y, x = np.arange(len(self.chance)) - self.mean, np.arange(len(self.chance), dtype=np.float64)
        before = self.chance.sum(axis=1)
        x -= before @ x
        return float(x @ self.chance @ y / math.sqrt((before @ x**2) * self.variance))

    def draw(self, users: int, rng: np.random.Generator) -> tuple[DoubleArray, DoubleArray]:
        """(x, y) of this many users, (U,) each; their order means nothing."""
        counts = rng.multinomial(users, self.chance.ravel())
        x, y = np.divmod(np.repeat(np.arange(self.chance.size), counts), len(self.chance))
        return x.astype(np.float64), y.astype(np.float64)


def true_power(control: Arm, treatment: Arm, users: int, level: float = 0.95) -> float:
    """Phi(|d| / s - z): the chance that a test of `users` in both arms finds the true d, and its sign.

    0 where d is 0: there is nothing to find.
    """
    difference = treatment.mean - control.mean
    error = math.sqrt((control.variance + treatment.variance) / max(users / 2, FEWEST))
    normal = NormalDist()
    return normal.cdf(abs(difference) / error - normal.inv_cdf((1 + level) / 2)) if difference else 0.0


def run_test(
    control: Arm, treatment: Arm, users: int, rng: np.random.Generator, *, design: Design = "fixed",
    cuped: bool = False,
) -> tuple[Statement, int]:  # fmt: skip
    """What a test of `users` in both arms says of the treatment, and the users that it took.

    A sequential test may go on to the size that gives it the same power, 1.9 times as many, and stops once it knows.
    """
    each = batch = max(FEWEST, math.ceil(users / 2))
    if design == "sequential":
        sizes = [users_per_arm(0.01, variance=1.0, design=one) for one in _DESIGNS]
        each = math.ceil(each * sizes[1] / sizes[0])
        batch = max(_BATCH, math.ceil(each / _BATCHES))

    def draw(_: int, size: int) -> Outcomes:
        (x0, y0), (x1, y1) = control.draw(size, rng), treatment.draw(size, rng)
        return Outcomes(y0, y1, x0, x1) if cuped else Outcomes(y0, y1)

    *_, last = looks(draw, design=design, planned=each, batch=batch)
    return last.decision, last.users.total
