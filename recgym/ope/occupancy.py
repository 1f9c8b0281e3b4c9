"""Marginal importance weights: how much likelier the target policy makes a state, not the whole way that led there.

The weight rho_0 ... rho_t of a way varies more with every step, exponentially. Ways that meet in one state at one step
share a weight here, w_t(s) = d_pi_t(s) / d_mu_t(s). That is right where the rest of the session depends on the state
alone (Markov); a state that forgets something gives a bias that no amount of data removes.
"""

from __future__ import annotations

import numpy as np

from recgym.ope.fqe import Values
from recgym.ope.importance import episode_sums, held_terms
from recgym.ope.rows import check_discount, check_rows, check_weight_left, check_weights, refuse
from recgym.ope.views import first_steps
from recgym.ope.weights import SupportError
from recgym.types import BoolArray, DoubleArray, IntArray


def state_ratios(
    ratios: DoubleArray, state: IntArray, episode: IntArray, *, counted: BoolArray | None = None
) -> DoubleArray:
    """w_t(s_t) = d_pi_t(s_t) / d_mu_t(s_t) of each step, before its choice, (T,).

    w_0 = 1, and w_t(s) is the mean of w_t-1(s_t-1) rho_t-1 over the episodes that are in s at step t. The weight of
    a state and its choice is w_t(s_t) rho_t, `state_ratios(...) * ratios`.

    Args:
        ratios: (T,) pi / mu of each step.
        state: (T,) number of the state at each step, from 0; numbers may have gaps.
        episode: (T,) episode of each step.
        counted: (E,) the episodes that the means are taken over, all of them if None. For cross-fitting.

    Raises:
        SupportError: An episode is in a state where at that step no counted episode was.
        ValueError: An array has another length, a ratio is negative or not finite, or a state is negative.

    Source: Xie, Ma and Wang (2019), "Towards optimal off-policy evaluation for reinforcement learning with
        marginalized importance sampling", the recursion of d_pi_t over observed transitions.
    """
    check_weights(ratios, name="ratios", episode=episode, state=state)
    _check_ids(state=state)
    count = _counts(episode, counted)
    marginal = np.ones(len(episode))
    for place, here in enumerate(_places(episode)):
        if place:
            flow = marginal[here - 1] * ratios[here - 1]
            marginal[here] = _cell_means(flow, count[here], state[here], place)
    return marginal


def state_action_ratios(target: DoubleArray, state: IntArray, action: IntArray, episode: IntArray) -> DoubleArray:
    """w_t(s_t, a_t) = w_t(s_t) pi(a_t | s_t) / mu_t(a_t | s_t), (T,), the logging policy mu_t being counted.

    mu_t(a | s) = n_t(s, a) / n_t(s), and w_t(s) is the mean of w_t-1(s_t-1, a_t-1) over the episodes in s at step t. No
    propensity is needed, and counting takes the luck of the logger's draws out. What the target policy would do where
    nobody did so is lost: then the weights of a step have a mean below 1 (`weighted_marginal_terms` divides by it).

    Args:
        target: (T,) pi(a_t | s_t), the target's probability of what was shown.
        state: (T,) number of the state at each step, from 0; numbers may have gaps.
        action: (T,) item shown, any number from 0.
        episode: (T,) episode of each step.

    Raises:
        ValueError: An array has another length, a probability lies outside [0, 1], or a number is negative.

    Source: Yin and Wang (2020), "Asymptotically efficient off-policy evaluation for tabular reinforcement learning".
    """
    check_rows(target=target, episode=episode, state=state, action=action)
    refuse("target", target, (target < 0) | (target > 1), "a probability in [0, 1]")
    _check_ids(state=state, action=action)
    marginal = np.ones(len(episode))
    for place, here in enumerate(_places(episode)):
        flow = marginal[here - 1] if place else np.ones(len(here))
        cell = np.unique(state[here], return_inverse=True)[1]
        choice = np.unique(action[here], return_inverse=True)[1]
        pair = np.unique(cell * (choice.max() + 1) + choice, return_inverse=True)[1]
        arrived = np.bincount(cell, weights=flow)  # n_t(s) w_t(s) of each state
        marginal[here] = arrived[cell] * target[here] / np.bincount(pair)[pair]
    return marginal


