"""Benchmarks: figures beside their floor or their peer, in the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import tyro

from experiments.bench.agents import AgentsBench
from experiments.bench.backbones import BackbonesBench
from experiments.bench.env import EnvBench
from experiments.bench.learning import LearningBench
from experiments.bench.offline import OfflineBench
from experiments.bench.ope import OpeBench
from experiments.bench.worlds import WorldsBench


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure speed and quality.

    "env": the environment against a bare loop of its backbone's step. "worlds": known worlds and learned users,
    batched, single, in bulk, beside their peers, on a GPU. "agents": what each reaches where the answer is known.
    "learning": what training costs, beside Stable-Baselines3's own vector environment. "offline": a gradient step of
    CQL with d3rlpy's plain head, the item head, and a few candidates. "ope": whether off-policy intervals cover and
    estimates rank as they should where the truth is known, and what they cost. "backbones": next-item ranking on the
    logs of the published tables; its options have no prefix (`bench backbones --data beauty`).
    """

    what: tyro.conf.Positional[Literal["env", "worlds", "agents", "learning", "offline", "ope", "backbones"]] = "env"
    """Which benchmark."""
    env: EnvBench = field(default_factory=EnvBench)
    """Settings of the benchmark "env"."""
    worlds: WorldsBench = field(default_factory=WorldsBench)
    """Settings of the benchmark "worlds"."""
    agents: AgentsBench = field(default_factory=AgentsBench)
    """Settings of the benchmark "agents"."""
    learning: LearningBench = field(default_factory=LearningBench)
    """Settings of the benchmark "learning"."""
    offline: OfflineBench = field(default_factory=OfflineBench)
    """Settings of the benchmark "offline"."""
    ope: OpeBench = field(default_factory=OpeBench)
    """Settings of the benchmark "ope"."""
    backbones: tyro.conf.OmitArgPrefixes[BackbonesBench] = field(default_factory=BackbonesBench)
    """Settings of the benchmark "backbones"."""

    def __call__(self) -> None:
        """Run the benchmark."""
        benchmarks: dict[str, Callable[[], None]] = {
            "env": self.env, "worlds": self.worlds, "agents": self.agents, "learning": self.learning,
            "offline": self.offline, "ope": self.ope, "backbones": self.backbones,
        }  # fmt: skip
        benchmarks[self.what]()
