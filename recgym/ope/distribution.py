"""The distribution of the target policy's return: how often little is earned, not only what is earned on average.

Each logged return counts by the weight rho_0 ... rho_H of its whole session (`last_weights`); the return is
`episode_sums(reward, episode, discount)`. From the cumulative distribution follow mean, variance, quantiles and the
mean of the worst cases.

Source: Huang, Leqi, Lipton and Azizzadenesheli (2021), "Off-policy risk assessment in contextual bandits"; Chandak et
    al. (2021), "Universal off-policy evaluation", for sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recgym.ope.rows import check_rows, check_weights
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray

_ROUNDING = 1e-12  # a level this close above a step of the distribution counts as reached


@dataclass(frozen=True, kw_only=True)
class ReturnDistribution:
    """A distribution on the K different returns that the log holds."""

    points: DoubleArray
    """(K,) returns, rising, in units of reward."""
    cumulative: DoubleArray
    """(K,) chance of a return of at most the point; never falls, ends at 1."""

    def __post_init__(self) -> None:
        """Refuse what is no cumulative distribution."""
        check_rows(points=self.points, cumulative=self.cumulative)
        if np.any(np.diff(self.points) <= 0):
            raise ValueError(f"points must rise, got {self.points}")
        if self.cumulative[0] < 0 or self.cumulative[-1] != 1 or np.any(np.diff(self.cumulative) < 0):
            raise ValueError(f"cumulative must lie in [0, 1], never fall and end at 1, got {self.cumulative}")

    @property
    def chances(self) -> DoubleArray:
        """(K,) chance of each point."""
        return np.diff(self.cumulative, prepend=0.0)

    @property
    def mean(self) -> float:
        """sum_k p_k x_k."""
        return float(self.chances @ self.points)

    @property
    def variance(self) -> float:
        """sum_k p_k (x_k - mean)^2."""
        return float(self.chances @ (self.points - self.mean) ** 2)

    def at(self, thresholds: DoubleArray) -> DoubleArray:
        """F(x), the chance of a return of at most each threshold, (P,) -> (P,)."""
        below = np.searchsorted(self.points, thresholds, side="right")  # (P,)
        found: DoubleArray = np.append(0.0, self.cumulative)[below]
        return found

    def quantile(self, level: float) -> float:
        """The least return x with F(x) >= level, level in (0, 1]."""
        _check_level(level)
        return float(self.points[np.searchsorted(self.cumulative, level - _ROUNDING)])

    def lower_tail(self, level: float) -> float:
        """Mean of the worst `level` of returns (CVaR): 1 / level times the integral of the quantile from 0 to level.

        A point that straddles the level counts in part, so that the tail holds exactly `level`.

        Source: Rockafellar and Uryasev (2002), "Conditional value-at-risk for general loss distributions", for
            distributions with jumps.
        """
        _check_level(level)
        within = np.diff(np.minimum(self.cumulative, level), prepend=0.0)  # (K,)
        return float(within @ self.points) / level


def importance_distribution(weights: DoubleArray, returns: DoubleArray) -> ReturnDistribution:
    """F(x) = min(1, 1 / E sum_e w_e 1{R_e <= x}); what lacks to 1 in the end is put on the greatest return seen.

    Before clipping each F(x) is unbiased. Clipping from above never makes an error larger, but with a mean weight
    below 1 the upper end is too good; `weighted_distribution` has no such end.

    Args:
        weights: (E,) weight of each whole episode.
        returns: (E,) its return.

    Raises:
        SupportError: All weights are 0.
        ValueError: The arrays differ in length, or hold a number that is not finite or a negative weight.
    """
    points, mass = _masses(weights, returns)
    return _clipped(points, mass, len(returns))


def weighted_distribution(weights: DoubleArray, returns: DoubleArray) -> ReturnDistribution:
    """F(x) = sum_e w_e 1{R_e <= x} / sum_e w_e, consistent and a distribution at any size.

    Its mean is the weighted trajectory-wise estimate of the value.

    Args:
        weights: (E,) weight of each whole episode.
        returns: (E,) its return.

    Raises:
        SupportError: All weights are 0.
        ValueError: The arrays differ in length, or hold a number that is not finite or a negative weight.
    """
    points, mass = _masses(weights, returns)
    return _clipped(points, mass, mass.sum())


def distribution_terms(weights: DoubleArray, returns: DoubleArray, thresholds: DoubleArray) -> DoubleArray:
    """w_e 1{R_e <= x} of each episode and threshold, (E, P), for intervals.

    Their mean is the unclipped F(x); over the mean of the weights it is the weighted one.

    Raises:
        ValueError: The arrays differ in length, or hold a number that is not finite or a negative weight.
    """
    check_weights(weights, returns=returns)
    check_rows(thresholds=thresholds)
    terms: DoubleArray = weights[:, None] * (returns[:, None] <= thresholds)
    return terms


def lower_tail_terms(weights: DoubleArray, returns: DoubleArray, level: float) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators (E,) whose ratio is `weighted_distribution(...).lower_tail(level)`, for intervals.

    CVaR = q - E[max(q - R, 0)] / level at q, the quantile. It is greatest there over all q, so the error of q enters
    in second order only and q may be held fixed when users are resampled.

    Raises:
        SupportError: All weights are 0.
        ValueError: The arrays differ in length, hold a number that is not finite or a negative weight, or the level
            lies outside (0, 1].

    Source: Rockafellar and Uryasev (2000), "Optimization of conditional value-at-risk", with gains in place of losses.
    """
    quantile = weighted_distribution(weights, returns).quantile(level)
    values: DoubleArray = weights * (quantile - np.maximum(quantile - returns, 0.0) / level)
    return values, weights


def _clipped(points: DoubleArray, mass: DoubleArray, total: float) -> ReturnDistribution:
    """The distribution with mass (K,) / total on the points (K,): cut at 1, and brought to 1 at the last."""
    cumulative = np.minimum(np.cumsum(mass) / total, 1.0)
    cumulative[-1] = 1.0
    return ReturnDistribution(points=points, cumulative=cumulative)


def _masses(weights: DoubleArray, returns: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """The different returns, rising, and the weight on each, both (K,)."""
    check_weights(weights, returns=returns)
    if not weights.sum() > 0:
        raise SupportError("all weights are 0: the target policy would never have acted as any logged session did")
    points, index = np.unique(returns, return_inverse=True)
    return points, np.bincount(index, weights=weights).astype(np.float64)


def _check_level(level: float) -> None:
    if not 0 < level <= 1:
        raise ValueError(f"level must lie in (0, 1], got {level}")
