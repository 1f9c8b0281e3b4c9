"""Each published format from files in its layout; real logs where they are at hand."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from recgym.logs.log import InteractionLog, LogError
from recgym.logs.pivot import build_sequences
from recgym.logs.readers import READERS, read_log, register_reader
from recgym.logs.readers.native import sample_log, write_native


def rows(log: InteractionLog) -> list[tuple[object, ...]]:
    return log.events.select("user", "item", "time", "behaviour", "value").rows()


def test_movielens_100k(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t5\t891717742\n")
    genres = "|".join(["0"] * 4 + ["1"] + ["0"] * 14)
    (tmp_path / "u.item").write_bytes(f"242|Caf\xe9 (1996)|01-Jan-1996||url|{genres}\n".encode("latin-1"))
    (tmp_path / "u.user").write_text("196|24|M|technician|85711\n")
    log = read_log(tmp_path, "movielens")
    assert log.users is not None
    assert log.users.rows() == [("196", "24", "M", "technician", "85711")]
    assert rows(log) == [("196", "242", 881250949, "rating", 3.0), ("186", "302", 891717742, "rating", 5.0)]
    assert log.items is not None
    assert log.items.rows() == [("242", "Café (1996)", "Children's")]
    assert not log.exposures
    assert log.units == {"rating": "stars"}


def test_movielens_1m_and_20m(tmp_path: Path) -> None:
    old, new = tmp_path / "ml-1m", tmp_path / "ml-20m"
    old.mkdir()
    new.mkdir()
    (old / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    (old / "movies.dat").write_text("1193::One Flew Over (1975)::Drama|War\n")
    (new / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n")
    (new / "movies.csv").write_text('movieId,title,genres\n2,"Jumanji, the film (1995)",Adventure|Children\n')
    assert rows(read_log(old, "movielens"))[1] == ("1", "661", 978302109, "rating", 3.0)
    log = read_log(new, "movielens")
    assert rows(log) == [("1", "2", 1112486027, "rating", 3.5)]
    assert log.items is not None
    assert log.items.rows() == [("2", "Jumanji, the film (1995)", "Adventure")]
    (old / "ratings.dat").write_text("1::1193::5::978300760::9\n")
    with pytest.raises(LogError, match=r"row 1: more than 4 fields"):
        read_log(old, "movielens")
    (old / "ratings.dat").write_text("1::1193::5::978300760::9\n1::661::3::978302109\n")
    dropped = read_log(old, "movielens", on_bad_rows="drop")
    assert rows(dropped) == [("1", "661", 978302109, "rating", 3.0)]
    assert dropped.repairs[0].count == 1


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_movielens_titles_of_10m_and_1m_differ_in_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ratings.dat").write_text("1::73::3.5::978300760\n")
    (tmp_path / "movies.dat").write_bytes("73::Misérables, Les (1995)::Drama\n".encode(encoding))
    log = read_log(tmp_path, "movielens")
    assert log.items is not None
    assert log.items["title"].to_list() == ["Misérables, Les (1995)"]


def test_amazon_reviews_without_a_user_are_no_reviews(tmp_path: Path) -> None:
    line = {"reviewerID": None, "asin": "B00000000X", "overall": 5.0, "unixReviewTime": 1252800000}
    (tmp_path / "reviews.json").write_text(json.dumps(line) + "\n")
    with pytest.raises(LogError, match="line 1: not a review"):
        read_log(tmp_path, "amazon")


def test_open_bandit_positions_that_are_none_are_named(tmp_path: Path) -> None:
    head = ",timestamp,item_id,position,click,propensity_score\n"
    (tmp_path / "men.csv").write_text(head + "0,2019-11-24 00:00:01+00:00,14,left,1,0.25\n")
    with pytest.raises(LogError, match=r"row 2, field 'position': 'left'"):
        read_log(tmp_path, "open-bandit")
    (tmp_path / "men.csv").write_text(head + "0,2019-11-24 00:00:01+00:00,14,2.0,1,0.25\n")
    assert read_log(tmp_path, "open-bandit").events["position"].to_list() == [1, None]


def test_yoochoose_category_0_is_none(tmp_path: Path) -> None:
    (tmp_path / "yoochoose-clicks.dat").write_text(
        "1,2014-04-07T10:51:09.277Z,7,S\n2,2014-04-07T10:52:09.277Z,7,0\n3,2014-04-07T10:52:09.277Z,8,0\n"
    )
    log = read_log(tmp_path, "yoochoose")
    assert log.items is not None
    assert log.items.rows() == [("7", "S"), ("8", None)]


def test_retailrocket_properties_are_checked(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("timestamp,visitorid,event,itemid,transactionid\n1433221332117,1,view,2,\n")
    path = tmp_path / "item_properties_part1.csv"
    path.write_text("timestamp,itemid,property,value\n9,2,888,x\nsoon,2,categoryid,3\n")
    with pytest.raises(LogError, match=r"part1\.csv, row 3, field 'timestamp': 'soon'"):
        read_log(tmp_path, "retailrocket")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(LogError, match="no column 'timestamp'; the file has a, b"):
        read_log(tmp_path, "retailrocket")


def test_yoochoose(tmp_path: Path) -> None:
    (tmp_path / "yoochoose-clicks.dat").write_text(
        "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214,S\n"
    )
    (tmp_path / "yoochoose-buys.dat").write_text("1,2014-04-07T10:55:00.000Z,214,12462,1\n")
    log = read_log(tmp_path, "yoochoose")
    assert rows(log) == [
        ("1", "214536502", 1396867869, "click", 1.0),
        ("1", "214", 1396868049, "click", 1.0),
        ("1", "214", 1396868100, "buy", 1.0),
    ]
    assert log.events["session"].to_list() == ["1", "1", "1"]


def test_retailrocket(tmp_path: Path) -> None:
    head = "timestamp,visitorid,event,itemid,transactionid\n"
    (tmp_path / "events.csv").write_text(
        head + "1433221332117,257597,view,355908,\n1433221332999,257597,transaction,355908,4\n"
    )
    (tmp_path / "item_properties_part1.csv").write_text("timestamp,itemid,property,value\n1,355908,categoryid,1173\n")
    log = read_log(tmp_path, "retailrocket")
    assert rows(log) == [
        ("257597", "355908", 1433221332, "click", 1.0),
        ("257597", "355908", 1433221332, "purchase", 1.0),
    ]
    assert log.items is not None
    assert log.items.rows() == [("355908", "1173")]
    (tmp_path / "events.csv").write_text(head + "1433221332117,257597,stare,355908,\n")
    with pytest.raises(LogError, match=r"row 2, field 'event': 'stare' is not one of view"):
        read_log(tmp_path, "retailrocket")


@pytest.mark.parametrize("zipped", [False, True])
def test_amazon_json_lines(tmp_path: Path, zipped: bool) -> None:
    lines = [
        {"reviewerID": "A1", "asin": "B00000000X", "overall": 5.0, "unixReviewTime": 1252800000},
        {"user_id": "A2", "parent_asin": "B00000000Y", "rating": 2.0, "timestamp": 1588687728923},
    ]
    text = "\n".join(json.dumps(line) for line in lines).encode()
    name = "reviews.json.gz" if zipped else "reviews.jsonl"
    (tmp_path / name).write_bytes(gzip.compress(text) if zipped else text)
    expected = [("A1", "B00000000X", 1252800000, "rating", 5.0), ("A2", "B00000000Y", 1588687728, "rating", 2.0)]
    assert rows(read_log(tmp_path, "amazon")) == expected
    (tmp_path / name).unlink()
    (tmp_path / "broken.jsonl").write_bytes(text + b'\n{"asin": 3}\n')
    with pytest.raises(LogError, match="line 3: not a review"):
        read_log(tmp_path, "amazon")
    dropped = read_log(tmp_path, "amazon", on_bad_rows="drop")
    assert rows(dropped) == expected
    assert dropped.repairs[0].count == 1


@pytest.mark.parametrize(
    "line", ["A1YJEY40YUW4SE,B00000000X,5.0,1391040000", "B00000000X,A1YJEY40YUW4SE,5.0,1391040000"]
)
def test_amazon_ratings_tell_users_from_items_by_their_ids(tmp_path: Path, line: str) -> None:
    (tmp_path / "ratings_Beauty.csv").write_text(line + "\n")
    assert rows(read_log(tmp_path, "amazon")) == [("A1YJEY40YUW4SE", "B00000000X", 1391040000, "rating", 5.0)]


def test_open_bandit(tmp_path: Path) -> None:
    (tmp_path / "men.csv").write_text(
        ",timestamp,item_id,position,click,propensity_score\n"
        "0,2019-11-24 00:00:01.5+00:00,14,1,0,0.25\n1,2019-11-24 00:00:02+00:00,3,3,1,0.5\n"
    )
    sequences = build_sequences(read_log(tmp_path, "open-bandit"))
    assert sequences.propensity.tolist() == [0.25, 0.5]
    assert sequences.position.tolist() == [0, 2]
    assert sequences.feedback[:, 0].tolist() == [0, 1]
    assert sequences.num_users == sequences.num_sessions == 2


def test_the_native_format_reads_back(tmp_path: Path) -> None:
    log = sample_log()
    write_native(log, tmp_path / "copy")
    again = read_log(tmp_path / "copy")
    assert again.events.equals(log.events)
    assert (again.units, again.given, again.exposures, again.name) == (log.units, log.given, log.exposures, log.name)
    (tmp_path / "copy" / "about.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="field 'format' is 'other'"):
        read_log(tmp_path / "copy")


@pytest.mark.parametrize("format", sorted(READERS))
def test_an_empty_folder_is_refused_by_every_reader(tmp_path: Path, format: str) -> None:
    with pytest.raises(LogError, match=str(tmp_path)):
        read_log(tmp_path, format)
    with pytest.raises(LogError, match="not a folder"):
        read_log(tmp_path / "absent", format)


def test_unknown_formats_are_listed_and_readers_can_be_added() -> None:
    with pytest.raises(LogError, match="no reader for format 'tsv'; there are amazon"):
        read_log(".", "tsv")
    with pytest.raises(ValueError, match="already has the reader"):
        register_reader("amazon", "other:read")


def test_the_sample_log_is_what_the_issue_asks() -> None:
    sequences = build_sequences(sample_log())
    assert (sequences.num_users, sequences.num_items) == (2000, 500)
    assert 95_000 < sequences.num_steps < 105_000
    assert [kind.name for kind in sequences.kinds] == ["click", "dwell", "like"]
    assert ((sequences.propensity > 0) & (sequences.propensity <= 1)).all()
    assert not (sequences.feedback[sequences.feedback[:, 0] == 0, 1:] > 0).any()  # nothing without a click


def test_real_movielens(real_data: Path) -> None:
    sequences = build_sequences(read_log(real_data / "ml100k", "movielens"))
    assert (sequences.num_users, sequences.num_items, sequences.num_steps) == (943, 1682, 100_000)


def test_real_open_bandit(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "obd_men" / "random_men.csv.gz", tmp_path / "men.csv.gz")
    sequences = build_sequences(read_log(tmp_path, "open-bandit"))
    assert (sequences.num_steps, sequences.feedback[:, 0].sum()) == (10_000, 46)
