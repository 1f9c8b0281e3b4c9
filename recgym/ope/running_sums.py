"""What is kept of a log that goes by: sums by user, or by bag of users."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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
