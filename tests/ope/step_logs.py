"""A log of steps in Parquet files, with what makes reading it in chunks hard, and policies along it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from recgym.ope.rows import Numbers
from recgym.ope.step_files import StepColumns, StepPolicy
from recgym.types import DoubleArray

COLUMNS = StepColumns(user="user", also=("feature",))


def twice(batch: pl.DataFrame) -> Numbers:
    """A policy that looks at a column."""
    assert len(batch) <= 7 and batch.columns == ["session", "user", "feature", "reward", "propensity", "p", "q", "v"]
    chance: DoubleArray = np.minimum(2 * batch["feature"].to_numpy(), 1.0)
    return chance


POLICIES = {
    "column": StepPolicy(probability="p", q="q", v="v"),
    "function": StepPolicy(probability=twice, q="q", v=lambda batch: batch["v"].to_numpy() + 1, v_next="q"),
    "bare": StepPolicy(probability="p"),
}


def table(sessions: int = 260, *, users: int = 40, longest: int = 6, seed: int = 0) -> pl.DataFrame:
    """Sessions of 1 to `longest` steps, the longest late in the log, users coming back anywhere."""
    rng = np.random.default_rng(seed)
    length = np.minimum(rng.integers(1, longest + 1, sessions), 1 + np.arange(sessions) // 20)
    who = np.repeat(np.arange(sessions), length)
    count = len(who)
    propensity = rng.uniform(0.2, 1.0, count)
    p = np.clip(propensity * rng.uniform(0.4, 1.6, count), 0, 1) * (rng.random(count) > 0.03)
    return pl.DataFrame(
        {
            "session": rng.permutation(sessions)[who] * 7,
            "user": [f"u{user}" for user in rng.integers(users, size=sessions)[who]],
            "reward": rng.normal(1.0, 1.0, count), "propensity": propensity, "p": p, "q": rng.normal(size=count),
            "v": rng.normal(size=count), "feature": rng.uniform(0.0, 0.6, count),
        }
    )  # fmt: skip


def written(found: pl.DataFrame, folder: Path, *, at: int = 301) -> Path:
    """Two files, the border between them inside a session, in small row groups."""
    assert found["session"][at - 1] == found["session"][at]
    folder.mkdir()
    found[:at].write_parquet(folder / "1.parquet", row_group_size=17)
    found[at:].write_parquet(folder / "2.parquet", row_group_size=1000)
    return folder
