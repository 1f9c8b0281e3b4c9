"""Doubly robust estimation: a fitted Q function, corrected by importance-weighted errors of its own predictions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recgym.ope.diagnostics import Question, conclude, read_interval, support, withheld
from recgym.ope.fqe import FitConfig, LoggedTarget, Values, cut_words, fit, read
from recgym.ope.importance import episode_sums
from recgym.ope.targets import PolicyTarget, Target
from recgym.ope.views import first_steps, single_steps, take_episodes, user_parts
from recgym.ope.weights import SupportError, cumulative_weights, step_ratios, target_probabilities
from recgym.types import BoolArray, DoubleArray, Estimate, IntArray, Policy, Transitions


def doubly_robust(
    ratios: DoubleArray, reward: DoubleArray, values: Values, episode: IntArray, discount: float
) -> DoubleArray:
    """V(s_0) + sum_t discount^t (rho_0 ... rho_t) (r_t + discount V(s_t+1) - Q(s_t, a_t)) of each episode, (E,).

    This is the recursion V_DR = V(s) + rho (r + discount V_DR' - Q(s, a)) written out. Its mean is unbiased whatever
    Q is, if the weights are right; with the exact Q and deterministic rewards and dynamics it has no variance.

    Args:
        ratios: (T,) pi / mu of each step.
        reward: (T,) rewards.
        values: Q along the log; it must not have been fitted on the same episodes (cross-fitting).
        episode: (T,) episode of each step.
        discount: Discount per step.

    Source: Jiang and Li (2016), "Doubly robust off-policy value evaluation for reinforcement learning", equation 10.
    """
    error = reward + discount * values.v_next - values.q  # (T,)
    correction = episode_sums(cumulative_weights(ratios, episode) * error, episode, discount)
    return values.v[first_steps(episode)] + correction


@dataclass(frozen=True, kw_only=True)
class DoublyRobust:
    """Sequential doubly robust estimation with Q fitted on other users' episodes (cross-fitting)."""

    question: Question = field(default_factory=Question)
    """What is asked of the log."""
    fitting: FitConfig = field(default_factory=FitConfig)
    """How Q is fitted."""
    folds: int = 2
    """Parts of the users: Q for one part is fitted on the others."""

    def __post_init__(self) -> None:
        """Refuse a cross-fit without another fold."""
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")

    def estimate(self, logged: Transitions, policy: Policy) -> Estimate:
        """Estimate the policy's value from logged propensities and a fitted Q function.

        Raises:
            ValueError: The log carries no state, has fewer users than folds, or is malformed.
        """
        asked = self.question
        view = single_steps(logged) if asked.per == "step" else logged
        try:
            ratios = step_ratios(target_probabilities(policy, view), view.propensity)
        except SupportError as reason:
            return withheld("DR", str(reason), asked, sample_size=view.num_episodes)
        target = PolicyTarget(policy=policy, logged=view)
        values, words = cross_fit_values(
            view, target, self.fitting, discount=asked.discount, folds=self.folds, seed=asked.seed
        )
        per_episode = doubly_robust(ratios, view.reward.astype(np.float64), values, view.episode, asked.discount)
        interval = read_interval(asked, per_episode, np.ones(len(per_episode)), view.user)
        found = support(ratios, view.episode, view.user)
        return conclude("DR", interval, asked, found, user=view.user, warnings=words)


def cross_fit_values(
    view: Transitions, target: Target, fitting: FitConfig, *, discount: float, folds: int = 2, seed: int = 0
) -> tuple[Values, tuple[str, ...]]:
    """Q and V along the whole log, each user's part by a fit that never saw that user; and what to know of them.

    Args:
        view: the log, with states.
        target: the policy along it.
        fitting: how Q is fitted.
        discount: per step.
        folds: parts of the users; Q for one part is fitted on the others.
        seed: of parts and fits.

    Raises:
        ValueError: As `LoggedTarget`, or there are fewer users than folds.
    """
    fold = user_parts(view.user, folds, seed=seed)  # (E,)
    joined = Values(*(np.empty(view.num_steps) for _ in Values._fields))
    words: tuple[str, ...] = ()
    for number in range(folds):
        others = _part(view, target, fold != number)
        q = fit(others, fitting, discount=discount, seed=seed + number)
        mine = _part(view, target, fold == number)
        for whole, part in zip(joined, read(q, mine), strict=True):
            whole[fold[view.episode] == number] = part
        words = words or cut_words(mine)
    return joined, words


def _part(view: Transitions, target: Target, keep: BoolArray) -> LoggedTarget:
    """The target along the episodes where `keep` (E,) is True."""
    return LoggedTarget(take_episodes(view, keep), target, rows=np.flatnonzero(keep[view.episode]))
