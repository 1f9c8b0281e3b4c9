"""The ladder: how far users learned from logs of a known world rank policies as that world does.

One rung: the storefront's ranker, exploring more or less, serves a number of users; backbone and users are learned
from that log; agents are trained in the learned users; then policies of every kind earn their reward in the learned
users and in the storefront itself, from the same starts. Rungs differ in the number of logged sessions and in how
narrow the logging policy was; each is climbed with several seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import Task, make_agent
from agents.mixture import Mixture, Softened
from experiments.fit import Loaded
from experiments.pool import run_jobs
from experiments.sample import generate_log
from experiments.scoring import trivial_policy
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.env.session import SessionConfig, Sessions
from recgym.files import FormatError, read_json, write_json
from recgym.logs import splits
from recgym.logs.pivot import build_sequences
from recgym.logs.sequences import Sequences, Starts
from recgym.logs.splits import TRAIN, sessions_of
from recgym.metrics import spearman
from recgym.ope.intervals import t_quantile
from recgym.rollout import collect, logged_transitions
from recgym.types import DoubleArray, Policy
from recgym.users.config import UserConfig
from recgym.users.fitting import fit_users
from recgym.users.learned import LearnedUsers
from simulators.catalogue import StorefrontConfig
from simulators.storefront import Storefront

FORMAT = "recgym-ladder"
TRIVIAL = ("random", "popularity", "repeat-history", "item-knn", "backbone-greedy", "explore-then-commit")
POSSIBLE = {"spearman": (-1.0, 1.0), "regret": (0.0, 1.0)}
"""Ends that an interval cannot pass; an over-estimation cannot be below -1."""
_DAYS = 75
_JUDGE_SEED = 1_000


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Measure trust: learned users against the known world that made their log, rung by rung."""

    out: Path = Path("runs/ladder")
    """Folder of the rungs; `ladder.json` sums up all that stand there, from earlier climbs too."""
    users: tuple[int, ...] = (20, 200, 2000)
    """Users that are logged, one rung each: about five sessions a user."""
    exploration: tuple[float, ...] = (0.02, 0.25, 1.0)
    """Share of items that the logging policy drew uniformly: narrow, moderate, uniform."""
    seeds: int = 3
    """Logs, fits and trainings of each rung."""
    agents: tuple[str, ...] = ("a2c", "ppo", "dqn", "cql")
    """Agents trained in the learned users."""
    sessions: int = 2000
    """Sessions that judge a policy, in either world."""
    processes: int = 2
    """Rungs side by side, one thread each."""
    resume: bool = False
    """Keep the rungs that are done."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("seeds", "sessions", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if min(self.users, default=0) < 10:
            raise ValueError(f"users is {self.users}, expected numbers of at least 10")
        if not all(0 < share <= 1 for share in self.exploration):
            raise ValueError(f"exploration is {self.exploration}, expected shares in (0, 1]: 0 leaves no support")

    def __call__(self) -> None:
        """Climb."""
        jobs = [(n, e, seed) for n in self.users for e in self.exploration for seed in range(self.seeds)]
        left = [job for job in jobs if not (self.resume and _read(self.out / _name(job) / "rung.json"))]
        for _ in run_jobs(partial(climb, self), left, processes=self.processes, description="rungs"):
            pass
        found = (_read(path) for path in self.out.glob("*/rung.json"))  # those of earlier climbs too
        rungs = sorted(
            (rung for rung in found if rung), key=lambda one: (one["users"], one["exploration"], one["seed"])
        )
        summary = summarise(rungs)
        write_json(self.out / "ladder.json", {"format": FORMAT, "version": 1, "rungs": rungs, "summary": summary})
        print(describe(summary))


Job = tuple[int, float, int]


def climb(settings: Ladder, job: Job) -> None:
    """One rung with one seed, written to its own file."""
    num_users, exploration, seed = job
    log = generate_log(days=_DAYS, seed=500 + seed, num_users=num_users, exploration=exploration)
    sequences = build_sequences(log)
    roles = splits.temporal(sequences)
    folder = settings.out / _name(job)
    backbone = train_backbone(
        sequences,
        roles,
        BackboneConfig(),
        TrainingConfig(seed=seed),
        folder=folder / "backbone",
        resume=settings.resume,
    ).backbone
    users = fit_users(sequences, roles, backbone, UserConfig(seed=seed, ensemble=0))
    loaded = Loaded(sequences, roles, users, {})
    config = SessionConfig()
    learned = Sessions(users, config)
    true = Sessions(world_of(sequences, users, num_users), config, encoder=backbone)
    policies: dict[str, Policy] = dict(standard_policies(loaded))
    training = sessions_of(sequences, roles, TRAIN)
    for name in settings.agents:
        logged = logged_transitions(sequences, training, backbone, learned.weights) if name == "cql" else None
        task = Task(sessions=learned, backbone=backbone, logged=logged)
        policies[name] = make_agent(name).train(task, seed=seed, folder=folder / name, resume=settings.resume)
    means = {
        name: [_mean(worlds, policy, settings.sessions) for worlds in (learned, true)]
        for name, policy in policies.items()
    }
    rung: dict[str, Any] = {"format": FORMAT, "version": 1, "users": num_users, "exploration": exploration}
    rung |= {"seed": seed, "sessions": sequences.num_sessions}
    write_json(folder / "rung.json", rung | {"policies": means} | judge(means))


def world_of(sequences: Sequences, users: LearnedUsers, num_users: int) -> Storefront:
    """The storefront behind a log that `generate_log` made, at the learned users' starts, with the log's numbering."""
    items = torch.tensor([int(name[1:]) for name in sequences.items["item"]])
    owner = torch.tensor([int(name[1:]) for name in sequences.users])
    starts = Starts(owner[users.starts.user], users.starts.items, users.starts.feedback)
    return Storefront(StorefrontConfig(num_users=num_users), starts=starts, items=items)


def standard_policies(loaded: Loaded) -> dict[str, Policy]:
    """Policies that need no training in the learned users: trivial ones, rankers, mixtures."""
    found: dict[str, Policy] = {name: trivial_policy(loaded, name) for name in TRIVIAL}
    greedy, chance = found["backbone-greedy"], found["random"]
    found["half greedy, half random"] = Mixture(policies=(greedy, chance), shares=(0.5, 0.5))
    found["softened ranker"] = Softened(policy=greedy, temperature=0.3)
    found["very softened ranker"] = Softened(policy=greedy, temperature=0.7)
    found["softened item-knn"] = Softened(policy=found["item-knn"], temperature=0.5)
    return found


def judge(means: dict[str, list[float]]) -> dict[str, float]:
    """What a rung comes to, from each policy's [learned, true] reward.

    `spearman` of the two orders; `regret`, the share of the way from the worst to the best policy that is lost by
    taking the learned users' favourite; `over_estimation` of that favourite, and its mean over policies, as shares of
    the true reward.
    """
    learned, true = (np.array([pair[place] for pair in means.values()]) for place in (0, 1))
    favourite = int(learned.argmax())
    span = float(true.max() - true.min())
    return {
        "spearman": spearman(learned, true),
        "regret": float(true.max() - true[favourite]) / span if span > 0 else 0.0,
        "over_estimation": float(learned[favourite] / true[favourite] - 1),
        "mean_over_estimation": float((learned / true - 1).mean()),
    }


def summarise(rungs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of each rung with 95% t intervals, in the order of the rungs."""
    found = []
    for key in dict.fromkeys((rung["users"], rung["exploration"]) for rung in rungs):
        same = [rung for rung in rungs if (rung["users"], rung["exploration"]) == key]
        row: dict[str, Any] = {"users": key[0], "exploration": key[1], "seeds": len(same)}
        row["sessions"] = float(np.mean([rung["sessions"] for rung in same]))
        row["policies"] = len(same[0]["policies"])
        for name in ("spearman", "regret", "over_estimation", "mean_over_estimation"):
            row[name] = _interval(np.array([rung[name] for rung in same], np.float64), *POSSIBLE.get(name, ()))
        found.append(row)
    return found


