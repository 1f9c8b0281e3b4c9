"""Logs of the published next-item tables, as their sources distribute them, and the sample log.

None of them ships with recgym: `folder` holds beauty/, ml1m/, yoochoose100k/ and ml100k/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recgym.logs.log import LogError
from recgym.logs.pivot import build_sequences
from recgym.logs.readers import read_log
from recgym.logs.readers.native import sample_log
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TEST, TRAIN, VALIDATION, Roles, leave_one_out
from recgym.types import FeedbackKind, IntArray

_CLICKS = ("SessionId", "ItemId", "Time")
_HELD_OUT = 20
"""One training session of so many chooses the epoch."""


class Data(NamedTuple):
    """A log and what its tables say of it."""

    sequences: Sequences
    roles: Roles | None = None  # (M,) the published split; None: it has none but leave-one-out
    split: str = ""  # that split in words
    timed: bool = True  # whether times are times, not places in the file
    whole: bool = True  # whether users' last items are published
    first_given: bool = False  # whether a session's first step is not asked about
    repeats: bool = False  # whether tables let items met before be recommended
    cutoff: int = 10  # of HR and NDCG


def read_data(name: str, folder: Path) -> Data:
    """The log called `name`, a key of `READERS`.

    Raises:
        LogError: no log has this name, its files are not in `folder`, or a row is not as it should be.
    """
    if name not in READERS:
        raise LogError(f"no log of the tables is called {name!r}; there are {', '.join(READERS)}")
    return READERS[name](folder)


def _beauty(folder: Path) -> Data:
    """Amazon Beauty, 5-core: a user and the items in time order a line."""
    lines = _lines(folder / "beauty" / "Beauty.txt", least=2)
    return Data(of_lists([line[1:] for line in lines], "Beauty"), timed=False)


def _ml1m(folder: Path) -> Data:
    """MovieLens-1M: the 512 users whose last item but one is published are judged; all others train."""
    lists, rows, validation, test = _ml1m_lists(folder)
    lists = [
        history + [validation[row], test[user]] * (row >= 0)
        for user, (history, row) in enumerate(zip(lists, rows, strict=True))
    ]
    sequences = of_lists(lists, "MovieLens-1M")
    roles = leave_one_out(sequences)
    roles[(np.array(rows) < 0)[sequences.user_of_step]] = TRAIN
    words = f"leave-one-out, the {len(validation)} validation users whose prefix is published exactly"
    return Data(sequences, roles, words, timed=False, whole=False)


def _ml1m_earlier(folder: Path) -> Data:
    """The same, all users, without the last two items of each."""
    sequences = of_lists(_ml1m_lists(folder)[0], "MovieLens-1M")
    words = "leave-one-out one step earlier, each user's last item but two is the test"
    return Data(sequences, leave_one_out(sequences), words, timed=False, whole=False)


def _yoochoose(folder: Path) -> Data:
    """Clicks of the RecSys Challenge 2015, sessions split by time; a session is all that is known of its user."""
    prefix = folder / "yoochoose100k" / "yoochoose-clicks-100k_"
    train, test = (_clicks(prefix.with_name(f"{prefix.name}{part}.txt")) for part in ("train_full", "test"))
    catalogue = train.select("ItemId").unique().sort("ItemId")
    both = pl.concat([train.with_columns(test=False), test.with_columns(test=True)])
    both = both.join(catalogue.with_row_index("item", offset=1), on="ItemId", how="inner", maintain_order="left")
    both = both.sort("test", "SessionId", "Time", maintain_order=True)
    sessions = both.group_by("test", "SessionId", maintain_order=True).agg("item", "Time")
    sequences = of_lists(
        sessions["item"].to_list(), "Yoochoose-100K", names=catalogue["ItemId"].to_list(),
        time=sessions["Time"].explode().to_numpy().astype(np.int64),
    )  # fmt: skip
    session_role = np.where(np.arange(len(sessions)) % _HELD_OUT == _HELD_OUT - 1, VALIDATION, TRAIN).astype(np.int8)
    session_role[sessions["test"].to_numpy()] = TEST
    words = f"sessions split by time, one training session of {_HELD_OUT} for validation, every click after the first"
    return Data(sequences, session_role[sequences.user_of_step], words, first_given=True, repeats=True, cutoff=20)


def _ml100k(folder: Path) -> Data:
    return Data(build_sequences(read_log(folder / "ml100k", "movielens")))


def _sample(folder: Path) -> Data:  # noqa: ARG001
    return Data(build_sequences(sample_log()), repeats=True)


READERS: dict[str, Callable[[Path], Data]] = {
    "beauty": _beauty, "ml1m": _ml1m, "ml1m-earlier": _ml1m_earlier, "yoochoose": _yoochoose, "ml100k": _ml100k,
    "sample": _sample,
}  # fmt: skip
"""By the name that `--data` takes."""


def of_lists(
    lists: Sequence[Sequence[int]], name: str, *, names: Sequence[str] | None = None, time: IntArray | None = None
) -> Sequences:
    """Users that consumed these items 1..N in this order, one session each; without `time` steps are a second apart."""
    size = np.array([len(items) for items in lists])
    flat = np.array([item for items in lists for item in items], np.int32)
    number = len(names) if names is not None else int(flat.max())
    return Sequences(
        offsets=np.append(0, np.cumsum(size)), item=flat, feedback=np.ones((len(flat), 1), np.float32),
        time=np.arange(len(flat)) if time is None else time, session=np.repeat(np.arange(len(lists)), size),
        propensity=np.full(len(flat), np.nan), position=np.full(len(flat), -1, np.int16),
        kinds=(FeedbackKind(name="consume"),), exposures=False, users=[str(user) for user in range(1, len(lists) + 1)],
        items=pl.DataFrame({"item": list(names) if names is not None else [str(j) for j in range(1, number + 1)]}),
        name=name,
    )  # fmt: skip


def _ml1m_lists(folder: Path) -> tuple[list[list[int]], list[int], list[int], list[int]]:
    """All but each user's last two items, each user's row among the validation users or -1, and the last two items."""
    parts = {name: _lines(folder / "ml1m" / f"{name}.txt") for name in ("train_input", "val_input")}
    targets = {name: _lines(folder / "ml1m" / f"{name}.txt", most=1) for name in ("val_output", "test_output")}
    for first, second in (("train_input", "test_output"), ("val_input", "val_output")):
        if len(parts[first]) != len(targets[second]):
            raise LogError(
                f"{folder / 'ml1m'}: {len(parts[first])} rows in {first}.txt, {len(targets[second])} in {second}.txt"
            )
    row_of = {tuple(items[:-1]): row for row, items in enumerate(parts["val_input"])}
    rows = [row_of.pop(tuple(items), -1) for items in parts["train_input"]]
    if row_of:
        raise LogError(
            f"{folder / 'ml1m' / 'val_input.txt'}, row {min(row_of.values()) + 1}: without its last item it is no row "
            "of train_input.txt"
        )
    lists = [
        items if row < 0 else parts["val_input"][row] for items, row in zip(parts["train_input"], rows, strict=True)
    ]
    validation, test = ([items[0] for items in targets[name]] for name in ("val_output", "test_output"))
    return lists, rows, validation, test


def _lines(path: Path, *, least: int = 1, most: int | None = None) -> list[list[int]]:
    """Numbers from 1, between `least` and `most` of them a line."""
    found = []
    for row, line in enumerate(_text(path).splitlines(), 1):
        try:
            numbers = [int(word) for word in line.split()]
        except ValueError as error:
            raise LogError(f"{path}, row {row}: {error}, expected whole numbers separated by spaces") from error
        if len(numbers) < least or len(numbers) > (most or len(numbers)) or min(numbers) < 1:
            raise LogError(f"{path}, row {row}: {line[:40]!r}, expected {most or f'{least} or more'} numbers from 1")
        found.append(numbers)
    if not found:
        raise LogError(f"{path}: empty, expected a row a user")
    return found


def _clicks(path: Path) -> pl.DataFrame:
    head, *rows = _text(path).splitlines()
    if tuple(head.split("\t")) != _CLICKS:
        raise LogError(f"{path}, row 1: {head[:40]!r}, expected the columns {', '.join(_CLICKS)}, separated by tabs")
    found: list[tuple[int, str, float]] = []
    for row, line in enumerate(rows, 2):
        try:
            session, item, time = line.split("\t")
            found.append((int(session), item, float(time)))
        except ValueError as error:
            raise LogError(f"{path}, row {row}: {line[:40]!r}, expected a session, an item and a time") from error
    return pl.DataFrame(found, schema=dict(zip(_CLICKS, (pl.Int64, pl.String, pl.Float64), strict=True)), orient="row")


def _text(path: Path) -> str:
    if not path.is_file():
        raise LogError(
            f"{path}: not there; put the published file there, say --folder or set RECGYM_DATA to the folder above, or "
            "take --data sample"
        )
    return path.read_text(encoding="utf-8")
