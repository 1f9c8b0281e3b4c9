"""How far to trust an estimated logging policy: its calibration, its use of context, its effect on an estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from recgym.ope.behaviour import check_propensities
from recgym.ope.intervals import Interval, bootstrap_ratio, paired_bootstrap
from recgym.ope.rows import check_distributions, check_items, check_rows
from recgym.ope.weights import step_ratios
from recgym.types import BoolArray, DoubleArray, IntArray

EDGES = (0.0, *(2.0**power for power in range(-16, 1)))
"""Bins of probabilities for `calibration`, each twice as high as the one before."""
Terms = DoubleArray | tuple[DoubleArray, DoubleArray]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Predicted against observed frequency, over all pairs of a row and an item; bins without a pair are left out."""

    low: DoubleArray  # (M,) bin m holds probabilities in [low, high), the last also 1
    high: DoubleArray  # (M,)
    count: IntArray  # (M,) pairs
    predicted: DoubleArray  # (M,) mean probability
    observed: DoubleArray  # (M,) share of pairs in which the item was shown
    error: float
    """sum_m |predicted - observed| count / n: shows a row in the wrong bin, in [0, 2]. It is N times the expected
    calibration error of all pairs, which would vanish with the size of the catalogue."""
    log_loss: float
    """-mean_i log mu(a_i | x_i), nats; inf where an item is shown that has probability 0."""
    rows: int
    """Rows n."""


def calibration(chunks: Iterable[tuple[DoubleArray, IntArray]], *, edges: tuple[float, ...] = EDGES) -> Calibration:
    """Compare predicted probabilities with what was shown, chunk by chunk.

    Args:
        chunks: mu(a | x) of all items (B, N), with the items shown (B,), ids 1..N. Rows must not be those that the
            model learned from.
        edges: of the bins, ascending from 0 to 1.

    Raises:
        ValueError: Probabilities are none, an item is not in 1..N, there is no row, or the edges are no bins.

    Source: Guo, Pleiss, Sun and Weinberger (2017), section 2 (reliability diagram and expected calibration error).
    """
    ends = np.array(edges, dtype=np.float64)
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != 1 or not (np.diff(ends) > 0).all():
        raise ValueError(f"edges must ascend from 0 to 1, got {edges}")
    count, predicted, observed = np.zeros((3, len(ends) - 1))
    loss, rows = 0.0, 0
    for probability, item in chunks:
        check_distributions(probability=probability)
        check_items(item, rows=len(probability), num_items=probability.shape[1])
        place = np.clip(np.searchsorted(ends, probability, side="right") - 1, 0, len(count) - 1)  # (B, N)
        shown = np.arange(len(item)), item - 1
        count += np.bincount(place.ravel(), minlength=len(count))
        predicted += np.bincount(place.ravel(), weights=probability.ravel(), minlength=len(count))
        observed += np.bincount(place[shown], minlength=len(count))
        with np.errstate(divide="ignore"):
            loss -= float(np.log(probability[shown]).sum())
        rows += len(item)
    if not rows:
        raise ValueError("calibration needs at least one row, got none")
    some = count > 0
    return Calibration(
        low=ends[:-1][some],
        high=ends[1:][some],
        count=count[some].astype(np.int64),
        predicted=predicted[some] / count[some],
        observed=observed[some] / count[some],
        error=float(np.abs(predicted - observed).sum()) / rows,
        log_loss=loss / rows,
        rows=rows,
    )


def use_of_context(
    estimated: DoubleArray, context_free: DoubleArray, user: IntArray, *, seed: int, level: float = 0.95
) -> Interval:
    """mean_i log (mu(a_i | x_i) / mu(a_i)), nats a row: what context tells about the logger's choice, over users.

    Both are cross-fitted propensities of what was shown, (n,). At 0 or below, the model has learned nothing from
    context, and the context-free frequencies are the better propensities.

    Raises:
        ValueError: A propensity is not in (0, 1], or shapes differ.
    """
    check_propensities(estimated=estimated, context_free=context_free)
    return paired_bootstrap(np.log(estimated), np.log(context_free), user, seed=seed, level=level)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One estimate by logged and by estimated propensities of the same rows."""

    logged: Interval
    estimated: Interval
    difference: Interval
    """Estimated minus logged, paired: its interval is narrower than the two apart would say."""
    ratio: tuple[float, float, float]
    """5%, 50% and 95% quantiles of estimated / logged propensity."""
    rows: int
    """Rows (or episodes) in which both are known."""


def effect_of_estimation(
    terms: Callable[[DoubleArray], Terms],
    target: DoubleArray,
    logged: DoubleArray,
    estimated: DoubleArray,
    user: IntArray,
    *,
    seed: int,
    level: float = 0.95,
    replicates: int = 1000,
) -> Effect:
    """What estimating the propensities does to an estimate: sum(above) / sum(below) by both, and their difference.

    Args:
        terms: from weights pi / mu (n,) to the terms of an estimator, a row (or episode) each: (E,), whose mean is the
            estimate, or numerators and denominators (E,) or (E, H), e.g. `lambda w: self_normalised(w, reward)`.
        target: (n,) pi(a_i | x_i).
        logged: (n,) logged propensities; rows where they are nan are left out.
        estimated: (n,) estimated propensities.
        user: (E,) who each row (or episode) belongs to.
        seed: of the resampling.
        level: of the intervals.
        replicates: resamples.

    Raises:
        ValueError: A propensity is not in (0, 1], no logged one is known, or some are not and terms are of episodes.
    """
    check_propensities(estimated=estimated)
    check_rows(target=target, estimated=estimated)
    if logged.shape != target.shape:
        raise ValueError(f"logged must have the shape of target, {target.shape}; got {logged.shape}")
    known = ~np.isnan(logged)
    if not known.any():
        raise ValueError(f"none of {len(logged)} rows has a logged propensity: there is nothing to compare with")
    keep = known if len(user) == len(known) else np.ones(len(user), dtype=np.bool_)
    if len(user) != len(known) and not known.all():
        raise ValueError(
            f"{(~known).sum()} of {len(known)} steps have no logged propensity; "
            "leave their episodes out (views.take_episodes)"
        )
    weights = step_ratios(target, np.where(known, logged, estimated)), step_ratios(target, estimated)
    (above, below), (above_too, below_too) = (_ratio(terms(each), keep) for each in weights)

    def interval(numerator: DoubleArray, denominator: DoubleArray) -> Interval:
        return bootstrap_ratio(numerator, denominator, user[keep], seed=seed, level=level, replicates=replicates)

    low, middle, high = np.quantile(estimated[known] / logged[known], [0.05, 0.5, 0.95])
    return Effect(
        logged=interval(above, below),
        estimated=interval(above_too, below_too),
        difference=interval(np.hstack([above_too, -above]), np.hstack([below_too, below])),
        ratio=(float(low), float(middle), float(high)),
        rows=int(keep.sum()),
    )


def _ratio(terms: Terms, keep: BoolArray) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators of the kept rows, (E, H)."""
    above, below = terms if isinstance(terms, tuple) else (terms, np.ones_like(terms))
    check_rows(dimensions=above.ndim, numerators=above, denominators=below)
    if len(above) != len(keep):
        raise ValueError(f"terms must have a row for each of {len(keep)} users' rows, got {len(above)}")
    return above.reshape(len(above), -1)[keep], below.reshape(len(below), -1)[keep]
