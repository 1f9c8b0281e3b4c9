"""Several policies against one log: every estimate, the differences to production, and what the log cannot say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recgym.ope.choice import CROSS, choose, spoken
from recgym.ope.compare import Statement, differences, simultaneous, step_down
from recgym.ope.diagnostics import Question, Support
from recgym.ope.distribution import weighted_distribution
from recgym.ope.estimators import Terms, answer, estimators
from recgym.ope.evidence import Evidence, Per
from recgym.ope.importance import episode_sums, last_weights
from recgym.ope.intervals import Interval, t_interval
from recgym.ope.power import (
    Arms,
    detectable_difference,
    standard_error,
    user_variance,
    users_assured,
    users_needed,
)
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, Estimate


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The value of a policy in one part of the episodes."""

    name: str
    """What divides the episodes: "user", "hour", "item popularity", ..."""
    label: str
    """Which part."""
    episodes: int
    estimate: Estimate
    production: Interval
    """What production earned there."""


@dataclass(frozen=True, kw_only=True)
class Returns:
    """How the policy's returns are spread, not only their mean."""

    quantiles: dict[str, float]
    """"5%", "25%", "50%", "75%", "95%" -> return."""
    worst: float
    """Mean return of the worst share (CVaR); the share is `AppraisalConfig.tail`."""
    deviation: float
    """Standard deviation of the return of an episode."""


@dataclass(frozen=True, kw_only=True)
class Test:
    """The A/B test that would settle a difference to production, half of the users each."""

    difference: float
    """What it has to find."""
    users: int
    """In both arms together, at 80% power and the report's level; 0 where the estimate shows no difference."""
    detectable: float
    """The smallest difference that a test with as many users as the log has would find."""
    assured: int = 0
    """Users in both arms together that find it with 80% power even though the estimate is not the truth, its error
    counted in; 0 where no test is large enough, since the difference itself may not be there."""


@dataclass(frozen=True, kw_only=True)
class PolicyReport:
    """One policy against the log."""

    policy: str
    chosen: str
    """The estimator that speaks for it."""
    estimates: tuple[Estimate, ...]
    """By all estimators."""
    difference: Interval | None
    """To production, all policies' intervals holding together; None where the log cannot say."""
    statement: Statement | None
    """Whether it is better or worse than production, corrected for the number of policies; "undecided" where the
    estimator that speaks is biased by design: its interval does not hold the bias."""
    support: Support | None
    returns: Returns | None
    test: Test | None
    segments: tuple[Segment, ...] = ()
    words: tuple[str, ...] = ()
    """What to know of the policy as a whole: why this estimator speaks, negative controls that failed, drift."""

    @property
    def estimate(self) -> Estimate:
        """The chosen estimator's."""
        return next(one for one in self.estimates if one.estimator == self.chosen)


@dataclass(frozen=True, kw_only=True)
class Appraisal:
    """What one log says of several policies."""

    per: Per
    discount: float
    level: float
    steps: int
    episodes: int
    users: int
    production: Interval
    """What the logged policy earned an episode."""
    policies: tuple[PolicyReport, ...]


@dataclass(frozen=True, kw_only=True)
class AppraisalConfig:
    """What is asked of the log for all policies."""

    question: Question = field(default_factory=Question)
    """Session or impression, level, resamples, thresholds."""
    estimator: str = "default"
    """Which estimator speaks for a policy: "default" and "cross-validated" as in `choice`, or one of
    `estimators.estimators(per)`. Where a policy's weights cannot say, none can speak for it."""
    power: float = 0.8
    """Of the A/B test whose size is given."""
    tail: float = 0.05
    """Share of the worst returns that `Returns.worst` averages."""


def appraise(
    evidence: Sequence[Evidence],
    config: AppraisalConfig = AppraisalConfig(),
    *,
    segments: Mapping[str, Sequence[str]] | None = None,
) -> Appraisal:
    """Every estimate of every policy, and the differences to production.

    Args:
        evidence: of each policy, all on the same episodes.
        config: what is asked.
        segments: a label for each episode (E,), by what divides them; "" leaves an episode out.

    Raises:
        ValueError: there is no policy, two have one name, policies are not of the same episodes, the estimator asked
            for is unknown, or the evidence is malformed.
    """
    first = _same_log(evidence, config)
    returns = episode_sums(first.reward, first.episode, first.discount)  # (E,)
    reports = [_appraise(one, returns, config, segments or {}) for one in evidence]
    return Appraisal(
        per=first.per,
        discount=first.discount,
        level=config.question.level,
        steps=len(first.reward),
        episodes=len(first.user),
        users=len(np.unique(first.user)),
        production=t_interval(returns, first.user, level=config.question.level),
        policies=tuple(_compared(reports, evidence, returns, config)),
    )


