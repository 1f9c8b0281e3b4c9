"""The world that made the log, where it is known: what policies earn there, and what one earns that sees everything."""

from __future__ import annotations

from functools import partial
from typing import Any

from experiments.seeing import Oracle, SeeingSessions
from recgym.env.session import SessionConfig, Sessions
from recgym.logs.sequences import Sequences
from recgym.rollout import collect
from recgym.users.learned import LearnedUsers
from simulators.storefront import Storefront

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


def best_oracle(sessions: Sessions[Any], *, seed: int, num_sessions: int = 512) -> tuple[Sessions[Any], Oracle]:
    """The oracle whose foresight earns most over sessions of its own (other keys than those of the evaluation)."""
    world = sessions.users
    assert isinstance(world, Storefront)
    policy = Oracle(num_items=world.num_items)
    earned = []
    for foresight in FORESIGHTS:
        seeing = SeeingSessions(world, sessions.config, partial(world.oracle, foresight=foresight))
        found = collect(seeing, policy, num_sessions=num_sessions, seed=seed + 1)
        earned.append((float(found.reward.sum()), foresight))
    best = max(earned)[1]
    return SeeingSessions(world, sessions.config, partial(world.oracle, foresight=best)), policy
