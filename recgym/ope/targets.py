"""What a policy would have done along one log, however it is known: a policy, a column, a table, a function.

A target gives the probability of each item that was shown, which is all that importance weights need; one that also
`knows_all` gives whole distributions, chunk by chunk, which models of the reward need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recgym.ope.rows import check_distributions, check_items, refuse, require_finite
from recgym.ope.views import chunks, final_observation, observe
from recgym.ope.weights import action_distribution, target_probabilities
from recgym.types import DoubleArray, IntArray, Policy, Transitions


class Target(Protocol):
    """A policy along one log of T steps."""

    @property
    def name(self) -> str:
        """For tables and messages."""
        ...

    @property
    def knows_all(self) -> bool:
        """Whether `distribution` is known, or only the chance of what was shown."""
        ...

    def chosen(self) -> DoubleArray:
        """pi(a_t | s_t), the chance that the policy shows the item that was shown, (T,)."""
        ...

    def distribution(self, rows: IntArray) -> Tensor:
        """pi(. | s_t) of the given steps, numbers 0..T-1: (B,) -> (B, N) float32; rows sum to 1."""
        ...

    def after(self, rows: IntArray) -> Tensor | None:
        """pi(. | s) after the given steps, each the last of a session that was cut; None: it cannot be asked there."""
        ...


@dataclass(frozen=True, kw_only=True)
class PolicyTarget:
    """A recgym policy, asked at what the platform saw before each logged step."""

    policy: Policy
    logged: Transitions

    @property
    def name(self) -> str:
        """The policy's."""
        return self.policy.name

    @property
    def knows_all(self) -> bool:
        """Always."""
        return True

    def chosen(self) -> DoubleArray:
        """See `weights.target_probabilities`."""
        return target_probabilities(self.policy, self.logged)

    def distribution(self, rows: IntArray) -> Tensor:
        """See `weights.action_distribution`."""
        return action_distribution(self.policy, observe(self.logged, rows))

    def after(self, rows: IntArray) -> Tensor | None:
        """What it would do in the state after the step; None where it reads the history, which is not logged there."""
        if self.policy.reads != "state":
            return None
        return action_distribution(self.policy, final_observation(self.logged, self.logged.episode[rows]))


@dataclass(frozen=True, kw_only=True)
class ColumnTarget:
    """A policy of which only the probability of each shown item is known: a column beside the log."""

    name: str
    probability: DoubleArray  # (T,)

    def __post_init__(self) -> None:
        """Refuse what is no probability, naming the policy and the row."""
        column = f"the probability by policy {self.name!r}"
        require_finite(column, self.probability)
        refuse(column, self.probability, (self.probability < 0) | (self.probability > 1), "in [0, 1]")

    @property
    def knows_all(self) -> bool:
        """Never."""
        return False

    def chosen(self) -> DoubleArray:
        """The column."""
        return self.probability

    def distribution(self, rows: IntArray) -> Tensor:  # noqa: ARG002
        """Refuse: a column does not say what else the policy would have shown.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"policy {self.name!r} is a column: what it would have shown instead is not known")

    def after(self, rows: IntArray) -> Tensor | None:  # noqa: ARG002
        """None: what comes after the last step is not in the log."""
        return None


@dataclass(frozen=True, kw_only=True)
class TableTarget:
    """A policy that looks at nothing but a row's kind, such as its position: one distribution a kind."""

    name: str
    table: DoubleArray  # (P, N)
    kind: IntArray  # (T,) 0..P-1
    item: IntArray  # (T,) shown, 1..N

    def __post_init__(self) -> None:
        """Refuse rows of the table that are no distributions, and kinds and items that are not in it."""
        named: dict[str, DoubleArray] = {f"table of policy {self.name!r}": self.table}
        check_distributions(dimensions=2, **named)
        check_items(self.item, rows=len(self.kind), num_items=self.table.shape[1])
        refuse("kind", self.kind, (self.kind < 0) | (self.kind >= len(self.table)), f"in 0..{len(self.table) - 1}")

    @property
    def knows_all(self) -> bool:
        """Always."""
        return True

    def chosen(self) -> DoubleArray:
        """The entry of each row's kind and item."""
        found: DoubleArray = self.table[self.kind, self.item - 1]
        return found

    def distribution(self, rows: IntArray) -> Tensor:
        """The table's row of each kind."""
        return torch.from_numpy(self.table[self.kind[rows]]).float()

    def after(self, rows: IntArray) -> Tensor | None:  # noqa: ARG002
        """None: what comes after the last step is not in the log."""
        return None


@dataclass(frozen=True, kw_only=True)
class FunctionTarget:
    """A policy given by a function from rows of the log to probabilities of all items, asked in chunks."""

    name: str
    probabilities: Callable[[IntArray], DoubleArray]
    """Rows (B,) -> (B, N)."""
    item: IntArray  # (T,) shown, 1..N
    num_items: int

    @property
    def knows_all(self) -> bool:
        """Always."""
        return True

    def chosen(self) -> DoubleArray:
        """The function's probability of each shown item, chunk by chunk."""
        found = np.empty(len(self.item))
        for part in chunks(len(self.item)):
            rows = np.arange(part.start, part.stop)
            given = self._asked(rows)
            found[rows] = given[np.arange(len(given)), self.item[rows] - 1]
        return found

    def distribution(self, rows: IntArray) -> Tensor:
        """What the function gives for these rows."""
        return torch.from_numpy(self._asked(rows)).float()

    def after(self, rows: IntArray) -> Tensor | None:  # noqa: ARG002
        """None: what comes after the last step is not in the log."""
        return None

    def _asked(self, rows: IntArray) -> DoubleArray:
        """The function's answer, checked; a refusal names the policy and the row of the log."""
        given = np.asarray(self.probabilities(rows), dtype=np.float64)
        who = f"policy {self.name!r}"
        if given.shape != (len(rows), self.num_items):
            raise ValueError(
                f"{who} must give ({len(rows)}, {self.num_items}) probabilities for {len(rows)} rows from "
                f"{rows[0]} on, one for each item, got {given.shape}"
            )
        total = given.sum(axis=1)  # (B,)
        wrong = ~np.isfinite(given).all(axis=1) | (given < 0).any(axis=1) | ~(np.abs(total - 1) <= 1e-3)
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{who} must give non-negative probabilities that sum to 1, got sum {total[place]:.6g} and minimum "
                f"{given[place].min():.3g} in row {rows[place]}"
            )
        return given
