"""A policy as a table of probabilities: item[,position],probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from experiments.ope.rows import LoggedRows, places_in
from recgym.logs.log import LogError
from recgym.logs.tables import ROW, read_text_columns
from recgym.types import BoolArray, DoubleArray, IntArray

TOLERANCE = 1e-6
"""How far from 1 a distribution may sum."""


def read_distribution(path: Path, rows: LoggedRows) -> tuple[DoubleArray, bool, tuple[str, ...]]:
    """Distributions (P, N) over the log's items, whether they are by position, and what has to be said of them.

    Raises:
        LogError: naming file, row and field, or position and sum: an item or position that the log does not have, a
            repeated line, what is no probability, a position without line, a sum other than 1.
    """
    raw = read_text_columns(path)
    for name in ("item", "probability"):
        if name not in raw.columns:
            raise LogError(f"{path}: no column {name!r}; a policy's table has item[,position],probability")
    by_position = "position" in raw.columns

    def refuse(wrong: BoolArray, name: str, expected: str) -> None:
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise LogError(f"{path}, row {raw[ROW][place]}, field {name!r}: {raw[name][place]!r} is not {expected}")

    probability = raw["probability"].str.strip_chars().cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    refuse(~((probability >= 0) & (probability <= 1)), "probability", "a probability from 0 to 1")
    item = raw["item"].str.strip_chars().fill_null("")
    unknown = ~item.is_in(list(rows.items)).to_numpy()
    refuse(unknown, "item", "an item of the log; where the policy shows items that the log never did, name all items "
           "by --catalogue")  # fmt: skip
    kind: IntArray = np.zeros(len(raw), dtype=np.int64)
    names: tuple[str, ...] = ("",)
    if by_position:
        if not rows.positions:
            raise LogError(f"{path}: the table is by position, but the log has none; name it by --columns.position")
        position, names = raw["position"].str.strip_chars().fill_null(""), rows.positions
        refuse(~position.is_in(list(names)).to_numpy(), "position", f"one of the log's: {', '.join(names)}")
        kind = places_in(position, names)
    cell = kind * rows.num_items + places_in(item, rows.items)
    again = np.ones(len(cell), dtype=np.bool_)
    again[np.unique(cell, return_index=True)[1]] = False
    refuse(again, "item", "new: it stands in an earlier row" + (" of the same position" if by_position else ""))
    table = np.zeros((len(names), rows.num_items))
    table.flat[cell] = probability
    for name, total in zip(names, table.sum(axis=1), strict=True):
        if not abs(total - 1) <= TOLERANCE:
            where = f"position {name!r}: the" if by_position else "the"
            raise LogError(f"{path}, {where} probabilities sum to {total:.9g}, not to 1")
    return table, by_position, _said(path, table, item, rows)


def _said(path: Path, table: DoubleArray, item: pl.Series, rows: LoggedRows) -> tuple[str, ...]:
    """Items that the log never shows but the policy does, and the other way round."""
    shown = np.bincount(rows.item - 1, minlength=rows.num_items) > 0
    fresh = np.flatnonzero(~shown & (table > 0).any(axis=0))
    absent = sorted({rows.items[place] for place in np.flatnonzero(shown)} - set(item.to_list()))
    notes = []
    if len(fresh):
        names = ", ".join(rows.items[place] for place in fresh[:5])
        mass = table[:, fresh].sum(axis=1).max()
        notes.append(f"{path}: up to {mass:.1%} of what the policy shows was never shown in the log: {names}"
                     + (", ..." if len(fresh) > 5 else ""))  # fmt: skip
    if absent:
        notes.append(f"{path}: {len(absent)} items of the log are not in the table and count as never shown by the "
                     f"policy: {', '.join(absent[:5])}" + (", ..." if len(absent) > 5 else ""))  # fmt: skip
    return tuple(notes)
