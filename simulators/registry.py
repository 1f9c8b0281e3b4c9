"""Every known world by name: where it is, which of its settings it is, and how a platform meets it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, cast

from torch import Tensor

from recgym.env.session import SessionConfig
from recgym.env.single import RecSessionEnv
from recgym.env.vector import RecSessionVectorEnv
from recgym.users.model import UserModel

Scorer = Callable[[Any], Tensor]
"""From the whole state of a world, hidden part included, to scores of every item, (B, N)."""


class KnownWorld(UserModel[Any], Protocol):
    """A user model that knows which policies mark its range."""

    config: Any

    def bands(self) -> dict[str, Scorer]:
        """Scorers by name: "myopic", "rule" (the best simple heuristic), "best known"."""
        ...


@dataclass(frozen=True, kw_only=True)
class World:
    """One setting of one world."""

    entry_point: str
    """"module:Class" of the user model."""
    gym_id: str
    """Gymnasium id."""
    reward: str
    """Kind of feedback that is the published reward."""
    slate_size: int = 1
    """Published slate, K."""
    max_steps: int = 100
    """Published horizon in slates; where users leave by themselves, a bound that they hardly reach."""
    files: bool = False
    """Needs `path`, a file or folder of the user's."""
    source: str = ""
    """Published figures to compare a band with, and where they are from."""

    def session_config(self) -> SessionConfig:
        """How a platform meets it."""
        return SessionConfig(slate_size=self.slate_size, max_steps=self.max_steps, reward={self.reward: 1.0})


WORLDS: dict[str, World] = {
    "storefront": World(
        entry_point="simulators.storefront:Storefront", gym_id="Storefront-v0", reward="click", max_steps=50
    ),
    "interest-evolution": World(
        entry_point="simulators.interest_evolution:InterestEvolution",
        gym_id="InterestEvolution-v0",
        reward="watch",
        slate_size=3,
        max_steps=500,
        source="RecSim: random 159.8, myopic 166.8, topic mean quality 264.7, SlateQ 174.6",
    ),
    "interest-evolution-fixed": World(
        entry_point="simulators.interest_evolution:InterestEvolution",
        gym_id="InterestEvolutionFixed-v0",
        reward="watch",
        slate_size=3,
        max_steps=500,
    ),
    "interest-exploration": World(
        entry_point="simulators.interest_exploration:InterestExploration",
        gym_id="InterestExploration-v0",
        reward="click",
        slate_size=2,
    ),
    "interest-exploration-repaired": World(
        entry_point="simulators.interest_exploration:InterestExploration",
        gym_id="InterestExplorationRepaired-v0",
        reward="click",
        slate_size=2,
    ),
    "long-term-satisfaction": World(
        entry_point="simulators.long_term_satisfaction:LongTermSatisfaction",
        gym_id="LongTermSatisfaction-v0",
        reward="engagement",
        max_steps=60,
        source="RecSim at s = .01: random 942, most clickbait 1111, least 781",
    ),
    "long-term-satisfaction-repaired": World(
        entry_point="simulators.long_term_satisfaction:LongTermSatisfaction",
        gym_id="LongTermSatisfactionRepaired-v0",
        reward="engagement",
        max_steps=60,
        source="RecSim at s = .2: random 957, most clickbait 625, least 1280",
    ),
}
"""Every setting of every world, by name."""


def make_world(name: str, *, device: str = "cpu", **settings: Any) -> KnownWorld:
    """Build the world called `name`.

    Args:
        name: a key of `WORLDS`.
        device: where its states live.
        **settings: fields of the world's config that should differ.

    Raises:
        ValueError: no world has this name, its config has no such field, or a field's value makes no world.
    """
    if name not in WORLDS:
        raise ValueError(f"no world is called {name!r}; there are {', '.join(sorted(WORLDS))}")
    path, _, attribute = WORLDS[name].entry_point.partition(":")
    module = importlib.import_module(path)
    config = module.SETTINGS[name]
    known = [field.name for field in fields(config)]
    for field in settings:
        if field not in known:
            raise ValueError(f"{type(config).__name__} has no field {field!r}; it has {', '.join(known)}")
    return cast("KnownWorld", getattr(module, attribute)(replace(config, **settings), device=device))


def world_env(*, world: str, settings: Mapping[str, Any] | None = None, **arguments: Any) -> RecSessionEnv:
    """`RecSessionEnv` on a world, met as published unless `arguments` say otherwise; see `RecSessionEnv` for those."""
    return RecSessionEnv(**_met(world, settings, arguments))


def world_vector_env(
    num_envs: int = 1, *, world: str, settings: Mapping[str, Any] | None = None, **arguments: Any
) -> RecSessionVectorEnv:
    """The same as `num_envs` sessions in lockstep; see `RecSessionVectorEnv`."""
    return RecSessionVectorEnv(num_envs, **_met(world, settings, arguments))


def _met(name: str, settings: Mapping[str, Any] | None, arguments: dict[str, Any]) -> dict[str, Any]:
    users = make_world(name, device=arguments.get("device", "cpu"), **(settings or {}))
    world = WORLDS[name]
    published = {
        "users": users,
        "slate_size": world.slate_size,
        "max_steps": world.max_steps,
        "reward": {world.reward: 1.0},
    }
    return published | arguments
