"""Visits of users to a known world under any policy, and earlier visits of the same users.

A user is a key, and keys are hashes: which users meet which policy is chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

import agents
from agents.baselines import Random
from experiments.seeing import Oracle, SeeingSessions
from recgym.env.session import SessionConfig, Sessions
from recgym.policy import DESCRIPTION_FILE, load_policy
from recgym.random import fold, session_keys
from recgym.rollout import collect
from recgym.types import DoubleArray, Policy
from simulators.registry import Scorer

_BEFORE = 0xBEF0
"""Stream of the luck of earlier visits."""


class Player(NamedTuple):
    """A policy, and what it sees of the world beyond what a platform does."""

    policy: Policy
    scorer: Scorer | None = None


@dataclass(frozen=True)
class Place:
    """A world and how a platform meets it."""

    users: Any
    config: SessionConfig

    def player(self, name: str) -> Player:
        """The policy that a name means here.

        Raises:
            ValueError: It means none; or the folder's policy does not fit (PolicyError).
        """
        size, slots = self.users.num_items, self.config.slate_size
        marks = self.users.bands()
        if name == "random":
            return Player(Random(num_items=size, slate_size=slots))
        if name in marks:
            return Player(Oracle(num_items=size, slate_size=slots), marks[name])
        if (Path(name) / DESCRIPTION_FILE).is_file():
            return Player(load_policy(name, sizes=Sessions(self.users, self.config).sizes))
        known = f"a folder with {DESCRIPTION_FILE}, 'random', or a mark of this world: {', '.join(map(repr, marks))}"
        if name in agents.BASELINES:
            raise ValueError(f"policy {name!r} is counted from a log, and a known world has none; expected {known}")
        raise ValueError(f"no policy is called {name!r}; expected {known}")

    def rewards(self, player: Player, count: int, seed: int) -> DoubleArray:
        """Reward of a session of each of `count` users under `seed`, (U,)."""
        sessions: Sessions[Any] = Sessions(self.users, self.config)
        if player.scorer is not None:
            sessions = SeeingSessions(self.users, self.config, player.scorer)
        return collect(sessions, player.policy, num_sessions=count, seed=seed, batch_size=count).returns

    def rewards_before(self, player: Player, count: int, seed: int) -> DoubleArray:
        """The same users in another session, with luck of its own, (U,)."""
        earlier = Place(Returning(self.users, session_keys(seed, count)), self.config)
        return earlier.rewards(player, count, int(fold(session_keys(seed, 1), _BEFORE)))


class Returning:
    """Users with these keys, whatever keys a session starts with: those are their luck from its first step on.

    What a world draws when a session starts (tastes, patience, the first candidates) belongs to the user. Nothing is
    carried from one session to the other.
    """

    def __init__(self, users: Any, who: Tensor) -> None:
        """`who` (U,) in the order in which they will come, all in one batch."""
        self._users, self._who = users, who

    def reset(self, keys: Tensor) -> Any:
        """Start their sessions."""
        return self._users.reset(self._who[: len(keys)])._replace(keys=keys)

    def __getattr__(self, name: str) -> Any:
        """All else is as the users have it."""
        return getattr(self._users, name)


def require_luck(users: Any, world: str) -> None:
    """Refuse worlds whose users bring no luck: what they did before the test is what they do in it.

    Raises:
        ValueError: The world is of this sort.
    """
    if not hasattr(users.reset(session_keys(0, 1)), "keys"):
        raise ValueError(
            f"users of {world!r} do the same in every session, so none can stand before: leave out --cuped"
        )
