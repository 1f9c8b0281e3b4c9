"""Importance sampling: logged rewards, weighted by how much likelier the target policy makes what was shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from recgym.ope.diagnostics import Question, conclude, read_interval, support, withheld
from recgym.ope.views import first_steps, single_steps
from recgym.ope.weights import SupportError, cumulative_weights, step_ratios, target_probabilities
from recgym.types import DoubleArray, Estimate, IntArray, Policy, Transitions

Weighting = Literal["per-decision", "trajectory"]


def episode_sums(values: DoubleArray, episode: IntArray, discount: float) -> DoubleArray:
    """sum_t discount^t x_t of each episode, t its place in the episode: (T,), (T,) -> (E,) float64."""
    start = first_steps(episode)
    place = np.arange(len(episode)) - start[episode]
    return np.bincount(episode, weights=values * discount**place, minlength=len(start)).astype(np.float64)


def per_decision(ratios: DoubleArray, reward: DoubleArray, episode: IntArray, discount: float) -> DoubleArray:
    """sum_t discount^t (rho_0 ... rho_t) r_t of each episode, (E,); its mean is unbiased for the target's value.

    Source: Precup, Sutton and Singh (2000), "Eligibility traces for off-policy policy evaluation", section 3.
    """
    return episode_sums(cumulative_weights(ratios, episode) * reward, episode, discount)


def trajectory_wise(ratios: DoubleArray, reward: DoubleArray, episode: IntArray, discount: float) -> DoubleArray:
    """(rho_0 ... rho_H) sum_t discount^t r_t of each episode, (E,): unbiased, with more variance than per decision.

    Source: Horvitz and Thompson (1952); Precup, Sutton and Singh (2000), equation 3.
    """
    values: DoubleArray = last_weights(ratios, episode) * episode_sums(reward, episode, discount)
    return values


def last_weights(ratios: DoubleArray, episode: IntArray) -> DoubleArray:
    """rho_0 ... rho_H of each whole episode, (E,)."""
    last = np.append(first_steps(episode)[1:], len(episode)) - 1
    weights: DoubleArray = cumulative_weights(ratios, episode)[last]
    return weights


def weighted_per_decision_terms(
    ratios: DoubleArray, reward: DoubleArray, episode: IntArray, discount: float
) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators (E, H) whose column ratios add up to the weighted per-decision estimate.

    Column t holds discount^t w_t r_t and w_t. An episode that has ended keeps its last weight in later columns: it is
    in an absorbing state with reward 0 and one action, and leaving it out would count long sessions only.

    Source: Precup, Sutton and Singh (2000), section 3 (weighted per-decision); Thomas (2015), thesis, equation 3.25.
    """
    return held_terms(cumulative_weights(ratios, episode), reward, episode, discount)


def held_terms(
    weight: DoubleArray, reward: DoubleArray, episode: IntArray, discount: float
) -> tuple[DoubleArray, DoubleArray]:
    """discount^t w_t r_t and w_t in column t, (E, H) each, w (T,) any weights; an ended episode keeps its last one."""
    start = first_steps(episode)
    place = np.arange(len(episode)) - start[episode]  # (T,)
    above = np.zeros((len(start), int(place.max()) + 1))  # (E, H)
    above[episode, place] = discount**place * weight * reward
    length = np.diff(np.append(start, len(episode)))  # (E,)
    held = (
        np.minimum(np.arange(above.shape[1]), length[:, None] - 1) + start[:, None]
    )  # (E, H) step whose weight counts
    return above, weight[held]


@dataclass(frozen=True, kw_only=True)
class Ips:
    """Importance sampling (inverse propensity scoring): unbiased, and wild where support is thin."""

    question: Question = field(default_factory=Question)
    """What is asked of the log."""
    weighting: Weighting = "per-decision"
    """"per-decision": each reward by the weight so far. "trajectory": by the weight of the whole episode."""

    def __post_init__(self) -> None:
        """Refuse an unknown weighting."""
        _check(self.weighting)

    def estimate(self, logged: Transitions, policy: Policy) -> Estimate:
        """Estimate the policy's value from logged propensities; the verdict is in the estimate.

        Raises:
            ValueError: The log or the policy's probabilities are malformed.
        """
        asked = self.question
        view = single_steps(logged) if asked.per == "step" else logged
        try:
            ratios = step_ratios(target_probabilities(policy, view), view.propensity)
        except SupportError as reason:
            return withheld("IPS", str(reason), asked, sample_size=view.num_episodes)
        returns = per_decision if self.weighting == "per-decision" else trajectory_wise
        values = returns(ratios, view.reward.astype(np.float64), view.episode, asked.discount)
        interval = read_interval(asked, values, np.ones(len(values)), view.user)
        found = support(ratios, view.episode, view.user)
        return conclude("IPS", interval, asked, found, user=view.user, warnings=cut_warning(view))


@dataclass(frozen=True, kw_only=True)
class Snips:
    """Self-normalised importance sampling: slightly biased, bounded by the rewards seen, far less wild than IPS.

    Source: Swaminathan and Joachims (2015), "The self-normalized estimator for counterfactual learning".
    """

    question: Question = field(default_factory=Question)
    """What is asked of the log."""
    weighting: Weighting = "per-decision"
    """"per-decision": normalised at each step of the session. "trajectory": by the weights of whole episodes."""

    def __post_init__(self) -> None:
        """Refuse an unknown weighting."""
        _check(self.weighting)

    def estimate(self, logged: Transitions, policy: Policy) -> Estimate:
        """Estimate the policy's value from logged propensities; the verdict is in the estimate.

        Raises:
            ValueError: The log or the policy's probabilities are malformed.
        """
        asked = self.question
        view = single_steps(logged) if asked.per == "step" else logged
        try:
            ratios = step_ratios(target_probabilities(policy, view), view.propensity)
        except SupportError as reason:
            return withheld("SNIPS", str(reason), asked, sample_size=view.num_episodes)
        reward = view.reward.astype(np.float64)
        if self.weighting == "per-decision":
            above, below = weighted_per_decision_terms(ratios, reward, view.episode, asked.discount)
        else:
            above = trajectory_wise(ratios, reward, view.episode, asked.discount)
            below = last_weights(ratios, view.episode)
        interval = read_interval(asked, above, below, view.user)
        found = support(ratios, view.episode, view.user)
        return conclude("SNIPS", interval, asked, found, user=view.user, warnings=cut_warning(view))


def cut_warning(view: Transitions) -> tuple[str, ...]:
    """Words where episodes were cut while the user was still there: what came after is not in the value."""
    cut = int((view.truncated & ~view.terminated).sum())
    if not cut:
        return ()
    return (
        f"{cut} of {view.num_episodes} sessions were cut while the user was still there; "
        "what they would have earned later is not counted",
    )


def _check(weighting: str) -> None:
    if weighting not in ("per-decision", "trajectory"):
        raise ValueError(f'weighting must be "per-decision" or "trajectory", got {weighting!r}')
