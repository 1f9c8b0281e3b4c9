"""A bandit small enough to write down whole: 2 contexts, 4 items, reward 0 or 1, every outcome with its probability."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recgym.types import DoubleArray, IntArray

CONTEXTS = np.array([0.7, 0.3])
LOGGER = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
TARGET = np.array([[0.1, 0.1, 0.2, 0.6], [0.5, 0.0, 0.25, 0.25]])
CLICK = np.array([[0.1, 0.6, 0.3, 0.9], [0.8, 0.2, 0.5, 0.4]])
MODEL = np.array([[0.3, 0.3, 0.3, 0.5], [0.2, 0.9, 0.1, 0.0]])
"""A reward model that is wrong everywhere but at one entry."""
TRUTH = float(CONTEXTS @ (TARGET * CLICK).sum(axis=1))
PRODUCTION = float(CONTEXTS @ (LOGGER * CLICK).sum(axis=1))


class Outcomes(NamedTuple):
    """Rows of a log and how likely each is; 'E[terms]' is `chance @ terms`."""

    chance: DoubleArray  # (n,), sums to 1
    context: IntArray  # (n,)
    item: IntArray  # (n,) 1..N
    reward: DoubleArray  # (n,)
    weights: DoubleArray  # (n,)
    q: DoubleArray  # (n,) MODEL at the logged item
    v: DoubleArray  # (n,) MODEL under the target


def outcomes() -> Outcomes:
    """All 2 x 4 x 2 rows that the logger can produce."""
    context, column, reward = (part.ravel() for part in np.meshgrid(range(2), range(4), [0.0, 1.0], indexing="ij"))
    click = CLICK[context, column]
    return Outcomes(
        chance=CONTEXTS[context] * LOGGER[context, column] * np.where(reward > 0, click, 1 - click),
        context=context, item=column + 1, reward=reward, weights=TARGET[context, column] / LOGGER[context, column],
        q=MODEL[context, column], v=(TARGET * MODEL).sum(axis=1)[context],
    )  # fmt: skip


def drawn(count: int, seed: int) -> Outcomes:
    """Rows drawn at random instead, all with chance 1 / count."""
    every = outcomes()
    rows = np.random.default_rng(seed).choice(len(every.chance), size=count, p=every.chance)
    return Outcomes(
        chance=np.full(count, 1 / count), context=every.context[rows], item=every.item[rows],
        reward=every.reward[rows], weights=every.weights[rows], q=every.q[rows], v=every.v[rows],
    )  # fmt: skip


class OpenBandit(NamedTuple):
    """One logged policy of Open Bandit's sample (campaign men) and, as the target, the other one."""

    item: IntArray  # (n,) 1..34
    reward: DoubleArray  # (n,)
    propensity: DoubleArray  # (n,)
    logger: DoubleArray  # (n, 34)
    target: DoubleArray  # (n, 34)
    category: IntArray  # (34,) item_feature_3
    table: DoubleArray  # (n, 34) smoothed click rates, the same in every row


def open_bandit(real_data: Path, logger: str) -> OpenBandit:
    """Read "random" (uniform over 34 items) or "bts" (Thompson sampling); the target is the other one."""
    folder = real_data / "obd_men"
    rows = pl.read_csv(folder / f"{logger}_men.csv.gz", columns=["item_id", "position", "click", "propensity_score"])
    column, slot = rows["item_id"].to_numpy(), rows["position"].to_numpy() - 1
    reward = rows["click"].to_numpy().astype(np.float64)
    bts = np.loadtxt(folder / "bts_dist_men.csv", delimiter=",", skiprows=1).T[slot]  # (n, 34)
    bts /= bts.sum(axis=1, keepdims=True)
    uniform = np.full(bts.shape, 1 / 34)
    features = pl.read_csv(folder / "random_men_item_context.csv").sort("item_id")["item_feature_3"]
    shown, clicked = np.bincount(column, minlength=34), np.bincount(column, weights=reward, minlength=34)
    return OpenBandit(
        item=column.astype(np.int64) + 1, reward=reward, propensity=rows["propensity_score"].to_numpy(),
        logger=uniform if logger == "random" else bts, target=bts if logger == "random" else uniform,
        category=np.unique(features.to_numpy(), return_inverse=True)[1],
        table=np.tile((clicked + 0.5) / (shown + 100), (len(column), 1)),
    )  # fmt: skip
