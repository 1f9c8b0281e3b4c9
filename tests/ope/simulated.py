"""The small world of `worlds` as users in sessions, right or wrong: a model whose every value is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recgym.env.session import SessionConfig, Sessions, SessionState
from recgym.ope.views import first_steps
from recgym.random import uniform, uniform_at
from recgym.types import DoubleArray, FeedbackKind, IntArray, Observation, Response, Transitions, Visible
from tests.ope.worlds import END, MOVE, REWARD, START, Tabular


class Place(NamedTuple):
    keys: Tensor
    depth: Tensor
    place: Tensor  # (B,) which of the two states


@dataclass(frozen=True)
class TabularUsers:
    """Click by chance, leave by chance, move by chance."""

    reward: DoubleArray
    move: DoubleArray
    end: float = END
    num_items: ClassVar[int] = 3
    kinds: ClassVar[tuple[FeedbackKind, ...]] = (FeedbackKind(name="click"),)

    def reset(self, keys: Tensor) -> Place:
        first = uniform_at(keys, torch.zeros_like(keys), 1)[:, 0] >= START[0]
        return Place(keys, torch.ones_like(keys), first.long())

    def step(self, state: Place, slates: Tensor) -> tuple[Place, Response]:
        draws = uniform_at(state.keys, state.depth, 3)
        where = (state.place, slates[:, 0] - 1)
        click = draws[:, 0] < torch.from_numpy(self.reward)[where]
        place = (draws[:, 1] >= torch.from_numpy(self.move)[where]).long()
        stays = torch.full((len(place),), torch.nan)
        return (
            Place(state.keys, state.depth + 1, place),
            Response(click.float()[:, None, None], draws[:, 2] < self.end, stays),
        )

    def visible(self, state: Place) -> Visible:
        return Visible(torch.eye(2)[state.place])

    def history(self, state: Place) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def truth(self, state: Place) -> dict[str, Tensor]:
        return {}


RIGHT: Sessions[Place] = Sessions(TabularUsers(REWARD, MOVE), SessionConfig(max_steps=200))
WRONG: Sessions[Place] = Sessions(TabularUsers(1 - REWARD, np.full((2, 3), 0.9), 0.5), SessionConfig(max_steps=200))
"""Likes what the truth dislikes, moves to state 0 whatever happens, and leaves early."""


_FIVE = SessionConfig(max_steps=5)
_PAYS = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
_MOVES = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
CALM: Sessions[Place] = Sessions(TabularUsers(_PAYS, _MOVES, 0.0), _FIVE)
"""Five steps in which nothing is random but where they begin and what is shown."""
CONTRARY: Sessions[Place] = Sessions(TabularUsers(1 - _PAYS, 1 - _MOVES, 0.3), _FIVE)
"""The opposite in all."""


@dataclass(frozen=True)
class Drawn(Tabular):
    """A table that acts as it says."""

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        below = self.probabilities(observation).cumsum(1)[:, :-1]
        return (uniform(keys, 1) >= below).sum(1, keepdim=True) + 1


def calm_value(policy: Tabular) -> float:
    """Value of a session of CALM, by dynamic programming."""
    table, after = np.array(policy.table), np.zeros(2)
    for _ in range(5):
        after = (table * (_PAYS + _MOVES * after[0] + (1 - _MOVES) * after[1])).sum(1)
    return float(START @ after)


def resume(sessions: Sessions[Any], logged: Transitions, rows: IntArray, keys: Tensor) -> SessionState:
    assert logged.state is not None
    place = torch.from_numpy(logged.state[rows].argmax(1))
    steps = torch.from_numpy(rows - first_steps(logged.episode)[logged.episode[rows]])
    return SessionState(Place(keys, torch.ones_like(keys), place), steps, None, None)
