"""Yoochoose (RecSys Challenge 2015) as published: yoochoose-clicks.dat and yoochoose-buys.dat, without headers.

A session is all that is known of a visitor, so it is the user too. Behaviours are "click" and "buy"; the category of
an item is the last one that a click names; "0" says that it is missing.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recgym.logs.log import InteractionLog, LogError, Repair
from recgym.logs.tables import Columns, OnBadRows, read_text_columns, to_events

_CLICKS = ("session", "time", "item", "category")
_BUYS = ("session", "time", "item", "price", "quantity")


def read_yoochoose(folder: Path, *, on_bad_rows: OnBadRows = "error") -> InteractionLog:
    """Read the published folder; buys are read where they are there; see `recgym.logs.readers.read_log`."""
    clicks = folder / "yoochoose-clicks.dat"
    if not clicks.is_file():
        raise LogError(f"{folder}: no yoochoose-clicks.dat; give the unpacked folder of the challenge's data")
    repairs: list[Repair] = []
    tables = []
    raw = read_text_columns(clicks, header=_CLICKS, on_bad_rows=on_bad_rows, repairs=repairs)
    items = raw.group_by("item", maintain_order=True).agg(pl.col("category").filter(pl.col("category") != "0").last())
    for path, header, behaviour in ((clicks, _CLICKS, "click"), (folder / "yoochoose-buys.dat", _BUYS, "buy")):
        if not path.is_file():
            continue
        if path != clicks:
            raw = read_text_columns(path, header=header, on_bad_rows=on_bad_rows, repairs=repairs)
        columns = Columns(user="session", session="session", default_behaviour=behaviour)
        events, found = to_events(raw, columns, str(path), on_bad_rows=on_bad_rows)
        repairs += found
        tables.append(events)
    return InteractionLog(events=pl.concat(tables), name="Yoochoose", items=items, repairs=tuple(repairs))
