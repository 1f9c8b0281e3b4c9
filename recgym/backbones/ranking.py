"""Where the items that users chose next stand in a ranking of the catalogue."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone, personal_states
from recgym.logs.sequences import Sequences, batches, windows
from recgym.random import fold, session_keys, uniform
from recgym.types import DoubleArray, IntArray

Ranker = Callable[[Tensor, Tensor, IntArray], Tensor]
"""History items (B, L), its feedback (B, L, F) and the steps asked about (B,) -> scores (B, N)."""
_CELLS = 1 << 23


def ranker_of(backbone: Backbone, sequences: Sequences) -> Ranker:
    """The backbone's own ranking; who the user is, and when the steps of the history were, comes from the log.

    A backbone whose `reads_time` is true takes times (B, T), seconds since the epoch, as third argument of `states` and
    `prefill`. When the ranking is asked for is not among them.
    """
    reads_time = getattr(backbone, "reads_time", False)

    def scores(items: Tensor, feedback: Tensor, steps: IntArray) -> Tensor:
        users = torch.from_numpy(sequences.user_of_step[steps])
        history = (items, feedback, _times(sequences, steps, items.shape[1])) if reads_time else (items, feedback)
        return backbone.scores(personal_states(backbone, backbone.prefill(*history).state, users))

    return scores


def rank_targets(
    ranker: Ranker,
    sequences: Sequences,
    steps: IntArray,
    *,
    length: int,
    mask_seen: bool = False,
    negatives: int | None = None,
    seed: int = 0,
) -> DoubleArray:
    """Rank the item of each given step among all items, from the history before it.

    rank = 1 + #{j : score_j > score}, and among items of the same score the target's place is drawn from the step's
    key: so a ranker that scores all items alike has the hit rate of chance, whatever the cutoff.

    Args:
        ranker: scores every item from a history.
        sequences: the log.
        steps: (Q,) steps to predict.
        length: steps of history that the ranker reads, L.
        mask_seen: leave out items that the user had met before, except the target itself.
        negatives: rank among this many items drawn uniformly without replacement instead; published tables often do,
            and their numbers cannot be compared with full rankings (Krichene and Rendle 2020).
        seed: of the negatives and of ties.

    Returns:
        (Q,) ranks from 1.
    """
    ranks = np.empty(len(steps))
    for rows in batches(len(steps), max(1, _CELLS // sequences.num_items)):
        asked = steps[rows]
        items, feedback = windows(sequences, asked, length)
        target = torch.from_numpy(sequences.item[asked].astype(np.int64))
        with torch.no_grad():
            scores = ranker(torch.from_numpy(items), torch.from_numpy(feedback), asked).to(torch.float32)
        own = scores.gather(1, target.unsqueeze(1) - 1)  # (B, 1)
        against = torch.ones_like(scores, dtype=torch.bool)
        if mask_seen:
            against &= ~_seen(sequences, asked)
        against.scatter_(1, target.unsqueeze(1) - 1, False)
        if negatives is not None:
            against &= _drawn(asked, against, negatives, seed)
        above, equal = (scores > own) & against, (scores == own) & against
        keys = fold(session_keys(seed, 1).expand(len(asked)), torch.from_numpy(np.asarray(asked, np.int64)))
        place = (uniform(fold(keys, 1), 1)[:, 0] * (equal.sum(1) + 1)).floor()
        ranks[rows] = (1 + above.sum(1) + place).double().numpy()
    return ranks


def spread_steps(steps: IntArray, most: int) -> IntArray:
    """At most `most` of the steps, evenly spread over them; always the same ones."""
    if len(steps) <= most:
        return steps
    return steps[np.linspace(0, len(steps) - 1, most).astype(np.int64)]


def _times(sequences: Sequences, steps: IntArray, length: int) -> Tensor:
    """Seconds since the epoch of the steps in `windows(sequences, steps, length)`, (B, L) float64."""
    place = np.asarray(steps)[:, None] + np.arange(-length, 0)
    return torch.from_numpy(sequences.time[np.maximum(place, 0)].astype(np.float64))


def _seen(sequences: Sequences, steps: IntArray) -> Tensor:
    """Items that the user of each step had met before it, (B, N) bool."""
    first = sequences.offsets[sequences.user_of_step[steps]]
    size = steps - first  # (B,)
    row = np.repeat(np.arange(len(steps)), size)
    place = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size) + np.repeat(first, size)
    seen = torch.zeros(len(steps), sequences.num_items, dtype=torch.bool)
    seen[torch.from_numpy(row), torch.from_numpy(sequences.item[place].astype(np.int64)) - 1] = True
    return seen


def _drawn(steps: IntArray, allowed: Tensor, count: int, seed: int) -> Tensor:
    """`count` of the allowed items of each step, (B, N) bool: those with the smallest draws."""
    keys = fold(session_keys(seed, 1).expand(len(steps)), torch.from_numpy(np.asarray(steps, np.int64)))
    draws = uniform(keys, allowed.shape[1]).masked_fill(~allowed, 2.0)
    if allowed.shape[1] <= count:
        return allowed
    chosen = draws.topk(count, dim=1, largest=False).indices
    return torch.zeros_like(allowed).scatter_(1, chosen, True) & allowed
