"""Confidence intervals that treat the user, not the step, as the unit that varies.

Sessions of one user are alike, so every interval here resamples or sums whole users (clusters). Nothing tests a null
hypothesis: what is reported is a difference and how far it can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recgym.types import DoubleArray

Numbers = npt.NDArray[Any]
_BLOCK = 1 << 22  # bootstrap multiplicities held at a time, in numbers (32 MiB)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and a confidence interval for it."""

    value: float
    low: float
    high: float
    level: float
    """Nominal coverage of [low, high]."""
    method: str
    """What was resampled or assumed, in words for the report."""


def bootstrap_ratio(
    numerator: Numbers, denominator: Numbers, users: Numbers, *, seed: int, level: float = 0.95, replicates: int = 1000
) -> Interval:
    """Percentile bootstrap over users of sum_h [sum_e numerator_eh / sum_e denominator_eh].

    One column is a ratio estimator (SNIPS; a mean, where the denominator is 1); several columns are a sum of ratios
    (weighted per-decision importance sampling: one ratio per step of the session).

    Args:
        numerator: (E,) or (E, H).
        denominator: The same shape. A column that sums to 0 makes the value nan.
        users: (E,) who each episode belongs to; users are resampled with all their episodes.
        seed: Seed of the resampling.
        level: Nominal coverage, in (0, 1).
        replicates: Resamples.

    Raises:
        ValueError: The shapes disagree, there is no episode, or level or replicates is out of range.

    Source: Efron and Tibshirani (1993), "An introduction to the bootstrap", section 13.3; Davison and Hinkley (1997),
        section 3.8, for whole clusters.
    """
    _check(numerator, users, level)
    if denominator.shape != numerator.shape:
        raise ValueError(f"numerator and denominator must have one shape, got {numerator.shape}, {denominator.shape}")
    above = _per_user(numerator.reshape(len(users), -1), users)  # (U, H)
    below = _per_user(denominator.reshape(len(users), -1), users)  # (U, H)
    num_users = len(above)
    draws = np.concatenate(
        [
            _sum_of_ratios(times @ above, times @ below)
            for times in resamples(num_users, seed=seed, replicates=replicates)
        ]
    )
    value = float(_sum_of_ratios(above.sum(axis=0, keepdims=True), below.sum(axis=0, keepdims=True))[0])
    known = draws[np.isfinite(draws)]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if known.size else (math.nan, math.nan)
    method = f"percentile bootstrap over {num_users} users, {replicates} resamples"
    return Interval(value=value, low=float(low), high=float(high), level=level, method=method)


def bootstrap_mean(
    values: Numbers, users: Numbers, *, seed: int, level: float = 0.95, replicates: int = 1000
) -> Interval:
    """Percentile bootstrap over users of the mean over episodes: values (E,), users (E,)."""
    return bootstrap_ratio(values, np.ones(values.shape), users, seed=seed, level=level, replicates=replicates)


