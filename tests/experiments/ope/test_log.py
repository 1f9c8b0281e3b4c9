"""Logs for off-policy evaluation: what is read is what was written, and every bad row is named."""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments.ope.log import read_catalogue, read_rows
from experiments.ope.rows import LogColumns
from recgym.logs.log import LogError
from recgym.logs.readers.native import sample_log
from tests.experiments.ope.logs import drawn, sample_table, write

pytestmark = pytest.mark.experiments
BANDIT = "timestamp,item_id,position,click,propensity_score,user_feature_0\n"


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_a_flat_file_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    made = drawn(20)
    path = write(made.table, tmp_path / name)
    rows = read_rows(path, LogColumns(context=("age", "device")), keep=("device",), probabilities=("prob_other",))
    assert rows.items == ("apple", "bread", "cocoa", "dates") and rows.positions == ("1", "2")
    for found, expected in (
        (rows.item, made.item), (rows.reward, made.reward), (rows.propensity, made.propensity),
        (rows.episode, made.episode), (rows.user, made.user), (rows.position, made.slot),
        (rows.probabilities["prob_other"], made.other), (rows.time, 1000.0 + 10 * np.arange(60)),
    ):  # fmt: skip
        np.testing.assert_array_equal(found, expected)
    assert rows.features is not None and rows.feature_names == ("age", "device=phone")
    np.testing.assert_array_equal(rows.features[:, 0], 20 + made.user[made.episode] % 30)
    np.testing.assert_array_equal(rows.features[:, 1], made.user[made.episode] % 2)
    assert rows.column("device")[0] == "desk" and rows.users[:2] == ("u0", "u1")
    assert rows.hashes == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    assert rows.where(0) == f"{path}, row {2 if name.endswith('csv') else 1}"
    assert not rows.repairs and not rows.notes


def test_a_folder_of_parquet_files_is_one_log(tmp_path: Path) -> None:
    table = drawn(20).table
    write(table[:33], tmp_path / "a.parquet"), write(table[33:], tmp_path / "b.parquet")
    rows = read_rows(tmp_path)
    np.testing.assert_array_equal(rows.item, drawn(20).item)
    assert rows.where(40) == f"{tmp_path / 'b.parquet'}, row 8"
    write(table.drop("age"), tmp_path / "c.parquet")
    with pytest.raises(LogError, match=r"c\.parquet: its columns .* are not those of"):
        read_rows(tmp_path)


def test_unsorted_rows_are_sorted_and_said(tmp_path: Path) -> None:
    made = drawn(20)
    order = np.random.default_rng(1).permutation(60)
    rows = read_rows(write(made.table[order], tmp_path / "log.csv"))
    for who in range(10):  # users come in another order, their rows in time
        name = int(rows.users[who].removeprefix("u"))
        np.testing.assert_array_equal(rows.item[rows.user_of_row == who], made.item[made.user[made.episode] == name])
    (note,) = rows.repairs
    assert note.rule.startswith("sorted: rows earlier") and 0 < note.count < 60 and "log.csv, row" in note.example


def test_rows_that_repeat_are_said(tmp_path: Path) -> None:
    """Counted as they stand: twice the same may have happened. Rows without a time or a user repeat by nature."""
    table = drawn(4).table
    twice = write(pl.concat([table, table[3:5]]), tmp_path / "log.csv")
    rows = read_rows(twice)
    assert len(rows.item) == 14
    assert any("2 rows repeat an earlier row" in note and "row 14" in note for note in rows.notes)
    assert read_rows(write(table, tmp_path / "log.csv")).notes == ()
    bare = pl.concat([table, table]).drop("user", "session")
    assert not any("repeat" in note for note in read_rows(write(bare, tmp_path / "log.csv")).notes)


def test_without_users_and_sessions_each_row_stands_alone(tmp_path: Path) -> None:
    made = drawn(4)
    rows = read_rows(write(made.table.drop("user", "session"), tmp_path / "log.csv"))
    np.testing.assert_array_equal(rows.user, np.arange(12))
    assert rows.notes == ("the log names no users: each row counts as a user of its own",)
    rows = read_rows(write(made.table.drop("user"), tmp_path / "log.csv"))
    np.testing.assert_array_equal(rows.episode, made.episode)
    np.testing.assert_array_equal(rows.user, np.arange(4))


