"""Numbers of a config that are none: what a dataclass of settings refuses before it looks at ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any


def check_numbers(config: Any, *, unbounded: Sequence[str] = ()) -> None:
    """Check every field of a dataclass whose default is a number, or a tuple of numbers; None is left alone.

    Args:
        config: the dataclass; its defaults say which numbers are whole, and how long tuples are.
        unbounded: fields that may be infinite.

    Raises:
        ValueError: a field is not a number, not finite, not whole where its default is, or of another length.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        wrong = None if value is None else _wrong(value, field.default, field.name in unbounded)
        if wrong is not None:
            raise ValueError(f"{type(config).__name__}.{field.name} is {value!r}, expected {wrong}")


def _wrong(value: Any, default: Any, unbounded: bool) -> str | None:
    """What was expected instead of `value`, or None where it will do."""
    if isinstance(default, tuple) and default and not isinstance(default[0], str):
        if not isinstance(value, Sequence) or len(value) != len(default):
            return f"{len(default)} values"
        found = (_wrong(one, part, unbounded) for one, part in zip(value, default, strict=True))
        return next((wrong for wrong in found if wrong is not None), None)
    if isinstance(default, bool) or not isinstance(default, int | float):
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        return "a number"
    if isinstance(default, int):
        return None if isinstance(value, Integral) else "a whole number"
    return "a finite number" if math.isinf(value) and not unbounded else None
