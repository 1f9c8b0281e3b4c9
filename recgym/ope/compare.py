"""Several policies against production: intervals that hold together, corrected statements, control variates.

What every function shares is the influence of a user on an estimate, psi_u: it has mean 0, is additive (a difference of
estimates has the difference of influences), and the estimate's variance is that of psi over the number of users.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from recgym.ope.bounds import ratio_terms
from recgym.ope.intervals import Interval, Numbers, check_level, resamples, t_quantile
from recgym.ope.rows import require_finite
from recgym.types import DoubleArray

Statement = Literal["better", "worse", "undecided"]
_ROUNDING = 1e-12  # errors this small beside the others are none


def influence(numerator: Numbers, denominator: Numbers, users: Numbers) -> tuple[float, DoubleArray]:
    """The estimate sum_h A_h / B_h and psi_u = U sum_h (a_uh - (A_h / B_h) b_uh) / B_h, (U,), users as in np.unique.

    a_uh and b_uh are user u's sums of numerators and denominators, A_h and B_h those of all. For a mean (denominators
    1) this is the variance of `t_interval`.

    Args:
        numerator: (E,) or (E, H).
        denominator: The same shape.
        users: (E,) who each episode belongs to.

    Raises:
        ValueError: As `recgym.ope.bounds.ratio_terms`.

    Source: Davison and Hinkley (1997), "Bootstrap methods and their application", section 2.7.2 (influence values).
    """
    above, below = ratio_terms(numerator, denominator, users)  # (U, H)
    ratio = above.sum(axis=0) / below.sum(axis=0)  # (H,)
    return float(ratio.sum()), ((above - ratio * below) / below.mean(axis=0)).sum(axis=1)


def differences(
    policies: list[tuple[Numbers, Numbers]], production: tuple[Numbers, Numbers], users: Numbers
) -> tuple[DoubleArray, DoubleArray]:
    """Each policy's estimate minus production's, (P,), and the influence of the users on it, (U, P).

    Of a policy that acts as production does, both are 0: what rounding leaves would pass for noise.

    Args:
        policies: (numerator, denominator) of each policy, (E,) or (E, H), on the same episodes.
        production: The same for the policy in production, such as (rewards, ones).
        users: (E,) who each episode belongs to.

    Raises:
        ValueError: There is no policy, or terms are malformed; the message says whose.
    """
    if not policies:
        raise ValueError("policies must name at least one policy, got none")
    base, base_psi = _named("production", production, users)
    found = [_named(f"policies[{index}]", terms, users) for index, terms in enumerate(policies)]
    values = np.array([value - base for value, _ in found])
    psi = np.stack([part - base_psi for _, part in found], axis=1)  # (U, P)
    values[np.abs(values) <= _ROUNDING * abs(base)] = 0.0
    psi[:, np.abs(psi).max(axis=0) <= _ROUNDING * np.abs(base_psi).max()] = 0.0
    return values, psi


def simultaneous(
    values: DoubleArray, psi: DoubleArray, *, seed: int, level: float = 0.95, replicates: int = 1000
) -> tuple[Interval, ...]:
    """Value_p +/- q s_p that cover all P values at once, q the `level` quantile of max_p |t*_p|.

    s_p^2 = var(psi_p) / U, and t* = mean(psi*) / s* of a resample of users, s* being its own standard error. Policies
    that are alike are corrected for hardly more than one. A policy without any variation gets an interval of width 0.

    Args:
        values: (P,) estimates, such as differences to production.
        psi: (U, P) influence of each user on them.
        seed: Seed of the resampling.
        level: Nominal coverage of all P values together, in (0, 1).
        replicates: Resamples.

    Raises:
        ValueError: Shapes disagree, a number is not finite, fewer than two users, level out of range.

    Source: Romano and Wolf (2005), "Exact and approximate stepdown methods for multiple hypothesis testing" (max-t,
        studentised); its single step, linearised for ratios.
    """
    errors = _standard_errors(values, psi, level)  # (P,)
    varies = errors > 0
    size, moving = len(psi), psi[:, varies]
    quantile = 0.0
    if varies.any():
        largest = []
        for times in resamples(size, seed=seed, replicates=replicates):
            mean = times @ moving / size  # (R, P)
            squares = np.maximum(times @ moving**2 / size - mean**2, 0.0) / (size - 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                scores = np.where(mean == 0, 0.0, np.abs(mean) / np.sqrt(squares))
            largest.append(scores.max(axis=1))
        quantile = float(np.quantile(np.concatenate(largest), level, method="higher"))
    half = np.where(varies, quantile, 0.0) * errors
    method = f"max-t bootstrap over {size} users, {len(values)} policies at once, {replicates} resamples"
    return tuple(
        Interval(value=float(value), low=float(value - reach), high=float(value + reach), level=level, method=method)
        for value, reach in zip(values, half, strict=True)
    )


def step_down(values: DoubleArray, psi: DoubleArray, *, level: float = 0.95) -> tuple[Statement, ...]:
    """Which values differ from 0, and to which side: with probability `level` no such statement is about a value of 0.

    Policies by falling |value_p| / s_p; the k-th of P (from 0) is decided while it exceeds Student's quantile at
    1 - (1 - level) / (P - k), U - 1 degrees of freedom; the first that does not stops all after it.

    Args:
        values: (P,) differences.
        psi: (U, P) influence of each user on them.
        level: Confidence in all statements together, in (0, 1).

    Raises:
        ValueError: As `simultaneous`.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    errors = _standard_errors(values, psi, level)
    scores = np.full(len(values), np.inf)
    np.divide(np.abs(values), errors, out=scores, where=errors > 0)
    scores[values == 0] = 0.0
    found: list[Statement] = ["undecided"] * len(values)
    for rank, policy in enumerate(np.argsort(-scores, kind="stable")):
        if scores[policy] <= t_quantile(1 - (1 - level) / (len(values) - rank), len(psi) - 1):
            break
        found[policy] = "better" if values[policy] > 0 else "worse"
    return tuple(found)


