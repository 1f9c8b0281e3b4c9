"""Policies to be judged on a log: a column, a table, a function, another log, a recgym policy, or a simple rule."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

import agents  # noqa: F401 (registers the policies that folders name)
from experiments.ope.log import is_open_bandit, read_rows
from experiments.ope.rows import LoggedRows
from experiments.ope.steps import transitions
from experiments.ope.tables import read_distribution
from recgym.backbones.backbone import fingerprint, load_backbone
from recgym.logs.log import LogError
from recgym.ope.targets import ColumnTarget, FunctionTarget, PolicyTarget, TableTarget, Target
from recgym.policy import PolicyError, load_policy, read_description
from recgym.rollout import logged_transitions
from recgym.types import DoubleArray, IntArray, Policy

_NAMED = re.compile(r"([^=/\\:]+)=(.+)", re.DOTALL)
_ENTRY_POINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
FORMS = (
    "column:NAME (probability of what was shown), uniform, uniform:shown, frequencies, logged, a CSV or Parquet "
    "table with item[,position],probability, module:function, the log of an Open Bandit policy, or a recgym policy's "
    "folder"
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a policy comes from."""

    name: str
    where: str

    @property
    def column(self) -> str | None:
        """The column that it is, if it is one."""
        return self.where.removeprefix("column:") if self.where.startswith("column:") else None

    @property
    def called(self) -> bool:
        """Whether it is a function to be called."""
        return self.column is None and not Path(self.where).exists() and bool(_ENTRY_POINT.fullmatch(self.where))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A policy along a log; without target it is what the log itself shows."""

    name: str
    source: str
    target: Target | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows of the log, as a policy's function gets them. A policy must not look at what was shown or earned."""

    columns: pl.DataFrame
    """B rows of the log's own columns; those of numbers are numbers."""
    items: tuple[str, ...]
    """Name of the item of each of the N probabilities."""
    rows: IntArray  # (B,) places in the log, from 0
    position: IntArray | None  # (B,) from 0


def sources(entries: Sequence[str]) -> list[Source]:
    """From "NAME=SOURCE" or "SOURCE", whose name is then derived.

    Raises:
        ValueError: there is none, one is empty, or two have one name.
    """
    found = []
    for entry in entries:
        named = _NAMED.fullmatch(entry)
        name, where = (named[1].strip(), named[2].strip()) if named else (_derived(entry), entry.strip())
        if not name or not where:
            raise ValueError(f"policy {entry!r} is not NAME=SOURCE; sources are {FORMS}")
        found.append(Source(name=name, where=where))
    names = [one.name for one in found]
    if not found:
        raise ValueError(f"a report on logs needs --policies; each is NAME=SOURCE, and sources are {FORMS}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two policies are called {twice!r}; name them apart: NAME=SOURCE")
    return found


def candidate(source: Source, rows: LoggedRows, *, encoder: Path | None = None) -> Candidate:
    """The policy of `source` along the log.

    Args:
        source: as from `sources`.
        rows: the log; columns that sources ask for must have been read.
        encoder: folder of the backbone whose states recgym policies read.

    Raises:
        ValueError: it is nowhere, or does not fit the log; the message names file, row and field.
    """
    where, path = source.where, Path(source.where)
    target: Target | None
    notes: tuple[str, ...] = ()
    if source.column is not None:
        target = ColumnTarget(name=source.name, probability=rows.probabilities[source.column])
    elif where == "logged":
        target = None
    elif where in ("uniform", "uniform:shown"):
        some = (
            np.bincount(rows.item - 1, minlength=rows.num_items) > 0 if where != "uniform" else np.ones(rows.num_items)
        )
        target = _table(source.name, (some / some.sum())[None], rows)
        notes = _unseen(rows)
    elif where == "frequencies":
        target = _frequencies(source.name, rows)
        notes = ("how often the log shows each item, whatever the context, each row counted without itself",)
    elif path.is_file() and not is_open_bandit(path):
        table, by_position, notes = read_distribution(path, rows)
        target = _table(source.name, table, rows, by_position=by_position)
    elif (path / "policy.json").is_file():
        target = _trained(path, rows, encoder)
    elif path.exists():
        table, notes = _of_log(path, rows)
        target = _table(source.name, table, rows, by_position=rows.position is not None)
    elif source.called:
        target = _function(source, rows)
    else:
        raise ValueError(f"policy {source.name!r}: {where!r} is no file, folder or known form; sources are {FORMS}")
    return Candidate(name=source.name, source=where, target=target, notes=notes)


