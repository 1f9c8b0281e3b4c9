"""Impressions for off-policy evaluation: arrays of rows, and which column of a flat log holds what."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from recgym.logs.log import LogError, Repair
from recgym.logs.sequences import Sequences
from recgym.types import DoubleArray, FeedbackKind, IntArray


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """Which column of a flat log holds what. But for item and reward, a name left at its default may be absent."""

    item: str = "item"
    """What was shown."""
    reward: str = "reward"
    """What it brought."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Instead of `reward`: weight of each of several feedback columns, such as click 1 purchase 5."""
    user: str = "user"
    """Whom it was shown to. Without: each session (or row) counts as a user of its own."""
    session: str = "session"
    """Session of the user. Without: each row stands alone."""
    time: str = "time"
    """Seconds since the epoch, or a date and time."""
    position: str = "position"
    """Slot in the slate."""
    propensity: str = "propensity"
    """Probability with which the logging policy showed the item (at its position)."""
    context: tuple[str, ...] = ()
    """What the logger knew: columns of numbers, or of a few texts."""

    def optional(self, role: str, names: Collection[str]) -> str | None:
        """Column of an optional role; None where it was not asked for and is not there."""
        name: str = getattr(self, role)
        return None if name == getattr(LogColumns(), role) and name not in names else name

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each feedback column."""
        return self.rewards or {self.reward: 1.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class LoggedRows:
    """T impressions of E episodes, a user's episodes together, each in time order."""

    name: str
    items: tuple[str, ...]
    """Name of item j + 1 at place j."""
    item: IntArray  # (T,) 1..N
    reward: DoubleArray  # (T,)
    propensity: DoubleArray  # (T,) nan unknown
    episode: IntArray  # (T,) 0..E-1
    user: IntArray  # (E,) 0..U-1
    users: tuple[str, ...] = field(repr=False)
    """Their names; empty where the log has none."""
    position: IntArray | None = None  # (T,) 0..P-1
    positions: tuple[str, ...] = ()
    """Name of each position."""
    time: DoubleArray | None = None  # (T,) seconds since the epoch
    features: DoubleArray | None = None  # (T, X) as they are in the log
    feature_names: tuple[str, ...] = ()
    probabilities: Mapping[str, DoubleArray] = field(default_factory=dict, repr=False)
    """Columns (T,) with a policy's probability of what was shown."""
    columns: pl.DataFrame = field(default_factory=pl.DataFrame, repr=False)
    """Other columns asked for, as text, T rows."""
    feedback: DoubleArray = field(repr=False)  # (T, F)
    weights: Mapping[str, float]
    """What each kind of feedback counts for in the reward."""
    kinds: tuple[FeedbackKind, ...]
    file: IntArray = field(repr=False)  # (T,) number of the file that a row stands in
    row: IntArray = field(repr=False)  # (T,) its row there
    unit: str = "row"
    """What `row` counts: "step" where a reader of a published format has put rows together."""
    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    """SHA-256 of each file."""
    repairs: tuple[Repair, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_items(self) -> int:
        """Items N."""
        return len(self.items)

    @property
    def start(self) -> IntArray:
        """(E,) first row of each episode."""
        return np.flatnonzero(np.diff(self.episode, prepend=-1)).astype(np.int64)

    @property
    def user_of_row(self) -> IntArray:
        """(T,)."""
        found: IntArray = self.user[self.episode]
        return found

    def where(self, place: int) -> str:
        """File and row of a row of this log."""
        return f"{self.files[self.file[place]]}, {self.unit} {self.row[place]}"

    def column(self, name: str) -> pl.Series:
        """A column of text.

        Raises:
            LogError: it was not kept, or is not there.
        """
        if name not in self.columns.columns:
            has = ", ".join(self.columns.columns) or "none beside the usual fields"
            raise LogError(f"{self.files[0]}: no column {name!r}; there is {has}")
        return self.columns[name]

    def sequences(self) -> Sequences:
        """The same rows as steps of users, for histories and encoders."""
        who = self.user_of_row
        count = np.bincount(who, minlength=int(who.max()) + 1)
        time = np.arange(len(self.item), dtype=np.float64) if self.time is None else self.time
        return Sequences(
            offsets=np.concatenate([[0], np.cumsum(count)]).astype(np.int64), item=self.item.astype(np.int32),
            feedback=self.feedback.astype(np.float32), time=time.astype(np.int64), session=self.episode,
            propensity=self.propensity, position=np.full(len(self.item), -1, np.int16), kinds=self.kinds,
            exposures=True, users=[str(number) for number in range(len(count))],
            items=pl.DataFrame({"item": self.items}), name=self.name,
        )  # fmt: skip


def places_in(names: pl.Series, known: Sequence[str]) -> IntArray:
    """Place of each name in `known`, (T,)."""
    found = names.cast(pl.Enum(list(known))).to_physical()
    return found.to_numpy().astype(np.int64)


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
