"""What is asked of a log, whether the log can answer it, and the words that say so."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from recgym.ope.intervals import Interval, check_level
from recgym.ope.views import first_steps
from recgym.ope.weights import cumulative_weights
from recgym.types import DoubleArray, Estimate, IntArray

Verdict = Literal["supported", "weak", "cannot say"]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """When an estimate is supported by the log, when it is weak, when nothing can be said.

    Each pair is (weak beyond the first, "cannot say" beyond the second).
    """

    effective_episodes: tuple[float, float] = (100.0, 10.0)
    """Least effective sample size, in episodes."""
    largest_share: tuple[float, float] = (0.1, 0.5)
    """Greatest share of all weight that one episode may hold."""
    unsupported: tuple[float, float] = (0.1, 0.5)
    """Greatest share of the target policy's choices that the logging policy never made."""
    weight_excess: tuple[float, float] = (0.1, 0.5)
    """Greatest mean weight above 1: it means that propensities are wrong, not that support is thin."""
    standard_errors: float = 3.0
    """A mean weight this many standard errors or fewer from 1 counts as 1."""
    half_width: float = 0.5
    """Greatest half-width of the interval, as a share of the value's size, before the estimate is weak."""
    users: int = 30
    """Fewest users whose resampling gives an interval worth its level."""

    def __post_init__(self) -> None:
        """Refuse thresholds that contradict each other."""
        for name in ("largest_share", "unsupported", "weight_excess"):
            weak, nothing = getattr(self, name)
            if not 0 <= weak <= nothing:
                raise ValueError(f"{name} must be (weak, cannot say) with 0 <= weak <= cannot say, got {weak, nothing}")
        if not self.effective_episodes[0] >= self.effective_episodes[1] >= 1:
            raise ValueError(f"effective_episodes must fall and be at least 1, got {self.effective_episodes}")
        for name, value in (("standard_errors", self.standard_errors), ("half_width", self.half_width)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: the value of a session or of one impression, and how sure the answer has to be.

    Estimators given the same question are comparable.
    """

    per: Literal["session", "step"] = "session"
    """"session": expected (discounted) reward of a session. "step": expected reward of one impression in the logged
    contexts, which ignores what a choice does to the rest of the session but needs far less data."""
    discount: float = 1.0
    """Discount per step, in [0, 1]; irrelevant per step."""
    level: float = 0.95
    """Nominal coverage of the interval."""
    replicates: int = 1000
    """Bootstrap resamples of users."""
    seed: int = 0
    """Seed of the resampling and of anything fitted."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """When the answer is supported, weak, or withheld."""

    def __post_init__(self) -> None:
        """Refuse a question that has no answer."""
        if self.per not in ("session", "step"):
            raise ValueError(f'per must be "session" or "step", got {self.per!r}')
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount must lie in [0, 1], got {self.discount}")
        check_level(self.level)
        if self.replicates < 2:
            raise ValueError(f"replicates must be at least 2, got {self.replicates}")


@dataclass(frozen=True, kw_only=True)
class Support:
    """How far the log covers what the target policy does. All weights are those of whole episodes."""

    effective_sample_size: float
    """(sum w)^2 / sum w^2, in episodes (Kong 1992)."""
    largest_share: float
    """Share of the total weight that the heaviest episode holds."""
    top_percent_share: float
    """Share of the total weight that the heaviest 1% of episodes hold."""
    largest_weight: float
    zero_share: float
    """Share of episodes with weight 0: the target policy would never have acted so."""
    mean_ratio: float
    """Mean of pi / mu over steps; 1 in expectation where the log supports the target and the propensities are right."""
    mean_ratio_error: float
    """Its standard error, users being the unit."""
    unsupported: float
    """Estimated share of the target policy's choices that the logger never makes, max(0, 1 - mean ratio): under the
    logger, E[pi / mu] is exactly the target's probability on what the logger can show."""
    num_episodes: int


def support(ratios: DoubleArray, episode: IntArray, user: IntArray) -> Support:
    """Measure support from the step ratios pi / mu (T,), the episode of each step (T,) and the user of each (E,)."""
    start = first_steps(episode)
    last = np.append(start[1:], len(episode)) - 1
    weight = cumulative_weights(ratios, episode)[last]  # (E,)
    total = float(weight.sum())
    ordered = np.sort(weight)[::-1]
    top = ordered[: max(1, len(ordered) // 100)]
    index = np.unique(user, return_inverse=True)[1]  # (E,)
    steps = np.bincount(index[episode])  # (U,)
    mean = float(ratios.mean())
    deviation = np.bincount(index[episode], weights=ratios) - mean * steps  # (U,)
    return Support(
        effective_sample_size=total**2 / float((weight**2).sum()) if total > 0 else 0.0,
        largest_share=float(ordered[0]) / total if total > 0 else math.nan,
        top_percent_share=float(top.sum()) / total if total > 0 else math.nan,
        largest_weight=float(ordered[0]),
        zero_share=float((weight == 0).mean()),
        mean_ratio=mean,
        mean_ratio_error=float(np.sqrt((deviation**2).sum())) / len(ratios),
        unsupported=max(0.0, 1.0 - mean),
        num_episodes=len(weight),
    )


def judge(found: Support, thresholds: Thresholds, *, per: str) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on importance weighting, and for each reason the words that say what data would remove it."""
    off = abs(found.mean_ratio - 1) > thresholds.standard_errors * found.mean_ratio_error
    unit = "sessions" if per == "session" else "impressions"
    shorter = ', or ask per step (per="step")' if per == "session" else ""
    findings: list[tuple[bool, bool, str]] = [  # (exceeds weak, exceeds all, words)
        (
            found.effective_sample_size < thresholds.effective_episodes[0],
            found.effective_sample_size < thresholds.effective_episodes[1],
            f"the {found.num_episodes} logged {unit} are worth {found.effective_sample_size:.1f} of this policy's own; "
            f"log more {unit}, explore more in the logging policy, or test a policy closer to it{shorter}",
        ),
        (
            not found.largest_share <= thresholds.largest_share[0],
            not found.largest_share <= thresholds.largest_share[1],
            f"the heaviest of the {unit} holds {found.largest_share:.0%} of all weight (weight "
            f"{found.largest_weight:.3g}), the heaviest 1% hold {found.top_percent_share:.0%}; one different click "
            f"would move the estimate; give every item a floor probability when logging{shorter}",
        ),
        (
            off and found.unsupported > thresholds.unsupported[0],
            off and found.unsupported > thresholds.unsupported[1],
            f"about {found.unsupported:.0%} of what this policy would show was (almost) never shown by the "
            f"logging policy (mean weight {found.mean_ratio:.2f}, should be 1); "
            "collect logs in which those items are explored",
        ),
        (
            off and found.mean_ratio - 1 > thresholds.weight_excess[0],
            off and found.mean_ratio - 1 > thresholds.weight_excess[1],
            f"the mean weight is {found.mean_ratio:.2f} and should be 1: the logged propensities do not belong to "
            "these items or contexts; check how they are logged (slot, candidate set, policy version)",
        ),
    ]
    words = tuple(text for weak, _, text in findings if weak)
    if any(nothing for _, nothing, _ in findings):
        return "cannot say", words
    return ("weak" if words else "supported"), words


def conclude(
    estimator: str,
    interval: Interval,
    question: Question,
    found: Support | None,
    *,
    user: IntArray,
    warnings: tuple[str, ...] = (),
    cap: Verdict = "supported",
) -> Estimate:
    """Join a value, its interval and its support to an estimate.

    Args:
        estimator: Name for the report.
        interval: The value and its interval.
        question: What was asked.
        found: Support of the importance weights; None where the estimator uses none.
        user: (E,) who each episode belongs to.
        warnings: What else the reader has to know, put first.
        cap: The best verdict allowed.
    """
    num_users = len(np.unique(user))
    return conclude_counts(
        estimator, interval, question, found, num_episodes=len(user), num_users=num_users, warnings=warnings, cap=cap
    )


def conclude_counts(
    estimator: str,
    interval: Interval,
    question: Question,
    found: Support | None,
    *,
    num_episodes: int,
    num_users: int,
    warnings: tuple[str, ...] = (),
    cap: Verdict = "supported",
) -> Estimate:
    """`conclude` where episodes and users were counted and not kept."""
    limits = question.thresholds
    verdict, words = judge(found, limits, per=question.per) if found else ("supported", ())
    half = (interval.high - interval.low) / 2
    if not half <= limits.half_width * abs(interval.value):
        words += (f"the interval is ± {half:.3g} around {interval.value:.3g}: more users are needed to read the value",)
        verdict = worse(verdict, "weak")
    if num_users < limits.users:
        words += (f"{num_users} users are too few for an interval; log at least {limits.users}",)
        verdict = worse(verdict, "weak")
    return Estimate(
        estimator=estimator,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        level=interval.level,
        effective_sample_size=found.effective_sample_size if found else math.nan,
        sample_size=num_episodes,
        verdict=worse(verdict, cap),
        warnings=warnings + words,
    )


def withheld(estimator: str, reason: str, question: Question, *, sample_size: int) -> Estimate:
    """The estimate that says why there is none: value nan, verdict "cannot say"."""
    return Estimate(
        estimator=estimator,
        value=math.nan,
        low=math.nan,
        high=math.nan,
        level=question.level,
        sample_size=sample_size,
        verdict="cannot say",
        warnings=(reason,),
    )


def worse(first: Verdict, second: Verdict) -> Verdict:
    """The more doubtful of two verdicts."""
    order: tuple[Verdict, ...] = ("supported", "weak", "cannot say")
    return max(first, second, key=order.index)
