"""Tables of events in CSV or Parquet, with a mapping of columns; every bad row is named, or dropped and counted.

Everything is read as text first and converted field by field, so that a message can show what stands in the file.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from recgym.logs.log import SCHEMA, LogError, Repair

OnBadRows = Literal["error", "drop"]
Duplicates = Literal["keep", "drop", "error"]
ROW = "_row"
"""Column with the line of a row in its file, from 1 (Parquet: the row, from 1)."""
_EXPECTED = {
    "user": "a non-empty id",
    "item": "a non-empty id",
    "time": "seconds since the epoch, or a date and time such as 2014-04-07T10:51:09.277Z",
    "behaviour": "a non-empty name",
    "value": "a finite number",
    "session": "a non-empty id",
    "position": "a slot from 0 to 32767",
    "propensity": "a probability above 0, at most 1",
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a file holds what; None: the file has no such column."""

    user: str = "user"
    item: str = "item"
    time: str = "time"
    behaviour: str | None = None
    """None: every row is `default_behaviour`."""
    value: str | None = None
    """None: every value is 1."""
    session: str | None = None
    position: str | None = None
    propensity: str | None = None
    default_behaviour: str = "click"
    """Behaviour of rows where no column says it."""

    def mapping(self) -> dict[str, str]:
        """Field -> column of the file, of those it has."""
        return {field: name for field in SCHEMA if (name := getattr(self, field)) is not None}


def read_table(
    path: Path | str,
    columns: Columns = Columns(),
    *,
    on_bad_rows: OnBadRows = "error",
    duplicates: Duplicates = "keep",
    separator: str = ",",
    header: Sequence[str] | None = None,
    encoding: str = "utf8",
) -> tuple[pl.DataFrame, tuple[Repair, ...]]:
    """Events of one CSV or Parquet file, in the order of the file.

    Args:
        path: a file whose name ends in .parquet, or a text file.
        columns: which column holds what.
        on_bad_rows: "error" refuses the file at its first bad row; "drop" drops bad rows and counts them.
        duplicates: what to do with rows that repeat an earlier one in every field: "keep" (counted), "drop", "error".
        separator: of a text file.
        header: names of the columns of a text file without a header line.
        encoding: of a text file.

    Returns:
        Events with the columns of `recgym.logs.log.SCHEMA` that the file has, and what was repaired.

    Raises:
        LogError: file missing, empty, not UTF-8, without a column asked for, or with a bad row.
    """
    path = Path(path)
    repairs: list[Repair] = []
    raw = read_text_columns(
        path, on_bad_rows=on_bad_rows, separator=separator, header=header, encoding=encoding, repairs=repairs
    )
    return to_events(raw, columns, path.name, on_bad_rows=on_bad_rows, duplicates=duplicates, repairs=repairs)


def to_events(
    raw: pl.DataFrame,
    columns: Columns,
    source: str,
    *,
    on_bad_rows: OnBadRows = "error",
    duplicates: Duplicates = "keep",
    repairs: Sequence[Repair] = (),
) -> tuple[pl.DataFrame, tuple[Repair, ...]]:
    """Convert a table of text columns and `ROW` to events; see `read_table`."""
    if on_bad_rows not in ("error", "drop") or duplicates not in ("keep", "drop", "error"):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r} and duplicates {duplicates!r}: not among their choices")
    found = list(repairs)
    mapping = columns.mapping()
    for field, name in mapping.items():
        if name not in raw.columns:
            has = ", ".join(column for column in raw.columns if column != ROW)
            raise LogError(f"{source}: no column {name!r} (for field {field!r}); the file has {has}")
    events = raw.select(ROW, *(_parsed(field, name) for field, name in mapping.items()))
    bad = pl.lit(False)
    for field, name in mapping.items():
        optional = field in ("position", "propensity", "session")
        given = raw[name].is_not_null() & (raw[name] != "") if optional else pl.repeat(True, len(raw), eager=True)
        wrong = events[field].is_null() & given
        if wrong.any():
            place = int(wrong.arg_max() or 0)
            where = f"{source}, row {raw[ROW][place]}, field {name!r}: {raw[name][place]!r}"
            if on_bad_rows == "error":
                raise LogError(
                    f"{where} is not {_EXPECTED[field]}; correct the row, or choose on_bad_rows='drop' "
                    "to drop and count such rows"
                )
            found.append(Repair(f"dropped: {field} is not {_EXPECTED[field]}", int(wrong.sum()), where))
            bad = bad | pl.lit(wrong)
    events = events.filter(~bad)
    if not len(events):
        raise LogError(f"{source}: the file has no event" + (" that could be read" if len(raw) else ""))
    if "behaviour" not in mapping:
        events = events.with_columns(pl.lit(columns.default_behaviour).alias("behaviour"))
    if "value" not in mapping:
        events = events.with_columns(pl.lit(1.0).alias("value"))
    events, more = _without_duplicates(events, source, duplicates)
    found += more
    found += out_of_order(events, source)
    return events.select([name for name in SCHEMA if name in events.columns]), tuple(found)


def read_text_columns(
    path: Path,
    *,
    on_bad_rows: OnBadRows = "error",
    separator: str = ",",
    header: Sequence[str] | None = None,
    encoding: str = "utf8",
    repairs: list[Repair] | None = None,
) -> pl.DataFrame:
    """Every column of a CSV or Parquet file as text, and `ROW`.

    Raises:
        LogError: the file is missing, empty, truncated, not in `encoding`, or a line has the wrong number of fields.
    """
    if not path.is_file():
        raise LogError(f"{path}: not found")
    if path.stat().st_size == 0:
        raise LogError(f"{path}: the file is empty")
    if path.suffix == ".parquet":
        try:
            table = pl.read_parquet(path).select(pl.all().cast(pl.String))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{path}: not a readable Parquet file ({error}); it is truncated or foreign") from error
        return table.with_row_index(ROW, offset=1)
    return _lines(path, separator, on_bad_rows, encoding, repairs if repairs is not None else [], header)


