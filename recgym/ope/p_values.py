"""How likely chance alone is to show as much: the tail of F, and p-values corrected for being many."""

from __future__ import annotations

import math

import numpy as np

from recgym.ope.rows import check_rows, refuse
from recgym.types import DoubleArray

_TINY = 1e-300


def f_tail(value: float, first: float, second: float) -> float:
    """P(F > value) for Fisher's F with `first` and `second` degrees of freedom, to 1e-10.

    I_x(second / 2, first / 2) with x = second / (second + first value), I the regularised incomplete beta function.
    F(1, f) is the square of Student's T with f degrees of freedom; first F(first, infinity) is chi-square.

    Raises:
        ValueError: `value` is negative or not finite, or a number of degrees of freedom is not positive.

    Source: Abramowitz and Stegun (1964), 26.6.2 (tail of F) and 26.5.8 (continued fraction).
    """
    if not (math.isfinite(value) and value >= 0 and 0 < first < math.inf and 0 < second < math.inf):
        raise ValueError(
            f"value must not be negative, degrees of freedom positive, all finite; got {value}, {first}, {second}"
        )
    a, b = second / 2, first / 2
    x, rest = second / (second + first * value), first * value / (second + first * value)
    if x == 0 or rest == 0:
        return float(rest == 0)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest))
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front / a * _fraction(a, b, x))
    return max(0.0, 1 - front / b * _fraction(b, a, rest))


def holm(p_values: DoubleArray) -> DoubleArray:
    """max_{j <= k} min(1, (P - j) p_(j)), j from 0 by rising p: each compared with 1 - level, all hold together; (P,).

    Raises:
        ValueError: There is none, or one is not in [0, 1].

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    check_rows(p_values=p_values)
    refuse("p_values", p_values, (p_values < 0) | (p_values > 1), "in [0, 1]")
    order = np.argsort(p_values, kind="stable")
    found = np.empty(len(p_values))
    found[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(order), 0, -1) * p_values[order]))
    return found


def unskewed(values: DoubleArray, psi: DoubleArray) -> DoubleArray:
    """g(T) s / sqrt(U) in place of each value T s / sqrt(U), so that Student's quantiles fit skewed terms; (P,).

    g(T) = T + c (T^2 / 3 + 1 / 6) + c^2 T^3 / 27, c = skewness / sqrt(U), which rises with T. A mean of weights with a
    long tail is mostly too low, with an error that is then too low too: without this it seems significantly below 1.

    Args:
        values: (P,) estimates less what they should be.
        psi: (U, P) influence of each user on them, mean 0.

    Source: Hall (1992), "On the removal of skewness by transformation", the cubic transformation for a mean.
    """
    size = len(psi)
    spread = psi.std(axis=0, ddof=1)  # (P,)
    safe = np.where(spread > 0, spread, 1.0)
    score = values / safe * math.sqrt(size)
    lean = (psi**3).mean(axis=0) / safe**3 / math.sqrt(size)
    found: DoubleArray = (score + lean * (score**2 / 3 + 1 / 6) + lean**2 * score**3 / 27) * safe / math.sqrt(size)
    return np.where(spread > 0, found, values)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction 1 / (1 + d_1 / (1 + d_2 / ...)) of the incomplete beta function, by Lentz's method."""
    above, below = 1.0, 1 / max(1 - (a + b) * x / (a + 1), _TINY)
    total = below
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            below = 1 / _away_from_zero(1 + term * below)
            above = _away_from_zero(1 + term / above)
            total *= above * below
        if abs(above * below - 1) < 1e-14:
            break
    return total


def _away_from_zero(number: float) -> float:
    return number if abs(number) > _TINY else _TINY
