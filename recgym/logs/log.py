"""An interaction log: what users saw and did, one row an event, with everything that was repaired on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import polars as pl

SCHEMA: dict[str, pl.DataType] = {
    "user": pl.String(),
    "item": pl.String(),
    "time": pl.Int64(),
    "behaviour": pl.String(),
    "value": pl.Float64(),
    "session": pl.String(),
    "position": pl.Int32(),
    "propensity": pl.Float64(),
}
"""Columns of `InteractionLog.events`; the first five are required."""
REQUIRED = ("user", "item", "time", "behaviour", "value")
VIEW = "view"
"""Behaviour of a shown item, in logs with exposures."""


class LogError(ValueError):
    """A log cannot be used as it is; the message names file, row and field, what was expected, and the remedy."""


@dataclass(frozen=True)
class Repair:
    """Something that was dropped, merged or sorted while reading, as the caller (or the format) chose."""

    rule: str
    """What was done, and why."""
    count: int
    """Rows it was done to."""
    example: str
    """One of them: file, row and what stood there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InteractionLog:
    """Events of users and items.

    `events` has the columns user, item (text ids), time (seconds since the epoch), behaviour (text) and value (float: 1
    where the behaviour has no amount), and may have session (text), position (slot in the slate, from 0) and
    propensity (probability with which the logging policy showed the item at that slot).
    """

    events: pl.DataFrame = field(repr=False)
    name: str = "log"
    exposures: bool = False
    """Whether "view" events say everything that was shown, ignored or not."""
    items: pl.DataFrame | None = field(default=None, repr=False)
    """Features of items: column item, and title, category, ... where they are known."""
    users: pl.DataFrame | None = field(default=None, repr=False)
    """Features of users: column user, and others."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Unit of each behaviour whose value is an amount ("stars", "seconds"); the rest either happens or not."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Behaviour without which another cannot happen, by name: {"like": "click"}."""
    repairs: tuple[Repair, ...] = ()

    def __post_init__(self) -> None:
        """Check columns, types and that there is something to learn from."""
        for name in REQUIRED:
            if name not in self.events.columns:
                raise LogError(f"{self.name}: no column {name!r}; the events have {', '.join(self.events.columns)}")
        for name, kind in self.events.schema.items():
            if name in SCHEMA and kind != SCHEMA[name]:
                raise LogError(f"{self.name}: column {name!r} is {kind}, expected {SCHEMA[name]}")
        if not len(self.events):
            raise LogError(f"{self.name}: no event is left; check the file and the filters")
        for table, key in ((self.items, "item"), (self.users, "user")):
            if table is None:
                continue
            if key not in table.columns:
                raise LogError(
                    f"{self.name}: the table of {key}s has no column {key!r}, but {', '.join(table.columns)}"
                )
            if (twice := table[key].is_duplicated()).any():
                first = table[key].filter(twice)[0]
                raise LogError(f"{self.name}: {key} {first!r} stands twice in the table of {key}s; keep one row each")
        if self.exposures and not (self.events["behaviour"] == VIEW).any():
            raise LogError(f"{self.name}: exposures are declared, but no event has behaviour {VIEW!r}")

    @property
    def num_users(self) -> int:
        """Users with at least one event."""
        return self.events["user"].n_unique()

    @property
    def num_items(self) -> int:
        """Items with at least one event."""
        return self.events["item"].n_unique()

    def with_events(self, events: pl.DataFrame, *repairs: Repair) -> InteractionLog:
        """The same log with other events, and what was done to them noted where it was done to any."""
        return replace(self, events=events, repairs=self.repairs + tuple(one for one in repairs if one.count))
