"""Intervals as JSON and as cells of a table: {"value", "low", "high"} and "1.20 [1.00, 1.40]"."""

from __future__ import annotations

from collections.abc import Mapping

from recgym.ope.intervals import Interval


def numbers(interval: Interval) -> dict[str, float]:
    """The interval for JSON."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def cell(found: Mapping[str, float], style: str = ".2f") -> str:
    """What `numbers` gave, as text, each number in the format `style`."""
    return f"{found['value']:{style}} [{found['low']:{style}}, {found['high']:{style}}]"