def test_several_kinds_of_feedback_make_the_reward(tmp_path: Path) -> None:
    table = sample_table(3)
    rows = read_rows(write(table, tmp_path / "log.csv"), LogColumns(rewards={"click": 1.0, "like": 2.5}))
    np.testing.assert_allclose(rows.reward, (table["click"] + 2.5 * table["like"]).to_numpy(), atol=1e-12)
    np.testing.assert_array_equal(rows.propensity, table["propensity"].to_numpy())
    assert [kind.name for kind in rows.kinds] == ["click", "like"] and rows.feedback.shape == (len(table), 2)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("propensity", "0", "a probability above 0, at most 1"),
        ("propensity", "1.2", "a probability above 0, at most 1"),
        ("propensity", "-0.1", "a probability above 0, at most 1"),
        ("propensity", "often", "a probability above 0, at most 1"),
        ("propensity", "inf", "a probability above 0, at most 1"),
        ("propensity", "", "a probability above 0, at most 1; --propensities estimate"),
        ("propensity", "NaN", "a probability above 0, at most 1; --propensities estimate"),
        ("reward", "nan", "a finite number"),
        ("reward", "inf", "a finite number"),
        ("reward", "1e39", "a finite number below 3.4e38"),
        ("reward", "", "a finite number"),
        ("item", "", "a non-empty id"),
        ("user", " ", "a non-empty id"),
        ("session", "", "a non-empty id"),
        ("position", "", "a non-empty id"),
        ("time", "noon", "seconds since the epoch"),
        ("prob_other", "1.01", "a probability from 0 to 1"),
        ("prob_other", "", "a probability from 0 to 1"),
        ("age", "", "a finite number"),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted(tmp_path: Path, field: str, value: str, message: str) -> None:
    table = drawn(4).table.cast(pl.String)
    bad = table.with_columns(pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(value)).otherwise(field).alias(field))
    path = write(bad, tmp_path / "log.csv")
    columns = LogColumns(context=("age",))
    with pytest.raises(LogError) as caught:
        read_rows(path, columns, probabilities=("prob_other",))
    assert f"{path}, row 9, field '{field}': " in str(caught.value)
    assert message in str(caught.value)
    rows = read_rows(path, columns, probabilities=("prob_other",), on_bad_rows="drop")
    np.testing.assert_array_equal(rows.item, np.delete(drawn(4).item, 7))
    (note,) = rows.repairs
    assert note.count == 1 and note.rule.startswith(f"dropped: {field} is not") and "row 9" in note.example


def test_missing_propensities_are_nan_where_they_are_estimated(tmp_path: Path) -> None:
    table = drawn(4).table.with_columns(propensity=pl.when(pl.int_range(pl.len()) > 5).then("propensity"))
    rows = read_rows(write(table, tmp_path / "log.csv"), missing="estimate")
    np.testing.assert_array_equal(np.isnan(rows.propensity), np.arange(12) <= 5)
    assert np.isnan(read_rows(write(table.drop("propensity"), tmp_path / "log.csv")).propensity).all()
    with pytest.raises(LogError, match="no column 'mu' .for propensity"):
        read_rows(tmp_path / "log.csv", LogColumns(propensity="mu"))


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with pytest.raises(LogError, match="not found"):
        read_rows(path)
    path.write_text("")
    with pytest.raises(LogError, match=r"log\.csv: the file is empty"):
        read_rows(path)
    path.write_text("item,reward\n")
    with pytest.raises(LogError, match="no row"):
        read_rows(path)
    path.write_text("item,reward\na,1\nb,0,3\n")
    with pytest.raises(LogError, match="line 3: 3 fields, expected 2"):
        read_rows(path)
    path.write_text("item,reward\na,1\nb\n")
    with pytest.raises(LogError, match="row 3, field 'reward': None is not a finite number"):
        read_rows(path)
    path.write_text("item,reward\na,x\n")
    with pytest.raises(LogError, match=r"no row is left of 1; for example .*row 2, field 'reward': 'x'"):
        read_rows(path, on_bad_rows="drop")
    with pytest.raises(LogError, match=r"no column 'good' .for reward.; the file has item, reward"):
        read_rows(path, LogColumns(reward="good"))
    path.write_text("item,item,reward\na,b,1\n")
    with pytest.raises(LogError, match=r"log\.csv: two columns are called 'item'; rename one"):
        read_rows(path)
    path.write_text("item,reward\na,1\n")
    with pytest.raises(LogError, match="no reader for format 'odd'"):
        read_rows(path, format="odd")
    with pytest.raises(LogError, match="is a folder, as published"):
        read_rows(path, format="movielens")
    with pytest.raises(LogError, match="no log is recognised here"):
        read_rows(tmp_path)