def _same_log(evidence: Sequence[Evidence], config: AppraisalConfig) -> Evidence:
    """The first policy's evidence, once all are known to be of the same episodes."""
    if not evidence:
        raise ValueError("appraise needs at least one policy, got none")
    first, names = evidence[0], [one.policy for one in evidence]
    if len(set(names)) < len(names):
        raise ValueError(f"policies must have different names, got {', '.join(names)}")
    for one in evidence:
        same = one.per == first.per and one.discount == first.discount
        if not (same and np.array_equal(one.episode, first.episode) and np.array_equal(one.reward, first.reward)):
            raise ValueError(f"policy {one.policy!r} must be asked of the same episodes as {first.policy!r}")
    known = estimators(first.per)
    if config.estimator not in (allowed := ("default", *known, CROSS)):
        raise ValueError(f"estimator must be one of {', '.join(allowed)}; got {config.estimator!r}")
    return first


def _appraise(
    seen: Evidence, returns: DoubleArray, config: AppraisalConfig, segments: Mapping[str, Sequence[str]]
) -> PolicyReport:
    """One policy's estimates, its spread of returns, and its segments."""
    question = replace(config.question, per=seen.per, discount=seen.discount)
    found = {name: answer(formula, seen, question) for name, formula in estimators(seen.per).items()}
    chosen, words = choose(found, seen, question, asked=config.estimator)
    found[chosen] = spoken(found[chosen], seen, question)
    try:
        weights = last_weights(seen.weights, seen.episode)  # (E,)
    except SupportError:
        weights = None
    return PolicyReport(
        policy=seen.policy,
        chosen=chosen,
        estimates=tuple(found.values()),
        difference=None,
        statement=None,
        support=seen.support,
        returns=_returns(weights, returns, config.tail) if weights is not None and weights.any() else None,
        test=None,
        segments=tuple(_segments(seen, returns, chosen, question, segments)),
        words=words,
    )


def _returns(weights: DoubleArray, returns: DoubleArray, tail: float) -> Returns:
    spread = weighted_distribution(weights, returns)
    return Returns(
        quantiles={f"{level:.0%}": spread.quantile(level) for level in (0.05, 0.25, 0.5, 0.75, 0.95)},
        worst=spread.lower_tail(tail),
        deviation=math.sqrt(spread.variance),
    )


def _segments(
    seen: Evidence, returns: DoubleArray, chosen: str, question: Question, segments: Mapping[str, Sequence[str]]
) -> list[Segment]:
    """The chosen estimate in each part of the episodes that holds two users or more."""
    formula, found = estimators(seen.per)[chosen], []
    for name, labels in segments.items():
        if len(labels) != len(seen.user):
            raise ValueError(f"segment {name!r} must have a label for each of {len(seen.user)} episodes: {len(labels)}")
        column = np.asarray(labels, dtype=np.str_)
        for label in dict.fromkeys(name for name in labels if name):
            keep = column == label
            if len(np.unique(seen.user[keep])) < 2:
                continue
            part = seen.take(keep)
            found.append(
                Segment(
                    name=name,
                    label=label,
                    episodes=int(keep.sum()),
                    estimate=spoken(answer(formula, part, question), part, question),
                    production=t_interval(returns[keep], part.user, level=question.level),
                )
            )
    return found


def _compared(
    reports: Sequence[PolicyReport], evidence: Sequence[Evidence], returns: DoubleArray, config: AppraisalConfig
) -> list[PolicyReport]:
    """The reports with their differences to production, whose intervals hold together."""
    terms: dict[str, Terms] = {}
    for report, seen in zip(reports, evidence, strict=True):
        try:
            if report.estimate.verdict != "cannot say":
                terms[report.policy] = estimators(seen.per)[report.chosen].terms(seen)
        except SupportError:
            continue
    users, question = evidence[0].user, config.question
    if not terms or len(np.unique(users)) < 2:
        return list(reports)
    values, psi = differences(
        [(one.above, one.below) for one in terms.values()], (returns[:, None], np.ones((len(returns), 1))), users
    )
    together = simultaneous(values, psi, seed=question.seed, level=question.level, replicates=question.replicates)
    known = estimators(evidence[0].per)
    biased = [known[report.chosen].biased for report in reports if report.policy in terms]
    said: list[Statement] = [
        "undecided" if bias else word
        for bias, word in zip(biased, step_down(values, psi, level=question.level), strict=True)
    ]
    variance, errors = user_variance(returns, users), psi.std(axis=0, ddof=1) / math.sqrt(len(psi))
    number = dict(zip(terms, range(len(terms)), strict=True))
    return [
        report
        if (place := number.get(report.policy)) is None
        else replace(
            report,
            difference=together[place],
            statement=said[place],
            test=_test(float(values[place]), float(errors[place]), variance, len(np.unique(users)), config),
        )
        for report in reports
    ]


def _test(difference: float, error: float, variance: float, num_users: int, config: AppraisalConfig) -> Test | None:
    """The A/B test for this difference, known up to a standard error; None where outcomes do not vary."""
    if variance <= 0:
        return None
    level = config.question.level
    halves = Arms(control=max(1, num_users // 2), treatment=max(1, num_users - num_users // 2))
    spread = standard_error(halves, variance=variance)
    needed = users_needed(difference, variance=variance, power=config.power, level=level).total if difference else 0
    assured = users_assured(difference, error, variance=variance, power=config.power, level=level)
    return Test(
        difference=difference,
        users=needed,
        detectable=detectable_difference(spread, power=config.power, level=level),
        assured=assured.total if assured else 0,
    )
