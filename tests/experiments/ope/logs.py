"""Small logs of impressions: one drawn from a known logger, and the embedded sample as a flat table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recgym.logs.pivot import build_sequences
from recgym.logs.readers.native import sample_log
from recgym.types import DoubleArray, IntArray

ITEMS = ("apple", "bread", "cocoa", "dates")
LOGGER = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])  # by slot
OTHER = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
CLICKS = np.array([[0.1, 0.3, 0.5, 0.7], [0.0, 0.1, 0.3, 0.5]])  # by slot


@dataclass(frozen=True)
class Drawn:
    """Arrays of a log, episode after episode, and the same as a table."""

    item: IntArray  # (T,) 1..4
    reward: DoubleArray
    propensity: DoubleArray
    other: DoubleArray  # (T,) OTHER of what was shown
    episode: IntArray
    user: IntArray  # (E,)
    slot: IntArray  # (T,)

    @property
    def table(self) -> pl.DataFrame:
        """One row an impression; positions are called 1 and 2."""
        place = np.arange(len(self.item))
        return pl.DataFrame({
            "user": [f"u{self.user[one]}" for one in self.episode], "session": [f"s{one}" for one in self.episode],
            "time": 1000 + 10 * place, "item": [ITEMS[one - 1] for one in self.item], "position": self.slot + 1,
            "propensity": self.propensity, "reward": self.reward, "prob_other": self.other,
            "device": np.where(self.user[self.episode] % 2, "phone", "desk"), "age": 20 + self.user[self.episode] % 30,
        })  # fmt: skip


def drawn(sessions: int = 120, *, length: int = 3, seed: int = 0) -> Drawn:
    """Sessions of `length` steps, two of each user, from LOGGER; the slot is drawn."""
    rng = np.random.default_rng(seed)
    size = sessions * length
    slot = rng.integers(0, 2, size)
    item = 1 + (rng.random(size)[:, None] > LOGGER[slot].cumsum(axis=1)).sum(axis=1)
    reward = (rng.random(size) < CLICKS[slot, item - 1]).astype(np.float64)
    return Drawn(
        item=item, reward=reward, propensity=LOGGER[slot, item - 1], other=OTHER[slot, item - 1],
        episode=np.repeat(np.arange(sessions), length), user=np.arange(sessions) // 2, slot=slot,
    )  # fmt: skip


def sample_table(users: int) -> pl.DataFrame:
    """Impressions of the first users of the embedded sample; `prob_popular` shows items as often as people click."""
    steps = build_sequences(sample_log())
    end = int(steps.offsets[users])
    clicks = np.bincount(steps.item - 1, weights=steps.feedback[:, 0], minlength=steps.num_items)
    names = steps.items["item"].to_numpy()
    kinds = [kind.name for kind in steps.kinds]
    return pl.DataFrame({
        "user": [steps.users[one] for one in steps.user_of_step[:end]], "session": steps.session[:end],
        "time": steps.time[:end], "item": names[steps.item[:end] - 1], "propensity": steps.propensity[:end],
        "click": steps.feedback[:end, kinds.index("click")], "like": steps.feedback[:end, kinds.index("like")],
        "prob_popular": (clicks / clicks.sum())[steps.item[:end] - 1],
    })  # fmt: skip


def write(table: pl.DataFrame, path: Path) -> Path:
    """As CSV or Parquet, by the name."""
    if path.suffix == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path)
    return path
