"""Ways to look at logged transitions: as single steps, some episodes only, as observations, in chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from recgym.types import BoolArray, IntArray, Observation, Transitions

_Scalar = TypeVar("_Scalar", bound=np.generic)


def single_steps(logged: Transitions) -> Transitions:
    """The same T steps as T episodes of one step, each of the user it came from: the contextual-bandit view."""
    return replace(
        logged,
        terminated=np.ones(logged.num_steps, dtype=np.bool_),
        truncated=np.zeros(logged.num_steps, dtype=np.bool_),
        episode=np.arange(logged.num_steps),
        user=logged.user[logged.episode],
        final_context=logged.context,
        final_state=logged.state,
    )


def observe(logged: Transitions, rows: slice | IntArray) -> Observation:
    """What the platform saw before the given steps, as the observation that a policy takes (leading dimension B)."""
    return Observation(
        context=torch.tensor(logged.context[rows]),
        state=_tensor(logged.state, rows),
        items=_tensor(logged.items, rows),
        feedback=_tensor(logged.history, rows),
        mask=_tensor(logged.mask, rows),
    )


def final_observation(logged: Transitions, episodes: IntArray) -> Observation:
    """What the platform saw after the last step of the given episodes (state and context; nothing is masked)."""
    state = None if logged.final_state is None else torch.tensor(logged.final_state[episodes])
    return Observation(context=torch.tensor(logged.final_context[episodes]), state=state)


def take_episodes(logged: Transitions, keep: BoolArray) -> Transitions:
    """The steps of the episodes where `keep` (E,) is True, renumbered from 0."""
    rows = keep[logged.episode]  # (T,)
    number = np.cumsum(keep) - 1  # (E,)
    return Transitions(
        context=logged.context[rows],
        state=_where(logged.state, rows),
        items=_where(logged.items, rows),
        history=_where(logged.history, rows),
        mask=_where(logged.mask, rows),
        action=logged.action[rows],
        feedback=logged.feedback[rows],
        reward=logged.reward[rows],
        terminated=logged.terminated[rows],
        truncated=logged.truncated[rows],
        propensity=logged.propensity[rows],
        episode=number[logged.episode[rows]],
        user=logged.user[keep],
        final_context=logged.final_context[keep],
        final_state=_where(logged.final_state, keep),
    )


def resampled(logged: Transitions, *, seed: int) -> IntArray:
    """The steps of as many users as there are, drawn with replacement, (T',): one drawn twice has each step twice."""
    who, index = np.unique(logged.user, return_inverse=True)  # (U,), (E,)
    drawn = np.random.default_rng(seed).integers(len(who), size=len(who))
    times = np.bincount(drawn, minlength=len(who))  # (U,)
    return np.repeat(np.arange(logged.num_steps), times[index[logged.episode]])


def user_parts(user: IntArray, parts: int, *, seed: int) -> IntArray:
    """Which of `parts` equal parts of the users each row is in, (n,): by who the users are, not by what they did.

    Raises:
        ValueError: There are fewer users than parts.
    """
    who, index = np.unique(user, return_inverse=True)  # (U,), (n,)
    if len(who) < parts:
        raise ValueError(f"cross-fitting needs at least {parts} users in each part of the log, got {len(who)}")
    part: IntArray = (np.random.default_rng(seed).permutation(len(who)) % parts)[index]
    return part


def chunks(count: int, size: int = 1024) -> list[slice]:
    """Slices that cover 0..count - 1 in order, of at most `size` rows."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def first_steps(episode: IntArray) -> IntArray:
    """Index of the first step of each episode, (T,) -> (E,).

    Raises:
        ValueError: Episode numbers are not 0, 1, 2, ... in order, or there is none.
    """
    if not len(episode):
        raise ValueError("the log has no step: nothing can be estimated")
    jump = np.diff(episode)
    if episode[0] != 0 or np.any((jump != 0) & (jump != 1)):
        raise ValueError("episodes must be numbered 0, 1, 2, ... in the order of the steps, without a gap")
    return np.flatnonzero(np.append(1, jump)).astype(np.int64)


def _tensor(array: npt.NDArray[_Scalar] | None, rows: slice | IntArray) -> torch.Tensor | None:
    return None if array is None else torch.tensor(array[rows])


def _where(array: npt.NDArray[_Scalar] | None, rows: BoolArray) -> npt.NDArray[_Scalar] | None:
    return None if array is None else array[rows]
