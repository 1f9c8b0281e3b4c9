"""Fields of an impression log, from text to numbers; every bad row is named, or dropped and counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from recgym.logs.log import LogError, Repair
from recgym.logs.tables import ROW, OnBadRows, read_text_columns
from recgym.types import BoolArray, DoubleArray

FILE = "_file"
"""Column with the number of the file that a row stands in."""
MOST_TEXTS = 50
"""Different texts that a context column, or a column of segments, may hold."""
_BLANK = ("", "nan", "null", "none", "na")


@dataclass(kw_only=True)
class Fields:
    """Rows of one or more files as text, and which of them are bad so far."""

    raw: pl.DataFrame = field(repr=False)  # T rows: the columns as text, ROW and FILE
    files: tuple[Path, ...]
    on_bad_rows: OnBadRows
    repairs: list[Repair]
    bad: BoolArray  # (T,)

    @property
    def names(self) -> list[str]:
        """Columns of the files."""
        return [name for name in self.raw.columns if name not in (ROW, FILE)]

    def where(self, place: int) -> str:
        """File and row."""
        return f"{self.files[self.raw[FILE][place]]}, row {self.raw[ROW][place]}"

    def require(self, name: str, role: str) -> None:
        """Refuse a column that is not there.

        Raises:
            LogError: with the columns that are there.
        """
        if name not in self.names:
            raise LogError(f"{self.files[0]}: no column {name!r} (for {role}); the file has {', '.join(self.names)}")

    def mark(self, name: str, wrong: BoolArray, expected: str, hint: str = "") -> None:
        """Refuse the first of the `wrong` rows (T,), or have all of them dropped.

        Raises:
            LogError: naming file, row, field, what stands there and what was expected.
        """
        if not wrong.any():
            return
        place = int(np.flatnonzero(wrong)[0])
        found = f"{self.where(place)}, field {name!r}: {self.raw[name][place]!r}"
        if self.on_bad_rows == "error":
            raise LogError(
                f"{found} is not {expected}; {hint}correct the row, or choose --on-bad-rows drop to drop and "
                "count such rows"
            )
        self.repairs.append(Repair(f"dropped: {name} is not {expected}", int(wrong.sum()), found))
        self.bad |= wrong

    def text(self, name: str, role: str) -> pl.Series:
        """Ids, (T,): text that is not empty."""
        self.require(name, role)
        found = self.raw[name].str.strip_chars().fill_null("")
        self.mark(name, (found == "").to_numpy(), "a non-empty id")
        return found

    def blank(self, name: str) -> BoolArray:
        """Where nothing stands, or a word for nothing, (T,)."""
        found = self.raw[name].str.strip_chars().str.to_lowercase().fill_null("").is_in(_BLANK)
        return np.asarray(found.to_numpy(), dtype=np.bool_)

    def plain_numbers(self, name: str) -> DoubleArray:
        """The column as numbers (T,), nan where there is none."""
        found = self.raw[name].str.strip_chars().cast(pl.Float64, strict=False)
        return np.array(found.fill_null(np.nan).to_numpy(), dtype=np.float64)

    def finite(self, name: str, role: str) -> DoubleArray:
        """Finite numbers, (T,), also as float32, which models read."""
        self.require(name, role)
        found = self.plain_numbers(name)
        self.mark(name, ~(np.abs(found) <= np.finfo(np.float32).max), "a finite number below 3.4e38")
        return found

    def probability(self, name: str, role: str, *, zero: bool) -> DoubleArray:
        """Probabilities of something, (T,): 0 only if `zero`."""
        self.require(name, role)
        found = self.plain_numbers(name)
        good = (found <= 1) & ((found >= 0) if zero else (found > 0))
        self.mark(name, ~good, "a probability from 0 to 1" if zero else "a probability above 0, at most 1")
        return found

    def propensity(self, name: str, *, blanks: bool) -> DoubleArray:
        """Probabilities with which the logger showed what it showed, (T,); nan where blank, if `blanks` may be."""
        self.require(name, "propensity")
        found, blank = self.plain_numbers(name), self.blank(name)
        given = (found > 0) & (found <= 1)
        self.mark(name, ~given & ~blank, "a probability above 0, at most 1")
        if not blanks:
            hint = "--propensities estimate makes up for missing ones; or "
            self.mark(name, blank, "a probability above 0, at most 1", hint)
        found[blank] = np.nan
        return found

    def moment(self, name: str) -> DoubleArray:
        """Seconds since the epoch, (T,)."""
        self.require(name, "time")
        text = self.raw[name].str.strip_chars()
        found = self.plain_numbers(name)
        found[~(np.abs(found) < 1e12)] = np.nan
        plain = text.str.replace(r"(Z|\+00:00)$", "").str.replace(" ", "T")
        for form in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d"):
            open_still = np.isnan(found)
            if open_still.any():
                stamp = plain.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("us").cast(pl.Float64) / 1e6
                found[open_still] = stamp.fill_null(np.nan).to_numpy()[open_still]
        expected = "seconds since the epoch, or a date and time such as 2014-04-07T10:51:09.277Z"
        self.mark(name, np.isnan(found), expected)
        return found

    def context(self, name: str) -> tuple[DoubleArray, list[str]]:
        """One column of what the logger saw: its numbers (T, 1), or a column for each text but the first (T, X).

        Raises:
            LogError: the column holds more than `MOST_TEXTS` different texts.
        """
        self.require(name, "context")
        number, blank = self.plain_numbers(name), self.blank(name)
        no_number = np.isnan(number) & ~blank
        if not no_number.any() and not blank.all():
            self.mark(name, ~np.isfinite(number), "a finite number")
            return number[:, None], [name]
        text = self.raw[name].fill_null("").to_numpy().astype(np.str_)
        kinds = np.unique(text)
        if len(kinds) > MOST_TEXTS:
            first = int(np.flatnonzero(no_number)[0])
            raise LogError(
                f"{self.where(first)}, field {name!r}: {self.raw[name][first]!r} is no number, and the context column "
                f"holds {len(kinds)} different texts (at most {MOST_TEXTS}); leave it out, or give numbers"
            )
        return (text[:, None] == kinds[1:]).astype(np.float64), [f"{name}={kind}" for kind in kinds[1:]]


def read_fields(files: Sequence[Path], *, on_bad_rows: OnBadRows) -> Fields:
    """All rows of the given files, one after the other, as text.

    Raises:
        LogError: a file is missing, empty, no table, or has other columns than the first.
    """
    repairs: list[Repair] = []
    parts: list[pl.DataFrame] = []
    for number, path in enumerate(files):
        part = read_text_columns(path, on_bad_rows=on_bad_rows, repairs=repairs)
        if twice := [name for name in part.columns if re.search(r"_duplicated_\d+$", name)]:  # as polars has it
            raise LogError(f"{path}: two columns are called {twice[0].rpartition('_duplicated_')[0]!r}; rename one")
        if parts and set(part.columns) != set(parts[0].columns) - {FILE}:
            raise LogError(f"{path}: its columns ({', '.join(part.columns[1:])}) are not those of {files[0]}")
        parts.append(part.with_columns(pl.lit(number, pl.Int32).alias(FILE)))
    raw = pl.concat([part.select(parts[0].columns) for part in parts])
    if not len(raw):
        raise LogError(f"{files[0]}: the log has no row")
    return Fields(
        raw=raw, files=tuple(files), on_bad_rows=on_bad_rows, repairs=repairs, bad=np.zeros(len(raw), dtype=np.bool_)
    )
