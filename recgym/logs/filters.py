"""What may be left out of a log before it is learned from, counted."""

from __future__ import annotations

import polars as pl

from recgym.logs.log import InteractionLog, LogError, Repair


def k_core(log: InteractionLog, *, users: int, items: int) -> InteractionLog:
    """Leave out users with fewer than `users` events and items with fewer than `items`, until all fit.

    Views do not count where the log has exposures: being shown is not an event of the user's making.

    Raises:
        LogError: nothing is left.
    """
    if users < 1 or items < 1:
        raise ValueError(f"users and items must be at least 1, got {users} and {items}")
    events = log.events
    counted = (pl.col("behaviour") != "view") | pl.lit(not log.exposures)
    while True:
        kept = events.filter((counted.sum().over("user") >= users) & (counted.sum().over("item") >= items))
        if len(kept) == len(events):
            break
        events = kept
    if not len(events):
        raise LogError(
            f"{log.name}: no event is left of users with {users} and items with {items} events; ask for fewer"
        )
    gone = len(log.events) - len(events)
    lost_users, lost_items = log.num_users - events["user"].n_unique(), log.num_items - events["item"].n_unique()
    example = f"{lost_users} users and {lost_items} items in all"
    return log.with_events(
        events, Repair(f"left out: users below {users} or items below {items} events", gone, example)
    )


def sessionise(log: InteractionLog, gap_seconds: float) -> InteractionLog:
    """Name sessions: a pause of more than `gap_seconds` between two events of a user starts one."""
    if not gap_seconds > 0:
        raise ValueError(f"gap_seconds is {gap_seconds}, expected a positive number")
    events = log.events.with_row_index("_row").sort("user", "time", "_row")
    pause = (pl.col("time").diff().over("user") > gap_seconds).fill_null(True)
    number = pause.cum_sum().over("user")
    events = events.with_columns(session=pl.format("{}-{}", pl.col("user"), number)).sort("_row").drop("_row")
    return log.with_events(events)
