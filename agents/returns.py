"""Returns and advantages of rollouts: pure functions over T steps of B sessions side by side.

All take the same arrays, each (T, B) float32 or bool:

    reward       r_t
    next_values  V(o') of the observation o' that followed step t: where the record was cut, the session's last one and
                 not the first of the next; any number where the user left
    terminated   the user left after step t: nothing follows
    truncated    the record was cut after step t: what follows is worth next_values

and `discount`, gamma. After the last row of a rollout, too, what follows is worth next_values. `following` makes them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def following(values: Tensor, truncated: Tensor, last: Tensor) -> Tensor:
    """V(o') of what followed each step, (T, B), from values that were computed once an observation.

    Args:
        values: (T + 1, B) of the observations in time order, with those after the last step.
        truncated: (T, B).
        last: (C,) of the last observations of sessions that were cut, in the order of `truncated.nonzero()`.
    """
    found = values[1:].clone()
    found[truncated] = last
    return found


def lambda_returns(
    reward: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, *, discount: float, decay: float
) -> Tensor:
    """G_t = r_t + gamma ((1 - lambda) V(o') + lambda G_{t+1}), (T, B); `decay` is lambda.

    Source: Sutton and Barto (2018), "Reinforcement learning", equation 12.2 in its recursive form.
    """
    after = next_values * ~terminated
    found, ahead = torch.empty_like(reward), after[-1]
    for step in range(len(reward) - 1, -1, -1):
        ahead = torch.where(terminated[step] | truncated[step], after[step], ahead)
        ahead = reward[step] + discount * ((1 - decay) * after[step] + decay * ahead)
        found[step] = ahead
    return found


def returns_to_go(
    reward: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, *, discount: float
) -> Tensor:
    """G_t = r_t + gamma r_{t+1} + ... to the session's end, or to V where the record ends, (T, B)."""
    return lambda_returns(reward, next_values, terminated, truncated, discount=discount, decay=1.0)


def n_step_returns(
    reward: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, *, discount: float, steps: int
) -> Tensor:
    """G_t = r_t + ... + gamma^(n-1) r_{t+n-1} + gamma^n V, fewer steps where the session or record ends, (T, B).

    Source: Sutton and Barto (2018), equation 7.1.
    """
    after = next_values * ~terminated
    over = terminated | truncated
    over[-1:] = True
    found = reward + discount * after
    for _ in range(steps - 1):
        ahead = torch.where(over, after, torch.cat([found[1:], after[-1:]]))
        found = reward + discount * ahead
    return found


def generalised_advantages(
    reward: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    discount: float,
    decay: float,
) -> Tensor:
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V(o') - V(o_t), (T, B).

    Args:
        reward: (T, B).
        values: (T, B) of the observations before each step.
        next_values: (T, B).
        terminated: (T, B).
        truncated: (T, B).
        discount: gamma.
        decay: lambda.

    Source: Schulman et al. (2016), "High-dimensional continuous control using generalized advantage estimation",
    equation 16.
    """
    error = reward + discount * next_values * ~terminated - values
    going = discount * decay * ~(terminated | truncated)
    found, ahead = torch.empty_like(reward), torch.zeros_like(reward[0])
    for step in range(len(reward) - 1, -1, -1):
        ahead = error[step] + going[step] * ahead
        found[step] = ahead
    return found
