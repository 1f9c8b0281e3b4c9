"""Agents in worlds with a known answer: every agent and seed trained, scored on the same users, beside the band.

    OUT/WORLD/AGENT/seed-K/    the policy, its learning curve, `result.json` and `returns.npy`
    OUT/WORLD/band/            returns of random and of the world's own marks

What stands there is kept, so a contest that was interrupted goes on, and one more agent costs only itself.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

import experiments.seeing as seeing
from agents import AGENTS, Task
from agents.baselines import Random
from agents.task import agent_class
from experiments.coat_ratings import rated_sessions
from experiments.pool import run_jobs
from experiments.presets import HISTORY, PRESETS
from experiments.runs import plain
from experiments.settings import with_settings
from recgym.env.session import Sessions
from recgym.files import FormatError, read_json, write_bytes, write_json
from recgym.ope.intervals import Interval, seeds_and_users
from recgym.policy import save_policy
from recgym.rollout import collect
from recgym.types import DoubleArray
from simulators import WORLDS, make_world
from simulators.coat import Coat

FORMAT, VERSION = "recgym-contest", 1
_JUDGE_SEED = 1_000
"""Seed of the sessions that score: none that trained an agent."""
_LOG_SEED = 2_000
"""Seed of the sessions that offline agents learn from."""
OFFLINE = ("bc", "bcq", "cql", "decision-transformer", "iql", "sa2c", "sqn", "topk-reinforce")
"""Agents that learn from logged transitions alone."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Who competes where, and how they are scored."""

    out: Path
    """Folder of the results."""
    agents: tuple[str, ...] = ()
    """Agents; none: those that have a preset in the world."""
    settings: dict[str, str] = field(default_factory=dict)
    """Fields of the agents' configs that should differ from the world's presets, as on the command line."""
    path: Path | None = None
    """Folder of a world that reads files ("coat")."""
    history: int | None = None
    """Items of the visible history that agents read beside the state; None: as `presets.HISTORY` says of the world."""
    seeds: int = 5
    """Training seeds 0, 1, ... of each agent."""
    sessions: int = 1_000
    """Sessions that score each policy: the same users with the same luck for all."""
    logged: int = 2_000
    """Sessions of a random policy that offline agents learn from."""
    processes: int = 2
    """Trainings side by side, one thread each."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in self.agents:
            if name not in AGENTS:
                raise ValueError(f"no agent is called {name!r}; there are {', '.join(sorted(AGENTS))}")
            configured(name, {}, self.settings)  # says at once what does not fit
        for name in ("seeds", "sessions", "logged", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.history is not None and self.history < 0:
            raise ValueError(f"history is {self.history}, expected at least 0")

    def in_world(self, world: str) -> dict[str, Any]:
        """Rows of one world, in the table's order: the band's, then the agents', as `row` makes them."""
        names = self.agents or tuple(PRESETS.get(world, {}))
        band = self._band(world)
        jobs = [(world, name, seed) for seed in range(self.seeds) for name in names]
        waiting = [job for job in jobs if not self._done(*job)]
        for _ in run_jobs(partial(train_one, self), waiting, processes=self.processes, description=world):
            pass
        rows = {name: row(returns[None], band) for name, returns in band.items()}
        for name in names:
            found = [self.folder(world, name, seed) for seed in range(self.seeds)]
            facts = [read_json(folder / "result.json", format=FORMAT, version=VERSION) for folder in found]
            returns = np.stack([np.load(folder / "returns.npy") for folder in found])  # (S, E)
            rows[name] = {
                **row(returns, band),
                "steps": facts[0]["steps"],
                "minutes": _minutes([fact["seconds"] for fact in facts]),
                "seeds": returns.mean(1).tolist(),
            }
        return rows

    def folder(self, world: str, agent: str, seed: int) -> Path:
        """Where one training lies."""
        return self.out / world / agent / f"seed-{seed}"

    def agent(self, world: str, name: str) -> Any:
        """The agent's config in this world: its preset, with `settings` on top."""
        return configured(name, PRESETS.get(world, {}).get(name, {}), self.settings)

    def about(self, world: str, name: str) -> dict[str, Any]:
        """All that a result depends on beside the seed."""
        history = read_history(world, self.history)
        about = {"sessions": self.sessions, "logged": self.logged, "history": history}
        return {"agent": describe_agent(self.agent(world, name)), **about}

    def _done(self, world: str, name: str, seed: int) -> bool:
        file = self.folder(world, name, seed) / "result.json"
        try:
            return bool(read_json(file, format=FORMAT, version=VERSION)["about"] == self.about(world, name))
        except FormatError:
            return False

    def _band(self, world: str) -> dict[str, DoubleArray]:
        """Returns (E,) of random and of the world's marks."""
        users = make_world(world, **world_settings(world, self.path, self.history))
        config = WORLDS[world].session_config()
        size, slots = users.num_items, config.slate_size
        play = partial(collect, num_sessions=self.sessions, seed=_JUDGE_SEED)
        found = {"random": play(Sessions(users, config), Random(num_items=size, slate_size=slots)).returns}
        for mark, scorer in users.bands().items():
            platform = seeing.SeeingSessions(users, config, scorer)
            found[mark] = play(platform, seeing.Oracle(num_items=size, slate_size=slots)).returns
        return found


