"""Weighted doubly robust estimation (WDR), and MAGIC, which blends it with the model it corrects.

Both are made of columns: column 0 is the model's V(s_0), column 1 + t its weighted error at step t. The first 1 + j
columns add up to g_j, the partial return that follows the log for j steps and the model from there on: g_0 is the
model alone, g_H is WDR.

Source of all but `simplex_minimum`: Thomas and Brunskill (2016), "Data-efficient off-policy policy evaluation for
    reinforcement learning".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recgym.ope.fqe import Values
from recgym.ope.importance import weighted_per_decision_terms
from recgym.ope.intervals import bootstrap_ratio
from recgym.ope.rows import check_discount, check_weight_left, check_weights
from recgym.ope.views import first_steps
from recgym.types import DoubleArray, IntArray


class Blend(NamedTuple):
    """What MAGIC made of the partial returns of J lengths."""

    value: float
    """sum_j x_j g_j."""
    lengths: IntArray
    """(J,) logged steps before the model takes over; the paper counts from -1."""
    returns: DoubleArray
    """(J,) g_j."""
    shares: DoubleArray
    """(J,) x_j, not negative, sum 1."""
    covariance: DoubleArray
    """(J, J) of the partial returns."""
    bias: DoubleArray
    """(J,) signed distance of g_j from the interval around WDR."""


def weighted_doubly_robust_terms(
    ratios: DoubleArray, reward: DoubleArray, values: Values, episode: IntArray, discount: float
) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators (E, 1 + H) whose column ratios add up to the weighted doubly robust estimate.

    WDR = mean V(s_0) + sum_t discount^t (sum_e w_t (r_t + discount V(s_t+1) - Q(s_t, a_t))) / (sum_e w_t) with
    w_t = rho_0 ... rho_t. Weights sum to 1 at every step, so one heavy session cannot carry the estimate beyond the
    errors seen. A session that has ended keeps its last weight, with error 0.

    Args:
        ratios: (T,) pi / mu of each step.
        reward: (T,) rewards.
        values: Q along the log; it must not have been fitted on the same episodes (cross-fitting).
        episode: (T,) episode of each step.
        discount: Discount per step.

    Raises:
        SupportError: At some step no episode has weight left.
        ValueError: An array has another length, a number that is not finite, or a negative ratio.
    """
    start = first_steps(episode)
    check_discount(discount)
    check_weights(ratios, name="ratios", episode=episode, reward=reward, **values._asdict())
    error = reward + discount * values.v_next - values.q  # (T,)
    above, below = weighted_per_decision_terms(ratios, error, episode, discount)
    check_weight_left(below)
    ones = np.ones((len(start), 1))
    return np.hstack([values.v[start][:, None], above]), np.hstack([ones, below])


def partial_returns(numerators: DoubleArray, denominators: DoubleArray) -> DoubleArray:
    """g_0 ... g_H, (1 + H,), from the terms of WDR: the model's value, then one more logged step each."""
    returns: DoubleArray = np.cumsum(numerators.sum(axis=0) / denominators.sum(axis=0))
    return returns


def partial_covariance(
    numerators: DoubleArray, denominators: DoubleArray, user: IntArray, lengths: IntArray | None = None
) -> DoubleArray:
    """Covariance of g_0 ... g_H, (1 + H, 1 + H), or of those of the given `lengths` (J,), users (E,) being independent.

    Each user adds sum_e (numerator - ratio denominator) / sum denominator to the error of a column. The paper takes
    the sums of weights as known; here their variation counts (delta method), and users may have several sessions.

    Raises:
        ValueError: Fewer than two users.
    """
    who, index = np.unique(user, return_inverse=True)
    if len(who) < 2:
        raise ValueError(f"a covariance over users needs at least two users, got {len(who)}")
    total = denominators.sum(axis=0)
    error = (numerators - numerators.sum(axis=0) / total * denominators) / total  # (E, 1 + H)
    reached = np.cumsum(error, axis=1)
    if lengths is not None:
        reached = reached[:, lengths]
    per_user = np.zeros((len(who), reached.shape[1]))
    np.add.at(per_user, index, reached)
    covariance: DoubleArray = len(who) / (len(who) - 1) * per_user.T @ per_user
    return covariance


