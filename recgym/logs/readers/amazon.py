"""Amazon reviews as published: ratings CSV without a header (2014, 2018), JSON lines (2014, 2018, 2023), or gzip.

The 2014 CSV has user, item, rating, time; the 2018 one item, user, rating, time. Which of the two a file is follows
from the ids: item ids (ASINs) have ten characters. Ratings become the behaviour "rating" in stars.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from recgym.logs.log import InteractionLog, LogError, Repair
from recgym.logs.tables import ROW, Columns, OnBadRows, read_text_columns, to_events

_COLUMNS = Columns(value="value", default_behaviour="rating")
_KEYS = {
    "user": ("reviewerID", "user_id"),
    "item": ("asin", "parent_asin"),
    "value": ("overall", "rating"),
    "time": ("unixReviewTime", "timestamp"),
}
"""Keys of each field, those of 2014 and 2018 first."""


def read_amazon(folder: Path, *, on_bad_rows: OnBadRows = "error") -> InteractionLog:
    """Read the one reviews file in `folder`; see `recgym.logs.readers.read_log`."""
    kinds = ("*.csv", "*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz")
    paths = sorted(path for kind in kinds for path in folder.glob(kind) if not path.name.startswith("meta"))
    if len(paths) != 1:
        found = ", ".join(path.name for path in paths) or "none"
        raise LogError(f"{folder}: expected one file of reviews (.csv, .json or .jsonl, or .gz), found {found}")
    path, repairs = paths[0], list[Repair]()
    raw = _ratings(path, on_bad_rows, repairs) if path.suffix == ".csv" else _reviews(path, on_bad_rows, repairs)
    events, found_repairs = to_events(raw, _COLUMNS, str(path), on_bad_rows=on_bad_rows, repairs=repairs)
    name = f"Amazon ({path.name.partition('.')[0]})"
    return InteractionLog(events=events, name=name, units={"rating": "stars"}, repairs=found_repairs)


def _ratings(path: Path, on_bad_rows: OnBadRows, repairs: list[Repair]) -> pl.DataFrame:
    header = ("first", "second", "value", "time")
    raw = read_text_columns(path, header=header, on_bad_rows=on_bad_rows, repairs=repairs)
    asins = [int((raw[name].str.len_chars() == 10).sum()) for name in ("first", "second")]
    first, second = ("item", "user") if asins[0] > asins[1] else ("user", "item")
    return raw.rename({"first": first, "second": second})


def _reviews(path: Path, on_bad_rows: OnBadRows, repairs: list[Repair]) -> pl.DataFrame:
    rows: list[dict[str, str]] = []
    bad: list[str] = []
    for number, line in _lines(path):
        try:
            review = json.loads(line)
            row = {field: str(_first(review, keys)) for field, keys in _KEYS.items()}
            if len(row["time"]) == 13:
                row["time"] = row["time"][:-3]  # milliseconds, in 2023
            rows.append({ROW: str(number), **row})
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
            where = f"{path}, line {number}: not a review ({error!r})"
            if on_bad_rows == "error":
                raise LogError(f"{where}; correct it, or choose on_bad_rows='drop'") from error
            bad.append(where)
    if bad:
        repairs.append(Repair("dropped: lines that are no review", len(bad), bad[0]))
    schema = {ROW: pl.String, **dict.fromkeys(_KEYS, pl.String)}
    return pl.DataFrame(rows, schema=schema).with_columns(pl.col(ROW).cast(pl.UInt32))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
        except (OSError, EOFError) as error:
            raise LogError(f"{path}: cannot be read to its end ({error}); it is truncated or no gzip file") from error


def _first(review: dict[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        if review.get(key) is not None:
            return review[key]
    raise KeyError(" or ".join(keys))
