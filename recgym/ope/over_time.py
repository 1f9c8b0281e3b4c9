"""Does an estimate hold from the first day of a log to the last? Its value in each fold, a test, and the trend."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recgym.ope.compare import influence
from recgym.ope.intervals import Interval, Numbers, bootstrap_ratio, check_level, t_quantile
from recgym.ope.p_values import f_tail, holm
from recgym.ope.rows import check_rows
from recgym.types import DoubleArray, IntArray

_ROUNDING = 1e-12  # variances this small beside the largest are none


@dataclass(frozen=True, kw_only=True)
class Fold:
    """An estimate from one stretch of time."""

    start: float
    """First session start in the fold, in the unit of the times given."""
    end: float
    """Last session start in the fold."""
    rows: int
    """Terms (sessions, or impressions) in the fold."""
    users: int
    """Users with a term in the fold."""
    estimate: Interval
    """The estimate from the fold alone."""


@dataclass(frozen=True, kw_only=True)
class OverTime:
    """An estimate fold by fold, and whether the folds differ by more than chance."""

    folds: tuple[Fold, ...]
    whole: Interval
    """The estimate from all folds together."""
    statistic: float
    """Cochran's Q: squared differences between folds over their variance, users in several folds minded."""
    freedom: tuple[float, float]
    """Degrees of freedom of F: differences between folds, and what the users' number and tails leave (at least 2)."""
    p_value: float
    """Chance of so large a Q if nothing changed."""
    trend: Interval
    """Change from the first fold to the last along the straight line through the folds' estimates."""
    trend_p_value: float
    """Chance of so large a change if there is no trend."""
    shared_users: int
    """Users with terms in more than one fold."""
    drifts: bool
    """Whether test or trend, both corrected for being two, say that the estimate changed."""
    words: str


def over_time(
    numerator: Numbers,
    denominator: Numbers,
    users: Numbers,
    fold: IntArray,
    start: Numbers,
    *,
    seed: int,
    level: float = 0.95,
    replicates: int = 1000,
    name: str = "the estimate",
    exact: bool = False,
) -> OverTime:
    """An estimate in each fold with its interval, a test that all are one value, and the trend.

    Q = (D v)' (D S D')^-1 (D v): v the K estimates, D the differences between neighbours, S the covariance of v over
    users. For folds without common users it is Cochran's Q = sum_k (v_k - mean)^2 / s_k^2, the mean weighed by 1 / s^2.
    Q (f - q + 1) / (f q) is read as F(q, f - q + 1), q = K - 1 and f = q (q + 1) / sum_u |h_u|^4, h_u user u's part in
    the whitened differences: few users, or a few heavy ones, leave little freedom. The trend is least squares of v on
    the folds' mean session start; its error is from S, with f of q = 1.

    Args:
        numerator: (E,) or (E, H) terms of an estimator.
        denominator: The same shape; ones for a linear estimator.
        users: (E,) who each term belongs to.
        fold: (E,) 0..K - 1, rising with time, as of `folds_in_time.session_folds`.
        start: (E,) session start of each term.
        seed: Of the resampling for the intervals of folds and whole; test and trend draw nothing.
        level: Of the intervals; 1 - level of the tests.
        replicates: Resamples.
        name: What is estimated, for the words.
        exact: Whether terms that are all alike are known for sure (logged propensities), so that any difference to
            them is one; otherwise (a fold without a click) chance may have made them so, and they are refused.

    Raises:
        ValueError: Terms are malformed, folds are not 0..K - 1 in the order of time, a fold has fewer than two users,
            or its terms do not vary where folds differ and are not `exact`: nothing says what chance could do.

    Source: Cochran (1954), "The combination of estimates from different experiments"; Pustejovsky and Tipton (2018),
        "Small-sample methods for cluster-robust variance estimation and hypothesis testing in fixed effects models",
        for reading it as F (their f comes from a working model, this one from fourth powers, which asks for none).
    """
    check_level(level)
    check_rows(start=start)
    if start.shape != fold.shape:
        raise ValueError(f"start must be one a term, {fold.shape}; got {start.shape}")
    values, psi = fold_influences(numerator, denominator, users, fold)
    members = [fold == number for number in range(len(values))]
    for number in range(1, len(members)):
        before, after = start[members[number - 1]].max(), start[members[number]].min()
        if before >= after:
            raise ValueError(f"fold {number} starts at {after}, fold {number - 1} still does at {before}: not in time")
    statistic, freedom, p_value = _homogeneity(values, psi, exact)
    when = np.array([start[here].mean() for here in members])
    trend, trend_p_value = _trend(values, psi, when, level)
    differ, leans = holm(np.array([p_value, trend_p_value])) < 1 - level

    def interval(here: Numbers, extra: int) -> Interval:
        return bootstrap_ratio(
            numerator[here], denominator[here], users[here], seed=seed + extra, level=level, replicates=replicates
        )

    return OverTime(
        folds=tuple(
            Fold(
                start=float(start[here].min()),
                end=float(start[here].max()),
                rows=int(here.sum()),
                users=len(np.unique(users[here])),
                estimate=interval(here, number + 1),
            )
            for number, here in enumerate(members)
        ),
        whole=interval(np.ones(len(fold), dtype=np.bool_), 0),
        statistic=statistic,
        freedom=freedom,
        p_value=p_value,
        trend=trend,
        trend_p_value=trend_p_value,
        shared_users=_shared(users, fold),
        drifts=bool(differ or leans),
        words=_words(name, values, p_value, trend, bool(differ), bool(leans)),
    )


