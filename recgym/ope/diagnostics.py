"""What is asked of a log, whether the log can answer it, and the words that say so."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from recgym.ope.bounds import bca_ratio
from recgym.ope.intervals import Interval, bootstrap_ratio, check_level, t_ratio
from recgym.ope.tails import Support as Support
from recgym.ope.tails import support as support
from recgym.types import DoubleArray, Estimate, IntArray

Verdict = Literal["supported", "weak", "cannot say"]
Method = Literal["t", "percentile", "BCa"]
MODEL_ERROR = (
    "the interval holds the spread over users, not the error of the fitted model, neither its noise nor its bias; "
    "compare it with IPS or doubly robust estimates from logs that support them"
)
"""Of a model's value, whose terms are taken as known."""
_MOST_TIMES = 1e4  # a log so many times as large can still be thought of


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """When an estimate is supported by the log, when it is weak, when nothing can be said.

    Each pair is (weak beyond the first, "cannot say" beyond the second).
    """

    effective_episodes: tuple[float, float] = (100.0, 10.0)
    """Least effective sample size, in episodes: of those drawn and, of sessions, as expected from their steps."""
    unevenness: tuple[float, float] = (0.5, 10.0)
    """Greatest third moment of the weights over their second, E[w^3] / (E[w^2]^(3/2) sqrt(E)). In known
    worlds intervals began to miss the truth too often beyond the first, and missed it in one log of six or more beyond
    the second (`bench ope`)."""
    tail_index: tuple[float, float] = (0.7, 1.0)
    """Greatest index of the weights' Pareto tail. From 0.7 on no log of usual size comes near the mean; from 1 on it is
    infinite (Vehtari et al. 2024)."""
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
        for name in ("unevenness", "tail_index", "largest_share", "unsupported", "weight_excess"):
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
    interval: Method = "t"
    """"t": Student's, of ratios by their linearisation; in known worlds it covers best where logs are small or weights
    uneven (`bench ope`). "percentile", "BCa": bootstraps over users, whose ends need not lie evenly about the value."""
    replicates: int = 1000
    """Resamples of users of the bootstraps."""
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
        if self.interval not in get_args(Method):
            raise ValueError(f"interval must be one of {get_args(Method)}, got {self.interval!r}")
        check_level(self.level)
        if self.replicates < 2:
            raise ValueError(f"replicates must be at least 2, got {self.replicates}")


def judge(found: Support, thresholds: Thresholds, *, per: str) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on importance weighting, and for each reason the words that say what data would remove it."""
    off = abs(found.mean_ratio - 1) > thresholds.standard_errors * found.mean_ratio_error
    unit = "sessions" if per == "session" else "impressions"
    shorter = ', or ask per step (per="step")' if per == "session" else ""
    worth = min(found.effective_sample_size, found.expected_sample_size)
    lucky = (
        f", as the weights of their steps foretell (those drawn look like {found.effective_sample_size:.1f}, but the "
        "heaviest were not drawn)"
        if worth < 0.8 * found.effective_sample_size
        else ""
    )
    more = min(found.unevenness / thresholds.unevenness[0], 1e100) ** 2
    times = f"log {more:.3g} times as many {unit}, or" if more <= _MOST_TIMES else "no log of usual size mends that;"
    findings: list[tuple[bool, bool, str]] = [  # (exceeds weak, exceeds all, words)
        (
            worth < thresholds.effective_episodes[0],
            worth < thresholds.effective_episodes[1],
            f"the {found.num_episodes} logged {unit} are worth {worth:.1f} of this policy's own{lucky}; "
            f"log more {unit}, explore more in the logging policy, or test a policy closer to it{shorter}",
        ),
        (
            found.unevenness > thresholds.unevenness[0],
            found.unevenness > thresholds.unevenness[1],
            f"the weights are so uneven (third moment over second {found.unevenness:.2g}, at most "
            f"{thresholds.unevenness[0]:.2g} is safe) that a few {unit}, drawn or not, would decide the mean and its "
            f"interval is too narrow; {times} test a policy closer to the logging policy{shorter}",
        ),
        (
            found.tail_index > thresholds.tail_index[0],
            found.tail_index > thresholds.tail_index[1],
            f"the weights have a tail so heavy (index {found.tail_index:.2f}, at most {thresholds.tail_index[0]:.2g} "
            f"is safe) that {unit} not drawn would dominate the mean; more {unit} alone hardly help: give every item a "
            f"floor probability when logging, or test a policy closer to the logging policy{shorter}",
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


def read_interval(question: Question, numerator: DoubleArray, denominator: DoubleArray, user: IntArray) -> Interval:
    """The question's interval for sum_h [sum_e numerator_eh / sum_e denominator_eh], (E,) or (E, H), users (E,)."""
    if question.interval == "t":
        return t_ratio(numerator, denominator, user, level=question.level)
    bootstrap = bootstrap_ratio if question.interval == "percentile" else bca_ratio
    return bootstrap(
        numerator, denominator, user, seed=question.seed, level=question.level, replicates=question.replicates
    )


def conclude(
    estimator: str,
    interval: Interval,
    question: Question,
    found: Support | None,
    *,
    user: IntArray,
    warnings: tuple[str, ...] = (),
    cap: Verdict = "supported",
    biased: bool = False,
    unbiased: Estimate | None = None,
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
        biased: Whether the estimator is biased by design (a model, clipped weights, categories in place of items): no
            better than weak then, since its interval holds the noise and not the bias, which no weights show.
        unbiased: A supported estimate of the same value by an unbiased estimator. If the biased interval holds the
            whole of its interval, it covers the truth at least as often, and the verdict stands. That the two overlap
            would not do: beside a wide interval every small bias looks like agreement.
    """
    num_users = len(np.unique(user))
    return conclude_counts(
        estimator,
        interval,
        question,
        found,
        num_episodes=len(user),
        num_users=num_users,
        warnings=warnings,
        cap=cap,
        biased=biased,
        unbiased=unbiased,
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
    biased: bool = False,
    unbiased: Estimate | None = None,
) -> Estimate:
    """`conclude` where episodes and users were counted and not kept."""
    if biased and not _holds(interval, unbiased):
        cap = worse(cap, "weak")
        warnings += (
            "the interval holds the noise and not the bias that this estimator has by design; compare it with IPS or "
            "doubly robust estimates from logs that support them",
        )
    limits = question.thresholds
    verdict, words = judge(found, limits, per=question.per) if found else ("supported", ())
    half = (interval.high - interval.low) / 2
    if num_users > 1 and not half <= limits.half_width * abs(interval.value):
        words += (f"the interval is ± {half:.3g} around {interval.value:.3g}: more users are needed to read the value",)
        verdict = worse(verdict, "weak")
    if num_users > 1 and half <= 1e-12 * abs(interval.value):
        words += ("all users gave the same, so that nothing says what chance could do; log until rewards vary",)
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


def _holds(interval: Interval, unbiased: Estimate | None) -> bool:
    return (
        unbiased is not None
        and unbiased.verdict == "supported"
        and unbiased.level >= interval.level
        and interval.low <= unbiased.low <= unbiased.high <= interval.high
    )


def worse(first: Verdict, second: Verdict) -> Verdict:
    """The more doubtful of two verdicts."""
    order: tuple[Verdict, ...] = ("supported", "weak", "cannot say")
    return max(first, second, key=order.index)
