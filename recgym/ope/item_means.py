"""A reward model for one step that needs no training run: shrunken effects of item and position, linear in features.

q(x, a, k) = b + u_a + v_k + (x - mean x) . beta. Effects are ridge estimates whose penalties follow from the log
itself, so a seldom shown item stays near the mean. The expectation over a catalogue costs one product with u.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recgym.ope.fqe import Values
from recgym.ope.targets import Target
from recgym.ope.views import chunks, user_parts
from recgym.types import BoolArray, DoubleArray, IntArray

_SWEEPS = 12


@dataclass(frozen=True, kw_only=True)
class ItemMeans:
    """q(x, a, k) = b + u_a + v_k + (x - mean x) . beta, in units of reward."""

    mean: float
    item: DoubleArray  # (N,) u
    position: DoubleArray  # (P,) v
    slope: DoubleArray  # (X,) beta
    centre: DoubleArray  # (X,) mean x

    def of_context(self, position: IntArray, features: DoubleArray) -> DoubleArray:
        """What does not depend on the item, b + v_k + (x - mean x) . beta, (n,)."""
        found: DoubleArray = self.mean + self.position[position] + (features - self.centre) @ self.slope
        return found


def fit_item_means(
    reward: DoubleArray,
    item: IntArray,
    position: IntArray,
    features: DoubleArray,
    *,
    num_items: int,
    num_positions: int,
) -> ItemMeans:
    """Fit by backfitting: each group of effects in turn on what the others leave, its variance by moments.

    An item with n rows keeps n / (n + s^2 / t^2) of its mean residual, s^2 the residual variance and t^2 that of the
    effects; t^2 is estimated by the excess of the spread between items over what noise makes, 0 where there is none.

    Args:
        reward: (n,).
        item: (n,) ids 1..num_items.
        position: (n,) 0..num_positions-1.
        features: (n, X) of the context.
        num_items: Items N.
        num_positions: Positions P.

    Source: Searle, Casella and McCulloch (1992), "Variance components", section 3.6 (moments, unbalanced one-way);
        Hastie and Tibshirani (1990), "Generalized additive models" (backfitting).
    """
    mean, centre = float(reward.mean()), features.mean(axis=0)
    apart = features - centre
    penalty = np.eye(features.shape[1]) * max(1.0, float(reward.var())) if features.shape[1] else np.zeros((0, 0))
    gram = apart.T @ apart + penalty
    item_effect, position_effect = np.zeros(num_items), np.zeros(num_positions)
    slope = np.zeros(features.shape[1])
    for _ in range(_SWEEPS):
        rest = reward - mean - position_effect[position] - apart @ slope
        item_effect = shrunken_means(rest, item - 1, num_items)
        rest = reward - mean - item_effect[item - 1] - apart @ slope
        position_effect = shrunken_means(rest, position, num_positions)
        if features.shape[1]:
            slope = np.linalg.solve(gram, apart.T @ (reward - mean - item_effect[item - 1] - position_effect[position]))
    return ItemMeans(mean=mean, item=item_effect, position=position_effect, slope=slope, centre=centre)


def shrunken_means(values: DoubleArray, group: IntArray, num_groups: int) -> DoubleArray:
    """n_g / (n_g + s^2 / t^2) times the mean of each group, (G,), for values with mean 0; see `fit_item_means`."""
    count = np.bincount(group, minlength=num_groups).astype(np.float64)
    total = np.bincount(group, weights=values, minlength=num_groups)
    some = count > 0
    if some.sum() < 2:
        return np.zeros(num_groups)
    mean = np.divide(total, count, out=np.zeros(num_groups), where=some)
    within = float((values**2).sum() - (count * mean**2).sum())
    freedom = len(values) - int(some.sum())
    noise = within / freedom if freedom > 0 else float(values.var())  # s^2
    grand = float(values.mean())
    between = float((count * (mean - grand) ** 2)[some].sum()) - (int(some.sum()) - 1) * noise
    spread = between / (len(values) - float((count**2).sum()) / len(values))  # t^2
    if spread <= 0:
        return np.zeros(num_groups)
    return mean * count / (count + noise / spread)


@dataclass(frozen=True, kw_only=True)
class CrossFittedMeans:
    """Two models or more, each fitted on the rows of other users than those it is read at."""

    models: tuple[ItemMeans, ...]
    fold: IntArray  # (T,) the model of each row
    item: IntArray  # (T,)
    position: IntArray  # (T,)
    features: DoubleArray  # (T, X)

    def values(self, target: Target) -> Values:
        """q(x_t, a_t) and sum_j pi(j | x_t) q(x_t, j) along the log; nothing follows a single step."""
        size = len(self.item)
        q, v = np.empty(size), np.empty(size)
        for number, model in enumerate(self.models):
            mine = self.fold == number
            context = model.of_context(self.position[mine], self.features[mine])
            q[mine], v[mine] = context + model.item[self.item[mine] - 1], context
        effects = np.stack([model.item for model in self.models], axis=1)  # (N, folds)
        for part in chunks(size):
            rows = np.arange(part.start, part.stop)
            over = target.distribution(rows).double().numpy() @ effects  # (B, folds)
            v[rows] += over[np.arange(len(over)), self.fold[rows]]
        return Values(q=q, v=v, v_next=np.zeros(size))


def cross_fit_means(
    reward: DoubleArray,
    item: IntArray,
    user: IntArray,
    *,
    num_items: int,
    position: IntArray | None = None,
    features: DoubleArray | None = None,
    folds: int = 2,
    seed: int = 0,
) -> CrossFittedMeans:
    """Fit one model for each fold of users on the rows of the others.

    Args:
        reward: (T,).
        item: (T,) ids 1..num_items.
        user: (T,) of each row.
        num_items: Items N.
        position: (T,) from 0; None: one position.
        features: (T, X) of the context; None: no feature.
        folds: Parts of the users.
        seed: Of the parts.

    Raises:
        ValueError: There are fewer users than folds.
    """
    slots = np.zeros(len(item), dtype=np.int64) if position is None else position
    known = np.zeros((len(item), 0)) if features is None else features
    fold = user_parts(user, folds, seed=seed)

    def fitted(rows: BoolArray) -> ItemMeans:
        return fit_item_means(
            reward[rows], item[rows], slots[rows], known[rows], num_items=num_items,
            num_positions=int(slots.max()) + 1,
        )  # fmt: skip

    models = tuple(fitted(fold != number) for number in range(folds))
    return CrossFittedMeans(models=models, fold=fold, item=item, position=slots, features=known)
