"""Importance sampling: logged rewards, weighted by how much likelier the target policy makes what was shown."""

from __future__ import annotations

from typing import Literal

import numpy as np

from recgym.ope.views import first_steps
from recgym.ope.weights import cumulative_weights
from recgym.types import DoubleArray, IntArray, Transitions

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


def cut_warning(view: Transitions) -> tuple[str, ...]:
    """Words where episodes were cut while the user was still there: what came after is not in the value."""
    cut = int((view.truncated & ~view.terminated).sum())
    if not cut:
        return ()
    return (
        f"{cut} of {view.num_episodes} sessions were cut while the user was still there; "
        "what they would have earned later is not counted",
    )
