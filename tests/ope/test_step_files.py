"""Chunks are whole sessions; bad rows are named by file and row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recgym.logs.log import LogError
from recgym.ope.step_files import StepColumns, StepPolicy, read_steps, step_files
from recgym.ope.streaming import stream_sums
from tests.ope.step_logs import COLUMNS, POLICIES, table, written


@pytest.mark.parametrize("rows", [5, 10_000])
@pytest.mark.parametrize(
    ("column", "bad", "words"),
    [
        ("reward", np.nan, "'reward': nan must be finite"),
        ("reward", None, "'reward': nan must be finite"),
        ("propensity", 0.0, r"'propensity': 0.0 must be in \(0, 1\]"),
        ("propensity", 1.5, r"'propensity': 1.5 must be in \(0, 1\]"),
        ("propensity", np.nan, r"'propensity': nan must be in \(0, 1\]"),
        ("p", -0.1, "'p': -0.1 must be a probability"),
        ("p", 1.1, "'p': 1.1 must be a probability"),
        ("q", np.inf, "'q': inf must be finite"),
        ("v", np.nan, "'v': nan must be finite"),
        ("feature", -0.2, "'probability of function': -0.4 must be a probability"),
        ("session", None, "'session': None must be an id"),
        ("user", None, "'user': None must be an id"),
        ("user", "other", "'user': 'other' must be the user of the session's row before"),
    ],
)
def test_bad_rows_are_named(column: str, bad: object, words: str, rows: int, tmp_path: Path) -> None:
    found = table()
    values = found[column].to_list()
    place = 304  # the fourth row of the second file, inside a session
    assert found["session"][place] == found["session"][place - 1]
    values[place] = bad
    source = written(found.with_columns(pl.Series(column, values, dtype=found[column].dtype)), tmp_path / "log")
    with pytest.raises(LogError, match=rf"2\.parquet, row 4, {words}"):
        list(read_steps(step_files(source), COLUMNS, POLICIES, rows=rows, batch=7))


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("rows", [1, 40, 10_000])
def test_sessions_that_come_again_are_refused(rows: int, text: bool, tmp_path: Path) -> None:
    found = table(100)
    late = pl.concat([found, found[3:4], found[:1].with_columns(session=pl.lit(1, dtype=pl.Int64))])
    if text:
        late = late.with_columns(pl.col("session").cast(pl.String))
    file = tmp_path / "log.parquet"
    late.write_parquet(file)
    with pytest.raises(
        LogError, match=rf"row {len(found) + 1}, 'session': '?{found['session'][3]}'? must be in rows that f"
    ):
        list(read_steps([file], COLUMNS, POLICIES, rows=rows, batch=7))


def test_chunks_are_whole_sessions_in_order(tmp_path: Path) -> None:
    found = table()
    files = step_files(written(found, tmp_path / "log"))
    chunks = list(read_steps(files, COLUMNS, {"it": StepPolicy(probability="p")}, rows=50))
    assert len(chunks) > 10
    assert np.concatenate([chunk.reward for chunk in chunks]).tolist() == found["reward"].to_list()
    for chunk in chunks:
        assert len(chunk.user) == chunk.episode[-1] + 1 and len(chunk.episode) <= 50 + 6
    assert sum(len(chunk.user) for chunk in chunks) == found["session"].n_unique()


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    policies = {"it": StepPolicy(probability="p")}
    with pytest.raises(LogError, match="no Parquet file there"):
        step_files(tmp_path)
    file = tmp_path / "log.parquet"
    file.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(LogError, match="not a readable Parquet file"):
        stream_sums(file, StepColumns(), policies)
    found = table(30)
    for bad, words in (
        (found.drop("p"), "no column 'p'; the file has session, user"),
        (found.with_columns(p=pl.lit("half")), "column 'p' is String, expected numbers"),
        (found.with_columns(pl.col("session").cast(pl.Float64)), "column 'session' is Float64, expected whole numbers"),
        (found[:0], "no row"),
    ):
        bad.write_parquet(file)
        with pytest.raises(LogError, match=words):
            stream_sums(file, StepColumns(), policies)
