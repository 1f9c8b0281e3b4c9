"""What a user met lately, as a ring: pushing is O(1) and in place, reading in order is one gather."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class History(NamedTuple):
    """The last L items that each of B users met, with their feedback.

    Slot `pushes % L` is written next, so a left-padded array with no pushes is already a valid ring.
    """

    items: Tensor  # (B, L) int64: 1..N, 0 where nothing stands yet
    feedback: Tensor  # (B, L, F) float32
    pushes: Tensor  # (B,) int64: items pushed since the ring was made


def empty(batch: int, length: int, num_kinds: int, *, device: torch.device | str = "cpu") -> History:
    """Rings of `batch` users that have met nothing."""
    return History(
        torch.zeros(batch, length, dtype=torch.int64, device=device),
        torch.zeros(batch, length, num_kinds, device=device),
        torch.zeros(batch, dtype=torch.int64, device=device),
    )


def of_padded(items: Tensor, feedback: Tensor) -> History:
    """Rings that hold left-padded `items` (B, L) and `feedback` (B, L, F); the arrays are copied."""
    pushes = torch.zeros(len(items), dtype=torch.int64, device=items.device)
    return History(items.to(torch.int64, copy=True), feedback.to(torch.float32, copy=True), pushes)


def push(history: History, items: Tensor, feedback: Tensor, *, gaps: bool = True) -> History:
    """Append `items` (B,) with `feedback` (B, F), in place; rows whose item is 0 stay as they are.

    A ring of length 0 keeps nothing. With `gaps=False` the caller says that no item is 0, which saves half of the time.
    """
    batch, length = history.items.shape
    if length == 0:
        return history
    slot = history.pushes.remainder(length)
    slot += _first_slots(batch, length, slot.device)  # (B,) rows of the flat rings
    flat_items, flat_feedback = history.items.view(-1), history.feedback.view(batch * length, -1)
    if not gaps:
        flat_items[slot], flat_feedback[slot] = items, feedback
        history.pushes.add_(1)
        return history
    met = items > 0  # (B,)
    flat_items[slot] = torch.where(met, items, flat_items[slot])
    flat_feedback[slot] = torch.where(met.unsqueeze(1), feedback, flat_feedback[slot])
    history.pushes.add_(met)
    return history


def push_slate(history: History, slates: Tensor, feedback: Tensor) -> History:
    """Append slates (B, K) of items, none of them 0, with feedback (B, K, F), slot after slot, in place."""
    if history.items.shape[1]:
        for item, reaction in zip(slates.unbind(1), feedback.unbind(1), strict=True):
            push(history, item, reaction, gaps=False)
    return history


@lru_cache(maxsize=64)
def _first_slots(batch: int, length: int, device: torch.device) -> Tensor:
    """0, L, 2 L, ...: where each row's ring begins in the flat array, (B,)."""
    return torch.arange(batch, device=device) * length


def total_since(history: History) -> Tensor:
    """Feedback summed over what was pushed since the ring was made, as far as it reaches back, (B, F)."""
    length = history.items.shape[1]
    age = torch.arange(length, device=history.pushes.device)
    slots = (history.pushes.unsqueeze(1) - 1 - age).remainder(length)  # (B, L) latest first
    rows = torch.arange(len(slots), device=slots.device).unsqueeze(1)  # (B, 1)
    pushed = age < history.pushes.unsqueeze(1)  # (B, L)
    return (history.feedback[rows, slots] * pushed.unsqueeze(2)).sum(1)


def ordered(history: History) -> tuple[Tensor, Tensor]:
    """Items (B, L) and feedback (B, L, F), most recent last, padding on the left."""
    batch, length = history.items.shape
    if length == 0:
        return history.items, history.feedback
    place = torch.arange(length, device=history.pushes.device)
    slots = (history.pushes.unsqueeze(1) + place).remainder(length)  # (B, L)
    rows = torch.arange(batch, device=slots.device).unsqueeze(1)  # (B, 1)
    return history.items[rows, slots], history.feedback[rows, slots]
