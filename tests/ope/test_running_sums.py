"""Users keep their row or bag, and bags of users vary as users do."""

from __future__ import annotations

import numpy as np

from recgym.ope.intervals import t_interval
from recgym.ope.rows import Numbers
from recgym.ope.running_sums import Rows


def test_a_user_stays_in_one_bag_from_chunk_to_chunk() -> None:
    rows = Rows(3)
    first, none = rows.place([5, 9, 5])
    assert (first.tolist(), none) == ([0, 1, 0], None)
    later, moved = rows.place([7, 8, 9])
    assert moved is not None and rows.bagged and moved[1] == later[2]
    assert rows.place([9, 5])[0].tolist() == [moved[1], moved[0]]


def test_an_interval_over_bags_is_as_wide_as_one_over_users() -> None:
    """Of 20,000 users in 1,000 bags: widths differ by 1 / sqrt(2,000) of themselves, here over ten sets of bags."""
    rng = np.random.default_rng(0)
    size = rng.integers(1, 5, 20_000).astype(np.float64)
    total = size * rng.gamma(0.3, size=20_000)
    truth = _half(total, size)
    widths = []
    for trial in range(10):
        row = Rows(1000).place([f"{trial} {user}" for user in range(20_000)])[0]
        widths.append(_half(np.bincount(row, weights=total), np.bincount(row, weights=size)))
    assert np.abs(np.array(widths) / truth - 1).max() < 4 / 2000**0.5
    assert abs(np.mean(widths) / truth - 1) < 4 / (10 * 2000) ** 0.5


def _half(total: Numbers, size: Numbers) -> float:
    """Half-width of the t interval of a ratio of sums over rows."""
    residual = len(size) * (total / size.sum() - total.sum() / size.sum() ** 2 * size)
    found = t_interval(residual, np.arange(len(size)))
    return (found.high - found.low) / 2
