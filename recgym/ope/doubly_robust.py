"""Doubly robust estimation: a fitted Q function, corrected by importance-weighted errors of its own predictions."""

from __future__ import annotations

import numpy as np

from recgym.ope.fqe import FitConfig, LoggedTarget, Values, cut_words, fit, read
from recgym.ope.importance import episode_sums
from recgym.ope.targets import Target
from recgym.ope.views import first_steps, take_episodes, user_parts
from recgym.ope.weights import cumulative_weights
from recgym.types import BoolArray, DoubleArray, IntArray, Transitions


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
