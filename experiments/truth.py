"""The world that made the log, where it is known: what policies earn there, and what one earns that sees everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.choice import greedy_probabilities, top_items
from recgym.env.session import SessionConfig, Sessions, SessionState
from recgym.logs.sequences import Sequences
from recgym.rollout import collect
from recgym.types import Observation, Reads
from recgym.users.learned import LearnedUsers
from simulators.storefront import Storefront, StorefrontState

SAMPLE = "storefront sample"
"""Name of the log whose world is known."""
FORESIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Clicks that one unit of satisfaction is taken to be worth, of which the oracle keeps the best."""


def true_sessions(sequences: Sequences, users: LearnedUsers, config: SessionConfig) -> Sessions[Any] | None:
    """The world that made the log, at the same starts, behind the same platform; None where it is not known.

    Under the same session keys, the learned users and the world start from the same logged users and histories.
    """
    if sequences.name != SAMPLE:
        return None
    world = Storefront(starts=users.starts)
    if (world.num_items, world.config.num_users, world.kinds) != (
        sequences.num_items,
        sequences.num_users,
        sequences.kinds,
    ):
        return None  # a filtered log has lost the world's numbering
    return Sessions(world, config, encoder=users.backbone)


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Shows what the world itself scores highest: P(click) against what the item does to the rest of the session."""

    num_items: int
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
        """The best allowed item, (B, 1)."""
        return top_items(self.scores(observation), observation.mask, 1)


class SeeingSessions(Sessions[StorefrontState]):
    """Sessions whose observation is what no platform can see: the world's own score of every item."""

    def __init__(self, world: Storefront, config: SessionConfig, *, foresight: float, restraint: float) -> None:
        """See `Storefront.oracle` for what foresight and restraint weigh."""
        super().__init__(world, config)
        self.world, self.foresight, self.restraint = world, foresight, restraint

    def observe(self, state: SessionState, reads: Reads = "state") -> Observation:
        """Scores as the state, (B, N)."""
        seen = super().observe(state, reads)
        scores = self.world.oracle(state.users, foresight=self.foresight, restraint=self.restraint)
        return seen._replace(state=scores.to(torch.float32))


def best_oracle(sessions: Sessions[Any], *, seed: int, num_sessions: int = 512) -> tuple[Sessions[Any], Oracle]:
    """The oracle whose foresight earns most over sessions of its own (other keys than those of the evaluation)."""
    world = sessions.users
    assert isinstance(world, Storefront)
    policy = Oracle(num_items=world.num_items)
    earned = []
    for foresight in FORESIGHTS:
        seeing = SeeingSessions(world, sessions.config, foresight=foresight, restraint=0.02)
        found = collect(seeing, policy, num_sessions=num_sessions, seed=seed + 1)
        earned.append((float(found.reward.sum()), foresight))
    best = max(earned)[1]
    return SeeingSessions(world, sessions.config, foresight=best, restraint=0.02), policy
