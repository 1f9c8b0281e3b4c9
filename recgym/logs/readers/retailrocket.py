"""RetailRocket as published: events.csv, and item_properties_part1.csv, ..._part2.csv for the categories.

Its "view" is a page that the visitor opened, not an exposure: it becomes "click"; "addtocart" becomes "cart" and
"transaction" "purchase". Timestamps are in milliseconds.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recgym.logs.log import InteractionLog, LogError, Repair
from recgym.logs.tables import ROW, Columns, OnBadRows, read_text_columns, to_events

BEHAVIOURS = {"view": "click", "addtocart": "cart", "transaction": "purchase"}


def read_retailrocket(folder: Path, *, on_bad_rows: OnBadRows = "error") -> InteractionLog:
    """Read the published folder; see `recgym.logs.readers.read_log`."""
    path = folder / "events.csv"
    if not path.is_file():
        raise LogError(f"{folder}: no events.csv; give the unpacked folder of the RetailRocket data")
    repairs: list[Repair] = []
    raw = read_text_columns(path, on_bad_rows=on_bad_rows, repairs=repairs)
    for name in ("timestamp", "visitorid", "event", "itemid"):
        if name not in raw.columns:
            raise LogError(f"{path}: no column {name!r}; the file has {', '.join(raw.columns[1:])}")
    known = raw["event"].is_in(list(BEHAVIOURS))
    if not known.all():
        place = int((~known).arg_max() or 0)
        where = f"{path}, row {raw[ROW][place]}, field 'event': {raw['event'][place]!r}"
        if on_bad_rows == "error":
            raise LogError(f"{where} is not one of {', '.join(BEHAVIOURS)}; correct it, or on_bad_rows='drop'")
        repairs.append(Repair("dropped: unknown event", int((~known).sum()), where))
        raw = raw.filter(known)
    milliseconds = pl.col("timestamp").cast(pl.Int64, strict=False)
    raw = raw.with_columns(
        pl.col("event").replace_strict(BEHAVIOURS),
        pl.coalesce((milliseconds // 1000).cast(pl.String), pl.col("timestamp")).alias("timestamp"),
    )
    columns = Columns(user="visitorid", item="itemid", time="timestamp", behaviour="event")
    events, found = to_events(raw, columns, str(path), on_bad_rows=on_bad_rows, repairs=repairs)
    return InteractionLog(events=events, name="RetailRocket", items=_categories(folder), repairs=found)


def _categories(folder: Path) -> pl.DataFrame | None:
    """The last known category of each item, where the property files are there."""
    paths = sorted(folder.glob("item_properties_part*.csv"))
    if not paths:
        return None
    latest = pl.concat([_of_one_file(path) for path in paths]).sort("time")
    latest = latest.group_by("itemid", maintain_order=True).agg(pl.col("value").last())
    return latest.select(item="itemid", category="value")


def _of_one_file(path: Path) -> pl.DataFrame:
    raw = read_text_columns(path)
    for name in ("timestamp", "itemid", "property", "value"):
        if name not in raw.columns:
            raise LogError(f"{path}: no column {name!r}; the file has {', '.join(raw.columns[1:])}")
    found = raw.filter(pl.col("property") == "categoryid")
    found = found.with_columns(time=pl.col("timestamp").cast(pl.Int64, strict=False))
    if (wrong := found.filter(pl.col("time").is_null())).height:
        row, text = wrong.select(ROW, "timestamp").row(0)
        raise LogError(f"{path}, row {row}, field 'timestamp': {text!r} is not a time in milliseconds; correct it")
    return found.select("time", "itemid", "value")