def test_a_context_of_many_texts_is_refused_by_name(tmp_path: Path) -> None:
    table = drawn(20).table.with_columns(device=pl.format("phone {}", pl.int_range(pl.len())))
    with pytest.raises(LogError, match="row 2, field 'device': 'phone 0' is no number, .* 60 different texts"):
        read_rows(write(table, tmp_path / "log.csv"), LogColumns(context=("device",)))


def test_a_log_of_consumption_answers_nothing(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("".join(f"1\t{item}\t5\t{1000 + item}\n" for item in range(1, 6)))
    with pytest.raises(LogError, match="consumption only, .* no value of another policy can be estimated"):
        read_rows(tmp_path, format="movielens")


def test_a_folder_in_recgyms_format_is_read_by_its_reader() -> None:
    with as_file(files("recgym.logs") / "sample") as folder:
        rows = read_rows(folder)
        with pytest.raises(LogError, match="format 'recgym' has no column 'prob_new' beside the usual fields"):
            read_rows(folder, probabilities=("prob_new",))
        with pytest.raises(LogError, match="no feedback 'bought' to reward; the log has click, "):
            read_rows(folder, LogColumns(rewards={"bought": 1.0}))
    views = sample_log().events.filter(pl.col("behaviour") == "view")
    assert len(rows.item) == len(views) and rows.num_items == 500 and len(rows.user) == views["session"].n_unique()
    assert rows.reward.mean() == (sample_log().events["behaviour"] == "click").sum() / len(views)
    np.testing.assert_array_equal(np.sort(rows.propensity), np.sort(views["propensity"].to_numpy()))
    assert "events.parquet, step 1" in rows.where(0) and rows.columns["item"][0] == rows.items[rows.item[0] - 1]


def test_open_bandit_is_known_by_its_columns(tmp_path: Path) -> None:
    lines = ["2019-11-24 00:00:01.500000+00:00,3,2,0,0.5,x", "2019-11-24 00:00:00+00:00,10,1,1,0.25,y"]
    (tmp_path / "men.csv").write_text(BANDIT + "\n".join(lines) + "\n")
    (tmp_path / "item_context.csv").write_text("item_id,item_feature_0\n3,0.1\n")
    rows = read_rows(tmp_path)
    assert rows.items == ("3", "10") and rows.positions == ("1", "2") and rows.feature_names == ("user_feature_0=y",)
    np.testing.assert_array_equal(rows.reward, [0, 1])
    np.testing.assert_array_equal(rows.propensity, [0.5, 0.25])
    assert rows.time is not None and rows.time[0] - rows.time[1] == pytest.approx(1.5)
    (tmp_path / "women.csv").write_text(BANDIT + "\n".join(lines) + "\n")
    with pytest.raises(LogError, match=r"one campaign and policy .*, found men.csv, women.csv"):
        read_rows(tmp_path)
    (tmp_path / "women.csv").write_text(BANDIT + "2019-11-24 00:00:00+00:00,10,1,2,0.25,y\n")
    with pytest.raises(LogError, match="row 2, field 'click': '2' is not 0 or 1"):
        read_rows(tmp_path / "women.csv")


def test_a_catalogue_numbers_the_items(tmp_path: Path) -> None:
    names = ("elder", "dates", "cocoa", "bread", "apple")
    path = write(pl.DataFrame({"item": names}), tmp_path / "items.parquet")
    made = drawn(4)
    log = write(made.table, tmp_path / "log.csv")
    rows = read_rows(log, catalogue=read_catalogue(path))
    np.testing.assert_array_equal(rows.item, 6 - made.item)
    assert rows.num_items == 5
    with pytest.raises(LogError, match=r"row \d+, field 'item': 'dates' is not in the catalogue"):
        read_rows(log, catalogue=("apple", "bread", "cocoa"))
    with pytest.raises(LogError, match="row 2, field 'item': 'a' is blank or a repeat"):
        read_catalogue(write(pl.DataFrame({"item": ["b", "a", "a"]}), tmp_path / "twice.parquet"))
