"""What a log's arrays must be before anything is averaged; a refusal names the argument, the row and the value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recgym.ope.weights import SupportError
from recgym.types import BoolArray, DoubleArray

Numbers = npt.NDArray[Any]


def refuse(name: str, values: Numbers, wrong: BoolArray, expected: str) -> None:
    """Raise ValueError at the first entry where `wrong`, of the shape of `values`, is True."""
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        inside = "".join(f", column {index}" for index in place[1:])
        raise ValueError(f"{name} must be {expected}, got {values[place]} in row {place[0]}{inside}")


def require_finite(name: str, values: Numbers) -> None:
    """Refuse nan and infinity in the array called `name`."""
    refuse(name, values, ~np.isfinite(values), "finite")


def check_rows(*, dimensions: int = 1, **arrays: Numbers) -> None:
    """Refuse arrays that are not of one shape with n > 0 rows, or that hold a number that is not finite."""
    first, shape = next((name, values.shape) for name, values in arrays.items())
    for name, values in arrays.items():
        if values.ndim != dimensions or not values.size or values.shape != shape:
            raise ValueError(
                f"{name} must have {dimensions} dimension(s), at least one row and the shape of {first}, {shape}; "
                f"got {values.shape}"
            )
        require_finite(name, values)


def check_weights(weights: Numbers, *, dimensions: int = 1, name: str = "weights", **arrays: Numbers) -> None:
    """`check_rows`, and importance weights must not be negative."""
    check_rows(dimensions=dimensions, **{name: weights}, **arrays)
    refuse(name, weights, weights < 0, "not negative")


def check_distributions(*, dimensions: int = 2, **arrays: Numbers) -> None:
    """Refuse probabilities (n, ..., N) that are negative or do not sum to 1 over the last axis (to 1e-6)."""
    check_rows(dimensions=dimensions, **arrays)
    for name, values in arrays.items():
        refuse(name, values, values < 0, "not negative")
        total = values.sum(axis=-1)
        refuse(f"the sum of {name}", total, np.abs(total - 1) > 1e-6, "1")


def check_items(item: Numbers, *, rows: int, num_items: int) -> None:
    """Refuse logged items that are not (rows,) ids in 1..num_items."""
    if item.shape != (rows,):
        raise ValueError(f"item must be ({rows},), one id a row, got {item.shape}")
    refuse("item", item, ~((item >= 1) & (item <= num_items)), f"an id in 1..{num_items}")


def check_discount(discount: float) -> None:
    """Refuse a discount outside [0, 1]."""
    if not 0 <= discount <= 1:
        raise ValueError(f"discount must lie in [0, 1], got {discount}")


def check_weight_left(denominators: DoubleArray) -> None:
    """Refuse weights (E, H) that sum to 0 in a column with a `SupportError`: nothing can be divided by them."""
    empty = np.flatnonzero(denominators.sum(axis=0) == 0)
    if len(empty):
        raise SupportError(
            f"no episode has weight left at step {empty[0]}: the target policy would never have acted as logged; "
            "log more sessions, or test a policy closer to the logging policy"
        )