def fold_influences(
    numerator: Numbers, denominator: Numbers, users: Numbers, fold: IntArray
) -> tuple[DoubleArray, DoubleArray]:
    """The estimate of each fold, (K,), and each user's influence on it, (U, K), 0 where the user is not in the fold.

    Scaled so that sqrt(var(psi_k) / U) is the standard error over the fold's own users, U being those of all folds:
    `compare.simultaneous` and `compare.step_down` take both as they are.

    Raises:
        ValueError: Terms are malformed (the message says in which fold), or folds are not 0..K - 1 with K > 1.
    """
    if fold.shape != users.shape or len(numerator) != len(users):
        raise ValueError(f"fold and terms must be one a user, {users.shape}; got {fold.shape} and {numerator.shape}")
    count = int(fold.max(initial=0)) + 1
    if count < 2 or not np.array_equal(np.unique(fold), np.arange(count)):
        raise ValueError(f"fold must hold all of 0..K - 1 with K > 1, got {np.unique(fold)}")
    everybody = np.unique(users)
    values, psi = np.empty(count), np.zeros((len(everybody), count))
    for number in range(count):
        here = fold == number
        try:
            values[number], own = influence(numerator[here], denominator[here], users[here])
        except ValueError as reason:
            raise ValueError(f"fold {number}: {reason}") from reason
        all_users, present = len(everybody), len(own)
        scale = math.sqrt(all_users * (all_users - 1) / (present * (present - 1)))
        psi[np.searchsorted(everybody, np.unique(users[here])), number] = scale * own
    return values, psi


def _homogeneity(values: DoubleArray, psi: DoubleArray, exact: bool) -> tuple[float, tuple[float, float], float]:
    """Q, its degrees of freedom, and its p-value."""
    change, scale = np.diff(values), float(np.abs(values).max())  # (q,)
    parts = np.diff(psi, axis=1) / math.sqrt(len(psi) * (len(psi) - 1))  # (U, q)
    sizes, axes = np.linalg.eigh(parts.T @ parts)
    noisy = sizes > _ROUNDING * max(sizes.max(), _ROUNDING * scale**2)
    certain = bool((np.abs(axes[:, ~noisy].T @ change) > 1e-9 * scale).any())
    still = np.flatnonzero(psi.std(axis=0) <= _ROUNDING * np.abs(values))
    if not exact and (certain or (len(still) and noisy.any())):
        where = f"fold {still[0]}" if len(still) else f"some folds (of {len(psi)} users)"
        raise ValueError(
            f"the terms of {where} do not vary over users (values {values.tolist()}) while folds differ: nothing says "
            "what chance could do; ask for fewer folds"
        )
    if not noisy.any():
        return 0.0, (float(len(change)), float(len(psi) - 1)), 0.0 if certain else 1.0
    white = parts @ axes[:, noisy] / np.sqrt(sizes[noisy])  # (U, q): sum of h h' is 1
    score = axes[:, noisy].T @ change / np.sqrt(sizes[noisy])
    statistic, q = float(score @ score), int(noisy.sum())
    freedom = q * (q + 1) / float(((white**2).sum(axis=1) ** 2).sum())
    left = freedom - q + 1  # at least 2, as |h_u| <= 1
    p_value = 0.0 if certain else f_tail(statistic * left / (freedom * q), q, left)
    return statistic, (float(q), left), p_value


def _trend(values: DoubleArray, psi: DoubleArray, when: DoubleArray, level: float) -> tuple[Interval, float]:
    """Least-squares change from the first to the last fold, and its p-value."""
    away, scale = when - when.mean(), float(np.abs(values).max())
    slope = away / (away @ away) * (when[-1] - when[0])  # (K,)
    change, parts = float(slope @ values), psi @ slope / math.sqrt(len(psi) * (len(psi) - 1))  # (U,)
    variance = float(parts @ parts)
    half, p_value = 0.0, float(abs(change) <= 1e-9 * scale)
    if variance > (_ROUNDING * scale) ** 2:
        freedom = 2 * variance**2 / float((parts**4).sum())
        half = t_quantile(level, freedom) * math.sqrt(variance)
        p_value = f_tail(change**2 / variance, 1.0, freedom)
    method = f"least squares over {len(values)} folds, t interval over {len(psi)} users"
    return Interval(value=change, low=change - half, high=change + half, level=level, method=method), p_value


def _shared(users: Numbers, fold: IntArray) -> int:
    index = np.unique(users, return_inverse=True)[1]
    pairs = np.unique(index * (int(fold.max()) + 1) + fold) // (int(fold.max()) + 1)
    return int((np.bincount(pairs) > 1).sum())


def _words(
    name: str,
    values: DoubleArray,
    p_value: float,
    trend: Interval,
    differ: bool,
    leans: bool,
) -> str:
    if values.max() - values.min() <= 1e-9 * abs(values).max():
        return f"{name} is {values[0]:.3g} in all of {len(values)} folds in time"
    spread = f"from {values.min():.3g} to {values.max():.3g} over {len(values)} folds in time"
    line = f"from the first fold to the last it changes by {trend.value:+.3g} [{trend.low:+.3g}, {trend.high:+.3g}]"
    if differ or leans:
        more = f"more than chance explains (p = {p_value:.2g})" if differ else "too little to tell fold from fold"
        lean = f"; {line}" if leans else "; it goes up and down without a trend"
        return f"{name} changes over time: it lies {spread}, {more}{lean}; trust the latest fold more than the whole"
    return f"{name} lies {spread}: no more apart than chance makes them (p = {p_value:.2g}); {line}"
