"""Reads the Coat Shopping files that a user downloads; every error names file, row and column, counted from 1.

Source: Schnabel et al. (2016), "Recommendations as treatments: debiasing learning and evaluation", which published the
ratings and features; the complete matrix is the one of the RL4Rec repository, filled in from them by a model. Research
use; neither may be redistributed, so none comes with this project.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

MATRIX, TRAIN = "coat_pseudoGT_ratingM.ascii", "train.ascii"
"""The complete matrix, and the ratings of items that users chose themselves (0: not rated)."""
TEST, PROPENSITIES = "test.ascii", "propensities.ascii"
"""Ratings of items shown uniformly at random (0: not shown), and the chance of each pair to be in `TRAIN`."""
USER_FEATURES, USER_MAP = "user_features.ascii", "user_features_map.txt"
ITEM_FEATURES, ITEM_MAP = "item_features.ascii", "item_features_map.txt"


class CoatFiles(NamedTuple):
    """What stands in the folder. U users, N items; parts whose file is missing are None."""

    ratings: Tensor  # (U, N) float32 stars, 1 to 5
    train: Tensor | None  # (U, N) float32 stars, 0 where not rated
    user_features: Tensor | None  # (U, X) float32, 0 or 1
    item_features: Tensor | None  # (N, Y) float32, 0 or 1
    titles: tuple[str, ...] | None  # N
    categories: tuple[str, ...] | None  # N: type of the jacket


def read_coat(path: Path | str) -> CoatFiles:
    """Read the matrix at `path`, a folder or the matrix itself, and the published files that lie beside it.

    Raises:
        FileNotFoundError: no matrix is there.
        ValueError: a file is not the table that it should be; the message names file, row and column.
    """
    if str(path) == "":
        raise ValueError(
            f"CoatConfig.path is empty, expected the folder of {MATRIX}: the data may not be redistributed,"
            " so download it and pass path=..."
        )
    matrix = Path(path) / MATRIX if Path(path).is_dir() else Path(path)
    if not matrix.is_file():
        raise FileNotFoundError(f"{matrix} does not exist; CoatConfig.path should be {MATRIX} or the folder it is in")
    ratings = read_table(matrix, low=1, high=5)
    users, items = ratings.shape

    def beside(name: str, high: float, rows: int, columns: int | None = None) -> Tensor | None:
        file = matrix.with_name(name)
        return read_table(file, low=0, high=high, rows=rows, columns=columns) if file.is_file() else None

    item_features = beside(ITEM_FEATURES, 1, items)
    titles, categories = describe_items(matrix.with_name(ITEM_MAP), item_features)
    train, user_features = beside(TRAIN, 5, users, items), beside(USER_FEATURES, 1, users)
    return CoatFiles(ratings, train, user_features, item_features, titles, categories)


def read_table(
    path: Path, *, low: float, high: float, rows: int | None = None, columns: int | None = None
) -> Tensor:  # fmt: skip
    """Numbers separated by blanks, one row a line, as (rows, columns) float32; all of `low` to `high`.

    Raises:
        ValueError: no text, no row, rows of different lengths, another shape than asked for, or a bad value.
    """
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start + 1} is not ASCII; expected a table of numbers") from None
    while lines and not lines[-1].strip():
        lines.pop()
    table: list[list[float]] = []
    for row, line in enumerate(lines, 1):
        words = line.split()
        expected = columns if columns is not None else len(table[0]) if table else len(words)
        if len(words) != expected or not words:
            raise ValueError(f"{path}, row {row}: {len(words)} columns, expected {expected or 'at least 1'}")
        table.append([_number(path, row, column, word, low, high) for column, word in enumerate(words, 1)])
    if not table or len(table) != (rows or len(table)):
        raise ValueError(f"{path}: {len(table)} rows, expected {rows or 'at least 1'}")
    return torch.tensor(table)


def _number(path: Path, row: int, column: int, word: str, low: float, high: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ValueError(f"{path}, row {row}, column {column}: {word!r}, expected a number from {low:g} to {high:g}")
    return value


def read_names(path: Path, features: Tensor) -> list[dict[str, str]]:
    """Each row of `features` (R, X) in words, such as {"gender": "men"}, from the names "group:value" in `path`.

    Raises:
        ValueError: there is not one name a column.
    """
    names = [line.strip().partition(":") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) != features.shape[1]:
        table = f"{path.name.removesuffix('_map.txt')}.ascii"
        raise ValueError(f"{path}: {len(names)} rows, expected {features.shape[1]}, the columns of {table}")
    return [
        {group: value for (group, _, value), flag in zip(names, row, strict=True) if flag} for row in features.tolist()
    ]


def describe_items(path: Path, features: Tensor | None) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Titles such as "men's bomber, gray" and types of jacket, from the names of the item features."""
    if features is None or not path.is_file():
        return None, None
    titles, categories = [], []
    for known in read_names(path, features):
        kind = known.get("jackettype", "other")
        titles.append(f"{known.get('gender', 'any')}'s {kind}, {known.get('color', 'other')}")
        categories.append(kind)
    return tuple(titles), tuple(categories)
