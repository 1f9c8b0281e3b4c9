"""Readers of the published logs on hand-written files, and what their tables ask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.bench.backbones_data import Data, read_data
from experiments.bench.backbones_protocols import make_questions
from recgym.logs.log import LogError
from recgym.logs.splits import TEST, TRAIN, VALIDATION
from tests.experiments.test_bench_backbones import CYCLE


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def write_ml1m(folder: Path) -> None:
    write(folder, "ml1m/train_input.txt", "1 2 3\n4 5 6\n2 3 4\n")
    write(folder, "ml1m/val_input.txt", "4 5 6 1\n")
    write(folder, "ml1m/val_output.txt", "2\n")
    write(folder, "ml1m/test_output.txt", "9\n3\n9\n")


def write_yoochoose(folder: Path, test: str = "8\t77\t5000.5\n8\t11\t5001.5\n8\t77\t5002\n9\t99\t6000\n") -> None:
    head = "SessionId\tItemId\tTime\n"
    train = "".join(f"{session}\t{item}\t{session}00.{item}\n" for session in range(1, 41) for item in (11, 77))
    write(folder, "yoochoose100k/yoochoose-clicks-100k_train_full.txt", head + train)
    write(folder, "yoochoose100k/yoochoose-clicks-100k_test.txt", head + test)


def test_beauty_is_a_user_a_line(tmp_path: Path) -> None:
    write(tmp_path, "beauty/Beauty.txt", "1 3 1 2\n2 2 2 4 1\n")
    log = read_data("beauty", tmp_path).sequences
    assert (log.num_users, log.num_items, log.item.tolist()) == (2, 4, [3, 1, 2, 2, 2, 4, 1])
    questions = make_questions(read_data("beauty", tmp_path))
    assert log.item[questions.asked].tolist() == [2, 1]
    assert "leave-one-out, validation item in the test input; full ranking; items met" in questions.title("full")
    with pytest.raises(ValueError, match="split is 'temporal', but Beauty is published without times"):
        make_questions(read_data("beauty", tmp_path), split="temporal")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n2 x\n", r"Beauty\.txt, row 2: .*'x'"),
        ("1 2\n2\n", r"Beauty\.txt, row 2: '2', expected 2 or more numbers from 1"),
        ("1 2\n2 0\n", r"Beauty\.txt, row 2: '2 0', expected"),
        ("", r"Beauty\.txt: empty"),
    ],
)
def test_a_bad_row_is_named(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, "beauty/Beauty.txt", text)
    with pytest.raises(LogError, match=message):
        read_data("beauty", tmp_path)


def test_files_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LogError, match=r"Beauty\.txt: not there; .*RECGYM_DATA.* --data sample"):
        read_data("beauty", tmp_path)
    with pytest.raises(LogError, match="no log of the tables is called 'x'; there are beauty"):
        read_data("x", tmp_path)
    assert main(["bench", "backbones", "--data", "yoochoose", "--folder", str(tmp_path)]) == 1
    assert "yoochoose-clicks-100k_train_full.txt: not there" in capsys.readouterr().err


def test_movielens_judges_the_users_whose_prefix_is_exact_or_all_one_step_earlier(tmp_path: Path) -> None:
    write_ml1m(tmp_path)
    data = read_data("ml1m", tmp_path)
    assert data.sequences.item.tolist() == [1, 2, 3, 4, 5, 6, 1, 2, 3, 2, 3, 4]
    assert data.roles is not None
    assert data.roles.tolist() == [TRAIN] * 7 + [VALIDATION, TEST] + [TRAIN] * 3
    questions = make_questions(read_data("ml1m-earlier", tmp_path))
    assert questions.sequences.item[questions.asked].tolist() == [3, 1, 4]
    for name in ("ml1m", "ml1m-earlier"):
        with pytest.raises(ValueError, match="'leave-one-out', but the last items of MovieLens-1M's users are not all"):
            make_questions(read_data(name, tmp_path), split="leave-one-out")
    write(tmp_path, "ml1m/val_input.txt", "5 5 1\n")
    with pytest.raises(LogError, match=r"val_input\.txt, row 1: without its last item"):
        read_data("ml1m", tmp_path)
    write(tmp_path, "ml1m/test_output.txt", "9\n")
    with pytest.raises(LogError, match=r"3 rows in train_input\.txt, 1 in test_output\.txt"):
        read_data("ml1m", tmp_path)


def test_yoochoose_asks_for_every_click_after_the_first_of_test_sessions(tmp_path: Path) -> None:
    write_yoochoose(tmp_path)
    data = read_data("yoochoose", tmp_path)
    log = data.sequences
    questions = make_questions(data)
    assert (log.num_items, log.num_users) == (2, 41)  # item 99 is not in training, and so session 9 is empty
    assert log.item[questions.asked].tolist() == [1, 2]
    assert log.time[questions.asked].tolist() == [5001, 5002]
    assert np.flatnonzero(questions.roles == VALIDATION).tolist() == [38, 39, 78, 79]
    assert questions.repeats and questions.cutoff == 20
    assert "every click after the first; full ranking; repeats allowed; 2 targets of 1 users" in questions.title("full")
    write_yoochoose(tmp_path, test="8\t77\n")
    with pytest.raises(LogError, match=r"_test\.txt, row 2: .*expected a session, an item and a time"):
        read_data("yoochoose", tmp_path)
    write(tmp_path, "yoochoose100k/yoochoose-clicks-100k_test.txt", "session,item\n")
    with pytest.raises(LogError, match=r"_test\.txt, row 1: .*expected the columns SessionId"):
        read_data("yoochoose", tmp_path)


def test_a_title_names_the_whole_protocol() -> None:
    questions = make_questions(Data(CYCLE), split="temporal", repeats=True)
    title = questions.title("sampled-popularity")
    for words in ("cycle (20 users, 7 items, 120 steps)", "global temporal split",
                  "sampled: 100 negatives by popularity", "seed 0", "repeats allowed", "targets of"):  # fmt: skip
        assert words in title
    assert "sampled: 100 uniform negatives" in questions.title("sampled-uniform")
    assert (questions.roles[questions.asked] == TEST).all()
