"""What every training run shares: a learning curve with TensorBoard events, seeded segments, checks of configs."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recgym.files import write_bytes
from recgym.random import session_keys

Row = dict[str, float | None]


class LearningCurve:
    """Rows of the learning curve: `log.jsonl`, rewritten whole with each row, and TensorBoard events beside it."""

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        """Go on after `rows`, those of the checkpoint (empty at the start)."""
        self.folder, self.rows = folder, list(rows)
        from torch.utils.tensorboard import SummaryWriter  # which policies can be read without

        self._events = SummaryWriter(str(folder / "tensorboard"))

    def add(self, row: Row) -> None:
        """Append a row; its `step` is the abscissa."""
        self.rows.append(row)
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        write_bytes(self.folder / "log.jsonl", text.encode())
        for name, value in row.items():
            if value is not None and name != "step":
                self._events.add_scalar(name, value, int(row["step"] or 0))

    def close(self) -> None:
        """Flush the events."""
        self._events.close()


def of_sessions(returns: Any, lengths: Any) -> Row:
    """Sessions that ended, (E,) returns and lengths: how many, and their means, as the learning curve notes them."""
    known = len(returns) > 0
    return {
        "sessions": len(returns),
        "session_reward": float(np.mean(np.asarray(returns, np.float64))) if known else None,
        "session_length": float(np.mean(np.asarray(lengths, np.float64))) if known else None,
    }


@contextmanager
def isolated_randomness() -> Iterator[None]:
    """Give the global generators of Python, numpy and torch back as they were; SB3 and d3rlpy draw from them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def seed_segment(seed: int, segment: int) -> None:
    """Seed the global generators for one segment of a run, so that a resumed run draws what it would have drawn."""
    number = int(session_keys(seed, 1, first=segment)) % 2**32
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


def describe(agent: Any, seed: int) -> str:
    """The agent's config and seed as JSON: what a checkpoint must share with the run that resumes it."""
    return json.dumps({"agent": type(agent).__name__, "seed": seed, **dataclasses.asdict(agent)}, sort_keys=True)


def check_counts(config: Any, *names: str) -> None:
    """Refuse fields of a config that are below 1.

    Raises:
        ValueError: names the field and its value.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, expected at least 1")


def check_shares(config: Any, *names: str) -> None:
    """Refuse fields of a config that are not in [0, 1].

    Raises:
        ValueError: names the field and its value.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}, expected a number in [0, 1]")


def check_choice(config: Any) -> None:
    """Refuse a `choice` that no policy has and a `temperature` that is not positive, before anything is trained.

    Raises:
        ValueError: names the field and its value.
    """
    if getattr(config, "choice", "greedy") not in ("greedy", "softmax"):
        raise ValueError(f"choice is {config.choice!r}, expected 'greedy' or 'softmax'")
    if not getattr(config, "temperature", 1.0) > 0:
        raise ValueError(f"temperature is {config.temperature}, expected a positive number")


def even_batch(total: int, most: int) -> int:
    """The largest batch of at most `most` that divides `total`."""
    parts = -(-total // most)
    while total % parts:
        parts += 1
    return total // parts
