"""Logs of loggers that are known: a softmax of three features over six items, and the small bandit as users' blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recgym.ope.behaviour import Choices
from recgym.types import DoubleArray, IntArray
from tests.ope.bandits import CLICK, LOGGER, TARGET

WEIGHT = np.random.default_rng(7).normal(size=(3, 6))
BIAS = np.array([1.0, 0.5, 0.0, 0.0, -0.5, -1.0])
BLOCK = np.repeat(np.arange(8), [28, 21, 14, 7, 3, 6, 9, 12])
"""100 rows, context * 4 + column, in exactly the shares in which the bandit's logger shows them."""


@dataclass(frozen=True)
class Fixed:
    """Scores that are a table by segment."""

    table: DoubleArray  # (G, N)

    def logits(self, seen: Choices) -> Tensor:
        return torch.from_numpy(self.table)[torch.from_numpy(np.array(seen.segment))]


def truth(features: DoubleArray, scale: float = 1.0) -> DoubleArray:
    """mu(a | x) of the softmax logger, (n, 6)."""
    chance = np.exp(scale * (features @ WEIGHT + BIAS))
    share: DoubleArray = chance / chance.sum(axis=1, keepdims=True)
    return share


def drawn_items(chance: DoubleArray, rng: np.random.Generator) -> IntArray:
    """Items 1..N drawn from each row of chances."""
    above = rng.random((len(chance), 1)) > chance.cumsum(axis=1)[:, :-1]
    column: IntArray = above.sum(axis=1).astype(np.int64)
    return column + 1


def softmax_log(rows: int, seed: int, *, scale: float = 1.0, masked: bool = False) -> Choices:
    """Rows shown by the softmax logger, five a user; `masked`: each item may be shown in two rows of three."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 3))
    mask = (np.arange(6) + np.arange(rows)[:, None]) % 3 > 0 if masked else None
    chance = truth(features, scale) * (1.0 if mask is None else mask)
    item = drawn_items(chance / chance.sum(axis=1, keepdims=True), rng)
    return Choices(features=features, item=item, user=np.arange(rows) // 5, num_items=6, mask=mask)


def bandit_blocks(users: int) -> tuple[Choices, DoubleArray, DoubleArray, DoubleArray]:
    """Each user a whole block of the bandit: choices, pi, mu and the expected reward of what was shown, (n,)."""
    context, column = np.divmod(np.tile(BLOCK, users), 4)
    choices = Choices(
        features=np.eye(2)[context], item=column + 1, user=np.repeat(np.arange(users), 100), num_items=4,
        segment=context,
    )  # fmt: skip
    return choices, TARGET[context, column], LOGGER[context, column], CLICK[context, column]
