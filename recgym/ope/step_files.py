"""Logged steps in Parquet files too large for memory: read in chunks of whole sessions, every row checked on the way.

A row is a step, and the rows of a session follow each other, in time. Memory holds one chunk, one row group of the
file, and 8 bytes for each session met: files with row groups of 10^6 rows or fewer are read best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from recgym.logs.log import LogError
from recgym.ope.fqe import Values
from recgym.ope.rows import Numbers
from recgym.types import BoolArray, DoubleArray, IntArray

Column = str | Callable[[pl.DataFrame], Numbers]
"""A column of the files, or a function of a batch of B rows that gives a number for each, (B,)."""
_FILE, _ROW = "_file", "_row"


@dataclass(frozen=True, kw_only=True)
class StepColumns:
    """Which column of a file holds what."""

    session: str = "session"
    """Whole numbers or text."""
    user: str | None = None
    """The same for whole users, who are what varies; None: each session is a user of its own."""
    reward: str = "reward"
    propensity: str = "propensity"
    """The logger's probability of what was shown."""
    also: tuple[str, ...] = ()
    """Columns that functions read (features, the item shown)."""


@dataclass(frozen=True, kw_only=True)
class StepPolicy:
    """A target policy along the log, and a model of what it earns, where there is one."""

    probability: Column
    """pi(a_t | s_t): the chance that it shows what was shown."""
    q: Column | None = None
    """Q(s_t, a_t); per step, the model's reward of what was shown. Not fitted on the same users (cross-fitting)."""
    v: Column | None = None
    """V(s_t) = sum_a pi(a | s_t) Q(s_t, a)."""
    v_next: Column | None = None
    """V(s_t+1); None: V of the session's next row, and 0 after its last, as if no session had been cut."""

    def __post_init__(self) -> None:
        """Refuse half a model."""
        if (self.q is None) != (self.v is None) or (self.v_next is not None and self.v is None):
            raise ValueError("a model needs q and v (and may have v_next): give both, or neither")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Whole sessions: E of them, T steps."""

    episode: IntArray  # (T,) 0 .. E - 1
    user: pl.Series  # (E,) ids
    reward: DoubleArray  # (T,)
    ratios: dict[str, DoubleArray]  # policy -> (T,) pi / mu
    values: dict[str, Values]  # policy with a model -> Q along the chunk


def step_files(source: Path | str) -> list[Path]:
    """The Parquet file, or those of a folder by name.

    Raises:
        LogError: There is none.
    """
    source = Path(source)
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise LogError(f"{source}: no Parquet file there")
    return files


def count_rows(files: Sequence[Path], columns: StepColumns, policies: Mapping[str, StepPolicy]) -> int:
    """Rows of all files together, after a look at their columns.

    Raises:
        LogError: A column is missing or of a type that cannot be used, or there is no row.
    """
    ids, numbers = _ids(columns), _numbers(columns, policies)
    first: dict[str, pl.DataType] = {}
    total = 0
    for file in files:
        try:
            schema = pl.scan_parquet(file).collect_schema()
            total += int(pl.scan_parquet(file).select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{file}: not a readable Parquet file ({error}); it is truncated or foreign") from error
        for name in (*ids, *numbers, *columns.also):
            if name not in schema:
                raise LogError(f"{file}: no column {name!r}; the file has {', '.join(schema)}")
        for name in ids:
            kind = first.setdefault(name, schema[name])
            if not (kind.is_integer() or kind == pl.String) or kind != schema[name]:
                raise LogError(
                    f"{file}: column {name!r} is {schema[name]}, expected whole numbers or text, in all files"
                )
        for name in numbers:
            if not (schema[name].is_numeric() or schema[name] == pl.Boolean):
                raise LogError(f"{file}: column {name!r} is {schema[name]}, expected numbers")
    if not total:
        raise LogError(f"{files[0]}: no row: nothing can be estimated")
    return total


def read_steps(
    files: Sequence[Path],
    columns: StepColumns,
    policies: Mapping[str, StepPolicy],
    *,
    rows: int = 1 << 18,
    batch: int = 1024,
    progress: bool = False,
) -> Iterator[Chunk]:
    """The files in order, in chunks of about `rows` rows; what is left of a chunk's last session goes to the next.

    Args:
        files: Parquet files of one schema; a session may go on in the next file.
        columns: Which column holds what.
        policies: Target policies by name.
        rows: Rows read at a time; a longer session is read whole.
        batch: Rows that a function of `StepPolicy` gets at a time: it may hold a number for each of them and each item.
        progress: Whether to show how far it is.

    Raises:
        LogError: A session's rows do not follow each other, or a reward, propensity, probability or model value is
            missing or impossible; the message names file, row (from 1) and value.
    """
    if rows < 1 or batch < 1:
        raise ValueError(f"rows and batch must be at least 1, got {rows} and {batch}")
    over, left = _Met(), pl.DataFrame()
    with tqdm(
        total=count_rows(files, columns, policies), desc="steps", unit="step", unit_scale=True, disable=not progress
    ) as bar:
        for part in _parts(files, columns, policies, rows):
            table = pl.concat([left, part]) if len(left) else part
            ids = table[columns.session]
            _refuse(files, table, columns.session, ids.is_null().to_numpy(), ids, "an id")
            other = np.flatnonzero((ids != ids[-1]).to_numpy())
            border = int(other[-1]) + 1 if len(other) else 0
            left = table[border:]
            if border:
                yield _chunk(files, table[:border], columns, policies, batch, over)
            bar.update(len(part))
        yield _chunk(files, left, columns, policies, batch, over)


def _parts(
    files: Sequence[Path], columns: StepColumns, policies: Mapping[str, StepPolicy], rows: int
) -> Iterator[pl.DataFrame]:
    """Slices of the files, with file and row of each step."""
    numbers = _numbers(columns, policies)
    raw = [name for name in dict.fromkeys((*_ids(columns), *columns.also)) if name not in numbers]
    for place, file in enumerate(files):
        table = pl.scan_parquet(file).select(*raw, *(pl.col(name).cast(pl.Float64) for name in numbers))
        first = 0
        while len(part := table.slice(first, rows).collect()):
            yield part.with_columns(
                pl.lit(place).alias(_FILE), pl.int_range(first + 1, first + len(part) + 1).alias(_ROW)
            )
            first += len(part)


def _chunk(
    files: Sequence[Path],
    table: pl.DataFrame,
    columns: StepColumns,
    policies: Mapping[str, StepPolicy],
    batch: int,
    over: _Met,
) -> Chunk:
    """Whole sessions, checked, with the ratios and models of all policies."""
    ids = table[columns.session]
    start = np.append(True, (ids[1:] != ids[:-1]).to_numpy())  # (T,)
    again = np.zeros(len(table), dtype=np.bool_)
    again[start] = over.add(ids.filter(start))
    _refuse(files, table, columns.session, again, ids, "in rows that follow each other: sort the file by session")
    user = table[columns.user or columns.session]
    if columns.user is not None:
        _refuse(files, table, columns.user, user.is_null().to_numpy(), user, "an id")
        other = np.append(False, (user[1:] != user[:-1]).to_numpy()) & ~start
        _refuse(files, table, columns.user, other, user, "the user of the session's row before")

    given = table.drop(_FILE, _ROW)

    def read(column: Column, name: str, good: Callable[[DoubleArray], BoolArray], expected: str) -> DoubleArray:
        if isinstance(column, str):
            values = given[column].fill_null(np.nan).to_numpy()
        else:
            parts = [given[first : first + batch] for first in range(0, len(given), batch)]
            values = np.concatenate([_evaluated(column, part, name) for part in parts])
        _refuse(files, table, column if isinstance(column, str) else name, ~good(values), values, expected)
        return values

    reward = read(columns.reward, "reward", np.isfinite, "finite")
    propensity = read(columns.propensity, "propensity", lambda p: (p > 0) & (p <= 1), "in (0, 1]")
    ratios: dict[str, DoubleArray] = {}
    values: dict[str, Values] = {}
    for policy, target in policies.items():
        chance = read(
            target.probability, f"probability of {policy}", lambda p: (p >= 0) & (p <= 1 + 1e-6), "a probability"
        )
        ratios[policy] = chance / propensity
        if target.q is not None and target.v is not None:
            q = read(target.q, f"q of {policy}", np.isfinite, "finite")
            v = read(target.v, f"v of {policy}", np.isfinite, "finite")
            if target.v_next is None:
                after = np.where(np.append(start[1:], True), 0.0, np.append(v[1:], 0.0))
            else:
                after = read(target.v_next, f"v_next of {policy}", np.isfinite, "finite")
            values[policy] = Values(q=q, v=v, v_next=after)
    return Chunk(episode=np.cumsum(start) - 1, user=user.filter(start), reward=reward, ratios=ratios, values=values)


class _Met:
    """Sessions that are over, as sorted arrays of numbers, each more than twice as long as the next.

    Text counts by a 64-bit hash: among 10^7 sessions two share one with probability 3e-6.
    """

    def __init__(self) -> None:
        self.runs: list[Numbers] = []

    def add(self, ids: pl.Series) -> BoolArray:
        """Which of the ids (E,) were met before, among them or earlier."""
        numbers = (ids if ids.dtype.is_integer() else ids.hash()).to_numpy()
        met: BoolArray = ~ids.is_first_distinct().to_numpy()
        sought = np.sort(numbers)
        for run in self.runs:
            if run[0] <= sought[-1] and sought[0] <= run[-1]:
                met |= run[np.minimum(np.searchsorted(run, numbers), len(run) - 1)] == numbers
        self.runs.append(sought)
        while len(self.runs) > 1 and len(self.runs[-2]) <= 2 * len(self.runs[-1]):
            last = self.runs.pop()
            self.runs[-1] = np.sort(np.concatenate([self.runs[-1], last]), kind="stable")
        return met


def _ids(columns: StepColumns) -> tuple[str, ...]:
    return (columns.session,) if columns.user is None else (columns.session, columns.user)


def _numbers(columns: StepColumns, policies: Mapping[str, StepPolicy]) -> list[str]:
    """Columns that hold numbers, each once."""
    named = [columns.reward, columns.propensity]
    for policy in policies.values():
        named += [one for one in (policy.probability, policy.q, policy.v, policy.v_next) if isinstance(one, str)]
    return list(dict.fromkeys(named))


def _evaluated(function: Callable[[pl.DataFrame], Numbers], part: pl.DataFrame, name: str) -> DoubleArray:
    values = np.asarray(function(part), dtype=np.float64)
    if values.shape != (len(part),):
        raise ValueError(f"{name} must be ({len(part)},), one number a row, got shape {values.shape}")
    return values


def _refuse(
    files: Sequence[Path], table: pl.DataFrame, name: str, wrong: BoolArray, values: Numbers | pl.Series, expected: str
) -> None:
    """Raise at the first row where `wrong` (T,) is True."""
    if wrong.any():
        place = int(wrong.argmax())
        file, row = files[table[_FILE][place]], table[_ROW][place]
        value = values[place].item() if isinstance(values, np.ndarray) else values[place]
        raise LogError(f"{file}, row {row}, {name!r}: {value!r} must be {expected}")
