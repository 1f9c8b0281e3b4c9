"""What lives of several sessions come to: value, sessions, retention. Pure functions of transitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recgym.types import BoolArray, DoubleArray, IntArray, Transitions


@dataclass(frozen=True, eq=False)
class LifeOutcomes:
    """What each of E lives brought."""

    value: DoubleArray
    """(E,) reward of the whole life: the lifetime value over the horizon."""
    sessions: IntArray
    """(E,) sessions."""
    churned: BoolArray
    """(E,) whether the user left for good before the horizon."""
    first_return: DoubleArray
    """(E,) days between the first and the second session; inf where there is none within the horizon."""
    starts: DoubleArray
    """(V,) days since the life began at which each session began, life after life."""
    life: IntArray
    """(V,) whose it is."""

    def retained(self, day: int) -> BoolArray:
        """Day-n retention: whether each user began a session in the 24 hours that start n days after the first, (E,).

        Source: the classic (bounded) definition of mobile analytics; day 1 is the day after the first.
        """
        active = np.zeros(len(self.value), np.bool_)
        active[self.life[np.floor(self.starts) == day]] = True
        return active

    def returned_within(self, days: float) -> BoolArray:
        """Whether each user came back within `days` of the first session's start, (E,)."""
        back: BoolArray = self.first_return <= days
        return back


def life_outcomes(lives: Transitions) -> LifeOutcomes:
    """Sum up lives collected from `recgym.env.lifetime.Lifetimes`.

    Raises:
        ValueError: the transitions are of single sessions.
    """
    if lives.visit is None or lives.day is None:
        raise ValueError("these transitions are of single sessions: collect them from Lifetimes")
    count = lives.num_episodes
    begins = np.flatnonzero((np.diff(lives.visit, prepend=-1) != 0) | (np.diff(lives.episode, prepend=-1) != 0))  # (V,)
    life, starts = lives.episode[begins], lives.day[begins].astype(np.float64)
    second = np.flatnonzero(lives.visit[begins] == 1)
    first_return = np.full(count, np.inf)
    first_return[life[second]] = starts[second]
    return LifeOutcomes(
        value=lives.returns,
        sessions=np.bincount(life, minlength=count).astype(np.int64),
        churned=np.bincount(lives.episode, lives.terminated, minlength=count) > 0,
        first_return=first_return,
        starts=starts,
        life=life.astype(np.int64),
    )
