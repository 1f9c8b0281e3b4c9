"""The A/B test that would settle a difference: its size, what it can detect, and intervals for looking while it runs.

Variances are of users' outcomes, not of importance-weighted terms: in the test each arm plays its own policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from recgym.ope.compare import influence
from recgym.ope.intervals import Interval, Numbers, check_level
from recgym.ope.rows import require_finite

_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Users of an A/B test."""

    control: int
    treatment: int

    @property
    def total(self) -> int:
        """Users of both arms."""
        return self.control + self.treatment


def user_variance(values: Numbers, users: Numbers) -> float:
    """Variance of a user's part in the mean over episodes: the mean over U such users has standard error sqrt(it / U).

    With one episode a user, the sample variance. Values (E,), users (E,).

    Raises:
        ValueError: As `recgym.ope.compare.influence`.
    """
    return float(influence(values, np.ones(values.shape), users)[1].var(ddof=1))


def user_correlation(values: Numbers, before: Numbers, users: Numbers) -> float:
    """Correlation over users of the parts in the means of values (E,) and of a pre-period covariate (E,).

    Raises:
        ValueError: As `recgym.ope.compare.influence`, or one of the two does not vary.
    """
    parts = []
    for name, each in (("values", values), ("before", before)):
        mean, part = influence(each, np.ones(each.shape), users)
        if np.abs(part).max() <= 1e-12 * abs(mean):
            raise ValueError(f"{name} must vary over users to have a correlation, got {mean:.6g} for all")
        parts.append(part)
    first, second = parts
    return float(first @ second / math.sqrt((first @ first) * (second @ second)))


def standard_error(
    arms: Arms, *, variance: float, treatment_variance: float | None = None, correlation: float = 0.0
) -> float:
    """sqrt((1 - correlation^2) (variance / U0 + treatment_variance / U1)) of the difference of the arms' means.

    Args:
        arms: U0 users of the control arm, U1 of the treatment arm.
        variance: Of a control user's outcome, as by `user_variance`.
        treatment_variance: Of a treated user's outcome; None if the same.
        correlation: Of the outcome with a pre-period covariate, if CUPED will be used.

    Raises:
        ValueError: An arm is empty, a variance is not positive, or the correlation is not in (-1, 1).
    """
    if min(arms.control, arms.treatment) < 1:
        raise ValueError(f"arms must have at least one user each, got {arms}")
    control, treated = _variances(variance, treatment_variance, correlation)
    return math.sqrt(control / arms.control + treated / arms.treatment)


def power_at(difference: float, error: float, *, level: float = 0.95) -> float:
    """Phi(|d| / s - z) + Phi(-|d| / s - z): the chance that a two-sided test sees d, z = Phi^-1((1 + level) / 2).

    Raises:
        ValueError: `difference` is not finite, `error` (s, a standard error) is not positive, or level is out of range.
    """
    _check(difference=difference, level=level)
    _check_positive("error", error)
    score, normal = abs(difference) / error, _NORMAL.inv_cdf((1 + level) / 2)
    return _NORMAL.cdf(score - normal) + _NORMAL.cdf(-score - normal)


def detectable_difference(error: float, *, power: float = 0.8, level: float = 0.95) -> float:
    """(z + z_power) s: the least difference that a test with standard error s sees with the asked power.

    Raises:
        ValueError: `error` is not positive, or not 0 < 1 - level < power < 1.
    """
    _check_positive("error", error)
    return _reach(power, level) * error


def users_needed(
    difference: float,
    *,
    variance: float,
    treatment_variance: float | None = None,
    ratio: float = 1.0,
    correlation: float = 0.0,
    power: float = 0.8,
    level: float = 0.95,
) -> Arms:
    """U0 = (z + z_power)^2 (1 - correlation^2) (variance + treatment_variance / ratio) / d^2 and U1 = ratio U0.

    Args:
        difference: d, what the test should settle, in the outcome's unit.
        variance: Of a control user's outcome, as by `user_variance`.
        treatment_variance: Of a treated user's outcome; None if the same.
        ratio: Treated users per control user.
        correlation: Of the outcome with a pre-period covariate, if CUPED will be used.
        power: Chance of seeing the difference if it is there.
        level: Confidence of the test's two-sided interval.

    Raises:
        ValueError: The difference is 0 (no test settles it) or an argument is out of range.

    Source: Kohavi, Tang and Xu (2020), "Trustworthy online controlled experiments", chapter 17, for equal arms; van
        Belle (2008), "Statistical rules of thumb", chapter 2; Deng et al. (2013) for the correlation.
    """
    _check(difference=difference, level=level)
    if difference == 0:
        raise ValueError("difference must not be 0: no number of users shows that nothing differs")
    _check_positive("ratio", ratio)
    control, treated = _variances(variance, treatment_variance, correlation)
    users = (_reach(power, level) / difference) ** 2 * (control + treated / ratio)
    return Arms(control=math.ceil(users), treatment=math.ceil(users * ratio))


