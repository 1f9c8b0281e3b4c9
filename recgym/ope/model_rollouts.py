"""Values by rollouts of a policy in simulated users: from given states, and along a log."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgym.env.session import Sessions, SessionState
from recgym.ope.fqe import Values
from recgym.ope.resuming import Resume
from recgym.ope.views import first_steps, observe
from recgym.ope.weights import action_distribution
from recgym.policy import recalled
from recgym.random import fold, session_keys, uniform
from recgym.trees import take
from recgym.types import DoubleArray, IntArray, Observation, Policy, Transitions

_CHOICE = 0x0C401CE
"""Stream of the policy's own draws, apart from the users'."""
_AT_ONCE = 4096
"""Sessions rolled out side by side."""


@torch.no_grad()
def rollout_returns(
    sessions: Sessions[Any],
    policy: Policy,
    state: SessionState,
    keys: Tensor,
    *,
    discount: float,
    horizon: int | None = None,
    first: Tensor | None = None,
) -> DoubleArray:
    """sum_t discount^t r_t of B simulated sessions from `state` on, t from 0 there, (B,) float64.

    One item a step is drawn from `policy.probabilities`, which is what importance weights speak of; slates by `act`.

    Args:
        sessions: whose state it is.
        policy: that serves them.
        state: of B sessions; it is used up.
        keys: (B,) luck of the policy's own draws.
        discount: per step.
        horizon: steps after which nothing more is counted; None: to the end of the session.
        first: (B, K) slates shown at the first step instead of the policy's.
    """
    total = np.zeros(len(keys))
    row, step, memory = torch.arange(len(keys), device=sessions.device), 0, None
    while len(row) and step < (horizon or math.inf):
        observation = recalled(policy, sessions.observe(state, policy.reads), memory)
        memory = observation.memory
        slates = first if first is not None and step == 0 else _choose(sessions, policy, observation, keys[row], step)
        state, outcome = sessions.step(state, slates)
        total[row.cpu().numpy()] += discount**step * outcome.reward.double().cpu().numpy()
        stay = (~(outcome.terminated | outcome.truncated)).nonzero()[:, 0]
        row, state, memory = row[stay], take(state, stay), take(memory, stay)
        step += 1
    return total


def fresh_values(
    sessions: Sessions[Any], policy: Policy, *, count: int, discount: float, seed: int
) -> tuple[DoubleArray, IntArray]:
    """Returns of `count` sessions that begin as `Sessions.reset` has them, and whose they are, (count,) each.

    The user is the logged one where the users know it, else the session's number.
    """
    values, user = np.empty(count), np.arange(count)
    for begin in range(0, count, _AT_ONCE):
        here = slice(begin, min(begin + _AT_ONCE, count))
        keys = session_keys(seed, here.stop - begin, first=begin, device=sessions.device)
        state = sessions.reset(keys)
        if hasattr(state.users, "user"):
            user[here] = state.users.user.cpu().numpy()
        values[here] = rollout_returns(sessions, policy, state, keys, discount=discount)
    return values, user


def start_values(
    sessions: Sessions[Any],
    resume: Resume,
    logged: Transitions,
    rows: IntArray,
    policy: Policy,
    *,
    discount: float,
    rollouts: int,
    seed: int,
    horizon: int | None = None,
) -> DoubleArray:
    """V(s_t) of the given steps (R,), the mean of `rollouts` sessions from each, (R,); see `rollout_values`."""

    def value(state: SessionState, _: IntArray, keys: Tensor) -> DoubleArray:
        return rollout_returns(sessions, policy, state, keys, discount=discount, horizon=horizon)[None]

    found: DoubleArray = _along(sessions, resume, logged, rows, value, rollouts, seed)[0]
    return found


def rollout_values(
    sessions: Sessions[Any],
    resume: Resume,
    logged: Transitions,
    policy: Policy,
    *,
    discount: float,
    rollouts: int,
    seed: int,
    horizon: int | None = None,
) -> Values:
    """Q(s_t, a_t) and V(s_t) at each step of a log, each the mean of `rollouts` sessions that begin there.

    Q begins with the logged item, V with one that the policy draws for what the log says was seen (as the importance
    weights have it), both under the same luck. So E[V | s] is sum_j pi(j | s) E[Q(s, j)], whatever the simulator, the
    number of rollouts and the horizon are: what their noise and their error add to a doubly robust estimate has mean 0.
    A session that ended or was cut has V 0 after it.

    Args:
        sessions: not learned from the users of this log.
        resume: puts sessions where logged steps stand.
        logged: with what `resume` and the policy read.
        policy: the target.
        discount: per step.
        rollouts: sessions for each number.
        seed: of the luck of users and policy: common to all policies.
        horizon: steps that are counted; None: to the end of each session.
    """
    shown = torch.from_numpy(logged.action)

    def both(state: SessionState, rows: IntArray, keys: Tensor) -> DoubleArray:
        here = slice(int(rows[0]), int(rows[-1]) + 1)
        chance = action_distribution(policy, observe(logged, here)).repeat_interleave(rollouts, 0)  # (R M, N)
        firsts = shown[rows].to(sessions.device), _drawn(chance, keys, 0).to(sessions.device)
        again = take(state, torch.arange(len(rows), device=sessions.device))  # copies: a state may change in place
        return np.stack(
            [
                rollout_returns(sessions, policy, each, keys, discount=discount, horizon=horizon, first=first)
                for each, first in zip((again, state), firsts, strict=True)
            ]
        )

    q, v = _along(sessions, resume, logged, np.arange(logged.num_steps), both, rollouts, seed)
    return Values(q=q, v=v, v_next=following(v, logged.episode))


def following(v: DoubleArray, episode: IntArray) -> DoubleArray:
    """V of the next step of the same episode, 0 after its last one: (T,), (T,) -> (T,)."""
    first_steps(episode)
    inner = np.append(np.diff(episode) == 0, False)
    after: DoubleArray = np.append(v[1:], 0.0) * inner
    return after


def _along(
    sessions: Sessions[Any],
    resume: Resume,
    logged: Transitions,
    rows: IntArray,
    value: Callable[[SessionState, IntArray, Tensor], DoubleArray],
    rollouts: int,
    seed: int,
) -> DoubleArray:
    """Means over rollouts of `value(state, rows, keys)` (X, R M) for the steps `rows` (R,), (X, R)."""
    parts = []
    size = max(1, _AT_ONCE // rollouts)
    for begin in range(0, len(rows), size):
        each = rows[begin : begin + size].repeat(rollouts)
        keys = session_keys(seed, len(each), first=begin * rollouts, device=sessions.device)
        found = value(resume(sessions, logged, each, keys), each, keys)
        parts.append(found.reshape(len(found), -1, rollouts).mean(axis=2))
    whole: DoubleArray = np.concatenate(parts, axis=1)
    return whole


def _choose(sessions: Sessions[Any], policy: Policy, observation: Observation, keys: Tensor, step: int) -> Tensor:
    """The policy's slates, (B, K)."""
    if sessions.config.slate_size > 1:
        return policy.act(observation, fold(fold(keys, step), _CHOICE))
    return _drawn(action_distribution(policy, observation), keys, step).to(sessions.device)


def _drawn(chance: Tensor, keys: Tensor, step: int) -> Tensor:
    """One item id a row, (B, 1), from probabilities (B, N) and the luck of `keys` (B,) at a step."""
    below = chance.double().cumsum(1)
    point = uniform(fold(fold(keys, step), _CHOICE), 1).cpu().double() * below[:, -1:]
    return torch.searchsorted(below, point, right=True) + 1
