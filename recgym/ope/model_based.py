"""Model-based evaluation: let the policy serve simulated users, and let the log correct what they got wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recgym.env.session import Sessions
from recgym.ope.diagnostics import Question, Verdict, conclude, judge, read_interval, support, withheld, worse
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.importance import cut_warning, per_decision
from recgym.ope.intervals import Interval
from recgym.ope.model_rollouts import following, fresh_values, rollout_values, start_values
from recgym.ope.resuming import Resume, resume_learned
from recgym.ope.views import first_steps, single_steps
from recgym.ope.weights import SupportError, step_ratios, target_probabilities
from recgym.policy import check_fits
from recgym.types import DoubleArray, Estimate, IntArray, Policy, Transitions

_OWN_ERROR = "the interval is the spread over users; the error of the simulated users is not in it"


@dataclass(frozen=True, kw_only=True)
class ModelBased:
    """The mean return of the policy in simulated users, under common random numbers: V = 1/E sum_e V_model(s_0 of e).

    No weights, so no wildness; wrong wherever the users are. Its verdict is "weak", unless the log supports the policy
    and the log's own estimate (per-decision importance sampling) holds the value: then the interval holds both.
    """

    sessions: Sessions[Any]
    """The platform and its users, which must earn what the log's reward counts."""
    question: Question = field(default_factory=Question)
    """What is asked."""
    rollouts: int = 8
    """Simulated sessions for each logged one."""
    resume: Resume | None = resume_learned
    """Puts sessions where logged ones begin; None: users of the same population begin anywhere (`Sessions.reset`)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be rolled out."""
        _check_rollouts(self.sessions, self.rollouts)
        if self.resume is None and self.question.per == "step":
            raise ValueError('per="step" asks about the logged contexts: it needs resume, got None')

    def estimate(self, logged: Transitions, policy: Policy) -> Estimate:
        """Estimate the policy's value in simulated users, with or without logged propensities.

        Raises:
            PolicyError: The policy was made for another catalogue.
            ValueError: The log does not fit the sessions, or it or the policy's probabilities are malformed.
        """
        asked = self.question
        check_fits(policy, self.sessions.sizes, where="the simulated sessions")
        _check_log(self.sessions, logged)
        view = single_steps(logged) if asked.per == "step" else logged
        values, user = self._values(logged, view, policy)
        interval = read_interval(asked, values, np.ones(len(values)), user)
        interval, cap, words = _weigh(interval, view, policy, asked)
        return conclude("model", interval, asked, None, user=view.user, warnings=words, cap=cap)

    def _values(self, logged: Transitions, view: Transitions, policy: Policy) -> tuple[DoubleArray, IntArray]:
        """Value of each session, with whose it is."""
        asked = self.question
        if self.resume is None:
            count = view.num_episodes * self.rollouts
            return fresh_values(self.sessions, policy, count=count, discount=asked.discount, seed=asked.seed)
        rows, horizon = first_steps(view.episode), 1 if asked.per == "step" else None
        values = start_values(
            self.sessions, self.resume, logged, rows, policy,
            discount=asked.discount, rollouts=self.rollouts, seed=asked.seed, horizon=horizon,
        )  # fmt: skip
        return values, view.user


@dataclass(frozen=True, kw_only=True)
class ModelDoublyRobust:
    """Sequential doubly robust estimation with Q and V from rollouts in simulated users: the log corrects the model.

    Unbiased whatever the users are worth, as long as they were not learned from the sessions in this log; the better
    they are, the less it varies. Source: Jiang and Li (2016), equation 10; see `doubly_robust` and `rollout_values`.
    """

    sessions: Sessions[Any]
    """The platform and its users, which must earn what the log's reward counts."""
    question: Question = field(default_factory=Question)
    """What is asked of the log."""
    rollouts: int = 16
    """Simulated sessions for Q, and as many for V, at each logged step. Few cost no bias, but their noise can exceed
    what the model saves: in the sample users' log 1 widens the interval of importance sampling by 40%, 16 narrow it."""
    horizon: int | None = None
    """Steps that a rollout counts; None: to the end. Fewer cost less and correct less, without bias."""
    resume: Resume = resume_learned
    """Puts sessions where logged steps stand."""

    def __post_init__(self) -> None:
        """Refuse what cannot be rolled out."""
        _check_rollouts(self.sessions, self.rollouts)
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon must be at least 1 or None, got {self.horizon}")

    def estimate(self, logged: Transitions, policy: Policy) -> Estimate:
        """Estimate the policy's value from logged propensities and simulated users.

        Raises:
            PolicyError: The policy was made for another catalogue.
            ValueError: The log does not fit the sessions, or it or the policy's probabilities are malformed.
        """
        asked = self.question
        check_fits(policy, self.sessions.sizes, where="the simulated sessions")
        _check_log(self.sessions, logged)
        view = single_steps(logged) if asked.per == "step" else logged
        try:
            ratios = step_ratios(target_probabilities(policy, view), view.propensity)
        except SupportError as reason:
            return withheld("model DR", str(reason), asked, sample_size=view.num_episodes)
        values = rollout_values(
            self.sessions, self.resume, logged, policy,
            discount=asked.discount, rollouts=self.rollouts, seed=asked.seed,
            horizon=1 if asked.per == "step" else self.horizon,
        )  # fmt: skip
        values = values._replace(v_next=following(values.v, view.episode))
        terms = doubly_robust(ratios, view.reward.astype(np.float64), values, view.episode, asked.discount)
        interval = read_interval(asked, terms, np.ones(len(terms)), view.user)
        found = support(ratios, view.episode, view.user)
        words = (*cut_warning(view), "unbiased only if the simulated users were not learned from these sessions")
        return conclude("model DR", interval, asked, found, user=view.user, warnings=words)


