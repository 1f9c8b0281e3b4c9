"""The exploitation audit: what a policy earns in the users it was trained in, and in users that it could not exploit.

Two sets of users are learned from the two halves of the logged users, with backbones of their own. An agent trains in
the first, with and without pessimism (the ensemble's disagreement taken from the reward), and is judged there, in the
second, and in the world that made the log where that is known. What it earns more in the first than in the others is
what it took from the model's mistakes. Policies that were not trained in the first set show what the two sets differ
by anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents import Task, make_agent
from experiments.cells import cell, numbers
from experiments.fit import Loaded, load_run, platform, starting_at
from experiments.ladder import standard_policies
from experiments.pool import run_jobs
from experiments.runs import Run
from experiments.truth import true_sessions
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.env.session import Sessions
from recgym.files import read_json, write_json
from recgym.logs.splits import TRAIN, VALIDATION, Roles
from recgym.ope.intervals import seeds_and_users, t_interval
from recgym.random import fold, session_keys, uniform
from recgym.rollout import collect
from recgym.types import DoubleArray, Policy
from recgym.users.config import UserConfig
from recgym.users.fitting import fit_users
from recgym.users.learned import LearnedUsers

FORMAT = "recgym-audit"
NAMES = {"independent": "users learned from other people", "truth": "the world that made the log"}
Who = tuple[str, float | None]
"""A policy's name, and the pessimism it was trained with where it was trained in the audited users."""
_LEFT_OUT = 3
"""Role of steps that a half does not learn from: none of training, validation and test."""
_JUDGE_SEED = 2_000
ALARM = 0.25
"""Over-estimation beyond that of policies trained elsewhere, above which a trained policy is said to exploit."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Does training exploit the learned users? Judge in independent ones, and in the truth where it is known."""

    out: Path
    """Run folder that `fit` wrote; gets audit.json."""
    agent: str = "a2c"
    """Agent that is trained."""
    pessimism: tuple[float, ...] = (0.0, 1.0)
    """Weights of the ensemble's disagreement in the training reward."""
    seeds: int = 5
    """Trainings each."""
    sessions: int = 1000
    """Sessions that judge a policy."""
    ensemble: int = 4
    """Further sets of heads of the users trained in."""
    processes: int = 2
    """Trainings side by side, one thread each."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, least in (("seeds", 2), ("sessions", 2), ("processes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.ensemble < 1 or not self.pessimism or min(self.pessimism) < 0:
            raise ValueError(f"ensemble {self.ensemble} and pessimism {self.pessimism}: expected 1 or more, 0 or more")

    def __call__(self) -> None:
        """Run the stage."""
        run = Run(self.out)
        load_run(run)  # says at once what is missing
        with run.stage("audit", self, resumed=False):
            seeds = range(self.seeds)
            found = dict(run_jobs(partial(_judged, self), seeds, processes=self.processes, description="audit"))
            write_json(run.folder / "audit.json", _summary(self, found))
        print(describe(read_audit(run.folder)))


@dataclass(frozen=True, eq=False)
class Halves:
    """Users A to train in, users B and the truth to judge in; all start where A's do and are seen by A's backbone."""

    policies: dict[str, Policy]
    """Policies that were not trained in A's users."""
    a: LearnedUsers
    worlds: dict[str, Sessions[Any]]
    """"trained in", "independent", and "truth" where it is known."""


def halves(run: Run, *, seed: int, ensemble: int) -> Halves:
    """Learn both sets of users; `seed` decides which users go where, and both fits."""
    loaded = load_run(run)
    found = [
        learn_half(
            run, loaded, half_roles(loaded, first=place == 0, seed=seed), seed=10 * seed + place,
            ensemble=ensemble if place == 0 else 0,
        )
        for place in range(2)
    ]  # fmt: skip
    a, b = found
    plain = platform(a, reward=None, max_steps=50).config
    worlds: dict[str, Sessions[Any]] = {
        "trained in": Sessions(a, plain),
        "independent": Sessions(starting_at(b, a.starts), plain, encoder=a.backbone),
    }
    truth = true_sessions(loaded.sequences, a, plain)
    if truth is not None:
        worlds["truth"] = truth
    return Halves(standard_policies(loaded._replace(users=a)), a, worlds)


def half_roles(loaded: Loaded, *, first: bool, seed: int) -> Roles:
    """Roles (M,) in which the training and validation steps of the other half of the users are left out."""
    draw = uniform(fold(session_keys(seed, 1), 5), loaded.sequences.num_users)[0].numpy()
    mine = ((draw < np.median(draw)) == first)[loaded.sequences.user_of_step]
    roles = loaded.roles
    return np.where(mine | ~np.isin(roles, (TRAIN, VALIDATION)), roles, _LEFT_OUT).astype(roles.dtype)


