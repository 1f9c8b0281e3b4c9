"""The logging policy mu(a | x), estimated from what it showed, where propensities were not logged.

An estimated policy scores all items for a chunk of rows. Here it is how often an item is shown, at all or in a segment
of contexts; `behaviour_scores` is a multinomial model of the context. `cross_fitting` keeps a user's rows out of the
model that weighs them, and calibrates it; `behaviour_checks` says how far to trust the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recgym.ope.rows import Numbers, check_items, check_rows, refuse
from recgym.ope.views import chunks
from recgym.types import BoolArray, DoubleArray, IntArray, Transitions

_BLOCK = 1 << 22  # scores of rows times items held at a time, in numbers (32 MiB)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the logger saw and what it showed, n rows of one item each."""

    features: Numbers  # (n, D) what the choice may depend on
    item: IntArray  # (n,) ids 1..N
    user: IntArray  # (n,) who each row belongs to
    num_items: int
    """Items N that could have been shown."""
    segment: IntArray | None = None  # (n,) number of the segment of contexts that a row is in; None: one for all
    mask: BoolArray | None = None  # (n, N) True where the item might be shown; None: all might

    def __post_init__(self) -> None:
        """Refuse rows that no logger can have written."""
        check_rows(dimensions=2, features=self.features)
        check_items(self.item, rows=len(self.features), num_items=self.num_items)
        check_rows(item=self.item, user=self.user, segment=self.item if self.segment is None else self.segment)
        if self.mask is not None:
            if self.mask.shape != (len(self.item), self.num_items):
                raise ValueError(f"mask must be {(len(self.item), self.num_items)}, got {self.mask.shape}")
            allowed = self.mask[np.arange(len(self.item)), self.item - 1]
            refuse("item", self.item, ~allowed, "one that the mask allows")

    def take(self, rows: IntArray) -> Choices:
        """The given rows."""
        return Choices(
            features=self.features[rows],
            item=self.item[rows],
            user=self.user[rows],
            num_items=self.num_items,
            segment=None if self.segment is None else self.segment[rows],
            mask=None if self.mask is None else self.mask[rows],
        )

    def parts(self, rows: IntArray) -> Iterator[tuple[slice, Choices]]:
        """The given rows in chunks small enough to hold a number for each item: places in `rows`, and the chunk."""
        for part in chunks(len(rows), max(1, _BLOCK // self.num_items)):
            yield part, self.take(rows[part])


def logged_choices(logged: Transitions, *, num_items: int, segment: IntArray | None = None) -> Choices:
    """The choices of a log, by the state (where there is one) and context that it holds.

    What the logger knew and the log does not hold (stock, time, a score of another system) cannot be accounted for.

    Raises:
        ValueError: The log holds slates, an item outside 1..num_items, or features that are not finite.
    """
    if logged.action.shape[1] != 1:
        raise ValueError(
            f"a logging policy is estimated for one item a step, got slates of {logged.action.shape[1]}; "
            "read every position as a step of its own, with the position as segment"
        )
    seen = [part for part in (logged.state, logged.context) if part is not None]
    return Choices(
        features=np.concatenate(seen, axis=1),
        item=logged.action[:, 0],
        user=logged.user[logged.episode],
        num_items=num_items,
        segment=segment,
        mask=logged.mask,
    )


class LoggerModel(Protocol):
    """An estimated logging policy."""

    def logits(self, seen: Choices) -> Tensor:
        """Scores (B, N) of a chunk whose softmax over allowed items is mu(a | x); -inf where mu is 0."""
        ...


def masked_logits(model: LoggerModel, seen: Choices) -> Tensor:
    """The model's scores, (B, N) float64, -inf where the mask forbids the item."""
    scores = model.logits(seen).double()
    return scores if seen.mask is None else scores.masked_fill(~torch.from_numpy(seen.mask), -torch.inf)


def distribution(model: LoggerModel, seen: Choices) -> DoubleArray:
    """mu(a | x) of all items for one chunk, (B, N)."""
    found: DoubleArray = torch.softmax(masked_logits(model, seen), dim=1).numpy()
    return found


def log_propensities(model: LoggerModel, choices: Choices, rows: IntArray) -> DoubleArray:
    """Log mu(a_i | x_i) of the items shown in the given rows, (len(rows),).

    Raises:
        ValueError: An item was shown that the model takes to be impossible.
    """
    found = np.empty(len(rows))
    for part, seen in choices.parts(rows):
        every = torch.log_softmax(masked_logits(model, seen), dim=1)
        found[part] = every[torch.arange(len(seen.item)), torch.from_numpy(seen.item) - 1].numpy()
    impossible = ~np.isfinite(found)
    if impossible.any():
        row = int(rows[impossible][0])
        raise ValueError(
            f"item {choices.item[row]} in row {row} has estimated propensity 0: it was never shown in the rows "
            "that the model learned from; set smoothing above 0, or leave out items that are too rare to weigh"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """How often each item is shown, in each segment of contexts and at all."""

    segments: IntArray  # (G,) known ones, ascending
    table: DoubleArray  # (G + 1, N) rows sum to 1; the last is of all rows together, for unknown segments

    def logits(self, seen: Choices) -> Tensor:
        """Logarithms of the frequencies, (B, N)."""
        if seen.segment is None:
            place = np.full(len(seen.item), len(self.segments))
        else:
            known = np.isin(seen.segment, self.segments)
            place = np.where(known, np.searchsorted(self.segments, seen.segment), len(self.segments))
        return torch.from_numpy(self.table[place]).log()


def item_frequencies(item: IntArray, *, num_items: int, smoothing: float = 1.0) -> DoubleArray:
    """mu(a) = (#a + smoothing / N) / (n + smoothing), (N,): the logging policy, were it blind to context.

    Args:
        item: (n,) logged item ids, 1..N.
        num_items: items N.
        smoothing: how many rows an even spread over the catalogue counts for; 0 leaves items never shown impossible.

    Raises:
        ValueError: There is no row, an item is outside 1..N, or smoothing is negative or not finite.

    Source: Lidstone (1920), additive smoothing.
    """
    check_items(item, rows=len(item), num_items=num_items)
    check_some(item)
    check_amount("smoothing", smoothing)
    counts = np.bincount(item - 1, minlength=num_items) + smoothing / num_items
    frequency: DoubleArray = counts / counts.sum()
    return frequency


def fit_frequencies(
    choices: Choices, train: IntArray, *, smoothing: float = 1.0, strength: float = 10.0
) -> Frequencies:
    """mu(a | g) = (#ga + strength mu(a)) / (#g + strength), with mu(a) of `item_frequencies`; without segments mu(a).

    Of a log with masks it is an approximation: an item counts as often shown because it was often allowed.

    Args:
        choices: the log.
        train: rows to learn from.
        smoothing: of mu(a).
        strength: how many rows mu(a) counts for in each segment.

    Raises:
        ValueError: smoothing or strength is negative or not finite, or there is no row.

    Source: MacKay and Peto (1995), "A hierarchical Dirichlet language model", for segments that lean on the whole.
    """
    check_amount("strength", strength)
    item = choices.item[train]
    overall = item_frequencies(item, num_items=choices.num_items, smoothing=smoothing)
    if choices.segment is None:
        return Frequencies(segments=np.empty(0, dtype=np.int64), table=overall[None])
    segments, index = np.unique(choices.segment[train], return_inverse=True)
    table = np.tile(strength * overall, (len(segments) + 1, 1))
    np.add.at(table, (index, item - 1), 1.0)
    table[-1] = overall
    return Frequencies(segments=segments, table=table / table.sum(axis=1, keepdims=True))


def check_some(rows: IntArray) -> None:
    """Refuse to learn from nothing."""
    if not len(rows):
        raise ValueError("a logging policy needs at least one row to learn from, and one to stop by")


def check_amount(name: str, value: float) -> None:
    """Refuse amounts that are negative or not finite."""
    if not 0 <= value < np.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def check_propensities(**arrays: DoubleArray) -> None:
    """Refuse arrays of different shapes, and probabilities of what was shown outside (0, 1]."""
    check_rows(dimensions=1, **arrays)
    for name, values in arrays.items():
        refuse(name, values, ~((values > 0) & (values <= 1)), "in (0, 1]")
