"""The band of each known world: what random, myopic, rule and the best known policies earn, with intervals.

A task whose best known policy earns hardly more than the myopic one teaches nothing: the last column says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from agents.baselines import Random
from experiments.seeing import Oracle, SeeingSessions
from recgym.env.session import Sessions
from recgym.files import write_json
from recgym.ope.intervals import Interval, t_interval
from recgym.rollout import collect
from recgym.types import Transitions
from simulators import WORLDS, make_world

TEACHES = 0.10
"""Share of the best known reward that planning must add to greed, for a world to have something to plan."""


@dataclass(frozen=True, kw_only=True)
class Worlds:
    """Print the band of known worlds."""

    names: tuple[str, ...] = ()
    """Which; none: all that need no files of the user's."""
    sessions: int = 1000
    """Sessions of each policy, the same users with the same luck for all."""
    seed: int = 0
    """Of users and their luck."""
    path: Path | None = None
    """File that a world reads ("coat": its matrix, "virtual-taobao": its folder)."""
    out: Path | None = None
    """Write the figures here too, as JSON."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in self.names:
            if name not in WORLDS:
                raise ValueError(f"no world is called {name!r}; there are {', '.join(sorted(WORLDS))}")
        if self.sessions < 2:
            raise ValueError(f"sessions is {self.sessions}, expected at least 2: an interval needs them")

    def __call__(self) -> None:
        """Run the stage."""
        names = self.names or tuple(name for name, world in WORLDS.items() if not world.files)
        print(f"reward of {self.sessions} sessions, 95% interval; planning = (best known - myopic) / best known")
        bands = {}
        for name in names:
            settings = {"path": self.path} if self.path is not None and WORLDS[name].files else {}
            bands[name] = band(name, sessions=self.sessions, seed=self.seed, **settings)
            print(describe(name, bands[name]), flush=True)
        if self.out is not None:
            write_json(self.out, {name: {key: vars(row) for key, row in rows.items()} for name, rows in bands.items()})


def band(name: str, *, sessions: int, seed: int, **settings: Any) -> dict[str, Interval]:
    """Reward per session of random and of the world's own marks, by name, each with an interval over sessions."""
    world, users = WORLDS[name], make_world(name, **settings)
    config = world.session_config()
    platform: Sessions[Any] = Sessions(users, config)
    chance = Random(num_items=users.num_items, slate_size=world.slate_size)
    seeing = Oracle(num_items=users.num_items, slate_size=world.slate_size)

    def play(scorer: Callable[[Any], Tensor] | None) -> Transitions:
        met = platform if scorer is None else SeeingSessions(users, config, scorer)
        return collect(met, chance if scorer is None else seeing, num_sessions=sessions, seed=seed)

    rows = {"random": _earned(play(None))}
    return rows | {mark: _earned(play(scorer)) for mark, scorer in users.bands().items()}


def planning(rows: dict[str, Interval]) -> float:
    """(best known - myopic) / best known; 0 where even the best known policy earns nothing."""
    best = rows["best known"].value
    return 1 - rows["myopic"].value / best if best else 0.0


def describe(name: str, rows: dict[str, Interval]) -> str:
    """One world as text."""
    marks = "  ".join(f"{mark} {row.value:.4g} [{row.low:.4g}, {row.high:.4g}]" for mark, row in rows.items())
    share = planning(rows)
    verdict = "" if share >= TEACHES else " (nothing to plan here)"
    source = f"\n    published: {WORLDS[name].source}" if WORLDS[name].source else ""
    return f"{name} (slate {WORLDS[name].slate_size})\n    {marks}\n    planning {share:.0%}{verdict}{source}"


def _earned(found: Transitions) -> Interval:
    return t_interval(found.returns, np.arange(found.num_episodes))