def magic(
    numerators: DoubleArray,
    denominators: DoubleArray,
    user: IntArray,
    *,
    seed: int,
    lengths: IntArray | None = None,
    level: float = 0.9,
    replicates: int = 200,
) -> Blend:
    """Blend the partial returns g_j so that the estimated mean squared error x' (C + b b') x is least.

    C is the covariance of the g_j, b_j how far g_j lies outside an interval around WDR. Where the model is right the
    short lengths win, where it is biased and sessions are plenty the long ones do.

    Args:
        numerators: (E, 1 + H) of `weighted_doubly_robust_terms`.
        denominators: The same shape.
        user: (E,) who each episode belongs to.
        seed: Seed of the bootstrap behind the interval.
        lengths: (J,) logged steps before the model takes over, each in 0..H; all of them if None.
        level: Coverage of the interval around WDR.
        replicates: Its resamples.

    Raises:
        ValueError: The shapes disagree, there are fewer than two users, or a length is unknown or given twice.
    """
    horizon = numerators.shape[1] - 1
    chosen = np.arange(horizon + 1) if lengths is None else lengths
    wrong = np.flatnonzero((chosen < 0) | (chosen > horizon))
    if len(wrong) or not len(chosen) or len(np.unique(chosen)) < len(chosen):
        found = f"{chosen[wrong[0]]} in row {wrong[0]}" if len(wrong) else str(chosen.tolist())
        raise ValueError(f"lengths must be different numbers in 0..{horizon}, at least one, got {found}")
    whole = bootstrap_ratio(numerators, denominators, user, seed=seed, level=level, replicates=replicates)
    returns = partial_returns(numerators, denominators)[chosen]
    bias = returns - np.clip(returns, min(whole.low, whole.value), max(whole.high, whole.value))
    covariance = partial_covariance(numerators, denominators, user, chosen)
    shares = simplex_minimum(covariance + np.outer(bias, bias))
    return Blend(float(shares @ returns), chosen, returns, shares, covariance, bias)


def blend_terms(numerators: DoubleArray, denominators: DoubleArray, blend: Blend) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators (E, 1 + H) whose column ratios add up to a blend's value, its shares held fixed.

    A column counts in every partial return that reaches it: column c by sum of the x_j with j >= c.
    """
    reached = blend.lengths[:, None] >= np.arange(numerators.shape[1])  # (J, 1 + H)
    return numerators * (blend.shares @ reached), denominators


def simplex_minimum(matrix: DoubleArray) -> DoubleArray:
    """The x >= 0 with sum x = 1 that minimises x' A x, (J,), for A (J, J) symmetric positive semi-definite.

    The y >= 0 that minimises y' A y + (1 - sum y)^2 is a multiple of it, since only the direction of y matters to the
    first term at a given sum. That is non-negative least squares; the active set ends after finitely many steps.

    Raises:
        ValueError: The matrix is not square, finite and symmetric.

    Source: Lawson and Hanson (1974), "Solving least squares problems", chapter 23 (NNLS).
    """
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1] or not len(matrix):
        raise ValueError(f"matrix must be square, got shape {matrix.shape}")
    if not np.isfinite(matrix).all() or np.abs(matrix - matrix.T).max() > 1e-9 * np.abs(matrix).max():
        raise ValueError("matrix must be finite and symmetric")
    least = int(matrix.diagonal().argmin())
    y = np.zeros(len(matrix))
    if matrix[least, least] <= 1e-24 * matrix.diagonal().max():
        y[least] = 1.0  # it has no error at all
        return y
    gram = matrix / matrix[least, least] + 1.0
    unit = np.sqrt(gram.diagonal())  # each y_j in units that give it curvature 1, so that rounding treats all alike
    gram, goal = gram / np.outer(unit, unit), 1.0 / unit
    free = np.zeros(len(matrix), dtype=np.bool_)
    for _ in range(10 * len(matrix)):
        slope = np.where(free, -np.inf, goal - gram @ y)
        if slope.max() <= 1e-12:
            break
        free[slope.argmax()] = True
        while True:
            best = np.zeros(len(y))
            best[free] = np.linalg.lstsq(gram[np.ix_(free, free)], goal[free])[0]
            down = np.flatnonzero(free & (best <= 0))
            if not len(down):
                break
            way = y[down] / (y[down] - best[down])  # (D,) share of the way to `best` at which y becomes 0
            y += way.min() * (best - y)
            free[down[way.argmin()]] = False
            y[~free] = 0.0
        y = best
    shares: DoubleArray = y / unit / (y / unit).sum()
    return shares