def describe(summary: list[dict[str, Any]]) -> str:
    """The ladder as a table."""
    lines = [
        "learned users against the known world, mean over seeds [95% interval]",
        f"{'sessions':>9}{'exploration':>12}{'Spearman':>21}{'regret':>22}{'over-estimation':>25}{'of all':>8}",
    ]
    for row in summary:
        cells = [cell(row["spearman"]), cell(row["regret"]), cell(row["over_estimation"], "+.0%")]
        share = f"{row['mean_over_estimation'][0]:+.0%}"
        lines.append(
            f"{row['sessions']:9,.0f}{row['exploration']:12.0%}{cells[0]:>21}{cells[1]:>22}{cells[2]:>25}{share:>8}"
        )
    if summary:
        lines.append(f"{summary[0]['policies']} policies; regret: share of the way from worst to best that is lost")
    return "\n".join(lines)


def _mean(sessions: Sessions[Any], policy: Policy, count: int) -> float:
    return float(collect(sessions, policy, num_sessions=count, seed=_JUDGE_SEED).reward.sum()) / count


def _interval(values: DoubleArray, least: float = -1.0, most: float = math.inf) -> list[float | None]:
    """Mean, low, high within what is possible; no interval of a single seed."""
    mean = float(values.mean())
    if len(values) < 2:
        return [mean, None, None]
    half = t_quantile(0.95, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return [mean, max(mean - half, least), min(mean + half, most)]


def cell(interval: list[float | None], style: str = ".2f") -> str:
    """A mean with its interval, where there is one."""
    mean, low, high = interval
    return f"{mean:{style}}" if low is None else f"{mean:{style}} [{low:{style}}, {high:{style}}]"


def _name(job: Job) -> str:
    return f"users-{job[0]}-exploration-{job[1]:g}-seed-{job[2]}"


def _read(path: Path) -> dict[str, Any] | None:
    """The rung as it was written, or None where it is not done."""
    if not path.exists():
        return None
    try:
        return read_json(path, format=FORMAT, version=1)
    except FormatError:
        return None