def control_variate(
    values: Numbers, controls: Numbers, users: Numbers, *, expectation: Numbers | float, level: float = 0.95
) -> Interval:
    """mean(y) - theta' (mean(x) - E[x]) with its t interval over users, theta by least squares of psi_y on psi_x.

    For paired differences, y = first - second of the same episodes. Controls have a known mean: importance weights (1),
    or what users did before, where the whole population's mean is known. Variance falls by 1 - R^2.

    Args:
        values: (E,) terms y.
        controls: (E,) or (E, C) controls x.
        users: (E,) who each episode belongs to.
        expectation: E[x], a number or (C,).
        level: Nominal coverage, in (0, 1).

    Raises:
        ValueError: Shapes disagree, a number is not finite, or there are fewer than C + 3 users.

    Source: Lavenberg and Welch (1981), "A perspective on the use of control variables to increase the efficiency of
        Monte Carlo simulations"; degrees of freedom U - 1 - C.
    """
    check_level(level)
    table = controls.reshape(len(controls), -1)  # (E, C)
    target = np.broadcast_to(np.asarray(expectation, np.float64), table.shape[1:])  # (C,)
    require_finite("expectation", target)
    value, psi = influence(values, np.ones(values.shape), users)
    found = [_named(f"controls[:, {c}]", (table[:, c], np.ones(len(table))), users) for c in range(table.shape[1])]
    means, parts = np.array([mean for mean, _ in found]), np.stack([part for _, part in found], axis=1)  # (C,), (U, C)
    freedom = len(psi) - 1 - len(means)
    if freedom < 2:
        raise ValueError(f"{len(means)} controls need at least {len(means) + 3} users, got {len(psi)}")
    theta = np.linalg.lstsq(parts, psi, rcond=None)[0]  # (C,)
    rest = psi - parts @ theta
    value -= float(theta @ (means - target))
    half = t_quantile(level, freedom) * math.sqrt(float(rest @ rest) / freedom / len(psi))
    method = f"t interval over {len(psi)} users, {len(means)} control variates"
    return Interval(value=value, low=value - half, high=value + half, level=level, method=method)


def cuped(
    treatment: Numbers,
    control: Numbers,
    *,
    treatment_before: Numbers,
    control_before: Numbers,
    level: float = 0.95,
) -> Interval:
    """mean(y1) - mean(y0) - theta (mean(x1) - mean(x0)) of two arms, x what the same users did before the test.

    theta = sum (x - mean)(y - mean) / sum (x - mean)^2, within arms and pooled. The variance falls by the squared
    correlation of x and y; Welch's t interval of y - theta x.

    Args:
        treatment: (U1,) outcome of each user of the treatment arm.
        control: (U0,) outcome of each user of the control arm.
        treatment_before: (U1,) pre-period covariate of the same users.
        control_before: (U0,) pre-period covariate of the same users.
        level: Nominal coverage, in (0, 1).

    Raises:
        ValueError: Shapes disagree, an arm has fewer than two users, or a number is not finite.

    Source: Deng, Xu, Kohavi and Walker (2013), "Improving the sensitivity of online controlled experiments by
        utilizing pre-experiment data"; Welch (1947) for the degrees of freedom.
    """
    check_level(level)
    arms = [("treatment", treatment, treatment_before), ("control", control, control_before)]
    for name, outcome, before in arms:
        if outcome.ndim != 1 or len(outcome) < 2 or before.shape != outcome.shape:
            raise ValueError(
                f"{name} and {name}_before must be (U,) of at least two users, got {outcome.shape}, {before.shape}"
            )
        require_finite(name, outcome)
        require_finite(f"{name}_before", before)
    shared = sum(float((x - x.mean()) @ (y - y.mean())) for _, y, x in arms)
    spread = sum(float(((x - x.mean()) ** 2).sum()) for _, _, x in arms)
    theta = shared / spread if spread > 0 else 0.0
    adjusted = [y - theta * x for _, y, x in arms]
    parts = [float(y.var(ddof=1)) / len(y) for y in adjusted]  # variance of each arm's mean
    value, variance = float(adjusted[0].mean() - adjusted[1].mean()), sum(parts)
    half = 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / (len(y) - 1) for part, y in zip(parts, adjusted, strict=True))
        half = t_quantile(level, freedom) * math.sqrt(variance)
    method = f"CUPED difference of {len(treatment)} and {len(control)} users, theta {theta:.3g}"
    return Interval(value=value, low=value - half, high=value + half, level=level, method=method)


def _named(name: str, terms: tuple[Numbers, Numbers], users: Numbers) -> tuple[float, DoubleArray]:
    try:
        return influence(*terms, users)
    except ValueError as reason:
        raise ValueError(f"{name}: {reason}") from reason


def _standard_errors(values: DoubleArray, psi: DoubleArray, level: float) -> DoubleArray:
    """sqrt(var(psi_p) / U), (P,), of checked input; 0 where it is rounding beside the greatest."""
    check_level(level)
    if values.ndim != 1 or psi.shape[1:] != values.shape or not len(values) or len(psi) < 2:
        raise ValueError(f"values must be (P,) and psi (U, P) with U > 1, got {values.shape} and {psi.shape}")
    require_finite("values", values)
    require_finite("psi", psi)
    errors = np.asarray(psi.std(axis=0, ddof=1) / math.sqrt(len(psi)))
    return np.where(errors > _ROUNDING * errors.max(), errors, 0.0)
