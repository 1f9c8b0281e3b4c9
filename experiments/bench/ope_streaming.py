"""What off-policy estimates cost from Parquet files: seconds and memory, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.bench.timing import most_resident
from recgym.ope.diagnostics import Question
from recgym.ope.estimators import by_parts
from recgym.ope.evidence import Per
from recgym.ope.step_files import StepColumns, StepPolicy
from recgym.ope.streaming import stream_sums

PERS: tuple[Per, ...] = ("session", "step")
HORIZON = 20
_PART = 2_000_000
"""Steps of a file."""
_ALONE = 2_000_000
"""Logs up to this many steps are read for each estimator alone, too."""


def streamed(steps: int, *, replicates: int = 1000) -> list[dict[str, Any]]:
    """Seconds and memory of the estimators of a log of so many steps in sessions of 20, alone and all in one pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder, steps)
        rows = []
        for per in PERS:
            known = by_parts(per)
            alone = [[one] for one in known] if steps <= _ALONE else []
            rows += [_apart(folder, per, names, replicates) for names in (*alone, list(known))]
    return [{"steps": steps, **row} for row in rows]


def write_log(folder: Path, steps: int) -> None:
    """Sessions of 20 steps, each of a user of its own, as files whose numbers hardly compress; mean pi / mu is 1."""
    for part, first in enumerate(range(0, steps, _PART)):
        count, rng = min(_PART, steps - first), np.random.default_rng(part)
        propensity = rng.uniform(0.1, 0.5, count)
        q = rng.uniform(0.0, 0.2, count)
        pl.DataFrame(
            {
                "session": (first + np.arange(count)) // HORIZON,
                "reward": (rng.random(count) < q).astype(np.float64),
                "propensity": propensity,
                "p": propensity * rng.uniform(0.7, 1.3, count),
                "q": q,
                "v": q + rng.normal(0.0, 0.05, count),
            }
        ).write_parquet(folder / f"{part:05}.parquet")


def _apart(folder: Path, per: Per, names: Sequence[str], replicates: int) -> dict[str, Any]:
    """The measurement in a fresh process, which has had no other peak before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, folder, per, list(names), replicates).result()


def _measured(folder: Path, per: Per, names: list[str], replicates: int) -> dict[str, Any]:
    start, wall, core = most_resident(), time.perf_counter(), time.process_time()
    policies = {"target": StepPolicy(probability="p", q="q", v="v")}
    sums = stream_sums(folder, StepColumns(), policies, per=per, names=names)["target"]
    sums.estimates(Question(per=per, interval="percentile", replicates=replicates))
    return {
        "per": per,
        "estimator": names[0] if len(names) == 1 else f"all {len(names)}",
        "wall_seconds": time.perf_counter() - wall,
        "core_seconds": time.process_time() - core,
        "most_gigabytes": most_resident() / 1e3,
        "start_gigabytes": start / 1e3,
    }
