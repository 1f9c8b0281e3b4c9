"""From a long log, one row a behaviour event, to sequences of steps with a feedback vector each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from recgym.logs.log import VIEW, InteractionLog, LogError
from recgym.logs.profiles import profile_of
from recgym.logs.sequences import Sequences
from recgym.types import FeedbackKind

CONSUME = "consume"
_KIND = "feedback of {}".format
"""Column of a behaviour, apart from the columns of events, whatever the behaviour is called."""


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How events become steps and sessions."""

    session_gap_seconds: float = 1800.0
    """A pause longer than this starts a session, where the log has no sessions of its own."""
    behaviours: tuple[str, ...] | None = None
    """Behaviours kept as kinds of feedback, the first being the one that makes a target; None: all, commonest first."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if not self.session_gap_seconds > 0:
            raise ValueError(f"session_gap_seconds is {self.session_gap_seconds}, expected a positive number")


def build_sequences(log: InteractionLog, config: SequenceConfig = SequenceConfig()) -> Sequences:
    """Pivot `log` into sequences.

    With exposures, every view is a step and feedback belongs to the latest view of that item by that user; feedback
    without an earlier view becomes a step of its own and is counted in `notes`. Without exposures, the events of one
    user, item and second are one step, and the first kind is "consume". Where a kind has several values, the last
    stands.

    Raises:
        LogError: no step remains, or a behaviour asked for is not in the log.
    """
    events = log.events.with_row_index("row")
    for column, kind in (("session", pl.String), ("position", pl.Int32), ("propensity", pl.Float64)):
        if column not in events.columns:
            events = events.with_columns(pl.lit(None, kind).alias(column))
    names = _behaviours(log, config)
    if not names:
        raise LogError(f"{log.name}: every event is a {VIEW!r}, so there is no feedback to learn from")
    steps, notes = _shown(events, names) if log.exposures else (_consumed(events, names), [])
    if not len(steps):
        raise LogError(f"{log.name}: no step remains of {len(log.events)} events; check `behaviours` and the filters")
    steps = _in_order(steps, config.session_gap_seconds)
    kinds = _kinds(log, names, steps)
    columns = [steps[_KIND(kind.name)].to_numpy() for kind in kinds]
    users = steps["user"].unique(maintain_order=True)
    catalogue = steps.select("item").unique().sort("item")
    number = catalogue.with_row_index("number", offset=1)
    item = steps.select("item").join(number, on="item", how="left", maintain_order="left")["number"]
    count = steps.group_by("user", maintain_order=True).len()["len"].to_numpy()
    if log.items is not None:
        catalogue = catalogue.join(log.items, on="item", how="left", maintain_order="left")
    profile = None if log.users is None else profile_of(log.users, users.to_list())
    if profile is not None and profile.left_out:
        notes.append(f"columns of users that describe too few or too many of them, left out: {profile.left_out}")
    repairs = [f"{repair.rule}: {repair.count} (for example {repair.example})" for repair in log.repairs]
    return Sequences(
        offsets=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        item=item.to_numpy().astype(np.int32),
        feedback=np.stack(columns, 1).astype(np.float32),
        time=steps["time"].to_numpy().astype(np.int64),
        session=steps["number"].to_numpy().astype(np.int64),
        propensity=steps["propensity"].cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64),
        position=steps["position"].fill_null(-1).to_numpy().astype(np.int16),
        kinds=kinds,
        exposures=log.exposures,
        users=users.to_list(),
        items=catalogue,
        name=log.name,
        notes=tuple(repairs + notes),
        profile=None if profile is None or not profile.names else profile.values,
        profile_names=() if profile is None else profile.names,
    )


def _behaviours(log: InteractionLog, config: SequenceConfig) -> list[str]:
    counts = log.events["behaviour"].value_counts().sort("count", "behaviour", descending=[True, False])
    found = counts["behaviour"].to_list()
    names = [name for name in found if name != VIEW or not log.exposures]
    if config.behaviours is not None:
        if missing := [name for name in config.behaviours if name not in names]:
            raise LogError(
                f"{log.name}: field 'behaviour' never is {missing[0]!r}; the log has {', '.join(sorted(names))}"
            )
        return list(config.behaviours)
    return sorted(names, key=lambda name: name in log.given)  # what depends on another kind comes after it


def _shown(events: pl.DataFrame, names: list[str]) -> tuple[pl.DataFrame, list[str]]:
    views = events.filter(pl.col("behaviour") == VIEW).sort("time", "row")
    views = views.with_columns(view=pl.col("row").cast(pl.Int64))
    reactions = events.filter(pl.col("behaviour").is_in(names)).sort("time", "row")
    key = views.select("user", "item", "time", "view")
    matched = reactions.join_asof(key, on="time", by=["user", "item"], strategy="backward", check_sortedness=False)
    alone = matched.filter(pl.col("view").is_null())
    matched = matched.with_columns(view=pl.coalesce("view", -1 - pl.col("row").cast(pl.Int64)))
    wide = _wide(matched.sort("row"), ["view"], names)
    own = alone.drop("view").with_columns(view=-1 - pl.col("row").cast(pl.Int64))
    own = own.with_columns(position=pl.lit(None, pl.Int32), propensity=pl.lit(None, pl.Float64))
    steps = pl.concat([views.select(own.columns), own]).join(wide, on="view", how="left")
    note = f"feedback without an earlier view, kept as steps of their own: {len(alone)}"
    return steps.with_columns(pl.col([_KIND(name) for name in names]).fill_null(0.0)), [note] if len(alone) else []


def _consumed(events: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    chosen = events.filter(pl.col("behaviour").is_in(names))
    key = ["user", "item", "time"]
    first = chosen.group_by(key, maintain_order=True).agg(pl.col("row", "session", "position", "propensity").first())
    wide = _wide(chosen, key, names).with_columns(pl.col([_KIND(name) for name in names]).fill_null(0.0))
    return first.join(wide, on=key, how="left").with_columns(pl.lit(1.0).alias(_KIND(CONSUME)))


def _wide(events: pl.DataFrame, key: list[str], names: list[str]) -> pl.DataFrame:
    """One row per `key`, one column per behaviour with its last value."""
    values = [pl.col("value").filter(pl.col("behaviour") == name).last().alias(_KIND(name)) for name in names]
    return events.group_by(key, maintain_order=True).agg(values)


def _in_order(steps: pl.DataFrame, gap_seconds: float) -> pl.DataFrame:
    """Steps user by user, session by session, with the session's number."""
    steps = steps.sort("user", "time", "row")
    if steps["session"].null_count() == len(steps):
        pause = (pl.col("time").diff() > gap_seconds) | (pl.col("user") != pl.col("user").shift())
        return steps.with_columns(number=pause.fill_null(True).cum_sum() - 1)
    if missing := steps["session"].null_count():
        first = steps.filter(pl.col("session").is_null()).row(0, named=True)
        raise LogError(
            f"field 'session' is missing for {missing} of {len(steps)} steps, the first of user {first['user']!r} "
            f"at time {first['time']}; give every event its session, or none (see filters.sessionise)"
        )
    key = ["user", "session"]
    steps = steps.with_columns(begin=pl.col("time").min().over(key), head=pl.col("row").min().over(key))
    steps = steps.sort("user", "begin", "head", "time", "row")
    return steps.with_columns(number=pl.struct(key).rle_id())


def _kinds(log: InteractionLog, names: list[str], steps: pl.DataFrame) -> tuple[FeedbackKind, ...]:
    first = [] if log.exposures else [FeedbackKind(name=CONSUME)]
    kinds = []
    for name in names:
        unit = log.units.get(name, "")
        if not log.exposures and not unit and bool((steps[_KIND(name)] > 0).all()):
            continue  # every consumed item has it: the same as "consume"
        given = log.given.get(name) if log.exposures else CONSUME
        kinds.append(FeedbackKind(name=name, type="real" if unit else "binary", given=given, unit=unit))
    return (*first, *kinds)
