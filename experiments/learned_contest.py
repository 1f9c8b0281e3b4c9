"""Agents in learned users: what they earn where they trained, what in users learned from other people, how they rank.

The logged people are halved (`experiments.audit`). Agents train in the users learned from the first half, or on that
half's logs; the second half's users, with a backbone of their own, are the independent environment. HR and NDCG are of
held-out choices of everybody, full ranking, by the first half's backbone and the agent's `scores`.

    RUN/contest/a, RUN/contest/b       the users of the two halves
    RUN/contest/AGENT/seed-K/          policy, learning curve, `result.json`, `figures.npz`
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents import AGENTS, BASELINES, Task
from experiments.audit import half_roles, learn_half
from experiments.contest import OFFLINE, configured, describe_agent
from experiments.fit import Loaded, load_run, platform, starting_at
from experiments.pool import run_jobs
from experiments.presets import LEARNED
from experiments.runs import Run
from experiments.scoring import ScoringConfig, ranking_steps, trivial_policy
from recgym.backbones.backbone import fingerprint
from recgym.env.session import Sessions
from recgym.evaluation import rank_policy, ranking_metrics
from recgym.files import FormatError, read_json, write_bytes, write_json
from recgym.logs.splits import TRAIN, sessions_of
from recgym.metrics import coverage, exposure_counts
from recgym.ope.intervals import seeds_and_users
from recgym.policy import save_policy
from recgym.rollout import collect, logged_transitions
from recgym.types import DoubleArray, Policy
from recgym.users.storage import load_users, save_users

FORMAT, VERSION = "recgym-learned-contest", 1
REFERENCE = "backbone-greedy"
_JUDGE_SEED = 2_000
Figures = dict[str, DoubleArray]
"""`trained in` and `independent` rewards (E,), `ndcg@10` and `hr@10` (Q,), `coverage` (1,); and whose they are: the
logged people of the sessions, `user` (E,), and of the held-out choices, `asked` (Q,)."""


@dataclass(frozen=True, kw_only=True)
class LearnedContest:
    """Who competes in the learned users of a run, and how they are scored."""

    agents: tuple[str, ...] = ()
    """Agents; none: all that have a preset for learned users."""
    settings: dict[str, str] = field(default_factory=dict)
    """Fields of the agents' configs that should differ from the presets."""
    seeds: int = 5
    """Training seeds 0, 1, ... of each agent."""
    sessions: int = 1_000
    """Sessions that score each policy, in either set of users."""
    targets: int = 3_000
    """Held-out choices that are ranked, at most."""
    max_steps: int = 50
    """Steps after which a session is cut."""
    processes: int = 2
    """Trainings side by side, one thread each."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in self.agents:
            if name not in AGENTS:
                raise ValueError(f"no agent is called {name!r}; there are {', '.join(sorted(AGENTS))}")
            configured(name, {}, self.settings)  # says at once what does not fit

    def run(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Rows by policy of the run in `folder`: trivial ones, then the agents'."""
        run = Run(folder)
        field_ = _Field(self, run)  # learns the halves, before the jobs ask for them
        names = self.agents or tuple(LEARNED)
        jobs = [(name, seed) for seed in range(self.seeds) for name in names]
        waiting = [job for job in jobs if not self._done(run, job)]
        for _ in run_jobs(partial(_train_one, self, run), waiting, processes=self.processes, description=str(folder)):
            pass
        found = {name: [field_.score(trivial_policy(field_.mine, name))] for name in BASELINES}
        for name in names:
            parts = [np.load(_folder(run, name, seed) / "figures.npz") for seed in range(self.seeds)]
            found[name] = [{key: part[key] for key in part.files} for part in parts]
        rows = {name: _row(parts, found[REFERENCE][0]) for name, parts in found.items()}
        for name in names:
            facts = [read_json(_folder(run, name, seed) / "result.json", format=FORMAT, version=VERSION)
                     for seed in range(self.seeds)]  # fmt: skip
            rows[name]["minutes"] = float(np.mean([fact["seconds"] for fact in facts])) / 60
        return rows

    def about(self, name: str) -> dict[str, Any]:
        """All that a result depends on beside the seed and the run."""
        agent = describe_agent(configured(name, LEARNED.get(name, {}), self.settings))
        return {"agent": agent, "sessions": self.sessions, "targets": self.targets, "max_steps": self.max_steps}

    def _done(self, run: Run, job: tuple[str, int]) -> bool:
        file = _folder(run, *job) / "result.json"
        try:
            return bool(read_json(file, format=FORMAT, version=VERSION)["about"] == self.about(job[0]))
        except FormatError:
            return False


