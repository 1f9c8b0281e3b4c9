"""SLOPE: the hyper-parameter of an estimator (a clip, a threshold, a number of clusters) chosen by the log itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recgym.ope.intervals import Interval


def slope(candidates: Sequence[Interval]) -> int:
    """Index of the last candidate, from wide to narrow, whose doubled interval still meets those of all before it.

    With half-widths c_1 >= c_2 >= ..., it is max {i : [m_1 - 2 c_1, m_1 + 2 c_1] and ... and [m_i - 2 c_i, m_i + 2 c_i]
    have a point in common}. Narrower candidates must be the more biased ones, as with a smaller clip. If each estimate
    is within its bias and c_i of the truth, the chosen one's error is at most 6 / k times the least (bias + half-width)
    of all, k being the smallest c_(i+1) / c_i, provided the widest has a bias of at most c_1. For that to hold with
    probability 1 - delta over all M candidates, each interval needs level 1 - delta / M.

    Args:
        candidates: One value with its interval for each hyper-parameter, in any order; the half-width is the longer
            side. Of equally wide ones the first counts as the wider.

    Raises:
        ValueError: There is no candidate, or one has a value or an end that is not finite.

    Source: Su, Srinath and Krishnamurthy (2020), "Adaptive estimator selection for off-policy evaluation".
    """
    if not candidates:
        raise ValueError("slope needs at least one candidate, got none")
    for place, one in enumerate(candidates):
        if not all(math.isfinite(number) for number in (one.value, one.low, one.high)):
            raise ValueError(f"candidate {place} must be finite, got {one.value} in [{one.low}, {one.high}]")
    half = [max(one.high - one.value, one.value - one.low) for one in candidates]
    low, high, chosen = -math.inf, math.inf, 0
    for place in sorted(range(len(candidates)), key=lambda index: -half[index]):
        value, reach = candidates[place].value, 2 * half[place]
        low, high = max(low, value - reach), min(high, value + reach)
        if low > high:
            break
        chosen = place
    return chosen
