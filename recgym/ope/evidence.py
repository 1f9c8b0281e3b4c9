"""What estimators read of one policy against one log: weights, rewards and a model's values, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from recgym.ope.fqe import Values
from recgym.ope.tails import Support, support
from recgym.ope.views import first_steps, single_steps
from recgym.ope.weights import HEAVIEST, SupportError, cumulative_weights, step_ratios
from recgym.types import BoolArray, DoubleArray, IntArray, Transitions

Per = Literal["session", "step"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One policy against T logged steps of E episodes (sessions; or impressions, one step each)."""

    policy: str
    per: Per
    reward: DoubleArray  # (T,)
    episode: IntArray  # (T,) 0..E-1
    user: IntArray  # (E,)
    discount: float = 1.0
    ratios: DoubleArray | None = None  # (T,) pi / mu of what was shown
    no_ratios: str = "the log has no propensities"
    """Why there are no ratios, where there are none."""
    values: Values | None = None
    """A model's Q and V along the log, each row's by a model that did not see its user."""
    no_values: str = "no model of the reward was fitted"
    """Why there are no values, where there are none."""
    limit: float = 10.0
    """Above it weights are clipped, and Switch-DR leaves them to the model; DRos has its square as strength."""
    words: tuple[str, ...] = ()
    """What a reader of any estimate has to know."""

    @property
    def start(self) -> IntArray:
        """(E,) first step of each episode."""
        return first_steps(self.episode)

    @cached_property
    def support(self) -> Support | None:
        """How far the weights of whole episodes are covered; None without ratios."""
        return None if self.ratios is None else support(self.ratios, self.episode, self.user)

    @cached_property
    def step_support(self) -> Support | None:
        """The same of single steps, which is what a model extrapolates over."""
        if self.ratios is None:
            return None
        return support(self.ratios, np.arange(len(self.ratios)), self.user[self.episode])

    @cached_property
    def weights(self) -> DoubleArray:
        """(T,) the ratios.

        Raises:
            SupportError: There are none, or they multiply to more than `HEAVIEST`; the message says why.
        """
        if self.ratios is None:
            raise SupportError(self.no_ratios)
        if (heaviest := float(np.nanmax(cumulative_weights(self.ratios, self.episode)))) > HEAVIEST:
            raise SupportError(
                f"the greatest weight is {heaviest:.3g}, too great to be averaged; look for propensities that are far "
                "too small, or test a policy closer to the logging policy"
            )
        return self.ratios

    @property
    def model(self) -> Values:
        """The model's values.

        Raises:
            SupportError: There are none; the message says why.
        """
        if self.values is None:
            raise SupportError(self.no_values)
        return self.values

    def take(self, keep: BoolArray) -> Evidence:
        """The same of the episodes where `keep` (E,) is True, renumbered from 0."""
        rows = keep[self.episode]  # (T,)
        values = None if self.values is None else Values(*(part[rows] for part in self.values))
        return replace(
            self,
            reward=self.reward[rows],
            episode=(np.cumsum(keep) - 1)[self.episode[rows]],
            user=self.user[keep],
            ratios=None if self.ratios is None else self.ratios[rows],
            values=values,
        )


def gather(
    logged: Transitions,
    chosen: DoubleArray,
    *,
    policy: str,
    per: Per,
    discount: float = 1.0,
    values: Values | None = None,
    no_values: str = "no model of the reward was fitted",
    words: tuple[str, ...] = (),
) -> Evidence:
    """Evidence from a log with propensities and the target's chance of what was shown, (T,).

    Args:
        logged: the log; per step it is looked at as episodes of one step.
        chosen: (T,) pi(a_t | s_t).
        policy: name for tables.
        per: what is asked.
        discount: per step of a session.
        values: of a model along the log, if any.
        no_values: why not.
        words: for every estimate.

    Raises:
        ValueError: A reward is not finite, a propensity is not in (0, 1], lengths disagree.
    """
    view = single_steps(logged) if per == "step" else logged
    reward = view.reward.astype(np.float64)
    broken = np.flatnonzero(~np.isfinite(reward))
    if len(broken):
        raise ValueError(f"reward must be finite, got {reward[broken[0]]} at step {broken[0]}")
    if chosen.shape != reward.shape:
        raise ValueError(
            f"policy {policy!r} must have a probability for each of {len(reward)} steps, got {len(chosen)}"
        )
    try:
        ratios, why = step_ratios(chosen, view.propensity), ""
    except SupportError as reason:
        ratios, why = None, str(reason)
    return Evidence(
        policy=policy, per=per, reward=reward, episode=view.episode, user=view.user, discount=discount, ratios=ratios,
        no_ratios=why, values=values, no_values=no_values, words=words,
    )  # fmt: skip