def learn_half(run: Run, loaded: Loaded, kept: Roles, *, seed: int, ensemble: int) -> LearnedUsers:
    """Backbone and users from the training and validation steps that `kept` leaves, (M,)."""
    sequences = loaded.sequences
    folder = run.folder / "audit" / f"backbone-{seed}"
    config = loaded.users.backbone.config
    trained = train_backbone(sequences, kept, config, TrainingConfig(seed=seed), folder=folder, resume=True)
    return fit_users(sequences, kept, trained.backbone, UserConfig(seed=seed, ensemble=ensemble))


def _judged(settings: Audit, seed: int) -> dict[Who, dict[str, DoubleArray]]:
    """Rewards (E,) by policy and world of one seed."""
    run = Run(settings.out)
    both = halves(run, seed=seed, ensemble=settings.ensemble)
    policies: dict[Who, Policy] = {}
    for weight in settings.pessimism:
        config = replace(both.worlds["trained in"].config, pessimism=weight)
        task = Task(sessions=Sessions(both.a, config), backbone=both.a.backbone)
        folder = run.folder / "audit" / f"{settings.agent}-{weight:g}-{seed}"
        trained = make_agent(settings.agent).train(task, seed=seed, folder=folder, resume=folder.exists())
        policies[settings.agent, weight] = trained
    policies |= {(name, None): policy for name, policy in both.policies.items()}
    return {
        who: {place: _rewards(world, policy, settings.sessions) for place, world in both.worlds.items()}
        for who, policy in policies.items()
    }


def _rewards(sessions: Sessions[Any], policy: Policy, count: int) -> DoubleArray:
    return collect(sessions, policy, num_sessions=count, seed=_JUDGE_SEED).returns


def _summary(settings: Audit, found: dict[int, dict[Who, dict[str, DoubleArray]]]) -> dict[str, Any]:
    """Mean rewards and over-estimation with intervals over seeds and sessions, JSON-able."""
    seeds = [found[seed] for seed in range(settings.seeds)]
    rows = [_row(who, [one[who] for one in seeds]) for who in seeds[0]]
    others = {
        place: float(np.median([row["over_estimation"][place]["value"] for row in rows if row["pessimism"] is None]))
        for place in rows[0]["over_estimation"]
    }
    alarms = [
        f"{row['policy']} with pessimism {row['pessimism']:g} earns {gap['value']:.0%} more in the users it trained "
        f"in than in {NAMES[place]}; policies not trained there {others[place]:.0%}: it exploits the model."
        for row in rows
        if row["pessimism"] is not None
        for place, gap in row["over_estimation"].items()
        if gap["low"] > others[place] and gap["value"] - others[place] > ALARM
    ]
    about = {"format": FORMAT, "version": 1, "agent": settings.agent, "seeds": settings.seeds}
    return about | {"ensemble": settings.ensemble, "rows": rows, "others": others, "alarms": alarms}


def _row(who: Who, seeds: list[dict[str, DoubleArray]]) -> dict[str, Any]:
    places = list(seeds[0])
    rewards = {place: np.stack([one[place] for one in seeds]) for place in places}  # (S, E) each
    gaps = {}
    for place in places[1:]:
        ratio = rewards[places[0]].mean(1) / np.maximum(rewards[place].mean(1), 1e-9) - 1  # (S,)
        gaps[place] = numbers(t_interval(ratio, np.arange(len(ratio))))
    session = np.arange(rewards[places[0]].shape[1])
    means = {place: numbers(seeds_and_users(values, session)) for place, values in rewards.items()}
    return {"policy": who[0], "pessimism": who[1], "reward": means, "over_estimation": gaps}


def read_audit(folder: Path) -> dict[str, Any]:
    """What the stage wrote into a run folder."""
    return read_json(folder / "audit.json", format=FORMAT, version=1)


def describe(audit: dict[str, Any]) -> str:
    """The audit as a table."""
    places = list(audit["rows"][0]["reward"])
    lines = [f"{'reward per session':34}" + "".join(f"{place:>26}" for place in places) + "   over-estimation"]
    for row in audit["rows"]:
        name = row["policy"] + ("" if row["pessimism"] is None else f", pessimism {row['pessimism']:g}")
        cells = "".join(f"{cell(row['reward'][place]):>26}" for place in places)
        gaps = ", ".join(f"{place} {cell(gap, '+.0%')}" for place, gap in row["over_estimation"].items())
        lines.append(f"{name:34}{cells}   {gaps}")
    lines += [f"alarm: {alarm}" for alarm in audit["alarms"]] or ["no alarm"]
    return "\n".join(lines)
