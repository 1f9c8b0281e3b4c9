"""What is kept of a log that goes by: sums by user, or by bag of users, and the weights that support is judged by."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recgym.ope.diagnostics import Support
from recgym.types import DoubleArray, IntArray


class Sorted(NamedTuple):
    """Terms (E,) sorted by the row that they go to."""

    order: IntArray  # (E,) terms by row
    first: IntArray  # (R,) where each row's begin
    row: IntArray  # (R,) the rows


def sort_rows(row: IntArray) -> Sorted:
    """Sort terms by their rows (E,)."""
    order = np.argsort(row, kind="stable").astype(np.int64)
    first = np.flatnonzero(np.diff(row[order], prepend=-1)).astype(np.int64)
    return Sorted(order, first, row[order][first])


class Rows:
    """Which row a user's sums are in: a row each, or a bag by hash once there are more than `most` users."""

    def __init__(self, most: int) -> None:
        self.most, self.bagged = most, False
        self.of: dict[int | str, int] = {}

    def place(self, users: Sequence[int | str]) -> tuple[IntArray, IntArray | None]:
        """The row of each session, (E,), and the bags that the rows so far move to, if users become bags here."""
        moved = None
        if not self.bagged:
            before = list(self.of)
            for user in users:
                self.of.setdefault(user, len(self.of))
            if len(self.of) <= self.most:
                return np.array([self.of[user] for user in users], dtype=np.int64), None
            moved = np.array([self._bag(user) for user in before], dtype=np.int64)
            self.of, self.bagged = {}, True
        bag = {user: self._bag(user) for user in dict.fromkeys(users)}
        return np.array([bag[user] for user in users], dtype=np.int64), moved

    def order(self, units: DoubleArray) -> IntArray:
        """Rows in the order of the users' ids, or bags by number; those that hold none of the units left out."""
        if self.bagged:
            return np.flatnonzero(units).astype(np.int64)
        return np.array([self.of[user] for user in sorted(self.of)], dtype=np.int64)

    def _bag(self, user: int | str) -> int:
        return int.from_bytes(hashlib.blake2b(str(user).encode(), digest_size=8).digest(), "big") % self.most


class Table:
    """Sums (most, H). H grows with the longest session: new columns of old rows are 0, or go on as the last if held.

    Held is right for the weights of sessions that have ended, which every session has in the last column so far.
    """

    def __init__(self, most: int, *, held: bool = False) -> None:
        self.sums, self.held, self.used = np.zeros((most, 0)), held, 0

    def add(self, terms: DoubleArray, by: Sorted) -> None:
        """Add terms, (E,) or (E, H), to their rows."""
        found = np.add.reduceat(terms.reshape(len(terms), -1)[by.order], by.first, axis=0)
        width = max(found.shape[1], self.sums.shape[1])
        if width > self.sums.shape[1]:
            wide = np.zeros((len(self.sums), width))
            wide[: self.used] = self._widened(self.sums[: self.used], width)
            self.sums = wide
        self.sums[by.row] += self._widened(found, width)
        self.used = max(self.used, int(by.row[-1]) + 1)

    def fold(self, moved: IntArray) -> None:
        """Send row i to bag moved[i], (U,)."""
        before, self.sums = self.sums[: len(moved)], np.zeros_like(self.sums)
        np.add.at(self.sums, moved, before)
        self.used = len(self.sums)

    def _widened(self, sums: DoubleArray, width: int) -> DoubleArray:
        new = width - sums.shape[1]
        if not new:
            return sums
        last = sums[:, -1:] if self.held and sums.shape[1] else np.zeros((len(sums), 1))
        return np.hstack([sums, np.repeat(last, new, axis=1)])


class Weights:
    """Weights that go by: their sum and sum of squares, how many are 0, and the heaviest of them."""

    def __init__(self, heaviest: int) -> None:
        """Keep the `heaviest`: 1% of all rows is enough for the heaviest 1% of their sessions, exactly."""
        self.keep, self.heaviest = heaviest, np.empty(0)
        self.total = self.squares = 0.0
        self.count = self.zeros = 0

    def add(self, weight: DoubleArray) -> None:
        """Add weights (E,)."""
        self.total += float(weight.sum())
        self.squares += float((weight**2).sum())
        self.count += len(weight)
        self.zeros += int((weight == 0).sum())
        if len(self.heaviest) == self.keep:
            weight = weight[weight > self.heaviest.min()]
        every = np.concatenate([self.heaviest, weight])
        self.heaviest = np.partition(every, -self.keep)[-self.keep :] if len(every) > self.keep else every

    def support(self, ratios: DoubleArray, steps: DoubleArray) -> Support:
        """As `diagnostics.support` of all of them, from each user's sum of step ratios (U,) and steps (U,)."""
        ordered = np.sort(self.heaviest)[::-1]
        top = ordered[: max(1, self.count // 100)]
        mean = float(ratios.sum() / steps.sum())
        known = self.total > 0
        return Support(
            effective_sample_size=self.total**2 / self.squares if known else 0.0,
            largest_share=float(ordered[0]) / self.total if known else math.nan,
            top_percent_share=float(top.sum()) / self.total if known else math.nan,
            largest_weight=float(ordered[0]),
            zero_share=self.zeros / self.count,
            mean_ratio=mean,
            mean_ratio_error=float(np.sqrt(((ratios - mean * steps) ** 2).sum()) / steps.sum()),
            unsupported=max(0.0, 1.0 - mean),
            num_episodes=self.count,
        )
