"""How far to trust large weights, chosen by the log: clipping limits, Switch thresholds and DRos strengths by SLOPE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from recgym.ope.intervals import Interval, t_interval, t_quantile
from recgym.ope.one_step import clipped_weights, ips
from recgym.ope.one_step_models import optimistic_doubly_robust, switch_doubly_robust
from recgym.ope.rows import check_weights
from recgym.ope.slope import slope
from recgym.types import DoubleArray, IntArray

WIDTH = 0.25
"""Standard errors. Estimates of one log err together, so intervals that hold with high probability reach far too wide:
they meet where the bias is many standard errors. In the bandit of `bench ope` (300 rows, mild shift) clipped IPS erred
by 13% with this, by 28% with intervals of one standard error, and by 11% without a clip."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """An estimator at the value that the log chose."""

    value: float
    """The chosen limit, threshold or strength."""
    terms: DoubleArray  # (n,) whose mean is the estimate
    interval: Interval
    """By Student's t at the asked level; it does not know that the value was chosen, nor of the bias."""
    tried: tuple[tuple[float, Interval], ...]
    """Every value with the interval that SLOPE compared."""


def tuned(
    terms: Callable[[float], DoubleArray],
    values: DoubleArray,
    users: IntArray,
    *,
    level: float = 0.95,
    width: float = WIDTH,
) -> Tuned:
    """SLOPE over `values` of one estimator, each with half-width `width` standard errors.

    Args:
        terms: A value -> terms (n,), the more biased and the less variable the smaller the value.
        values: (M,) values to try; of equally wide ones the last counts as the most biased.
        users: (n,) who each row belongs to.
        level: Nominal coverage of the interval that is returned.
        width: Half-width of the intervals compared, in standard errors over users. Student's t at level
            1 - delta / M has the guarantee of `slope`; the default has none and is more accurate, see `WIDTH`.

    Raises:
        ValueError: There is no value, or bad rows.

    Source: see `slope`.
    """
    if not len(values):
        raise ValueError("values must hold at least one value to try, got none")
    if not 0 < width < np.inf:
        raise ValueError(f"width must be positive and finite, got {width}")
    quantile = t_quantile(level, len(np.unique(users)) - 1)
    intervals = [_scaled(t_interval(terms(float(value)), users, level=level), width / quantile) for value in values]
    place = slope(intervals)
    chosen, value = terms(float(values[place])), float(values[place])
    return Tuned(
        value=value, terms=chosen, interval=t_interval(chosen, users, level=level),
        tried=tuple(zip(values.tolist(), intervals, strict=True)),
    )  # fmt: skip


def weight_limits(weights: DoubleArray, *, count: int = 10) -> DoubleArray:
    """`count` limits in equal ratios from the largest weight, which changes nothing, down to 1, (count,)."""
    check_weights(weights)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return np.geomspace(max(float(weights.max()), 1.0), 1.0, count)


def tuned_clipping(weights: DoubleArray, reward: DoubleArray, users: IntArray, *, level: float = 0.95) -> Tuned:
    """Clipped IPS at the limit of `weight_limits` that SLOPE chooses."""
    return tuned(lambda limit: ips(clipped_weights(weights, limit), reward), weight_limits(weights), users, level=level)


def tuned_switch(
    weights: DoubleArray, reward: DoubleArray, q: DoubleArray, v: DoubleArray, users: IntArray, *, level: float = 0.95
) -> Tuned:
    """Switch-DR at the threshold of `weight_limits`, or 0 (the direct method), that SLOPE chooses."""
    return tuned(
        lambda threshold: switch_doubly_robust(weights, reward, q, v, threshold=threshold),
        np.append(weight_limits(weights), 0.0), users, level=level,
    )  # fmt: skip


def tuned_optimistic(
    weights: DoubleArray, reward: DoubleArray, q: DoubleArray, v: DoubleArray, users: IntArray, *, level: float = 0.95
) -> Tuned:
    """DRos at the strength that SLOPE chooses of inf (DR), squares of `weight_limits` and 0 (the direct method)."""
    return tuned(
        lambda strength: optimistic_doubly_robust(weights, reward, q, v, strength=strength),
        np.concatenate([[np.inf], weight_limits(weights) ** 2, [0.0]]), users, level=level,
    )  # fmt: skip


def _scaled(interval: Interval, by: float) -> Interval:
    half = (interval.high - interval.low) / 2 * by
    return replace(
        interval, low=interval.value - half, high=interval.value + half, method=f"{by:.3g} x {interval.method}"
    )