def out_of_order(events: pl.DataFrame, source: str) -> list[Repair]:
    """How many events come before an earlier-written one of the same user: sorting by time mends them, and says so."""
    earlier = events.select((pl.col("time").diff().over("user") < 0).fill_null(False).alias("early"))["early"]
    if not earlier.any():
        return []
    place = int(earlier.arg_max() or 0)
    example = f"{source}: user {events['user'][place]!r} at time {events['time'][place]}"
    return [Repair("sorted: rows earlier than the row before them of the same user", int(earlier.sum()), example)]


def _parsed(field: str, name: str) -> pl.Expr:
    text = pl.col(name).str.strip_chars()
    if field == "time":
        number = text.cast(pl.Float64, strict=False)
        number = pl.when(number.is_finite() & (number.abs() < 1e12)).then(number.floor().cast(pl.Int64, strict=False))
        moment = text.str.replace(r"(Z|\+00:00)$", "").str.replace(" ", "T")
        parsed = pl.coalesce(
            moment.str.to_datetime(form, strict=False, time_unit="us") for form in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d")
        )
        return pl.coalesce(number, parsed.dt.epoch("s")).alias(field)
    if field in ("value", "propensity"):
        number = text.cast(pl.Float64, strict=False)
        good = number.is_finite() if field == "value" else (number > 0) & (number <= 1)
        return pl.when(good).then(number).alias(field)
    if field == "position":
        number = text.cast(pl.Float64, strict=False)
        good = (number >= 0) & (number < 32768) & (number == number.floor())
        return pl.when(good).then(number.cast(pl.Int32, strict=False)).alias(field)
    return pl.when(text != "").then(text).alias(field)


def _without_duplicates(events: pl.DataFrame, source: str, duplicates: Duplicates) -> tuple[pl.DataFrame, list[Repair]]:
    fields = [name for name in events.columns if name != ROW]
    again = ~events.select(pl.struct(fields).is_first_distinct().alias("first"))["first"]
    if not again.any():
        return events, []
    row = events[ROW][int(again.arg_max() or 0)]
    if duplicates == "error":
        raise LogError(f"{source}, row {row}: repeats an earlier row in every field; drop one, or duplicates='drop'")
    count, example = int(again.sum()), f"{source}, row {row}"
    if duplicates == "drop":
        return events.filter(~again), [
            Repair("dropped: rows that repeat an earlier one in every field", count, example)
        ]
    return events, [Repair("kept: rows that repeat an earlier one in every field", count, example)]


def _lines(
    path: Path,
    separator: str,
    on_bad_rows: OnBadRows,
    encoding: str,
    repairs: list[Repair],
    header: Sequence[str] | None,
) -> pl.DataFrame:
    """A text file as text columns; where the fast reader fails, the file is searched for the line that is to blame."""
    try:
        table = pl.read_csv(
            path, separator=separator, infer_schema=False, encoding=encoding, has_header=header is None,
            new_columns=list(header) if header else None, quote_char='"' if separator == "," else None,
        )  # fmt: skip
        if header and len(table.columns) != len(header):
            raise LogError(f"{path}: {len(table.columns)} fields a line, expected {len(header)}: {', '.join(header)}")
        return table.with_row_index(ROW, offset=1 if header else 2)
    except pl.exceptions.NoDataError as error:
        raise LogError(f"{path}: the file has no rows") from error
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        kept, bad = _search(path, separator, encoding, header)
        if not bad:
            raise LogError(f"{path}: cannot be read as a table ({error})") from error
        if on_bad_rows == "error" or not kept:
            raise LogError(f"{path}, {bad[0]}; correct it, or choose on_bad_rows='drop' to drop and count") from error
        repairs.append(Repair("dropped: lines that are not text or have too many fields", len(bad), bad[0]))
        names = list(header) if header else kept[0][1]
        rows = kept if header else kept[1:]
        return pl.DataFrame(
            {ROW: [number for number, _ in rows]}
            | {name: [fields[place] if place < len(fields) else None for _, fields in rows]
               for place, name in enumerate(names)},
            schema={ROW: pl.UInt32} | dict.fromkeys(names, pl.String),
        )  # fmt: skip


def _search(
    path: Path, separator: str, encoding: str, header: Sequence[str] | None
) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Lines that can be read, as (number, fields), and descriptions of those that cannot; a field ends in its line."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            lines = file.read().split(b"\n")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LogError(f"{path}: cannot be read to its end ({error}); it is truncated or no gzip file") from error
    kept: list[tuple[int, list[str]]] = []
    bad: list[str] = []
    width = len(header) if header else 0
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8" if encoding == "utf8" else encoding).rstrip("\r")
        except UnicodeDecodeError as error:
            bad.append(f"line {number}: not {encoding} text (byte {line[error.start]:#04x} at place {error.start})")
            continue
        text = text.removeprefix("\ufeff") if number == 1 else text
        quoted = separator == "," and '"' in text
        fields = next(csv.reader([text])) if quoted else text.split(separator)
        width = width or len(fields)
        if quoted and text.count('"') % 2:
            bad.append(f"line {number}: a quote that does not end in its line: {text[:80]!r}")
        elif len(fields) > width:
            bad.append(f"line {number}: {len(fields)} fields, expected {width}: {text[:80]!r}")
        elif text:
            kept.append((number, fields))
    return kept, bad
