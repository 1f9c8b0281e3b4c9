"""Benchmarks: figures beside their floor or their peer, in the same run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from experiments.bench.env import EnvBench


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure speed; "env": the environment against a bare loop of its backbone's step."""

    what: tyro.conf.Positional[Literal["env"]] = "env"
    """Which benchmark."""
    env: EnvBench = field(default_factory=EnvBench)
    """Settings of the benchmark "env"."""

    def __call__(self) -> None:
        """Run the benchmark."""
        self.env()
