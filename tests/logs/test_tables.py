"""Bad input is named by file, row and field, or counted as the caller chose; nothing is lost silently."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from recgym.logs.log import InteractionLog, LogError
from recgym.logs.tables import Columns, read_table

GOOD = "user,item,time\nu1,a,10\nu1,b,20\nu2,a,5\n"


def write(folder: Path, text: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_plain_table_becomes_events(tmp_path: Path) -> None:
    events, repairs = read_table(write(tmp_path, GOOD))
    assert events.columns == ["user", "item", "time", "behaviour", "value"]
    assert events["time"].to_list() == [10, 20, 5]
    assert set(events["behaviour"]) == {"click"}
    assert repairs == ()


def test_columns_are_mapped_and_parquet_reads_like_csv(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"visitor": ["x", "y"], "sku": [1, 2], "when": ["2020-01-01T00:00:00Z", "2020-01-01 00:01:00"],
         "what": ["buy", "see"],
         "stars": [4.5, 1.0], "p": [0.5, None], "slot": [0, 3]}
    )  # fmt: skip
    columns = Columns(
        user="visitor", item="sku", time="when", behaviour="what", value="stars", propensity="p", position="slot"
    )
    table.write_parquet(tmp_path / "t.parquet")
    table.write_csv(tmp_path / "t.csv")
    for name in ("t.parquet", "t.csv"):
        events, _ = read_table(tmp_path / name, columns)
        assert events.select("user", "item", "time", "behaviour", "value", "position", "propensity").rows() == [
            ("x", "1", 1577836800, "buy", 4.5, 0, 0.5), ("y", "2", 1577836860, "see", 1.0, 3, None),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("user,item,time\n", "has no"),
        ("user,product,time\nu,a,1\n", r"no column 'item' .*the file has user, product, time"),
        ("user,item,time\nu,a,1\nu,b,soon\n", r"row 3, field 'time': 'soon' is not seconds since the epoch"),
        ("user,item,time\n,a,1\n", r"row 2, field 'user': .* is not a non-empty id"),
        ("user,item,time\nu,a,nan\n", r"row 2, field 'time': 'nan'"),
        ("user,item,time\nu,a,1\nu,b,inf\n", r"row 3, field 'time': 'inf'"),
        ("user,item,time\nu,a,1\nu,b,2,3\n", r"line 3: 4 fields, expected 3"),
        (b"user,item,time\nu,a,1\nu,\xff\xfe,2\n", r"line 3: not utf8 text \(byte 0xff"),
    ],
)
def test_a_bad_table_is_refused_with_its_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(LogError, match=message) as caught:
        read_table(path)
    assert "log.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("value", "nan"), ("value", "inf"), ("value", "many"), ("position", "-1"), ("position", "1.5"),
     ("propensity", "0"), ("propensity", "1.01"), ("propensity", "nan")],
)  # fmt: skip
def test_numbers_out_of_range_are_named(tmp_path: Path, field: str, value: str) -> None:
    path = write(tmp_path, f"user,item,time,{field}\nu,a,1,{value}\n")
    with pytest.raises(LogError, match=rf"row 2, field '{field}': '{value}' is not"):
        read_table(path, Columns(**{field: field}))


def test_dropping_is_chosen_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, b"user,item,time\nu,a,1\nu,b,soon\nu,c,2,9\nu,\xff,3\nv,d,x\nv,e,4\n")
    events, repairs = read_table(path, on_bad_rows="drop")
    assert events["item"].to_list() == ["a", "e"]
    assert {repair.rule.partition(":")[2][:18]: repair.count for repair in repairs} == {
        " lines that are no": 2, " time is not secon": 2,
    }  # fmt: skip
    assert "row 3" in repairs[1].example


def test_a_quoted_separator_is_not_blamed_for_another_line(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffuser,item,time\nu,"a, ""b""",1\nv,d,5\nu,c,2,3\nu,"e,6\n')
    with pytest.raises(LogError, match=r"line 4: 4 fields, expected 3"):
        read_table(path)
    events, repairs = read_table(path, on_bad_rows="drop")
    assert events["item"].to_list() == ['a, "b"', "d"]
    assert repairs[0].count == 2


def test_gzip_reads_like_text_and_its_bad_lines_are_named(tmp_path: Path) -> None:
    good = gzip.compress(GOOD.encode())
    assert read_table(write(tmp_path, good, "log.csv.gz"))[0]["item"].to_list() == ["a", "b", "a"]
    with pytest.raises(LogError, match="cannot be read to its end"):
        read_table(write(tmp_path, good[:-12], "cut.csv.gz"))
    path = write(tmp_path, gzip.compress(GOOD.encode() + b"u,b,2,3\n"), "bad.csv.gz")
    with pytest.raises(LogError, match="line 5: 4 fields, expected 3"):
        read_table(path)
    assert len(read_table(path, on_bad_rows="drop")[0]) == 3


def test_parquet_that_is_no_text_is_refused_and_utc_is_read(tmp_path: Path) -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    pl.DataFrame({"user": ["u"], "item": ["a"], "time": [moment]}).write_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")[0]["time"].to_list() == [1577836800]
    pl.DataFrame({"user": [b"\xff"], "item": ["a"], "time": [1]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(LogError, match=r"b\.parquet: not a readable Parquet file"):
        read_table(tmp_path / "b.parquet")


def test_duplicates_three_ways(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "u1,b,20\n")
    kept, counted = read_table(path)
    assert len(kept) == 4
    assert counted[0].count == 1
    dropped, counted = read_table(path, duplicates="drop")
    assert len(dropped) == 3
    assert "row 5" in counted[0].example
    with pytest.raises(LogError, match="row 5: repeats an earlier row"):
        read_table(path, duplicates="error")


def test_rows_out_of_time_order_are_counted(tmp_path: Path) -> None:
    _, repairs = read_table(write(tmp_path, GOOD + "u1,c,15\n"))
    assert [(repair.count, repair.rule[:6]) for repair in repairs] == [(1, "sorted")]


def test_a_missing_or_truncated_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="not found"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(LogError, match="not a readable Parquet file"):
        read_table(write(tmp_path, "PAR1 and then nothing", "log.parquet"))


def test_a_log_checks_its_tables() -> None:
    events = pl.DataFrame({"user": ["u"], "item": ["a"], "time": [1], "behaviour": ["click"], "value": [1.0]})
    with pytest.raises(LogError, match="no column 'value'"):
        InteractionLog(events=events.drop("value"))
    with pytest.raises(LogError, match="column 'time' is String, expected Int64"):
        InteractionLog(events=events.with_columns(pl.col("time").cast(pl.String)))
    with pytest.raises(LogError, match="no event has behaviour 'view'"):
        InteractionLog(events=events, exposures=True)
    with pytest.raises(LogError, match="item 'a' stands twice"):
        InteractionLog(events=events, items=pl.DataFrame({"item": ["a", "a"]}))
    with pytest.raises(LogError, match="no event is left"):
        InteractionLog(events=events.head(0))
