"""Rules from item to item: the Markov chain with the user's history behind it, and sequential rules."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.baselines import ages, backed_off, of_history, repeats, training_choices
from recgym.backbones.ranking import Ranker
from recgym.logs.sequences import Sequences
from recgym.logs.splits import Roles
from recgym.types import BoolArray, DoubleArray, FloatArray, IntArray


class Links(NamedTuple):
    """P weighted links from rows 0..R-1 to columns, row after row."""

    bounds: IntArray  # (R + 1,)
    column: IntArray  # (P,)
    weight: FloatArray  # (P,)

    @classmethod
    def of(cls, row: IntArray, column: IntArray, weight: DoubleArray, num_rows: int, most: int | None = None) -> Links:
        """Add up the weights of equal pairs; the heaviest link of a row comes first, and at most `most` are kept."""
        width = int(column.max(initial=0)) + 1
        pair, place = np.unique(row * width + column, return_inverse=True)
        total = np.bincount(place, weight, len(pair))
        row, column = np.divmod(pair, width)
        order = np.lexsort((column, -total, row))
        order = order if most is None else order[first_of_each(row[order], most)]
        bounds = np.searchsorted(row[order], np.arange(num_rows + 1))
        return cls(bounds, column[order], total[order].astype(np.float32))

    def follow(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """All links of the given rows (Q,): which of these each leaves, and its index, (X,) and (X,)."""
        first, size = self.bounds[rows], np.diff(self.bounds)[rows]
        which = np.repeat(np.arange(len(rows)), size)
        return which, np.arange(len(which)) + np.repeat(first - (np.cumsum(size) - size), size)

    def spread(self, user: IntArray, row: IntArray, weight: DoubleArray, shape: tuple[int, int]) -> Tensor:
        """score_bj = sum of weight_q * link(row_q, j) over the q of user b: (Q,) each -> (B, N); columns are items."""
        which, link = self.follow(row)
        cell = user[which] * (shape[1] + 1) + self.column[link]
        total = np.bincount(cell, weight[which] * self.weight[link], shape[0] * (shape[1] + 1))
        return torch.from_numpy(total.astype(np.float32)).view(shape[0], -1)[:, 1:]


def first_of_each(row: IntArray, most: int) -> BoolArray:
    """Whether an entry is among the first `most` of its row; rows (P,) in ascending order."""
    kept: BoolArray = np.arange(len(row)) - np.searchsorted(row, row) < most
    return kept


def markov_history(sequences: Sequences, roles: Roles) -> Ranker:
    """score_j = times that item j came next after the last choice; then the history; then popularity."""
    return sequential_rules(sequences, roles, steps=1)


def sequential_rules(
    sequences: Sequences, roles: Roles, *, steps: int = 10, reach: int = 1, most: int | None = None
) -> Ranker:
    """score_j = sum over the last choices i of rule(i, j) / age(i); then the history; then popularity.

    rule(i, j) = sum of 1 / distance over the training pairs of a user's choice of i and a later one of j.

    Args:
        sequences: the log.
        roles: (M,).
        steps: the largest distance in a rule, in choices; 1 makes a Markov chain.
        reach: last choices whose rules count; the paper's 1 reads the latest alone.
        most: rules kept of each item, the heaviest; None: all.

    Raises:
        ValueError: a setting is below 1, or the log has no training target.

    Source: Kamehkhosh, Jannach, Ludewig (2017), "A comparison of frequent pattern techniques and a deep learning method
        for session-based recommendation", section 2.
    """
    for name, value in (("steps", steps), ("reach", reach), ("most", most)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    choices, num_items = training_choices(sequences, roles), sequences.num_items
    parts = []
    for distance in range(1, steps + 1):
        before = np.flatnonzero(choices.user[distance:] == choices.user[:-distance])
        weight = np.full(len(before), 1 / distance)
        parts.append((choices.item[before], choices.item[before + distance], weight))
    earlier, later, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    rules = Links.of(earlier, later, weight, num_items + 1, most)
    fallback = repeats(choices, num_items)

    def scores(history: Tensor) -> Tensor:
        age = ages(history).numpy()
        user, place = np.nonzero((history.numpy() > 0) & (age <= reach))
        last, weight = history.numpy()[user, place], 1 / age[user, place]
        return backed_off(rules.spread(user, last, weight, (len(history), num_items)), fallback(history))

    return of_history(scores)
