"""Tails of F by tables and closed forms; Holm's correction by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recgym.ope.intervals import t_quantile
from recgym.ope.p_values import f_tail, holm, unskewed


@pytest.mark.parametrize(
    ("value", "first", "second", "expected"),
    [
        (4.9646, 1, 10, 0.05),
        (3.4780, 4, 10, 0.05),
        (5.9943, 4, 10, 0.01),
        (1.9926, 10, 60, 0.05),
        (9.487729 / 4, 4, 1e8, 0.05),  # chi-square with 4 degrees of freedom
        (18.466827 / 4, 4, 1e8, 0.001),
    ],
)
def test_the_tables_of_f(value: float, first: float, second: float, expected: float) -> None:
    assert f_tail(value, first, second) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("second", [1.0, 2.5, 7.0, 60.0, 4000.0])
@pytest.mark.parametrize("value", [1e-18, 1e-3, 0.4, 1.0, 3.0, 50.0])
def test_the_tail_with_two_degrees_of_freedom_in_closed_form(value: float, second: float) -> None:
    closed = math.exp(-second / 2 * math.log1p(2 * value / second))
    assert f_tail(value, 2, second) == pytest.approx(closed, rel=1e-9)


@pytest.mark.parametrize("freedom", [3.0, 12.0, 250.0])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_one_degree_of_freedom_is_students_t(level: float, freedom: float) -> None:
    assert f_tail(t_quantile(level, freedom) ** 2, 1, freedom) == pytest.approx(1 - level, rel=1e-5)


def test_the_ends_of_f() -> None:
    assert f_tail(0.0, 3, 5) == 1.0
    assert f_tail(1e300, 3, 500) == 0.0
    for bad in ((-1.0, 3.0, 5.0), (math.nan, 3.0, 5.0), (1.0, 0.0, 5.0), (1.0, 3.0, math.inf)):
        with pytest.raises(ValueError, match="degrees of freedom positive"):
            f_tail(*bad)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.9])), [0.09, 0.04, 0.09, 0.9], atol=1e-12)
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])
    with pytest.raises(ValueError, match=r"p_values must be in \[0, 1\], got 1.5 in row 1"):
        holm(np.array([0.1, 1.5]))


def test_halls_transformation_written_out() -> None:
    psi = np.array([[3.0, 1, 0], [-1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    found = unskewed(np.array([-1.0, 0.5, 0.2]), psi)
    c = (27 - 3) / 4 / 8 / 2  # third moment over the cube of the standard deviation 2, over the root of 4 users
    assert found[0] == pytest.approx(-1 + c * (1 / 3 + 1 / 6) - c**2 / 27, abs=1e-12)  # T = -1, s / sqrt(U) = 1
    assert found[1:] == pytest.approx([0.5, 0.2], abs=1e-12)  # no skewness, no spread
    grid = np.linspace(-20, 20, 401)
    assert (np.diff(unskewed(grid, np.repeat(psi[:, :1], 401, axis=1))) > 0).all()
