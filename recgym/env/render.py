"""What a session looks like: as text, and as a strip of tiles."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recgym.users.model import UserModel

_TILE, _GAP, _COLUMNS = 28, 4, 25


class Shown(NamedTuple):
    """One step of one session."""

    slate: list[int]  # (K,) item ids
    feedback: list[list[float]]  # (K, F)
    left: bool


def write(users: UserModel[Any], record: Sequence[Shown]) -> str:
    """One line an item: what was shown, in which category, and what the user did."""
    if not record:
        return "(session starts)"
    lines = []
    for step, shown in enumerate(record, 1):
        for slot, (item, amounts) in enumerate(zip(shown.slate, shown.feedback, strict=True)):
            did = [
                kind.name if kind.type == "binary" else f"{kind.name} {amount:.3g} {kind.unit}".rstrip()
                for kind, amount in zip(users.kinds, amounts, strict=True)
                if amount > 0
            ]
            place = f"{step:3d}" if len(shown.slate) == 1 else f"{step:3d}.{slot + 1}"
            lines.append(f"{place}  {describe(users, item):<44}  {', '.join(did) or '-'}")
        if shown.left:
            lines.append("     (the user leaves)")
    return "\n".join(lines)


def describe(users: UserModel[Any], item: int) -> str:
    """Title and category of an item, where the users know them."""
    titles, categories = getattr(users, "item_titles", None), getattr(users, "item_categories", None)
    title = titles[item - 1] if titles and titles[item - 1] else f"item {item}"
    return f"{title} [{categories[item - 1]}]" if categories and categories[item - 1] else title


def draw(users: UserModel[Any], record: Sequence[Shown]) -> npt.NDArray[np.uint8]:
    """The session as tiles, (H, W, 3) uint8: one row of 25 a line, slates downwards, hue by category.

    A tile is bright where the first kind of feedback was positive, pale where it was not, and a dark bar ends a session
    that the user left. The size depends on the slate alone, so that frames make a film.
    """
    slots = max((len(shown.slate) for shown in record), default=1)
    step = _TILE + _GAP
    lines = 4
    image = np.full((lines * (slots * step + _GAP) + _GAP, _COLUMNS * step + _GAP, 3), 255, np.uint8)
    for place, shown in enumerate(record[-lines * _COLUMNS :]):
        line, column = divmod(place, _COLUMNS)
        left = column * step + _GAP
        for slot, (item, amounts) in enumerate(zip(shown.slate, shown.feedback, strict=True)):
            top = line * (slots * step + _GAP) + slot * step + _GAP
            image[top : top + _TILE, left : left + _TILE] = _colour(users, item, bright=amounts[0] > 0)
        if shown.left:
            top = line * (slots * step + _GAP) + _GAP
            image[top : top + slots * step - _GAP, left + _TILE : left + step] = 40
    return image


def _colour(users: UserModel[Any], item: int, *, bright: bool) -> tuple[int, int, int]:
    categories = getattr(users, "item_categories", None)
    if categories:
        names = sorted(set(categories))
        hue = names.index(categories[item - 1]) / len(names)
    else:
        hue = item * 0.618 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 if bright else 0.2, 0.85 if bright else 0.95)
    return int(red * 255), int(green * 255), int(blue * 255)
