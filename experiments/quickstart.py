"""The main job: fit, train, evaluate, report, in one folder."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.evaluate import Evaluate
from experiments.fit import Fit
from experiments.report import Report
from experiments.runs import Run
from experiments.scoring import ScoringConfig
from experiments.train import Train
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """From logs to the report: fit users, train agents, score every policy, write the page."""

    out: Path = Path("runs/quickstart")
    """Run folder; what an earlier run left there is replaced, unless --resume."""
    logs: Path | None = None
    """Folder with the logs; the sample log if it is not given."""
    format: str = "recgym"
    """Format of the logs: recgym, movielens, yoochoose, retailrocket, amazon or open-bandit."""
    agents: tuple[str, ...] = ("dqn", "ppo", "a2c", "cql")
    """Which agents to train."""
    seeds: int = 5
    """Training seeds of each agent."""
    reward: dict[str, float] = field(default_factory=dict)
    """Reward weight of each kind of feedback, such as click 1 like 0.5; empty: 1 for the first kind."""
    max_steps: int = 50
    """Steps after which a simulated session is cut."""
    sessions: int = 2_000
    """Simulated sessions a policy and seed."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Which backbone."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How the backbone is trained."""
    processes: int = 2
    """Trainings and scorings side by side, one thread each."""
    resume: bool = False
    """Go on with an interrupted run in the same folder."""

    def __call__(self) -> None:
        """Run all stages."""
        begun = time.perf_counter()
        run = Run(self.out)
        if not self.resume and (run.folder / "config.json").exists():
            run.config()  # a foreign folder is refused before anything in it is touched
            shutil.rmtree(run.folder)
        fit = Fit(out=self.out, logs=self.logs, format=self.format, backbone=self.backbone, training=self.training)
        train = Train(
            out=self.out, agents=self.agents, seeds=self.seeds, reward=self.reward, max_steps=self.max_steps,
            processes=self.processes,
        )  # fmt: skip
        scoring = ScoringConfig(sessions=self.sessions, max_steps=self.max_steps)
        evaluate = Evaluate(out=self.out, reward=self.reward, scoring=scoring, processes=self.processes)
        for stage in (fit, train, evaluate):
            replace(stage, resume=self.resume)()
        Report(out=self.out)()
        print(f"done in {time.perf_counter() - begun:.0f} s")
