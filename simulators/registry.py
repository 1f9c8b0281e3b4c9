"""From the name of a known world to its users, and to the environments under its Gymnasium id."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Protocol, cast

from torch import Tensor

from recgym.env.single import RecSessionEnv
from recgym.env.vector import RecSessionVectorEnv
from recgym.users.model import UserModel
from simulators.worlds import WORLDS

Scorer = Callable[[Any], Tensor]
"""From the whole state of a world, hidden part included, to scores of every item, (B, N)."""


class KnownWorld(UserModel[Any], Protocol):
    """A user model that knows which policies mark its range."""

    config: Any

    def bands(self) -> dict[str, Scorer]:
        """Scorers by name: "myopic", "rule" (the best simple heuristic), "best known"."""
        ...


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