def _weigh(
    interval: Interval, view: Transitions, policy: Policy, asked: Question
) -> tuple[Interval, Verdict, tuple[str, ...]]:
    """What the log says of the model's value: the interval to report, the best verdict allowed, and why."""
    if view.action.shape[1] > 1:
        return interval, "weak", (_OWN_ERROR, "the log cannot check them: importance weights are for one item a step")
    try:
        ratios = step_ratios(target_probabilities(policy, view), view.propensity)
    except SupportError as reason:
        return interval, "weak", (_OWN_ERROR, f"the log cannot check them: {reason}")
    alone = single_steps(view)  # users that never met an item are guessed at, step by step
    steps, doubts = judge(support(ratios, alone.episode, alone.user), asked.thresholds, per="step")
    whole, reasons = judge(support(ratios, view.episode, view.user), asked.thresholds, per=asked.per)
    if worse(steps, whole) != "supported":
        return interval, worse(steps, "weak"), (_OWN_ERROR, *(doubts or reasons))
    terms = per_decision(ratios, view.reward.astype(np.float64), view.episode, asked.discount)
    own = read_interval(asked, terms, np.ones(len(terms)), view.user)
    says = f"importance sampling says {own.value:.3g} [{own.low:.3g}, {own.high:.3g}]"
    if not own.low <= interval.value <= own.high:
        against = f"the log contradicts the simulated users' {interval.value:.3g}: {says}; use the doubly robust value"
        return interval, "weak", (_OWN_ERROR, against)
    both = replace(interval, low=min(interval.low, own.low), high=max(interval.high, own.high))
    return both, "supported", (f"the log agrees with the simulated users: {says}; the interval holds both",)


def _check_rollouts(sessions: Sessions[Any], rollouts: int) -> None:
    if rollouts < 1:
        raise ValueError(f"rollouts must be at least 1, got {rollouts}")
    if sessions.config.pessimism > 0:
        raise ValueError(f"pessimism must be 0 where a value is asked, got {sessions.config.pessimism}")


def _check_log(sessions: Sessions[Any], logged: Transitions) -> None:
    """Refuse a log whose sessions, slates or rewards are not those of the simulated sessions."""
    config, kinds = sessions.config, [kind.name for kind in sessions.users.kinds]
    if logged.feedback.shape[1:] != (config.slate_size, len(kinds)):
        raise ValueError(
            f"the log has slates of {logged.feedback.shape[1]} with {logged.feedback.shape[2]} kinds of feedback, "
            f"the sessions have {config.slate_size} and {len(kinds)} ({', '.join(kinds)})"
        )
    if (longest := int(logged.step.max(initial=-1)) + 1) > config.max_steps:
        raise ValueError(f"a logged session has {longest} steps, the simulated ones end after {config.max_steps}")
    weights = np.array([sessions.weights.get(name, 0.0) for name in kinds])
    earned = logged.feedback.sum(axis=1, dtype=np.float64) @ weights  # (T,)
    wrong = np.flatnonzero(~np.isclose(earned, logged.reward, rtol=1e-3, atol=1e-3))
    if len(wrong):
        raise ValueError(
            f"reward of step {wrong[0]} is {logged.reward[wrong[0]]:.6g} in the log, but its feedback earns "
            f"{earned[wrong[0]]:.6g} in these sessions: give them the reward of the log"
        )
