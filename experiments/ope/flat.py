"""Flat tables, one row an impression, as impressions in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from experiments.ope.fields import FILE, Fields
from experiments.ope.rows import LogColumns, LoggedRows, places_in, sha256
from recgym.logs.log import LogError, Repair
from recgym.logs.tables import ROW
from recgym.types import DoubleArray, FeedbackKind, IntArray


def flat_rows(
    fields: Fields,
    path: Path,
    columns: LogColumns,
    blanks: bool,
    keep: Collection[str] | None,
    probabilities: Sequence[str],
    catalogue: Sequence[str] | None,
) -> LoggedRows:
    """Rows of flat files, converted field by field, without the bad ones, in order; see `log.read_rows`."""
    where = {role: columns.optional(role, fields.names) for role in ("user", "session", "time", "position")}
    known = columns.optional("propensity", fields.names)
    item = fields.text(columns.item, "item")
    feedback = np.stack([fields.finite(name, "reward") for name in columns.weights], axis=1)
    size = len(item)
    propensity = np.full(size, np.nan)
    if known is not None:
        propensity = fields.propensity(known, blanks=blanks)
    time = None if where["time"] is None else fields.moment(where["time"])
    ids = {role: fields.text(name, role) for role in ("user", "session", "position") if (name := where[role])}
    context = [fields.context(name) for name in columns.context]
    chances = {
        name: fields.probability(name, "a policy's probability of what was shown", zero=True) for name in probabilities
    }
    kept = fields.names if keep is None else _there(fields, keep)
    good = np.flatnonzero(~fields.bad)
    if not len(good):
        raise LogError(f"{path}: no row is left of {size}; for example {fields.repairs[0].example}")
    if catalogue is not None:
        new = ~item.is_in(list(catalogue)).to_numpy() & ~fields.bad
        if new.any():
            place = int(np.flatnonzero(new)[0])
            raise LogError(f"{fields.where(place)}, field {columns.item!r}: {item[place]!r} is not in the catalogue")
    order, early = _order(ids.get("user"), ids.get("session"), time, good)
    if len(early):
        example = fields.where(int(early[0]))
        fields.repairs.append(Repair("sorted: rows earlier than the row before them of the same session (or user)",
                                     len(early), example))  # fmt: skip
    ids, item = {role: found.gather(order) for role, found in ids.items()}, item.gather(order)
    session = _numbers(ids["session"]) if "session" in ids else np.arange(len(order))
    who = _numbers(ids["user"]) if "user" in ids else session
    apart = (np.diff(who, prepend=-1) != 0) | (np.diff(session, prepend=-1) != 0)  # (T,) an episode begins
    names = _ordered(item) if catalogue is None else list(catalogue)
    positions = _ordered(ids["position"]) if "position" in ids else []
    unit = "session" if "session" in ids else "row"
    kinds = tuple(
        FeedbackKind(name=name, type="binary" if np.isin(feedback[order, place], (0, 1)).all() else "real")
        for place, name in enumerate(columns.weights)
    )
    return LoggedRows(
        name=path.name,
        items=tuple(names),
        item=places_in(item, names) + 1,
        reward=feedback[order] @ np.array(list(columns.weights.values()), dtype=np.float64),
        propensity=propensity[order],
        episode=np.cumsum(apart).astype(np.int64) - 1,
        user=who[apart],
        users=tuple(ids["user"].unique(maintain_order=True)) if "user" in ids else (),
        position=places_in(ids["position"], positions) if positions else None,
        positions=tuple(positions),
        time=None if time is None else time[order],
        features=np.concatenate([part[order] for part, _ in context], axis=1) if context else None,
        feature_names=tuple(name for _, found in context for name in found),
        probabilities={name: chance[order] for name, chance in chances.items()},
        columns=fields.raw.select(kept)[order] if kept else pl.DataFrame(),
        feedback=feedback[order],
        weights=columns.weights,
        kinds=kinds,
        file=fields.raw[FILE].gather(order).to_numpy().astype(np.int64),
        row=fields.raw[ROW].gather(order).to_numpy().astype(np.int64),
        files=fields.files,
        hashes=tuple(sha256(one) for one in fields.files),
        repairs=tuple(fields.repairs),
        notes=(
            *(() if "user" in ids else (f"the log names no users: each {unit} counts as a user of its own",)),
            *(_repeats(fields, order) if time is not None and len(ids.keys() & {"user", "session"}) else ()),
        ),
    )


def _repeats(fields: Fields, order: IntArray) -> tuple[str, ...]:
    """Words where rows of the log, times and users among its columns, are those of an earlier row in every column."""
    again = ~fields.raw.select(pl.struct(fields.names).is_first_distinct()).to_series().to_numpy()
    again = np.sort(order[again[order]])
    if not len(again):
        return ()
    return (
        f"{len(again):,} rows repeat an earlier row in every column and are counted again (for example "
        f"{fields.where(int(again[0]))}); if they were logged twice, take them out",
    )


def _there(fields: Fields, keep: Collection[str]) -> list[str]:
    for name in keep:
        fields.require(name, "a policy or a segment")
    return list(dict.fromkeys(keep))


def _order(
    user: pl.Series | None, session: pl.Series | None, time: DoubleArray | None, good: IntArray
) -> tuple[IntArray, IntArray]:
    """The good rows user by user, session by session, in time; and those that stood too late in their file."""
    own = pl.Series(np.arange(len(good)))
    part = own if session is None else session.gather(good)
    table = pl.DataFrame({
        "row": own, "user": part if user is None else user.gather(good), "session": part,
        "time": np.zeros(len(good)) if time is None else time[good],
    })  # fmt: skip
    key = ["user"] if session is None else ["user", "session"]
    table = table.with_columns(
        first=pl.col("row").min().over("user"), head=pl.col("row").min().over("user", "session"),
        begin=pl.col("time").min().over("user", "session"),
        early=(pl.col("time").diff().over(key) < 0).fill_null(False),
    )  # fmt: skip
    early = good[table["early"].to_numpy()]
    return good[table.sort("first", "begin", "head", "time", "row")["row"].to_numpy()], early


def _numbers(names: pl.Series) -> IntArray:
    """Number of each name in the order of appearance, (T,)."""
    return places_in(names, names.unique(maintain_order=True).to_list())


def _ordered(names: pl.Series) -> list[str]:
    """Different names: as numbers where all are whole numbers, else as text."""
    found = sorted(names.unique().to_list())
    return sorted(found, key=int) if all(one.isdecimal() for one in found) else found
