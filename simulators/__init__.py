"""Worlds of users with known dynamics: test oracles, benchmarks, teaching.

Public names: `WORLDS` (entry points by name) and `make_world`. A world is a `recgym.users.model.UserModel` whose
`truth` tells all; the environment reaches it as `users="simulators:NAME"`.
"""

from __future__ import annotations

import importlib
from typing import Any

from recgym.users.model import UserModel

WORLDS: dict[str, str] = {"storefront": "simulators.storefront:Storefront"}
"""Entry point ("module:function") of every world, by name."""


def make_world(name: str, **options: Any) -> UserModel[Any]:
    """Build the world called `name`.

    Args:
        name: a key of `WORLDS`.
        **options: what the world's entry point takes, such as `config`, `starts` and `device`.

    Raises:
        ValueError: no world has this name; the message lists those that exist.
    """
    if name not in WORLDS:
        raise ValueError(f"no world is called {name!r}; there are {', '.join(sorted(WORLDS))}")
    module, _, attribute = WORLDS[name].partition(":")
    world: UserModel[Any] = getattr(importlib.import_module(module), attribute)(**options)
    return world