def paired_bootstrap(
    first: Numbers, second: Numbers, users: Numbers, *, seed: int, level: float = 0.95, replicates: int = 1000
) -> Interval:
    """Percentile bootstrap over users of mean(first - second), both (E,) outcomes of the same episodes.

    Episode e of both must be the same user under common random numbers; then what they share cancels.

    Raises:
        ValueError: The two have different shapes.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired outcomes must have one shape, got {first.shape} and {second.shape}")
    return bootstrap_mean(first - second, users, seed=seed, level=level, replicates=replicates)


def t_interval(values: Numbers, users: Numbers, *, level: float = 0.95) -> Interval:
    """Student interval for the mean over episodes, values (E,), whose users (E,) are independent.

    m = sum y_u / sum n_u, with variance U / (U - 1) sum (y_u - m n_u)^2 / (sum n_u)^2 and U - 1 degrees of freedom;
    with one episode a user this is the textbook interval.

    Raises:
        ValueError: Fewer than two users, or shapes that disagree.

    Source: Cochran (1977), "Sampling techniques", section 9A.3 (ratio to size).
    """
    value, residual = _linearised(values.reshape(1, -1), users, level)  # (1, U)
    num_users = residual.shape[1]
    half = t_quantile(level, num_users - 1) * float(residual.std(ddof=1)) / math.sqrt(num_users)
    method = f"t interval over {num_users} users"
    return Interval(value=value, low=value - half, high=value + half, level=level, method=method)


def t_ratio(numerator: Numbers, denominator: Numbers, users: Numbers, *, level: float = 0.95) -> Interval:
    """Student interval over users for sum_h [sum_e numerator_eh / sum_e denominator_eh], linearised (delta method).

    With R_h the ratios, A and B the sums over users, user u adds z_u = U sum_h (a_uh - R_h b_uh) / B_h, and the half
    width is t sqrt(var(z) / U) with U - 1 degrees of freedom. For means it is `t_interval`; with one user, whose error
    nothing bounds, the ends are nan.

    Args:
        numerator: (E,) or (E, H).
        denominator: The same shape. A column that sums to 0 makes the value and its interval nan.
        users: (E,) who each episode belongs to.
        level: Nominal coverage, in (0, 1).

    Raises:
        ValueError: The shapes disagree, or there is no episode.

    Source: Cochran (1977), "Sampling techniques", chapter 6 and section 9A.3 (ratios).
    """
    _check(numerator, users, level)
    if denominator.shape != numerator.shape:
        raise ValueError(f"numerator and denominator must have one shape, got {numerator.shape}, {denominator.shape}")
    above, below = (_per_user(part.reshape(len(users), -1), users) for part in (numerator, denominator))  # (U, H)
    num_users, total = len(above), below.sum(axis=0)
    total = np.where(total == 0, np.nan, total)
    ratio = above.sum(axis=0) / total  # (H,)
    part = num_users * ((above - ratio * below) / total).sum(axis=1)  # (U,)
    value, half = float(ratio.sum()), math.nan
    if num_users > 1:
        half = t_quantile(level, num_users - 1) * float(part.std(ddof=1)) / math.sqrt(num_users)
    method = f"t interval over {num_users} users"
    return Interval(value=value, low=value - half, high=value + half, level=level, method=method)


def seeds_and_users(values: Numbers, users: Numbers, *, level: float = 0.95) -> Interval:
    """Interval for a mean (or paired difference) over training seeds and users, both taken as random.

    Every seed's agent met the same users, so seeds and users are crossed: y_su = mean + seed_s + user_u + rest_su.
    With v_s and v_u the variances of the seed means and the user means, each over its count, and v_r the residual's,
    V = max(v_s + v_u - v_r, v_s, v_u), with Satterthwaite's degrees of freedom. Five seeds give about four of these:
    resampling five seeds instead would be far too narrow (its normal-like quantile is 2.0 where t has 2.8).

    Args:
        values: (S, E) outcome, or difference to a baseline, of each seed's agent in each episode.
        users: (E,) who each episode belongs to, the same for every seed.
        level: Nominal coverage, in (0, 1).

    Returns:
        The interval. With one seed the variation between trainings is unknown; `method` then says so.

    Raises:
        ValueError: `values` is not (S, E), or there are fewer than two users.

    Source: Searle, Casella and McCulloch (1992), "Variance components", section 4.3; Satterthwaite (1946).
    """
    if values.ndim != 2:
        raise ValueError(f"values must be (S, E): a row for each seed, got shape {values.shape}")
    if len(values) == 1:
        alone = t_interval(values[0], users, level=level)
        method = f"{alone.method}, one training seed: the variation between trainings is not in it"
        return Interval(value=alone.value, low=alone.low, high=alone.high, level=level, method=method)
    value, residual = _linearised(values, users, level)  # (S, U), mean 0
    num_seeds, num_users = residual.shape
    by_seed, by_user = residual.mean(axis=1), residual.mean(axis=0)  # (S,), (U,)
    rest = residual - by_seed[:, None] - by_user
    v_seed, v_user = by_seed.var(ddof=1) / num_seeds, by_user.var(ddof=1) / num_users
    rest_freedom = (num_seeds - 1) * (num_users - 1)
    v_rest = (rest**2).sum() / rest_freedom / (num_seeds * num_users)
    variance = max(v_seed + v_user - v_rest, v_seed, v_user)
    spread = v_seed**2 / (num_seeds - 1) + v_user**2 / (num_users - 1) + v_rest**2 / rest_freedom
    half = t_quantile(level, variance**2 / spread) * math.sqrt(variance) if variance > 0 else 0.0
    method = f"crossed random effects of {num_seeds} training seeds and {num_users} users, Satterthwaite t"
    return Interval(value=value, low=value - half, high=value + half, level=level, method=method)


def members_and_users(values: Numbers, users: Numbers, *, level: float = 0.95) -> Interval:
    """Interval for a mean of M bootstrapped fits over episodes: the fits' error and the users' spread, added.

    Each member was fitted on users drawn anew, so the spread s^2 of the members' means stands for the error of one fit
    on these users; the mean of M has that error once, and its own luck over M. With v_u the variance of the mean over
    users, V = s^2 (1 + 1/M) + v_u, with Satterthwaite's degrees of freedom and Student's t.

    Args:
        values: (M, E) what each member says of each episode, M >= 2.
        users: (E,) who each episode belongs to.
        level: Nominal coverage, in (0, 1).

    Raises:
        ValueError: `values` is not (M, E) with two members or more, or there are fewer than two users.

    Source: Efron and Tibshirani (1993), section 6.2 (bootstrap variance); Satterthwaite (1946).
    """
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"values must be (M, E): a row for each of at least 2 members, got shape {values.shape}")
    value, residual = _linearised(values, users, level)  # (M, U), mean 0
    num_members, num_users = residual.shape
    v_fit = residual.mean(axis=1).var(ddof=1) * (1 + 1 / num_members)
    v_user = residual.mean(axis=0).var(ddof=1) / num_users
    variance = v_fit + v_user
    spread = v_fit**2 / (num_members - 1) + v_user**2 / (num_users - 1)
    half = t_quantile(level, variance**2 / spread) * math.sqrt(variance) if variance > 0 else 0.0
    method = f"{num_members} fits to bootstrapped users and {num_users} users, Satterthwaite t"
    return Interval(value=value, low=value - half, high=value + half, level=level, method=method)


def resamples(num_users: int, *, seed: int, replicates: int) -> Iterator[DoubleArray]:
    """How often each user is drawn in each bootstrap resample, (R, U) in blocks of rows that fit in memory.

    Raises:
        ValueError: Fewer than two replicates.
    """
    if replicates < 2:
        raise ValueError(f"replicates must be at least 2, got {replicates}")
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // num_users)
    for first in range(0, replicates, block):
        size = min(block, replicates - first)
        who = generator.integers(num_users, size=(size, num_users)) + num_users * np.arange(size)[:, None]
        yield np.bincount(who.ravel(), minlength=size * num_users).reshape(size, num_users).astype(np.float64)


def t_quantile(level: float, freedom: float) -> float:
    """The t with P(|T| <= t) = level for Student's T with `freedom` degrees of freedom.

    To 1e-7, and 1e-5 from 10^6 degrees of freedom on, for levels up to 0.9999.
    P(|T| <= t) = 2 c integral_0^angle cos^(freedom - 1), angle = atan(t / sqrt(freedom)), solved by bisection.

    Raises:
        ValueError: `level` is not in (0, 1) or `freedom` is not positive.
    """
    if not 0 < level < 1 or not freedom > 0:
        raise ValueError(f"level must lie in (0, 1) and freedom be positive, got {level} and {freedom}")
    node, weight = np.polynomial.legendre.leggauss(64)
    log_c = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)
    # Far beyond any quantile the nodes miss the density's peak at 0, so the search stays near it.
    low, high = 0.0, math.atan(40 / math.sqrt(freedom)) if freedom > 30 else math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        inside = angle / 2 * float(weight @ np.cos(angle / 2 * (node + 1)) ** (freedom - 1))
        low, high = (angle, high) if 2 * math.exp(log_c) * inside < level else (low, angle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def check_level(level: float) -> None:
    """Refuse a nominal coverage outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")


