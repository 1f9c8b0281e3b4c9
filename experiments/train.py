"""Train agents in the simulated sessions, or on the log, one job an agent and seed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tyro

from agents import AGENTS, Task
from experiments.bench.agents import table
from experiments.contest import OFFLINE, Contest, configured
from experiments.fit import load_run, platform
from experiments.pool import run_jobs
from experiments.runs import Run
from recgym.backbones.backbone import fingerprint
from recgym.logs.splits import TRAIN, sessions_of
from recgym.policy import load_policy, save_policy
from recgym.rollout import logged_transitions
from simulators import WORLDS

_HISTORIES = ("decision-transformer",)
"""Agents that read the history of a log beside its states."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train agents on what `fit` left in a run folder, or in a known world."""

    agents: tyro.conf.Positional[tuple[str, ...]] = ("dqn", "ppo", "a2c", "cql")
    """Which agents."""
    out: Path
    """Run folder, or a folder for what is trained in a world."""
    world: str | None = None
    """Train in this known world, and print what the agents earn there, beside its band."""
    path: Path | None = None
    """Folder of a world that reads files of yours ("coat")."""
    settings: dict[str, str] = field(default_factory=dict)
    """Fields of the agents' configs that should differ from their defaults, such as total-steps 20000 hidden 128."""
    seeds: int = 5
    """Training seeds 0, 1, ... of each agent: intervals need at least five."""
    reward: dict[str, float] = field(default_factory=dict)
    """Reward weight of each kind of feedback, such as click 1 like 0.5; empty: 1 for the first kind."""
    max_steps: int = 50
    """Steps after which a simulated session is cut."""
    pessimism: float = 0.0
    """What a unit of disagreement in the users' ensemble takes from the training reward."""
    processes: int = 2
    """Trainings side by side, one thread each."""
    resume: bool = False
    """Keep finished trainings and go on with interrupted ones."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in self.agents:
            if name not in AGENTS:
                raise ValueError(f"no agent is called {name!r}; there are {', '.join(sorted(AGENTS))}")
            configured(name, {}, self.settings)  # says at once what does not fit
        if self.world is not None and self.world not in WORLDS:
            raise ValueError(f"no world is called {self.world!r}; there are {', '.join(sorted(WORLDS))}")
        if self.world is not None and (self.reward or self.max_steps != 50 or self.pessimism):
            raise ValueError("a world is met as it was published: no other reward, max-steps or pessimism")
        for name in ("seeds", "max_steps", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")

    def __call__(self) -> None:
        """Run the stage."""
        if self.world is not None:
            contest = Contest(
                out=self.out, agents=self.agents, settings=self.settings, path=self.path, seeds=self.seeds,
                processes=self.processes,
            )  # fmt: skip
            print(table(self.world, contest.in_world(self.world), contest))
            return
        run = Run(self.out)
        load_run(run)  # says at once what is missing
        jobs = [(name, seed) for seed in range(self.seeds) for name in self.agents]
        if self.resume:
            jobs = [job for job in jobs if not _finished(run.policy(*job))]
        with run.stage("train", self, resumed=self.resume):
            for (name, seed), rewards in run_jobs(
                partial(train_one, self), jobs, processes=self.processes, description="training"
            ):
                run.record("trained", agent=name, seed=seed, last_session_reward=rewards)


def train_one(settings: Train, job: tuple[str, int]) -> float | None:
    """Train one agent with one seed into its folder; the last mean session reward of its training, if it has one."""
    name, seed = job
    run = Run(settings.out)
    loaded = load_run(run)
    sessions = platform(
        loaded.users, reward=settings.reward or None, max_steps=settings.max_steps, pessimism=settings.pessimism
    )
    logged = None
    if name in OFFLINE:
        training = sessions_of(loaded.sequences, loaded.roles, TRAIN)
        logged = logged_transitions(
            loaded.sequences, training, loaded.users.backbone, sessions.weights, history=name in _HISTORIES
        )
    folder = run.policy(name, seed)
    if not settings.resume:
        shutil.rmtree(folder, ignore_errors=True)
    task = Task(sessions=sessions, backbone=loaded.users.backbone, logged=logged)
    policy = configured(name, {}, settings.settings).train(task, seed=seed, folder=folder, resume=settings.resume)
    save_policy(policy, folder, encoder=fingerprint(loaded.users.backbone))
    curve = learning_curve(folder)
    return curve[-1]["session_reward"] if curve else None


def learning_curve(folder: Path) -> tuple[dict[str, float], ...]:
    """Points of the learning curve in `folder` that have a session reward."""
    import json

    path = folder / "log.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    known = [row for row in rows if row.get("session_reward") is not None]
    return tuple({"step": float(row["step"]), "session_reward": float(row["session_reward"])} for row in known)


def _finished(folder: Path) -> bool:
    """Whether a whole policy stands there."""
    try:
        load_policy(folder)
    except (ValueError, OSError):
        return False
    return True