def _derived(entry: str) -> str:
    if entry.startswith("column:"):
        return entry.removeprefix("column:").strip()
    path = Path(entry)
    if (path / "policy.json").is_file():
        return path.parent.name if path.name.startswith("seed-") else path.name
    if path.exists():
        return path.name.split(".")[0]
    return entry.rpartition(":")[2].strip() if _ENTRY_POINT.fullmatch(entry) and entry[:8] != "uniform:" else entry


def _unseen(rows: LoggedRows) -> tuple[str, ...]:
    """Words where items that the log happens not to show are more than 1% of what the logger shows.

    Their share is about that of the items shown once: Good (1953), "The population frequencies of species".
    """
    count = np.bincount(rows.item - 1, minlength=rows.num_items)
    share = float((count == 1).sum()) / len(rows.item)
    if share <= 0.01 or not count.all():
        return ()
    return (
        f"uniform over the {rows.num_items:,} items that the log shows, when about {share:.0%} of what the logger "
        "shows is none of them: all weights are too great; name all items by --catalogue",
    )


def _table(name: str, table: DoubleArray, rows: LoggedRows, *, by_position: bool = False) -> TableTarget:
    kind = rows.position if by_position and rows.position is not None else np.zeros(len(rows.item), dtype=np.int64)
    return TableTarget(name=name, table=table, kind=kind, item=rows.item)


def _of_log(path: Path, rows: LoggedRows) -> tuple[DoubleArray, tuple[str, ...]]:
    """Mean probability of each item at each position of another log, (P, N): E[p_a] = n_a / sum_{i shows a} 1 / p_i.

    The plain mean of p over rows that show a is E[p_a^2] / E[p_a], too high where p varies: those rows were likely.
    """
    other = read_rows(path, format="open-bandit", catalogue=rows.items)
    if rows.position is None or other.position is None:
        raise LogError(f"{path}: a policy is read from an Open Bandit log by position, but the log in hand has none")
    if lost := [name for name in rows.positions if name not in other.positions]:
        raise LogError(f"{path}: nothing is shown at position {lost[0]!r}, where the log in hand shows items")
    shape = len(rows.positions), rows.num_items
    place = np.array([rows.positions.index(name) if name in rows.positions else -1 for name in other.positions])
    slot = place[other.position]
    cell = (slot * rows.num_items + other.item - 1)[slot >= 0]
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    total = np.bincount(cell, weights=1 / other.propensity[slot >= 0], minlength=shape[0] * shape[1])
    mean = np.divide(count, total, out=np.zeros(len(total)), where=count > 0).reshape(shape)
    sums = mean.sum(axis=1)
    note = (
        f"the policy of {path} is taken without its context: each item's mean probability at each position there "
        f"(harmonic over the rows that show it), scaled to sum to 1 (before: {', '.join(f'{one:.4g}' for one in sums)})"
    )
    gaps = int((count == 0).sum())
    return mean / sums[:, None], (
        note, *([f"{gaps} pairs of item and position never shown there count as never shown"] if gaps else []),
    )  # fmt: skip


def _frequencies(name: str, rows: LoggedRows) -> Target:
    """(n_j - 1[j = a_t]) / (n - 1): with row t in its own count, what was shown would look too likely."""
    count = np.bincount(rows.item - 1, minlength=rows.num_items).astype(np.float64)  # (N,)

    def shares(of: IntArray) -> DoubleArray:
        found = np.tile(count, (len(of), 1))
        found[np.arange(len(of)), rows.item[of] - 1] -= 1
        left: DoubleArray = found / max(len(rows.item) - 1, 1)
        return left

    return FunctionTarget(name=name, probabilities=shares, item=rows.item, num_items=rows.num_items)