def marginal_terms(weights: DoubleArray, reward: DoubleArray, episode: IntArray, discount: float) -> DoubleArray:
    """sum_t discount^t w_t(s_t, a_t) r_t of each episode, (E,), whose mean is the estimate.

    With weights `state_ratios(...) * ratios` the mean is unbiased, though the weights come from the same log; but the
    mean weight of a step wanders from 1 as steps go by, and on long horizons `weighted_marginal_terms`, which divides
    by it, errs far less. With `state_action_ratios` it is the target's value in the counted model of the log.

    Episodes share the weights: for an interval resample users and estimate again. `double_reinforcement` has one from
    its terms.

    Raises:
        ValueError: An array has another length, or a number that is not finite.
    """
    check_discount(discount)
    check_weights(weights, episode=episode, reward=reward)
    return episode_sums(weights * reward, episode, discount)


def weighted_marginal_terms(
    weights: DoubleArray, reward: DoubleArray, episode: IntArray, discount: float
) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators (E, H) whose column ratios add up to the self-normalised marginal estimate.

    Column t holds discount^t w_t r_t and w_t; an episode that has ended keeps its last weight, as in
    `weighted_per_decision_terms`.

    Raises:
        SupportError: At some step no episode has weight left.
        ValueError: An array has another length, a number that is not finite, or a negative weight.
    """
    check_discount(discount)
    check_weights(weights, episode=episode, reward=reward)
    above, below = held_terms(weights, reward, episode, discount)
    check_weight_left(below)
    return above, below


def double_reinforcement(
    weights: DoubleArray, reward: DoubleArray, values: Values, episode: IntArray, discount: float
) -> DoubleArray:
    """V(s_0) + sum_t discount^t w_t(s_t, a_t) (r_t + discount V(s_t+1) - Q(s_t, a_t)) of each episode, (E,).

    This is sum_t discount^t (w_t (r_t - Q_t) + w_t-1 V_t) with w_-1 = 1, the efficient influence function in a Markov
    process. Its mean is right if either the weights or Q are. With both from other episodes (cross-fitting), and both
    near the truth, no regular estimator has less variance and the spread of the terms is that of the estimate.

    Args:
        weights: (T,) marginal weights of states with their choices, as `state_ratios(..., counted=...) * ratios`.
        reward: (T,) rewards.
        values: Q along the log.
        episode: (T,) episode of each step.
        discount: Discount per step.

    Raises:
        ValueError: An array has another length, a number that is not finite, or a negative weight.

    Source: Kallus and Uehara (2020), "Double reinforcement learning for efficient off-policy evaluation in Markov
        decision processes" (the Markov model; Jiang and Li's doubly robust sum with marginal weights).
    """
    check_discount(discount)
    check_weights(weights, episode=episode, reward=reward, **values._asdict())
    error = reward + discount * values.v_next - values.q  # (T,)
    return values.v[first_steps(episode)] + episode_sums(weights * error, episode, discount)


def _places(episode: IntArray) -> list[IntArray]:
    """Rows of the first step of every episode, of the second where there is one, and so on."""
    start = first_steps(episode)  # (E,)
    length = np.diff(np.append(start, len(episode)))  # (E,)
    return [start[length > place] + place for place in range(int(length.max()))]


def _cell_means(flow: DoubleArray, count: DoubleArray, state: IntArray, place: int) -> DoubleArray:
    """Mean of `flow` over the counted rows in the same state, read at every row."""
    who, cell = np.unique(state, return_inverse=True)
    number = np.bincount(cell, weights=count)
    unmet = np.flatnonzero(number == 0)
    if len(unmet):
        raise SupportError(
            f"at step {place} no counted episode is in state {who[unmet[0]]}, so its weight is unknown; "
            "make states coarser, or count more episodes"
        )
    means: DoubleArray = (np.bincount(cell, weights=flow * count) / number)[cell]
    return means


def _counts(episode: IntArray, counted: BoolArray | None) -> DoubleArray:
    """1 at the steps of counted episodes, 0 elsewhere, (T,)."""
    num_episodes = len(first_steps(episode))
    if counted is None:
        return np.ones(len(episode))
    if counted.shape != (num_episodes,) or counted.dtype != np.bool_:
        raise ValueError(f"counted must be ({num_episodes},) booleans, got {counted.shape} of {counted.dtype}")
    return counted[episode].astype(np.float64)


def _check_ids(**columns: IntArray) -> None:
    for name, column in columns.items():
        if not np.issubdtype(column.dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {column.dtype}")
        refuse(name, column, column < 0, "a number from 0")