def _check(values: Numbers, users: Numbers, level: float) -> None:
    if users.ndim != 1 or not len(users) or values.shape[0] != len(users):
        raise ValueError(f"values and users must share a first dimension E > 0, got {values.shape} and {users.shape}")
    check_level(level)


def _per_user(values: Numbers, users: Numbers) -> DoubleArray:
    """Sums over the episodes of each user: (E, H), (E,) -> (U, H)."""
    who, index = np.unique(users, return_inverse=True)
    total = np.zeros((len(who), values.shape[1]))
    np.add.at(total, index, values)
    return total


def _sum_of_ratios(above: DoubleArray, below: DoubleArray) -> DoubleArray:
    """sum_h above / below, (R, H) -> (R,); nan where a denominator is 0."""
    total: DoubleArray = (above / np.where(below == 0, np.nan, below)).sum(axis=1)
    return total


def _linearised(values: Numbers, users: Numbers, level: float) -> tuple[float, DoubleArray]:
    """The mean over seeds and episodes, and each user's part in its error: (S, E) -> float, (S, U) with mean 0."""
    _check(values.T, users, level)
    total, size = _per_user(values.T, users).T, _per_user(np.ones((len(users), 1)), users)[:, 0]  # (S, U), (U,)
    if len(size) < 2:
        raise ValueError(f"an interval over users needs at least two users, got {len(size)}")
    mean = float(total.sum() / (len(values) * size.sum()))
    return mean, (total - mean * size) * (len(size) / size.sum())