def describe_agent(agent: Any) -> dict[str, Any]:
    """An agent's config as JSON."""
    found: dict[str, Any] = json.loads(json.dumps(plain(agent)))
    return found


def configured(name: str, preset: dict[str, Any], settings: dict[str, str]) -> Any:
    """The agent called `name` with the fields of a preset, and those of `settings`, as on the command line, on top.

    Raises:
        ValueError: a setting is no field of the agent, or its value does not fit.
    """
    return with_settings(agent_class(name)(**preset), settings, f"the agent {name!r}")


def train_one(contest: Contest, job: tuple[str, str, int]) -> float:
    """Train and score one agent with one seed; its mean reward."""
    world, name, seed = job
    agent, folder = contest.agent(world, name), contest.folder(world, name, seed)
    logged = contest.logged if name in OFFLINE else 0
    task = world_task(world, path=contest.path, logged=logged, history=contest.history)
    begun, resume = time.perf_counter(), _same_run(folder, agent, seed)
    policy = agent.train(task, seed=seed, folder=folder, resume=resume)
    seconds = None if resume else round(time.perf_counter() - begun, 1)  # what came before is not known
    save_policy(policy, folder)
    returns = collect(task.sessions, policy, num_sessions=contest.sessions, seed=_JUDGE_SEED).returns
    buffer = io.BytesIO()
    np.save(buffer, returns)
    write_bytes(folder / "returns.npy", buffer.getvalue())
    facts = {"seconds": seconds, "steps": getattr(agent, "total_steps", getattr(agent, "updates", 0))}
    about = contest.about(world, name)
    write_json(folder / "result.json", {"format": FORMAT, "version": VERSION, "about": about, **facts})
    return float(returns.mean())


def world_task(world: str, *, path: Path | None = None, logged: int = 0, history: int | None = None) -> Task:
    """A known world as a task: agents read its visible state, and of its history what `presets.HISTORY` says.

    Of the items they know what the platform does: the content vectors that some worlds describe their items by
    (SARDINE's `embedding`), and their categories. Both are the catalogue's; hidden tastes stay hidden. Those who learn
    Coat from its few ratings know the coats' features too; those who play there do without.

    Args:
        world: a key of `WORLDS`.
        path: its files, where it needs some.
        logged: sessions of a random policy to learn from; in "coat" the users' own ratings instead.
        history: items of the history that agents read, if not what the presets say.
    """
    users: Any = make_world(world, **world_settings(world, path, history))
    sessions: Sessions[Any] = Sessions(users, WORLDS[world].session_config())
    features = getattr(users, "embedding", None)  # (N, X)
    if logged and getattr(users, "item_features", None) is not None:
        features = normalize(users.item_features)
    task = Task(
        sessions=sessions,
        history=read_history(world, history),
        item_width=Task.item_width if features is None else features.shape[1],
        item_features=features,
        item_categories=numbered(getattr(users, "item_categories", None)),
    )
    if not logged:
        return task
    if isinstance(users, Coat):
        return dataclasses.replace(task, logged=rated_sessions(users, sessions, str(path)))
    chance = Random(num_items=users.num_items, slate_size=task.slate_size)
    found = collect(sessions, chance, num_sessions=logged, seed=_LOG_SEED, keep=("state", "history"), propensities=True)
    return dataclasses.replace(task, logged=found)


def numbered(names: Sequence[str] | None) -> Tensor | None:
    """The items' categories (N,) as numbers from 0, in the order of their names; None where there are none."""
    if names is None:
        return None
    return torch.from_numpy(np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64))


def read_history(world: str, history: int | None) -> int:
    """Items of the visible history that agents read in a world: `history`, or what the presets say."""
    return HISTORY.get(world, 0) if history is None else history


def world_settings(world: str, path: Path | None, history: int | None = None) -> dict[str, Any]:
    """Settings with which agents meet a world: its files, and a visible history where the world can keep one."""
    if WORLDS[world].files:
        if path is None:
            raise ValueError(f"the world {world!r} reads files of yours: say where with --path")
        return {"path": path}
    return {"length": read_history(world, history)} if world in HISTORY else {}


def row(returns: DoubleArray, band: dict[str, DoubleArray]) -> dict[str, Any]:
    """Reward of (S, E) returns with its interval, and paired differences to random, myopic and rule."""
    found: dict[str, Any] = {"reward": interval(returns)}
    for mark in ("random", "myopic", "rule", "best known"):
        found[f"minus {mark}"] = interval(returns - band[mark][None])
    return found


def interval(values: DoubleArray) -> Interval:
    """Mean of (S, E) values: over users alone for one seed, over seeds and users for more."""
    return seeds_and_users(values, np.arange(values.shape[1]))


def _minutes(seconds: list[float | None]) -> float | None:
    """Mean over the trainings that ran in one go."""
    whole = [each for each in seconds if each is not None]
    return sum(whole) / len(whole) / 60 if whole else None


def _same_run(folder: Path, agent: Any, seed: int) -> bool:
    """Whether the checkpoint in `folder` is of this very run, to go on from."""
    from agents.checkpoints import load_checkpoint
    from agents.learning import describe

    try:
        return load_checkpoint(folder, describe(agent, seed)) is not None
    except FormatError:
        return False