class _Field:
    """The two sets of users, and what scores a policy in them."""

    def __init__(self, settings: LearnedContest, run: Run) -> None:
        self.settings = settings
        loaded, roles, a, b = _halves(run)
        self.mine = Loaded(loaded.sequences, roles, a, loaded.fidelity)
        config = platform(a, reward=None, max_steps=settings.max_steps).config
        self.home: Sessions[Any] = Sessions(a, config)
        self.away: Sessions[Any] = Sessions(starting_at(b, a.starts), config, encoder=a.backbone)
        self.steps = ranking_steps(loaded, ScoringConfig(ranking_targets=settings.targets))

    def task(self, *, logged: bool) -> Task:
        """What an agent learns from: the first half's users, or their logs."""
        a, sequences = self.mine.users, self.mine.sequences
        if not logged:
            return Task(sessions=self.home, backbone=a.backbone)
        training = sessions_of(sequences, self.mine.roles, TRAIN)
        steps = logged_transitions(sequences, training, a.backbone, self.home.weights, history=True)
        return Task(sessions=self.home, backbone=a.backbone, logged=steps)

    def score(self, policy: Policy) -> Figures:
        """All figures of a policy."""
        count = self.settings.sessions
        home, away = (collect(place, policy, num_sessions=count, seed=_JUDGE_SEED) for place in (self.home, self.away))
        ranks = rank_policy(
            policy, self.mine.users.backbone, self.mine.sequences, self.steps, mask_seen=not self.mine.users.repeats
        )
        metrics = ranking_metrics(ranks)
        shown = coverage(exposure_counts(away.action, self.home.num_items))
        return {
            "trained in": home.returns,
            "independent": away.returns,
            "ndcg@10": metrics["ndcg@10"],
            "hr@10": metrics["hr@10"],
            "coverage": np.array([shown]),
            "user": away.user.astype(np.float64),
            "asked": self.mine.sequences.user_of_step[self.steps].astype(np.float64),
        }


def _halves(run: Run) -> Any:
    """The run, the roles that the first half learns from, and both sets of users, learned once and kept.

    Raises:
        FormatError: what stands there was learned from another fit of the run.
    """
    loaded = load_run(run)
    users, roles = [], []
    about, file = (
        {"data": loaded.sequences.fingerprint(), "backbone": fingerprint(loaded.users.backbone)},
        (run.folder / "contest" / "about.json"),
    )
    if file.exists() and read_json(file, format=FORMAT, version=VERSION)["fit"] != about:
        raise FormatError(f"{file}: the contest was held on another fit of the run; delete {file.parent} to begin anew")
    write_json(file, {"format": FORMAT, "version": VERSION, "fit": about})
    for place, name in enumerate("ab"):
        folder = run.folder / "contest" / name
        roles.append(half_roles(loaded, first=place == 0, seed=0))
        if not (folder / "users.json").exists():
            save_users(learn_half(run, loaded, roles[-1], seed=place, ensemble=0), folder)
        users.append(load_users(folder))
    return loaded, roles[0], *users


def _train_one(settings: LearnedContest, run: Run, job: tuple[str, int]) -> float:
    """Train and score one agent with one seed; its mean reward in the independent users."""
    name, seed = job
    agent, folder = configured(name, LEARNED.get(name, {}), settings.settings), _folder(run, *job)
    arena = _Field(settings, run)
    begun = time.perf_counter()
    policy = agent.train(arena.task(logged=name in OFFLINE), seed=seed, folder=folder)
    seconds = time.perf_counter() - begun
    save_policy(policy, folder, encoder=fingerprint(arena.mine.users.backbone))
    figures = arena.score(policy)
    buffer = io.BytesIO()
    np.savez(buffer, **figures)  # type: ignore[arg-type]
    write_bytes(folder / "figures.npz", buffer.getvalue())
    about = {"about": settings.about(name), "seconds": round(seconds, 1)}
    write_json(folder / "result.json", {"format": FORMAT, "version": VERSION, **about})
    return float(figures["independent"].mean())


def _folder(run: Run, name: str, seed: int) -> Path:
    return run.folder / "contest" / name / f"seed-{seed}"


def _row(parts: list[Figures], reference: Figures) -> dict[str, Any]:
    """Intervals of every figure over seeds and people, and of the differences to today's ranker."""
    found: dict[str, Any] = {}
    for key, whose in (("trained in", "user"), ("independent", "user"), ("ndcg@10", "asked"), ("hr@10", "asked")):
        values, people = np.stack([part[key] for part in parts]), reference[whose]
        found[key] = seeds_and_users(values, people)
        found[f"{key} minus {REFERENCE}"] = seeds_and_users(values - reference[key][None], people)
    found["coverage"] = float(np.mean([part["coverage"] for part in parts]))
    return found
