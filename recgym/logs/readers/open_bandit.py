"""Open Bandit Dataset as published: one CSV (or .csv.gz) a campaign, with the propensity of every item shown.

The data has no user ids: each impression is a user and a session of its own, so it can answer questions about one
impression, not about sessions. Positions are 1 to 3 in the file, 0 to 2 here. The behaviours are "view" and "click".
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recgym.logs.log import InteractionLog, LogError, Repair
from recgym.logs.tables import ROW, Columns, OnBadRows, read_text_columns, to_events

_NEEDED = ("timestamp", "item_id", "position", "click", "propensity_score")


def read_open_bandit(folder: Path, *, on_bad_rows: OnBadRows = "error") -> InteractionLog:
    """Read the one campaign in `folder` (item_context.csv aside); see `recgym.logs.readers.read_log`."""
    paths = sorted(
        path for kind in ("*.csv", "*.csv.gz") for path in folder.glob(kind) if "item_context" not in path.name
    )
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise LogError(f"{folder}: expected the one CSV of a campaign and policy (such as men.csv), found {names}")
    path, repairs = paths[0], list[Repair]()
    raw = read_text_columns(path, on_bad_rows=on_bad_rows, repairs=repairs)
    for name in _NEEDED:
        if name not in raw.columns:
            raise LogError(f"{path}: no column {name!r}; the file has {', '.join(raw.columns[1:])}")
    clicked = pl.col("click").cast(pl.Float64, strict=False)
    if (wrong := ~raw.select(clicked.is_in([0.0, 1.0]).fill_null(False))["click"]).any():
        place = int(wrong.arg_max() or 0)
        where = f"{path}, row {raw[ROW][place]}, field 'click': {raw['click'][place]!r}"
        if on_bad_rows == "error":
            raise LogError(f"{where} is not 0 or 1; correct it, or choose on_bad_rows='drop'")
        repairs.append(Repair("dropped: click is not 0 or 1", int(wrong.sum()), where))
        raw = raw.filter(~wrong)
    moment = pl.col("timestamp").str.replace(r"(\+00:00|Z)$", "")
    raw = raw.with_columns(
        moment, user=pl.col(ROW).cast(pl.String), item_id="item_id",
        position=pl.coalesce((pl.col("position").cast(pl.Float64, strict=False) - 1).cast(pl.String), "position"),
    )  # fmt: skip
    columns = Columns(
        item="item_id", time="timestamp", session="user", position="position", propensity="propensity_score",
        default_behaviour="view",
    )  # fmt: skip
    views, found = to_events(raw, columns, str(path), on_bad_rows=on_bad_rows, repairs=repairs)
    clicks = raw.filter(clicked == 1).select("user")
    reactions = views.join(clicks, on="user", how="semi").with_columns(
        behaviour=pl.lit("click"), position=pl.lit(None, pl.Int32), propensity=pl.lit(None, pl.Float64)
    )
    return InteractionLog(events=pl.concat([views, reactions]), name="Open Bandit", exposures=True, repairs=found)
