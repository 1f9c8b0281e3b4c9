"""Policies that see what no platform can: the ceiling, and the marks on the way to it, of known worlds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.choice import greedy_probabilities, top_items
from recgym.env.session import SessionConfig, Sessions, SessionState
from recgym.types import Observation, Reads
from recgym.users.model import UserModel


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Shows what a scorer of the world's whole state scores highest, behind `SeeingSessions`."""

    num_items: int
    slate_size: int = 1
    name: ClassVar[str] = "oracle"
    reads: ClassVar[Reads] = "state"

    def scores(self, observation: Observation) -> Tensor:
        """The world's scores, which `SeeingSessions` gives as the state, (B, N)."""
        assert observation.state is not None
        return observation.state

    def probabilities(self, observation: Observation) -> Tensor:
        """One-hot, (B, N)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002
        """The best allowed items, (B, K)."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)


class SeeingSessions(Sessions[Any]):
    """Sessions whose observation is a scorer's view of the hidden state."""

    def __init__(self, users: UserModel[Any], config: SessionConfig, scorer: Callable[[Any], Tensor]) -> None:
        """`scorer` maps the users' state to scores of every item, (B, N)."""
        super().__init__(users, config)
        self.scorer = scorer

    def observe(self, state: SessionState, reads: Reads = "state") -> Observation:
        """Scores as the state, (B, N)."""
        seen = super().observe(state, reads)
        return seen._replace(state=self.scorer(state.users).to(torch.float32))
