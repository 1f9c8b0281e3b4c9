"""Intervals that keep their level where percentiles do not, and lower bounds: BCa, Hoeffding, empirical Bernstein.

Users are the unit that varies. Hoeffding and Bernstein hold at every sample size for terms in a stated range, given how
many episodes each user has; with importance weights the range is that of weight times reward, and they are wide.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Protocol

import numpy as np

from recgym.ope.intervals import Interval, Numbers, _check, _per_user, _sum_of_ratios, resamples
from recgym.ope.rows import require_finite
from recgym.types import DoubleArray

NORMAL = NormalDist()


class AtLevel(Protocol):
    """An interval with everything given but its level."""

    def __call__(self, *, level: float) -> Interval:
        """The interval at this level."""


def bca_ratio(
    numerator: Numbers, denominator: Numbers, users: Numbers, *, seed: int, level: float = 0.95, replicates: int = 1000
) -> Interval:
    """Bias-corrected and accelerated bootstrap over users of sum_h [sum_e numerator_eh / sum_e denominator_eh].

    The interval runs between the quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z = -/+ Phi^-1((1 + level) / 2), of
    the resamples that `bootstrap_ratio` draws with the same seed; z0 = Phi^-1(share of resamples below the value, half
    of those equal to it), and a = sum d_u^3 / (6 (sum d_u^2)^(3/2)) with d_u the mean of the values without one user
    minus the value without user u.

    Args:
        numerator: (E,) or (E, H).
        denominator: The same shape.
        users: (E,) who each episode belongs to.
        seed: Seed of the resampling.
        level: Nominal coverage, in (0, 1).
        replicates: Resamples.

    Raises:
        ValueError: As `ratio_terms`; or one user holds all of a denominator, so that there is no value without them.

    Source: Efron (1987), "Better bootstrap confidence intervals"; Efron and Tibshirani (1993), "An introduction to the
        bootstrap", equations 14.9, 14.10, 14.14 and 14.15.
    """
    _check(numerator, users, level)
    above, below = ratio_terms(numerator, denominator, users)  # (U, H)
    total_above, total_below = above.sum(axis=0), below.sum(axis=0)  # (H,)
    rest = total_below - below  # (U, H)
    alone = np.argwhere(np.abs(rest) <= 1e-12 * np.abs(total_below))
    if len(alone):
        user, column = np.unique(users)[alone[0, 0]], alone[0, 1]
        raise ValueError(f"user {user} holds all of the denominator of column {column}: no value without this user")
    value = float(_sum_of_ratios(total_above[None], total_below[None])[0])
    draws = np.concatenate(
        [
            _sum_of_ratios(times @ above, times @ below)
            for times in resamples(len(above), seed=seed, replicates=replicates)
        ]
    )
    known = draws[np.isfinite(draws)]
    share = float((known < value).mean() + (known <= value).mean()) / 2
    bias = NORMAL.inv_cdf(min(max(share, 0.5 / len(known)), 1 - 0.5 / len(known)))
    without = _sum_of_ratios(total_above - above, rest)  # (U,)
    slack = without.mean() - without
    squares = float((slack**2).sum())
    acceleration = float((slack**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    ends = [_accelerated(bias, acceleration, NORMAL.inv_cdf((1 + sign * level) / 2)) for sign in (-1, 1)]
    low, high = np.quantile(known, ends)
    lost = f", {len(draws) - len(known)} of them left out (denominator 0)" if len(known) < len(draws) else ""
    method = f"BCa bootstrap over {len(above)} users, {replicates} resamples{lost}"
    return Interval(value=value, low=float(low), high=float(high), level=level, method=method)


def bca_mean(values: Numbers, users: Numbers, *, seed: int, level: float = 0.95, replicates: int = 1000) -> Interval:
    """BCa bootstrap over users of the mean over episodes: values (E,), users (E,)."""
    return bca_ratio(values, np.ones(values.shape), users, seed=seed, level=level, replicates=replicates)


def hoeffding(values: Numbers, users: Numbers, *, low: float, high: float, level: float = 0.95) -> Interval:
    """Mean +/- (high - low) sqrt(log(2 / (1 - level)) sum_u n_u^2 / 2) / sum_u n_u, for terms in [low, high].

    With one episode a user this is the textbook's (high - low) sqrt(log(2 / (1 - level)) / (2 n)). What leaves
    [low, high] is cut off: the mean cannot lie there.

    Args:
        values: (E,) terms, whose mean is the estimate; n_u of them are user u's.
        users: (E,) who each episode belongs to.
        low: Least value that a term can take: what the design allows, not what was seen.
        high: Greatest value that a term can take.
        level: Least coverage, in (0, 1).

    Raises:
        ValueError: A value lies outside [low, high] or is not finite, or there are fewer than two users.

    Source: Hoeffding (1963), "Probability inequalities for sums of bounded random variables", theorem 2.
    """
    total, size = _bounded(values, users, low, high, level)
    half = (high - low) * math.sqrt(math.log(2 / (1 - level)) / 2 * float((size**2).sum())) / float(size.sum())
    return _cut(float(total.sum() / size.sum()), half, low, high, level, f"Hoeffding over {len(size)} users")


def empirical_bernstein(values: Numbers, users: Numbers, *, low: float, high: float, level: float = 0.95) -> Interval:
    """Mean +/- [sqrt(2 V log(4 / (1 - level)) / U) + 7 R log(4 / (1 - level)) / (3 (U - 1))], for terms in [low, high].

    Over users: z_u = (U / E) sum of user u's (values - low) has the mean of all terms less low, sample variance V and
    range R = (high - low) (U / E) max_u n_u. Far narrower than Hoeffding where the terms vary little in their range.

    Args:
        values: (E,) terms, whose mean is the estimate.
        users: (E,) who each episode belongs to.
        low: Least value that a term can take: what the design allows, not what was seen.
        high: Greatest value that a term can take.
        level: Least coverage, in (0, 1).

    Raises:
        ValueError: A value lies outside [low, high] or is not finite, or there are fewer than two users.

    Source: Maurer and Pontil (2009), "Empirical Bernstein bounds and sample-variance penalization", theorem 4 (one
        side, 2 in place of 4); theorem 11 for terms that are independent but not alike.
    """
    total, size = _bounded(values, users, low, high, level)
    scaled = _excess(total, size, low)
    reach = (high - low) * float(size.max() / size.mean())
    half = _bernstein(scaled, reach, math.log(4 / (1 - level)), len(size))
    return _cut(float(total.sum() / size.sum()), half, low, high, level, f"empirical Bernstein over {len(size)} users")


def lower_bound(interval: AtLevel, *, level: float = 0.95) -> Interval:
    """[low, infinity) that covers with `level`: the lower end of an equal-tailed interval at 2 level - 1.

    `lower_bound(partial(t_interval, values, users), level=0.95)`; the same with `bca_mean`, `bca_ratio`, `hoeffding`,
    `empirical_bernstein` and the percentile bootstraps. Not for intervals that are simultaneous over policies.

    Raises:
        ValueError: `level` is not in (0.5, 1).

    Source: Thomas, Theocharous and Ghavamzadeh (2015), "High-confidence off-policy evaluation" (bounds) and
        "High confidence policy improvement" (Student's t and BCa).
    """
    if not 0.5 < level < 1:
        raise ValueError(f"the level of a one-sided bound must lie in (0.5, 1), got {level}")
    found = interval(level=2 * level - 1)
    return replace(found, high=math.inf, level=level, method=f"{found.method}, lower bound")


def truncated_lower_bound(
    values: Numbers, users: Numbers, *, seed: int, low: float = 0.0, clip: float | None = None, level: float = 0.95
) -> Interval:
    """[low + mean(y) - 7 c log(2 / (1 - level)) / (3 (U - 1)) - sqrt(2 V log(2 / (1 - level)) / U), infinity).

    y_u = min(z_u, c) with z_u >= 0 as in `empirical_bernstein` and V the sample variance of y: what exceeds c can only
    lift the mean, so no upper end of the range is needed, which importance weights seldom have. c is chosen where the
    bound promises most on a twentieth of the users, who are then left out.

    Args:
        values: (E,) terms, each at least `low`; their mean over all users is the interval's value.
        users: (E,) who each episode belongs to.
        seed: Seed of who is set aside to choose c.
        low: Least value that a term can take.
        clip: c, if it was chosen without these values; then nobody is set aside.
        level: Least coverage, in (0, 1).

    Raises:
        ValueError: A value is below `low` or not finite, clip is not positive, or there are fewer than four users.

    Source: Thomas, Theocharous and Ghavamzadeh (2015), "High-confidence off-policy evaluation", theorem 1 with one
        threshold for all.
    """
    total, size = _bounded(values, users, low, math.inf, level, open_end=True)
    if len(size) < 4:
        raise ValueError(f"a truncated bound needs at least four users, got {len(size)}")
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip must be positive and finite, got {clip}")
    log, kept = math.log(2 / (1 - level)), np.arange(len(size))
    if clip is None:
        mixed = np.random.default_rng(seed).permutation(len(size))
        aside, kept = np.split(mixed, [max(2, len(size) // 20)])
        clip = _best_clip(_excess(total[aside], size[aside], low), log, len(kept))
    found = low + _promise(_excess(total[kept], size[kept], low), clip, log, len(kept))
    method = f"lower bound over {len(kept)} of {len(size)} users, terms truncated at {clip:.3g}"
    value = float(total.sum() / size.sum())
    return Interval(value=value, low=max(low, found), high=math.inf, level=level, method=method)


def ratio_terms(numerator: Numbers, denominator: Numbers, users: Numbers) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators summed over each user's episodes, two (U, H), users in the order of np.unique.

    Raises:
        ValueError: Shapes disagree, a number is not finite, a column of denominators sums to 0, fewer than two users.
    """
    _check(numerator, users, level=0.95)
    if denominator.shape != numerator.shape:
        raise ValueError(f"numerator and denominator must have one shape, got {numerator.shape}, {denominator.shape}")
    require_finite("numerator", numerator)
    require_finite("denominator", denominator)
    above, below = (_per_user(part.reshape(len(users), -1), users) for part in (numerator, denominator))
    if len(above) < 2:
        raise ValueError(f"an interval over users needs at least two users, got {len(above)}")
    empty = np.flatnonzero(below.sum(axis=0) == 0)
    if len(empty):
        raise ValueError(f"denominator sums to 0 in column {empty[0]}: there is no ratio")
    return above, below


def _accelerated(bias: float, acceleration: float, normal: float) -> float:
    """The share of resamples below an end of the BCa interval."""
    shift = bias + normal
    shrink = 1 - acceleration * shift
    return NORMAL.cdf(bias + shift / shrink) if shrink > 0 else float(shift > 0)


def _bounded(
    values: Numbers, users: Numbers, low: float, high: float, level: float, *, open_end: bool = False
) -> tuple[DoubleArray, DoubleArray]:
    """Each user's sum and number of terms, (U,) and (U,), all terms in [low, high]."""
    _check(values, users, level)
    if values.ndim != 1:
        raise ValueError(f"values must be (E,), got shape {values.shape}")
    if not (math.isfinite(low) and low < high and (open_end or math.isfinite(high))):
        raise ValueError(f"low and high must be finite, low below high, got {low} and {high}")
    require_finite("values", values)
    outside = np.flatnonzero((values < low) | (values > high))
    if len(outside):
        raise ValueError(f"values must lie in [{low}, {high}], got {values[outside[0]]} in row {outside[0]}")
    pair = _per_user(np.stack([values, np.ones(len(values))], axis=1), users)  # (U, 2)
    if len(pair) < 2:
        raise ValueError(f"an interval over users needs at least two users, got {len(pair)}")
    return pair[:, 0], pair[:, 1]


def _excess(total: DoubleArray, size: DoubleArray, low: float) -> DoubleArray:
    """z_u >= 0, (U,), whose mean over users is the mean over episodes less low."""
    excess: DoubleArray = np.maximum(total - low * size, 0.0) / size.mean()
    return excess


def _bernstein(scaled: DoubleArray, reach: float, log: float, num_users: int) -> float:
    """sqrt(2 V log / U) + 7 reach log / (3 (U - 1)): how far the mean over U users may be off, on one side."""
    return math.sqrt(2 * float(scaled.var(ddof=1)) * log / num_users) + 7 * reach * log / (3 * (num_users - 1))


def _promise(scaled: DoubleArray, clip: float, log: float, num_users: int) -> float:
    """The lower bound that terms like these, cut at clip, give with num_users."""
    cut = np.minimum(scaled, clip)
    return float(cut.mean()) - _bernstein(cut, clip, log, num_users)


def _best_clip(scaled: DoubleArray, log: float, num_users: int) -> float:
    seen = scaled[scaled > 0]
    if not len(seen):
        return 1.0  # nothing above low was met: the bound will be low, whatever the clip
    return max(
        (float(clip) for clip in np.quantile(seen, np.linspace(0, 1, 100))),
        key=lambda clip: _promise(scaled, clip, log, num_users),
    )


def _cut(value: float, half: float, low: float, high: float, level: float, method: str) -> Interval:
    return Interval(value=value, low=max(low, value - half), high=min(high, value + half), level=level, method=method)
