"""Looks at an A/B test: difference and interval so far, when to stop, and what would decide if nothing did.

Design "fixed" looks once, at the planned size, with Welch's t interval. Design "sequential" looks after every batch
with an always-valid interval, and stops when that excludes 0. Both take a covariate from before the test (CUPED).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from recgym.ope.compare import Statement, cuped
from recgym.ope.intervals import Interval
from recgym.ope.power import Arms, always_valid, sequential_quantile, users_needed
from recgym.types import DoubleArray

Design = Literal["fixed", "sequential"]
_NORMAL = NormalDist()


class Outcomes(NamedTuple):
    """Reward of the users of both arms, U0 and U1 of them."""

    control: DoubleArray  # (U0,)
    treatment: DoubleArray  # (U1,)
    control_before: DoubleArray | None = None  # (U0,) of the same users before the test
    treatment_before: DoubleArray | None = None  # (U1,)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is known after so many users."""

    users: Arms
    """Users of each arm so far."""
    control: float
    """Mean reward of a control user."""
    treatment: float
    """And of a treated one."""
    difference: Interval
    """Treatment minus control, with CUPED where there is a covariate."""
    error: float
    """Standard error of the difference."""
    correlation: float
    """Of reward and covariate within the arms; CUPED leaves 1 - correlation^2 of the variance."""

    @property
    def decision(self) -> Statement:
        """On which side of 0 the interval lies."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "undecided"


def look(found: Outcomes, *, design: Design, planned: int, level: float = 0.95) -> Look:
    """mean(y1) - mean(y0) - theta (mean(x1) - mean(x0)) with its interval: y rewards, x the covariate.

    theta is the slope of y on x within the arms, pooled (as in `cuped`); 0 without a covariate.

    Args:
        found: Of the users so far.
        design: "fixed": Welch's t interval. "sequential": `always_valid`, narrowest at the planned size.
        planned: Users of each arm at which the test ends.
        level: Confidence of all looks together, in (0, 1).

    Raises:
        ValueError: No reward varies, so that the difference would seem known exactly; or as `cuped`.
    """
    rewards = (found.treatment, found.control)
    before = [
        np.zeros(len(y)) if x is None else x
        for y, x in zip(rewards, (found.treatment_before, found.control_before), strict=True)
    ]
    ys, xs = ([part - part.mean() for part in parts] for parts in (rewards, before))
    spread, shared = _dot(xs, xs), _dot(ys, xs)
    theta = shared / spread if spread > 0 else 0.0
    error = math.sqrt(sum(float((y - theta * x).var(ddof=1)) / len(y) for y, x in zip(ys, xs, strict=True)))
    if error == 0:
        raise ValueError(
            f"rewards must vary, got {rewards[1][0]:g} for every control user and {rewards[0][0]:g} for every treated "
            "one: the difference is no matter of chance"
        )
    users = Arms(control=len(found.control), treatment=len(found.treatment))
    if design == "sequential":
        value = float(rewards[0].mean() - rewards[1].mean() - theta * (before[0].mean() - before[1].mean()))
        interval = always_valid(value, error, users.total, planned=2 * planned, level=level)
    else:
        interval = cuped(*rewards, treatment_before=before[0], control_before=before[1], level=level)
    if design == "fixed" and found.control_before is None:
        interval = replace(interval, method=f"Welch t interval of {users.treatment} and {users.control} users")
    return Look(
        users=users,
        control=float(found.control.mean()),
        treatment=float(found.treatment.mean()),
        difference=interval,
        error=error,
        correlation=shared / math.sqrt(spread * _dot(ys, ys)) if spread > 0 else 0.0,
    )


def looks(
    draw: Callable[[int, int], Outcomes], *, design: Design, planned: int, batch: int, level: float = 0.95
) -> Iterator[Look]:
    """Run a test and give every look at it; the last one decides, or leaves it undecided.

    Args:
        draw: Rewards of the next users, from the number of the batch and the users it brings to each arm.
        design: When to look, see above. Batches in which nothing has varied yet are not looked at.
        planned: Users of each arm at which the test ends.
        batch: Users that each arm gets at a time; some hundred, or the always-valid interval does not hold yet.
        level: Confidence of all looks together, in (0, 1).

    Raises:
        ValueError: As `look`.
    """
    parts: list[Outcomes] = []
    for number, first in enumerate(range(0, planned, batch)):
        parts.append(draw(number, min(batch, planned - first)))
        last = first + batch >= planned
        if not last and (design == "fixed" or not any(np.ptp(arm) for part in parts for arm in part[:2])):
            continue
        seen = look(_joined(parts), design=design, planned=planned, level=level)
        yield seen
        if seen.decision != "undecided":
            return


def users_per_arm(
    difference: float,
    *,
    variance: float,
    design: Design,
    correlation: float = 0.0,
    power: float = 0.8,
    level: float = 0.95,
) -> int:
    """`users_needed` of equal arms; a sequential test needs ((q + z_power) / (z + z_power))^2 times that.

    q is what the always-valid interval has in place of the normal quantile z, at its planned size. The sequential test
    sees the difference by then with at least the asked power, mostly far earlier.

    Raises:
        ValueError: As `recgym.ope.power.users_needed`.
    """
    users = users_needed(difference, variance=variance, correlation=correlation, power=power, level=level)
    wider = _reach(design, power, level) / _reach("fixed", power, level)
    return math.ceil(users.control * wider**2)


def in_words(last: Look, *, design: Design, power: float = 0.8, level: float = 0.95) -> str:
    """The decision after the last look of a test with equal arms; if there is none, what would bring one."""
    if last.decision != "undecided":
        return f"treatment is {last.decision}"
    value, detectable = last.difference.value, _reach(design, power, level) * last.error
    words = f"undecided: differences of {detectable:.3g} and more are seen with a chance of {power:.0%}"
    if value == 0:
        return f"{words}, and none was"
    users = last.users.control * (detectable / value) ** 2
    return f"{words}; if it is {value:+.3g}, as here, {_rounded(users)} users an arm would decide"


def _reach(design: Design, power: float, level: float) -> float:
    """Standard errors of a difference that is seen with this power at the planned size."""
    quantile = sequential_quantile(1, planned=1, level=level) if design == "sequential" else _quantile(level)
    return quantile + _NORMAL.inv_cdf(power)


def _quantile(level: float) -> float:
    return _NORMAL.inv_cdf((1 + level) / 2)


def _rounded(users: float) -> str:
    """Two digits of a number that is uncertain itself."""
    if users > 1e7:
        return "more than ten million"
    unit = 10 ** max(0, math.ceil(math.log10(users)) - 2)
    return f"about {math.ceil(users / unit) * unit:,}"


def _dot(first: list[DoubleArray], second: list[DoubleArray]) -> float:
    return sum(float(x @ y) for x, y in zip(first, second, strict=True))


def _joined(parts: list[Outcomes]) -> Outcomes:
    return Outcomes(*(None if each[0] is None else np.concatenate(each) for each in zip(*parts, strict=True)))  # type: ignore[arg-type]
