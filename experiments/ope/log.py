"""A log for off-policy evaluation, from flat files with a mapping of columns or from published formats."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from experiments.ope.fields import Fields, read_fields
from experiments.ope.flat import flat_rows
from experiments.ope.rows import LogColumns, LoggedRows, places_in, sha256
from recgym.logs.log import LogError
from recgym.logs.pivot import build_sequences
from recgym.logs.readers import READERS, read_log
from recgym.logs.tables import ROW, OnBadRows, read_text_columns

OPEN_BANDIT = ("timestamp", "item_id", "position", "click", "propensity_score")
Missing = Literal["logged", "estimate"]


def read_rows(
    path: Path,
    columns: LogColumns | None = None,
    *,
    format: str = "auto",
    on_bad_rows: OnBadRows = "error",
    missing: Missing = "logged",
    keep: Collection[str] | None = (),
    probabilities: Sequence[str] = (),
    catalogue: Sequence[str] | None = None,
) -> LoggedRows:
    """Read the log in a file or folder.

    Args:
        path: a CSV or Parquet file, a folder of Parquet files, or a folder in a published format.
        columns: of a flat file; None: all as by default.
        format: "flat", "open-bandit", another of `recgym.logs.readers.READERS`, or "auto".
        on_bad_rows: "error" names the first bad row; "drop" drops and counts bad rows.
        missing: "estimate" lets propensities be blank.
        keep: other columns to keep; None: all.
        probabilities: columns with a policy's probability of what was shown.
        catalogue: names of all items in the order of their ids; None: the items that were shown.

    Raises:
        LogError: the log is missing, empty or foreign, holds consumption only, or has a bad row.
    """
    if on_bad_rows not in ("error", "drop"):
        raise ValueError(f"on_bad_rows must be error or drop, got {on_bad_rows!r}")
    files, kind = _find(path, format)
    if kind in ("flat", "open-bandit"):
        fields = read_fields(files, on_bad_rows=on_bad_rows)
        chosen = _open_bandit(fields) if kind == "open-bandit" else columns or LogColumns()
        return flat_rows(fields, path, chosen, missing == "estimate", keep, probabilities, catalogue)
    if wanted := [*probabilities, *(keep or ())]:
        raise LogError(
            f"{path}: a log in the format {kind!r} has no column {wanted[0]!r} beside the usual fields; give a flat "
            "CSV or Parquet with one row an impression"
        )
    return _published(path, kind, columns.rewards if columns else {}, on_bad_rows, catalogue)


def is_open_bandit(path: Path) -> bool:
    """Whether a file has the columns of the Open Bandit data."""
    if path.suffix == ".parquet":
        return set(OPEN_BANDIT) <= set(pl.read_parquet_schema(path))
    try:
        return set(OPEN_BANDIT) <= set(pl.read_csv(path, n_rows=1, infer_schema=False).columns)
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError):
        return False


def read_catalogue(path: Path) -> tuple[str, ...]:
    """Names of all items in the order of their ids: column `item` of a table, such as RUN/log/items.parquet."""
    table = read_text_columns(path)
    if "item" not in table.columns:
        raise LogError(f"{path}: no column 'item'; the file has {', '.join(table.columns[1:])}")
    if (twice := table["item"].is_duplicated() | table["item"].is_null()).any():
        place = int(twice.arg_max() or 0)
        raise LogError(f"{path}, row {table[ROW][place]}, field 'item': {table['item'][place]!r} is blank or a repeat")
    return tuple(table["item"].to_list())


def _find(path: Path, format: str) -> tuple[list[Path], str]:
    """Files of the log, and its format."""
    if format not in ("auto", "flat", *READERS):
        raise LogError(f"no reader for format {format!r}; there are auto, flat, {', '.join(sorted(READERS))}")
    if not path.exists():
        raise LogError(f"{path}: not found; give a file or folder with the log")
    if path.is_file():
        if format not in ("auto", "flat", "open-bandit"):
            raise LogError(f"{path}: a log in the format {format!r} is a folder, as published; this is a file")
        return [path], ("open-bandit" if is_open_bandit(path) else "flat") if format == "auto" else format
    if format == "auto" and any((path / name).is_file() for name in ("events.parquet", "events.csv")):
        return [], "recgym"
    if format not in ("auto", "flat", "open-bandit"):
        return [], format
    tables = [one for ending in ("*.parquet", "*.csv", "*.csv.gz") for one in sorted(path.glob(ending))]
    bandit = [one for one in tables if is_open_bandit(one)] if format != "flat" else []
    if len(bandit) == 1:
        return bandit, "open-bandit"
    if len(bandit) > 1 or format == "open-bandit":
        names = ", ".join(one.name for one in bandit) or "none"
        raise LogError(f"{path}: expected the log of one campaign and policy in the Open Bandit format, found {names}")
    parquet = [one for one in tables if one.suffix == ".parquet"]
    if not parquet:
        raise LogError(f"{path}: no log is recognised here; give its file, or name its --format")
    return parquet, "flat"


def _open_bandit(fields: Fields) -> LogColumns:
    """The columns of the Open Bandit data; each impression is a user of its own."""
    for name in OPEN_BANDIT:
        fields.require(name, "the Open Bandit format")
    click = fields.plain_numbers("click")
    fields.mark("click", ~np.isin(click, (0.0, 1.0)), "0 or 1")
    return LogColumns(
        item="item_id", reward="click", time="timestamp", propensity="propensity_score",
        context=tuple(name for name in fields.names if name.startswith("user")),
    )  # fmt: skip


def _published(
    path: Path,
    format: str,
    rewards: Mapping[str, float],
    on_bad_rows: OnBadRows,
    catalogue: Sequence[str] | None,
) -> LoggedRows:
    """A log in a published format, where that says what was shown."""
    log = read_log(path, format, on_bad_rows=on_bad_rows)
    if not log.exposures:
        raise LogError(
            f"{path}: a log in the format {format!r} holds consumption only, not what was shown and ignored, so no "
            "value of another policy can be estimated from it; log impressions: each item shown, its probability and "
            "what came of it"
        )
    found = build_sequences(log)
    names = found.items["item"].to_list()
    weights = dict(rewards) or {found.kinds[0].name: 1.0}
    kinds = {kind.name: place for place, kind in enumerate(found.kinds)}
    for name in weights:
        if name not in kinds:
            raise LogError(f"{path}: no feedback {name!r} to reward; the log has {', '.join(kinds)}")
    item = found.item.astype(np.int64)
    if catalogue is not None:
        if missing := sorted(set(names) - set(catalogue)):
            raise LogError(f"{path}: item {missing[0]!r} is not in the catalogue")
        item, names = places_in(pl.Series(names), catalogue)[item - 1] + 1, list(catalogue)
    slot = found.position.astype(np.int64)
    slots, place = np.unique(slot, return_inverse=True)
    files = tuple(sorted((one for one in path.iterdir() if one.is_file()), key=lambda one: -one.stat().st_size))
    columns = pl.DataFrame({
        "user": np.array(found.users)[found.user_of_step], "session": found.session, "time": found.time,
        "item": np.array(names)[item - 1], "position": slot,
    }).cast(pl.String)  # fmt: skip
    return LoggedRows(
        name=found.name,
        items=tuple(names),
        item=item,
        reward=found.feedback.astype(np.float64) @ np.array([weights.get(name, 0.0) for name in kinds]),
        propensity=np.asarray(found.propensity),
        episode=np.asarray(found.session),
        user=found.user_of_step[found.session_bounds[:-1]],
        users=tuple(found.users),
        position=place.astype(np.int64) if len(slots) > 1 else None,
        positions=tuple(str(one) for one in slots) if len(slots) > 1 else (),
        time=found.time.astype(np.float64),
        columns=columns,
        feedback=found.feedback.astype(np.float64),
        weights=weights,
        kinds=found.kinds,
        file=np.zeros(len(item), dtype=np.int64),
        row=np.arange(1, len(item) + 1),
        unit="step",
        files=files,
        hashes=tuple(sha256(one) for one in files),
        repairs=log.repairs,
        notes=found.notes,
    )
