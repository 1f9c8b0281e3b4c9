"""Lives of several sessions: what every policy of a run earns beyond one session, and whom it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import agents
from experiments.cells import cell, numbers
from experiments.fit import load_run, platform
from experiments.runs import Run
from experiments.scoring import find_policies
from experiments.truth import true_sessions
from recgym.env.lifetime import LifetimeConfig, Lifetimes
from recgym.files import read_json, write_json
from recgym.ope.intervals import seeds_and_users
from recgym.retention import LifeOutcomes, life_outcomes
from recgym.rollout import collect
from simulators.storefront import Storefront

FORMAT = "recgym-lives"
MEASURES = ("value", "sessions", "day 1", "day 7", "within 7 days", "churned")
"""Lifetime value; sessions a user; day-1 and day-7 retention; share back within 7 days; share gone for good."""

_STYLES = {"value": ".2f", "sessions": ".2f"}
"""Formats of measures that are not shares."""


@dataclass(frozen=True, kw_only=True)
class Lives:
    """Score the policies of a run over lives of several sessions: value, sessions, retention."""

    out: Path
    """Run folder that `fit` (and `train`) wrote; gets lives.json."""
    reward: dict[str, float] = field(default_factory=dict)
    """Reward weight of each kind of feedback; empty: 1 for the first kind."""
    horizon_days: float = 30.0
    """Days from the first session on."""
    session_steps: int = 50
    """Slates after which a session ends though the user would have stayed."""
    return_reward: float = 0.0
    """Reward of a user who comes back at once; 0 counts sessions by what is earned in them alone."""
    users: int = 1000
    """Lives of each policy and seed, the same users with the same luck for all."""
    seed: int = 3_000
    """Of users and their luck."""

    def __post_init__(self) -> None:
        """Check the fields; the horizon and the session are checked by `LifetimeConfig`."""
        if self.users < 2:
            raise ValueError(f"users is {self.users}, expected at least 2: an interval needs them")

    def __call__(self) -> None:
        """Run the stage."""
        run = Run(self.out)
        loaded = load_run(run)
        plain = platform(loaded.users, reward=self.reward or None, max_steps=self.session_steps)
        config = LifetimeConfig(
            reward=self.reward or None, repeats=plain.config.repeats, session_steps=self.session_steps,
            horizon_days=self.horizon_days, return_reward=self.return_reward,
        )  # fmt: skip
        worlds = {"simulated": Lifetimes(loaded.users, config)}
        truth = true_sessions(loaded.sequences, loaded.users, plain.config)
        if truth is not None:
            assert isinstance(truth.users, Storefront)
            worlds["truth"] = Lifetimes(truth.users, config, encoder=truth.encoder)
        trained = sorted(path.name for path in run.policies.glob("*") if path.name not in agents.BASELINES)
        with run.stage("lives", self, resumed=False):
            rows = []
            for name in (*agents.BASELINES, *trained):
                policies = find_policies(run, loaded, name, 1)
                measured = {
                    place: [_live(world, policy, self.users, self.seed) for policy in policies]
                    for place, world in worlds.items()
                }
                rows.append({"policy": name, **{place: _summary(seeds) for place, seeds in measured.items()}})
            write_json(
                run.folder / "lives.json", {"format": FORMAT, "version": 1, "days": self.horizon_days, "rows": rows}
            )
        print(describe(read_lives(run.folder)))


def _live(lives: Lifetimes, policy: Any, count: int, seed: int) -> LifeOutcomes:
    return life_outcomes(collect(lives, policy, num_sessions=count, seed=seed))


def _summary(seeds: list[LifeOutcomes]) -> dict[str, dict[str, float]]:
    """Each measure with its interval over seeds and users."""
    measured = [_measures(one) for one in seeds]
    found = {}
    for name in MEASURES:
        values = np.stack([one[name] for one in measured]).astype(np.float64)  # (S, E)
        found[name] = numbers(seeds_and_users(values, np.arange(values.shape[1])))
    return found


def _measures(lives: LifeOutcomes) -> dict[str, npt.NDArray[Any]]:
    """Every one of `MEASURES`, (E,) each."""
    return {
        "value": lives.value,
        "sessions": lives.sessions,
        "day 1": lives.retained(1),
        "day 7": lives.retained(7),
        "within 7 days": lives.returned_within(7),
        "churned": lives.churned,
    }


def read_lives(folder: Path) -> dict[str, Any]:
    """What the stage wrote into a run folder."""
    return read_json(folder / "lives.json", format=FORMAT, version=1)


def table(lives: dict[str, Any]) -> list[list[str]]:
    """Rows of text: policy, world, and each measure with its interval; best lifetime value first."""
    rows = sorted(lives["rows"], key=lambda row: -float(row["simulated"]["value"]["value"]))
    places = [place for place in ("simulated", "truth") if place in lives["rows"][0]]
    return [
        [row["policy"], place, *(cell(row[place][name], _STYLES.get(name, ".0%")) for name in MEASURES)]
        for row in rows
        for place in places
    ]


def describe(lives: dict[str, Any]) -> str:
    """The table as text."""
    lines = [["policy", "users", *MEASURES], *table(lives)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = "\n".join("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in lines)
    return f"lives of {lives['days']:g} days, 95% intervals over seeds and users\n{text}"
