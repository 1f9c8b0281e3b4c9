"""Coat as a log and a test of it: what 290 users chose to rate, and how they rated what chance showed them.

Each rating is a visit of its own, a week after the one before: the files have no times, so the order is a made-up
permutation (by user and seed), the clock says nothing, and every step is judged at the same depth, as the test is.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from torch import Tensor

from recgym.logs.log import InteractionLog, Repair
from recgym.logs.splits import TEST as TEST_ROLE
from recgym.logs.splits import TRAIN as TRAIN_ROLE
from recgym.logs.splits import VALIDATION, Roles
from recgym.random import fold, session_keys, uniform
from recgym.types import IntArray
from simulators.coat_files import (
    ITEM_FEATURES,
    ITEM_MAP,
    PROPENSITIES,
    TEST,
    TRAIN,
    USER_FEATURES,
    USER_MAP,
    describe_items,
    read_names,
    read_table,
)  # fmt: skip

WEEK = 7 * 86_400
"""Seconds between two ratings of a user."""
VALIDATION_RATINGS, TEST_RATINGS = 3, 2
"""Last ratings of each user that stop and calibrate the fit, and those after them that only judge it."""
_LEAST = VALIDATION_RATINGS + TEST_RATINGS + 1
_FIRST = 1_451_865_600  # Monday 4 January 2016, the year of the data's publication
_ORDER = 1  # stream of a user's key


class CoatData(NamedTuple):
    """U users, N items."""

    chosen: Tensor  # (U, N) float32 stars of what users chose to rate, 0: not rated; without what was exposed too
    exposed: Tensor  # (U, K) int64 items 0..N-1 that chance showed
    stars: Tensor  # (U, K) float32 stars of those
    chance: Tensor | None  # (U, N) published chance of being chosen; None: no such file
    items: pl.DataFrame
    users: pl.DataFrame | None
    overlap: int
    """Pairs in both files, left out of `chosen`: the test would know their answer."""

    @property
    def item_mean(self) -> Tensor:
        """Mean of the chosen ratings of each item, shrunk by three average ones, (N,) stars."""
        count = (self.chosen > 0).sum(0)
        average = self.chosen.sum() / count.sum()
        return (self.chosen.sum(0) + 3 * average) / (count + 3)


def read_coat_data(folder: Path) -> CoatData:
    """Read the published files in `folder`; features and propensities may be missing.

    Raises:
        FileNotFoundError: there are no ratings.
        ValueError: a file is not the table that it should be, or a user or item has too few ratings to learn from.
    """
    for name in (TRAIN, TEST):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; `data` should be the folder of the Coat files")
    chosen = read_table(folder / TRAIN, low=0, high=5)
    test = read_table(folder / TEST, low=0, high=5, rows=chosen.shape[0], columns=chosen.shape[1])
    shown = (test > 0).sum(1)
    if bool((shown != shown[0]).any()) or not int(shown[0]):
        row = int((shown != shown[0]).int().argmax())
        raise ValueError(
            f"{folder / TEST}, row {row + 1}: {int(shown[row])} ratings, expected {int(shown[0]) or 'some'} as in row 1"
        )
    both = (chosen > 0) & (test > 0)
    chosen = chosen * ~both
    for what, count, least in (("row", (chosen > 0).sum(1), _LEAST), ("column", (chosen > 0).sum(0), 1)):
        if bool((count < least).any()):
            place = int((count < least).int().argmax())
            raise ValueError(
                f"{folder / TRAIN}, {what} {place + 1}: {int(count[place])} ratings that {TEST} has not, "
                f"expected at least {least}"
            )
    exposed = (test > 0).nonzero()[:, 1].view(len(test), -1)
    path = folder / PROPENSITIES
    chance = read_table(path, low=1e-9, high=1, rows=test.shape[0], columns=test.shape[1]) if path.is_file() else None
    return CoatData(
        chosen, exposed, test.gather(1, exposed), chance, _items(folder, test.shape[1]), _users(folder, len(test)),
        int(both.sum()),
    )  # fmt: skip


def coat_log(data: CoatData, seed: int) -> InteractionLog:
    """The chosen ratings as a log without exposures, in an order made up from `seed`.

    Its propensity is the chance that one rating of this user is of this item: the published one over its sum.
    """
    users, items = data.chosen.shape
    order = uniform(fold(session_keys(seed, users), _ORDER), items)  # (U, N)
    later = (order.unsqueeze(1) < order.unsqueeze(2)) & (data.chosen > 0).unsqueeze(1)  # (U, N, N)
    user, item = (data.chosen > 0).nonzero().unbind(1)  # (M,)
    place = later.sum(2)[user, item]  # (M,) from 0, among the user's own
    events = pl.DataFrame({
        "user": [user_id(row) for row in user.tolist()],
        "item": [item_id(row) for row in item.tolist()],
        "time": (_FIRST + WEEK * place).numpy(),
        "behaviour": "rating",
        "value": data.chosen[user, item].double().numpy(),
    })  # fmt: skip
    if data.chance is not None:
        share = data.chance / data.chance.sum(1, keepdim=True)
        events = events.with_columns(propensity=pl.Series(share[user, item].double().numpy()))
    first = f"{data.overlap} pairs of {TRAIN} and {TEST}"
    repairs = (Repair("rated by choice and by chance: left out of the log", data.overlap, first),)
    return InteractionLog(
        events=events, name="coat", units={"rating": "stars"}, items=data.items, users=data.users,
        repairs=repairs if data.overlap else (),
    )  # fmt: skip


def last_roles(offsets: IntArray) -> Roles:
    """Each user's last ratings for the final judgement and those before for validation, (M,), from `offsets` (U + 1,).

    A split by time, for all users alike: each has the same weeks, but for the pairs that were left out.
    """
    size = np.diff(offsets)
    left = np.repeat(offsets[1:], size) - np.arange(offsets[-1])  # (M,) ratings from here to the user's last
    roles = np.full(len(left), TRAIN_ROLE, np.int8)
    roles[left <= VALIDATION_RATINGS + TEST_RATINGS] = VALIDATION
    roles[left <= TEST_RATINGS] = TEST_ROLE
    return roles


def user_id(row: int) -> str:
    """Text of the user in `row` from 0; texts sort as rows do."""
    return f"u{row:06d}"


def item_id(column: int) -> str:
    """Text of the item in `column` from 0; texts sort as columns do."""
    return f"i{column:06d}"


def _items(folder: Path, count: int) -> pl.DataFrame:
    table = pl.DataFrame({"item": [item_id(row) for row in range(count)]})
    path = folder / ITEM_FEATURES
    features = read_table(path, low=0, high=1, rows=count) if path.is_file() else None
    titles, categories = describe_items(folder / ITEM_MAP, features)
    if titles is None or categories is None:
        return table
    return table.with_columns(title=pl.Series(titles), category=pl.Series(categories))


def _users(folder: Path, count: int) -> pl.DataFrame | None:
    features, names = folder / USER_FEATURES, folder / USER_MAP
    if not (features.is_file() and names.is_file()):
        return None
    known = read_names(names, read_table(features, low=0, high=1, rows=count))
    groups = dict.fromkeys(group for one in known for group in one)
    columns = {group: [one.get(group) for one in known] for group in groups}
    return pl.DataFrame({"user": [user_id(row) for row in range(count)], **columns})