def _function(source: Source, rows: LoggedRows) -> FunctionTarget:
    """The function at an entry point, asked for rows."""
    module, _, name = source.where.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"policy {source.name!r}: no function {name!r} in a module {module!r} ({error}); run where "
            f"`import {module}` works"
        ) from error
    columns = pl.DataFrame([_typed(column) for column in rows.columns.get_columns()])

    def asked(places: IntArray) -> DoubleArray:
        batch = Batch(
            columns=columns[places] if columns.width else columns, items=rows.items, rows=places,
            position=None if rows.position is None else rows.position[places],
        )  # fmt: skip
        try:
            given = np.asarray(function(batch), dtype=np.float64)
        except Exception as error:  # somebody else's code: whatever it raises, say whose it is
            where = f"{rows.where(int(places[0]))} and {len(places) - 1} more rows"
            raise ValueError(
                f"policy {source.name!r}: {source.where} failed on {where} with {type(error).__name__}: {error}"
            ) from error
        if given.shape != (len(places), rows.num_items):
            return given
        wrong = ~np.isfinite(given) | (given < 0)
        total = given.sum(axis=1)
        bad = wrong.any(axis=1) | ~(np.abs(total - 1) <= 1e-3)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"policy {source.name!r} must give non-negative probabilities that sum to 1, got sum {total[at]:.6g} "
                f"and minimum {given[at].min():.3g} for {rows.where(int(places[at]))}"
            )
        return given

    return FunctionTarget(name=source.name, probabilities=asked, item=rows.item, num_items=rows.num_items)


def _typed(column: pl.Series) -> pl.Series:
    for kind in (pl.Int64, pl.Float64):
        found = column.str.strip_chars().cast(kind, strict=False)
        if found.null_count() == column.null_count():
            return found
    return column


def _trained(folder: Path, rows: LoggedRows, encoder: Path | None) -> PolicyTarget:
    """A recgym policy, asked at each user's history in this log, or at the encoder's states of it."""
    _same_catalogue(folder, rows)
    sizes, feedback = {"items": rows.num_items, "feedback": len(rows.kinds)}, len(rows.kinds)
    if encoder is None:
        policy: Policy = load_policy(folder)
        if policy.reads != "history" or read_description(folder).get("encoder"):
            raise PolicyError(
                f"{folder}: policy {policy.name!r} reads states of the encoder that it was trained with; give it with "
                "--encoder, as in --encoder RUN/backbone"
            )
        policy = load_policy(folder, sizes=sizes)
        return PolicyTarget(policy=policy, logged=transitions(rows, history=True))
    backbone = load_backbone(encoder)
    policy = load_policy(folder, encoder=fingerprint(backbone), sizes={**sizes, "state": backbone.width})
    mine = backbone.num_items, backbone.num_feedback
    if mine != (rows.num_items, feedback):
        raise PolicyError(
            f"{encoder}: the encoder reads {mine[0]} items and {mine[1]} kinds of feedback, the log has "
            f"{rows.num_items} and {feedback}; give --catalogue RUN/log/items.parquet, and "
            "--columns.rewards in the run's order"
        )
    logged = logged_transitions(
        rows.sequences(), np.arange(len(rows.user)), backbone, rows.weights, history=policy.reads != "state"
    )
    return PolicyTarget(policy=policy, logged=logged)


def _same_catalogue(folder: Path, rows: LoggedRows) -> None:
    """Refuse a policy whose run numbered the items otherwise, where the run's catalogue is near."""
    near = [parent / "log" / "items.parquet" for parent in folder.resolve().parents[:3]]
    if (path := next((one for one in near if one.is_file()), None)) is None:
        return
    names = tuple(pl.read_parquet(path)["item"].to_list())
    if names != rows.items:
        raise PolicyError(
            f"{folder}: the policy's run numbers {len(names)} items otherwise than this log's {rows.num_items}; "
            f"give --catalogue {path}"
        )
