"""What a log says of its users or items, as numbers: text with few values as zeros and ones, amounts standardised."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from recgym.types import FloatArray

MOST_VALUES = 30
"""Text columns with more values than this identify users (such as postal codes) rather than describe them."""
LEAST_AMOUNTS = 10
"""Numbers with fewer values than this are codes, and become zeros and ones."""


class Profile(NamedTuple):
    """Features of U users, or of U items."""

    values: FloatArray  # (U, P)
    names: tuple[str, ...]  # P names, such as "occupation=writer" or "age"
    left_out: tuple[str, ...]  # columns with too many values


def profile_of(table: pl.DataFrame, users: list[str]) -> Profile:
    """Features of `users` from a table with a column `user`; who is not in it gets zeros (the average user)."""
    table = table.with_columns(pl.col("user").cast(pl.String))
    known = pl.DataFrame({"user": users}, schema={"user": pl.String})
    return encode(known.join(table, on="user", how="left", maintain_order="left").drop("user"))


def encode(rows: pl.DataFrame, *, most_values: int = MOST_VALUES, codes: tuple[str, ...] = ()) -> Profile:
    """Every column of `rows` (U of them) as numbers; text with more than `most_values` values is left out.

    Columns named in `codes` are text even where they are written in digits.
    """
    columns: list[FloatArray] = []
    names: list[str] = []
    left_out: list[str] = []
    for name in rows.columns:
        number = rows[name].cast(pl.Float64, strict=False)
        numeric = int(number.is_not_null().sum()) == int(rows[name].is_not_null().sum())
        amounts = number.filter(number.is_finite()).n_unique()
        if numeric and name not in codes and amounts >= LEAST_AMOUNTS:
            known = np.where(np.isfinite(number.to_numpy()), number.to_numpy(), np.nan)
            spread = float(np.nanstd(known)) or 1.0
            columns.append(np.nan_to_num((known - np.nanmean(known)) / spread).astype(np.float32))
            names.append(name)
            continue
        text = rows[name].cast(pl.String)
        values = sorted(text.drop_nulls().unique().to_list())
        if len(values) > most_values or len(values) < 2:
            left_out.append(name)
            continue
        for value in values:
            columns.append((text == value).fill_null(value=False).to_numpy().astype(np.float32))
            names.append(f"{name}={value}")
    stacked = np.stack(columns, 1) if columns else np.zeros((len(rows), 0), np.float32)
    return Profile(stacked.astype(np.float32), tuple(names), tuple(left_out))
