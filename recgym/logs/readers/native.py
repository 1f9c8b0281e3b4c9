"""recgym's own format: `events.parquet` (or .csv), `items.parquet`, `users.parquet` and `about.json` in one folder.

about.json: {"format": "recgym-log", "version": 1, "name", "exposures", "units": {behaviour: unit}, "given": {behaviour:
behaviour}}. Columns of the events are those of `recgym.logs.log.SCHEMA`; without about.json a log has no exposures.
"""

from __future__ import annotations

import io
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import polars as pl

from recgym.files import new_folder, read_json, write_bytes, write_json
from recgym.logs.log import SCHEMA, InteractionLog, LogError, Repair
from recgym.logs.tables import ROW, Columns, OnBadRows, read_text_columns, to_events

FORMAT, VERSION = "recgym-log", 1


def read_native(folder: Path, *, on_bad_rows: OnBadRows = "error") -> InteractionLog:
    """Read a folder in recgym's own format; see `recgym.logs.readers.read_log`."""
    path = _table(folder, "events")
    if path is None:
        raise LogError(
            f"{folder}: no events.parquet or events.csv; see README for the format, or name another --format"
        )
    about: dict[str, Any] = {}
    if (folder / "about.json").exists():
        about = read_json(folder / "about.json", format=FORMAT, version=VERSION)
    repairs: list[Repair] = []
    raw = read_text_columns(path, on_bad_rows=on_bad_rows, repairs=repairs)
    optional = {name: name for name in SCHEMA if name not in ("user", "item", "time") and name in raw.columns}
    events, found = to_events(raw, Columns(**optional), str(path), on_bad_rows=on_bad_rows, repairs=repairs)
    tables = {name: _features(folder, name) for name in ("items", "users")}
    return InteractionLog(
        events=events,
        name=about.get("name", folder.resolve().name),
        exposures=about.get("exposures", False),
        units=about.get("units", {}),
        given=about.get("given", {}),
        repairs=found,
        **tables,
    )


def write_native(log: InteractionLog, folder: Path) -> None:
    """Write `log` into `folder` so that `read_native` gives it back, whole or not at all."""
    with new_folder(folder) as target:
        for name, table in (("events", log.events), ("items", log.items), ("users", log.users)):
            if table is not None:
                write_bytes(target / f"{name}.parquet", to_parquet(table))
        about = {"name": log.name, "exposures": log.exposures, "units": dict(log.units), "given": dict(log.given)}
        write_json(target / "about.json", {"format": FORMAT, "version": VERSION, **about})


def to_parquet(table: pl.DataFrame) -> bytes:
    """`table` as Parquet, the same bytes for the same table and version of Polars."""
    out = io.BytesIO()
    table.write_parquet(out, compression="zstd", compression_level=19, statistics=False)
    return out.getvalue()


def sample_log() -> InteractionLog:
    """The sample log that ships with recgym: a storefront's impressions with clicks, likes and dwell times."""
    with as_file(files("recgym.logs") / "sample") as folder:
        return read_native(folder)


def _table(folder: Path, name: str) -> Path | None:
    return next((path for kind in ("parquet", "csv") if (path := folder / f"{name}.{kind}").is_file()), None)


def _features(folder: Path, name: str) -> pl.DataFrame | None:
    if (path := _table(folder, name)) is None:
        return None
    if path.suffix == ".csv":
        return read_text_columns(path).drop(ROW)
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{path}: not a readable Parquet file ({error}); it is truncated or foreign") from error
