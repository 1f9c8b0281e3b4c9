"""PAS-IF: a log split so that its halves are as far apart as target and logger, on which estimators show their errors.

For impressions (one-step logs) whose two policies are known for every item. One part, drawn with chance rho(x, a), is
the log of a pseudo target, whose value is the mean of its rewards; the rest is the log of a pseudo logger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from recgym.ope.rows import check_distributions, check_items, check_rows, refuse
from recgym.ope.selection import Choice, Terms, best, estimate_of
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, IntArray

_FLOOR = 1e-6
"""Weights below this count as this in the rule, so that items the target never shows may still be drawn."""
_COARSE, _FINE = np.arange(0, 3.01, 0.25), np.arange(-0.2, 0.21, 0.05)


@dataclass(frozen=True, kw_only=True)
class Impressions:
    """n impressions with the policies that were, and would be, in charge."""

    target: DoubleArray  # (n, N) pi(a | x)
    logger: DoubleArray  # (n, N) mu(a | x)
    item: IntArray  # (n,) id 1..N of the item shown
    reward: DoubleArray  # (n,)

    def __post_init__(self) -> None:
        """Refuse what is no distribution, item or number."""
        check_distributions(target=self.target, logger=self.logger)
        check_rows(reward=self.reward)
        check_items(self.item, rows=len(self.target), num_items=self.target.shape[1])
        if self.reward.shape != self.item.shape:
            raise ValueError(f"reward must be {self.item.shape}, one a row, got {self.reward.shape}")
        shown = self.at(self.logger)
        refuse("logger at the item shown", shown, shown <= 0, "positive")

    @property
    def weights(self) -> DoubleArray:
        """Importance weights pi / mu of the items shown, (n,)."""
        return self.at(self.target) / self.at(self.logger)

    def at(self, table: DoubleArray) -> DoubleArray:
        """Entries (n,) of the items shown, from (n, N)."""
        found: DoubleArray = table[np.arange(len(self.item)), self.item - 1]
        return found


Estimator = Callable[[Impressions, DoubleArray], Terms]
"""Impressions and the model's q (n, N) of them -> terms."""


def subsampling_rule(target: DoubleArray, logger: DoubleArray, *, share: float = 0.2) -> DoubleArray:
    """rho(x, a) = sigmoid(alpha(x) + beta log w(x, a)), (n, N): the chance of each item to be drawn.

    Drawn rows are the pseudo target's own, mu rho / share; the others the pseudo logger's, mu (1 - rho) / (1 - share);
    so the pseudo weight is rho / (1 - rho) (1 - share) / share. alpha makes sum_a mu rho = share in every row, so that
    no context is favoured; beta in [0, 3.2], to 0.05, minimises mean_i sum_a mu (w - pseudo weight)^2. The paper fits
    rho as a network and `share` by a penalty.

    Args:
        target: (n, N) pi(a | x).
        logger: (n, N) mu(a | x).
        share: Expected share of rows drawn, in (0, 1).

    Source: Udagawa, Kiyohara, Narita, Saito and Tateno (2023), "Policy-adaptive estimator selection for off-policy
        evaluation", importance fitting.
    """
    check_distributions(target=target, logger=logger)
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1), got {share}")
    weights = np.divide(target, logger, out=np.zeros_like(target), where=logger > 0)
    feature = np.log(np.maximum(weights, _FLOOR))

    def loss(beta: float) -> float:
        rule = _rule(beta * feature, logger, share)
        return float((logger * (rule / (1 - rule) * (1 - share) / share - weights) ** 2).sum())

    near = min(_COARSE, key=loss)
    return _rule(min(np.maximum(near + _FINE, 0), key=loss) * feature, logger, share)


def importance_fitted(
    candidates: Mapping[str, Estimator],
    log: Impressions,
    model: Callable[[IntArray], DoubleArray],
    *,
    seed: int,
    share: float = 0.2,
    draws: int = 20,
) -> Choice:
    """argmin_h mean_s (V_h - mean reward of the drawn rows)^2, V_h being of the pseudo target, from the rows left.

    Args:
        candidates: The estimators to choose from, by name.
        log: The impressions.
        model: Rows -> q (len(rows), N) for these rows, learned from these rows alone (cross-fitted among them). A
            model that has seen the drawn rows makes DM look better than it is.
        seed: Seed of the draws, which all candidates share.
        share: Share of the rows that are drawn.
        draws: How often.

    Raises:
        ValueError: There is no candidate or draw, or the log is too small to draw from. `SupportError`: no candidate
            gave an estimate in every draw.

    Source: as `subsampling_rule`.
    """
    if not candidates:
        raise ValueError("candidates must name at least one estimator, got none")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if min(share, 1 - share) * len(log.item) < 5:
        raise ValueError(f"log has {len(log.item)} rows, too few: share {share} must leave at least 5 to both parts")
    rule = subsampling_rule(log.target, log.logger, share=share)
    target, logger = log.logger * rule / share, log.logger * (1 - rule) / (1 - share)  # (n, N) pseudo policies
    chance, rng, errors = log.at(rule), np.random.default_rng(seed), np.empty((draws, len(candidates)))
    for number in range(draws):
        drawn = np.zeros(len(chance), dtype=np.bool_)
        while drawn.all() or not drawn.any():  # a part that came out empty is drawn again
            drawn = rng.random(len(chance)) < chance
        rows, truth = np.flatnonzero(~drawn), float(log.reward[drawn].mean())
        left = Impressions(target=target[rows], logger=logger[rows], item=log.item[rows], reward=log.reward[rows])
        q = model(rows)
        check_rows(dimensions=2, target=left.target, q=q)
        errors[number] = [(_estimate(candidate, left, q) - truth) ** 2 for candidate in candidates.values()]
    mean = np.where(np.isfinite(errors).all(axis=0), errors.mean(axis=0), math.inf)
    return best(dict(zip(candidates, mean.tolist(), strict=True)))


def _rule(scores: DoubleArray, logger: DoubleArray, share: float) -> DoubleArray:
    """sigmoid(alpha + scores) with the alpha of each row for which sum_a mu sigmoid = share, by bisection."""
    middle = math.log(share / (1 - share))
    low, high = middle - scores.max(axis=1), middle - scores.min(axis=1)  # (n,)
    odds = np.exp(-scores)  # (n, N)
    for _ in range(50):
        alpha = (low + high) / 2
        more = np.einsum("ij,ij->i", logger, 1 / (1 + odds * np.exp(-alpha)[:, None])) < share
        low, high = np.where(more, alpha, low), np.where(more, high, alpha)
    rule: DoubleArray = 1 / (1 + odds * np.exp(-high)[:, None])
    return rule


def _estimate(candidate: Estimator, log: Impressions, q: DoubleArray) -> float:
    try:
        return estimate_of(candidate(log, q))
    except SupportError:
        return math.nan