def users_assured(
    difference: float, error: float, *, variance: float, power: float = 0.8, level: float = 0.95
) -> Arms | None:
    """Equal arms that find the difference with the asked power on average over what is not known of it, N(d, s^2).

    U0 = 2 variance x^2 with x = (z |d| + z_power sqrt(d^2 + (z^2 - z_power^2) s^2)) / (d^2 - z_power^2 s^2), where
    Phi((|d| x - z) / sqrt(1 + s^2 x^2)) = power. With s = 0 it is `users_needed`. A test sized by an estimate as if
    it were the truth misses its power wherever the estimate is too great, and gains less where it is too small.

    Args:
        difference: d, as estimated.
        error: s, the estimate's standard error; 0 where d is known.
        variance: Of a user's outcome, in both arms.
        power: Chance of finding it, the estimate's error counted in; from 0.5 on.
        level: Confidence of the test's two-sided interval.

    Returns:
        The arms; None where |d| <= z_power s: no test is large enough, since the difference itself may not be there.

    Raises:
        ValueError: An argument is out of range.

    Source: O'Hagan, Stevens and Campbell (2005), "Assurance in clinical trial design", with a normal prior.
    """
    _check(difference=difference, level=level)
    _check_positive("variance", variance)
    if not (math.isfinite(error) and error >= 0):
        raise ValueError(f"error must be finite and not negative, got {error}")
    _reach(power, level)
    if power < 0.5:
        raise ValueError(f"power must be at least 0.5, got {power}")
    z, wanted, size = _NORMAL.inv_cdf((1 + level) / 2), _NORMAL.inv_cdf(power), abs(difference)
    if size <= wanted * error:
        return None
    root = math.sqrt(size**2 + (z**2 - wanted**2) * error**2)
    x = (z * size + wanted * root) / (size**2 - (wanted * error) ** 2)
    users = math.ceil(2 * variance * x**2)
    return Arms(control=users, treatment=users)


def always_valid(value: float, error: float, num_users: int, *, planned: int, level: float = 0.95) -> Interval:
    """Value +/- q s that covers at every look at once, however often one looks and whenever one stops.

    q = sqrt(2 (t r + 1) / (t r) log(sqrt(t r + 1) / (1 - level))), t users so far and s = their standard error: where
    the likelihood ratio of the mixture N(0, r) of effects (in standard deviations) reaches 1 / (1 - level). r makes the
    interval narrowest at `planned` users. It holds in the limit: start to look when each arm has some hundred users and
    some dozen events.

    Args:
        value: The difference (or mean) so far.
        error: Its standard error s so far.
        num_users: t, users so far, in both arms.
        planned: Users at which it should be narrowest; fixed before the first look.
        level: Coverage of all looks together, in (0, 1).

    Raises:
        ValueError: An argument is out of range.

    Source: Robbins (1970); Johari, Pekelis and Walsh (2017), "Peeking at A/B tests" (mixture sequential probability
        ratio test); Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021), "Time-uniform central limit theory and
        asymptotic confidence sequences" (normal mixture).
    """
    if not math.isfinite(value):
        raise ValueError(f"value must be finite, got {value}")
    _check_positive("error", error)
    half = sequential_quantile(num_users, planned=planned, level=level) * error
    method = f"always-valid interval after {num_users} users, narrowest at {planned}"
    return Interval(value=value, low=value - half, high=value + half, level=level, method=method)


def always_valid_difference(treatment: Numbers, control: Numbers, *, planned: int, level: float = 0.95) -> Interval:
    """`always_valid` for mean(treatment) - mean(control), outcomes (U1,) and (U0,) of the users so far.

    Raises:
        ValueError: An arm has fewer than two users or an outcome that is not finite, or no outcome has varied yet:
            the difference would seem to be known exactly.
    """
    for name, outcome in (("treatment", treatment), ("control", control)):
        if outcome.ndim != 1 or len(outcome) < 2:
            raise ValueError(f"{name} must be (U,) of at least two users, got shape {outcome.shape}")
        require_finite(name, outcome)
    error = math.sqrt(treatment.var(ddof=1) / len(treatment) + control.var(ddof=1) / len(control))
    if error == 0:
        raise ValueError(
            f"treatment and control must vary, all outcomes are {treatment[0]} and {control[0]} so far: look later"
        )
    value = float(treatment.mean() - control.mean())
    return always_valid(value, error, len(treatment) + len(control), planned=planned, level=level)


def sequential_quantile(num_users: int, *, planned: int, level: float = 0.95) -> float:
    """The q of `always_valid`, which stands in place of the normal quantile, in standard errors.

    r = (2 l + log(1 + 2 l)) / planned with l = -log(1 - level).

    Raises:
        ValueError: `num_users` or `planned` is below 1, or level out of range.

    Source: Waudby-Smith et al. (2021), appendix on the choice of rho (its approximation in closed form).
    """
    _check(level=level)
    for name, users in (("num_users", num_users), ("planned", planned)):
        if users < 1:
            raise ValueError(f"{name} must be at least 1, got {users}")
    log = -math.log(1 - level)
    grown = num_users * (2 * log + math.log(1 + 2 * log)) / planned  # t r
    return math.sqrt(2 * (grown + 1) / grown * (log + math.log(grown + 1) / 2))


def _reach(power: float, level: float) -> float:
    if not 0 < 1 - level < power < 1:
        raise ValueError(f"power must lie in (1 - level, 1) and level in (0, 1), got {power} and {level}")
    return _NORMAL.inv_cdf((1 + level) / 2) + _NORMAL.inv_cdf(power)


def _variances(variance: float, treatment_variance: float | None, correlation: float) -> tuple[float, float]:
    """What CUPED leaves of the variances of the control and the treatment arm."""
    treated = variance if treatment_variance is None else treatment_variance
    _check_positive("variance", variance)
    _check_positive("treatment_variance", treated)
    if not -1 < correlation < 1:
        raise ValueError(f"correlation must lie in (-1, 1), got {correlation}")
    left = 1 - correlation**2
    return variance * left, treated * left


def _check(*, level: float, difference: float = 1.0) -> None:
    if not math.isfinite(difference):
        raise ValueError(f"difference must be finite, got {difference}")
    check_level(level)


def _check_positive(name: str, number: float) -> None:
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {number}")
