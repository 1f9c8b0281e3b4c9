"""SLOPE by hand, against its guarantee, and choosing a clip."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.ope import Interval, t_interval
from recgym.ope.one_step import clipped_weights, ips
from recgym.ope.slope import slope
from recgym.types import DoubleArray


def interval(value: float, half: float) -> Interval:
    return Interval(value=value, low=value - half, high=value + half / 2, level=0.95, method="by hand")


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([(0, 1)], 0),
        ([(0, 1), (1.5, 0.4)], 1),  # apart at one half-width, together at two
        ([(0, 1), (5, 0.4), (0, 0.1)], 0),  # it stops at the first that is out
        ([(0, 1), (2.5, 0.5), (3.2, 0.25)], 1),  # the third meets the second, but not both
        ([(3.2, 0.25), (0, 1), (2.5, 0.5)], 2),  # the order is of width
        ([(0, 1), (0.1, 1)], 1),
        ([(0, 0), (0, 0)], 1),
    ],
)
def test_slope_by_hand(candidates: list[tuple[float, float]], chosen: int) -> None:
    assert slope([interval(*one) for one in candidates]) == chosen


def test_slope_is_as_good_as_it_promises() -> None:
    rng, kept = np.random.default_rng(0), 0
    for _ in range(300):
        half = 4.0 * np.cumprod(np.append(1, rng.uniform(0.4, 1, 5)))
        bias = np.cumsum(np.append(0, rng.exponential(1, 5) * rng.integers(0, 2)))
        value = 10 + rng.choice([-1, 1], 6) * (bias + half * rng.random(6))
        found = slope(
            [Interval(value=m, low=m - c, high=m + c, level=1, method="") for m, c in zip(value, half, strict=True)]
        )
        factor = 6 / (half[1:] / half[:-1]).min()
        assert abs(value[found] - 10) <= factor * (bias + half).min()
        kept += found == 5
    assert 100 < kept < 300


def test_slope_clips_as_far_as_the_log_cannot_tell() -> None:
    rng, users, limits = np.random.default_rng(5), np.arange(2000), [np.inf, 30.0, 10.0, 3.0, 1.0]
    reward = (rng.random(2000) < 0.3).astype(np.float64)

    def choose(weights: DoubleArray) -> float:
        return limits[slope([t_interval(ips(clipped_weights(weights, c), reward), users) for c in limits])]

    even = np.where(rng.random(2000) < 0.25, 4.0, 0.0)
    wild = np.where(rng.random(2000) < 0.002, 450.0, 0.1)
    assert choose(even) == 3.0  # 0.30, and by a clip of 1 certainly too low
    assert choose(wild) == 1.0  # four heavy rows say nothing


def test_no_number_is_no_candidate() -> None:
    with pytest.raises(ValueError, match="candidate 1 must be finite, got nan"):
        slope([interval(0, 1), interval(np.nan, 1)])
    with pytest.raises(ValueError, match="at least one candidate"):
        slope([])
