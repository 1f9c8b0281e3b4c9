"""Worlds of users with known dynamics: test oracles, benchmarks, teaching.

Public names: `WORLDS` and `make_world`. A world is a `recgym.users.model.UserModel` whose `truth` tells all. It is
reached as `users="simulators:NAME"`, or by its Gymnasium id, which importing this package registers:
`gymnasium.make("simulators:InterestEvolution-v0")`; `settings={...}` changes fields of the world's config.
"""

from __future__ import annotations

import gymnasium

from simulators.registry import make_world
from simulators.worlds import WORLDS, World

__all__ = ["WORLDS", "World", "make_world"]

for _name, _world in WORLDS.items():
    gymnasium.register(
        id=_world.gym_id,
        entry_point="simulators.registry:world_env",
        vector_entry_point="simulators.registry:world_vector_env",
        disable_env_checker=True,  # both cost every step; the tests run the checker, the environment checks the order
        order_enforce=False,
        kwargs={"world": _name},
    )
