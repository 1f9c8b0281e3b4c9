"""Where the items that users chose next stand in a ranking of the catalogue."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone, module_of, personal_states
from recgym.logs.sequences import Sequences, batches, windows
from recgym.metrics import Numbers
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
        device = next(module_of(backbone).parameters()).device
        times = (_times(sequences, steps, items.shape[1]),) if reads_time else ()
        history = (part.to(device) for part in (items, feedback, *times))
        users = torch.from_numpy(sequences.user_of_step[steps]).to(device)
        return backbone.scores(personal_states(backbone, backbone.prefill(*history).state, users))

    return scores


def rank_targets(
    ranker: Ranker,
    sequences: Sequences,
    steps: IntArray,
    *,
    length: int,
    mask_seen: bool = False,
    negatives: int | IntArray | None = None,
    seed: int = 0,
) -> DoubleArray:
    """Rank the item of each given step (Q,) among all items, from the history before it.

    rank = 1 + #{j : score_j > score}, and among items of the same score the target's place is drawn from the step's
    key: so a ranker that scores all items alike has the hit rate of chance, whatever the cutoff.

    Args:
        ranker: scores every item from a history.
        sequences: the log.
        steps: (Q,) steps to predict.
        length: steps of history that the ranker reads, L.
        mask_seen: leave out items that the user had met before, except the target itself.
        negatives: rank among these items alone, (Q, K) as of `draw_negatives`, or among this many drawn uniformly.
        seed: of the negatives and of ties.

    Returns:
        (Q,) ranks from 1.

    Raises:
        ValueError: the ranker scores a target as nan, which no item is above.
    """
    ranks = np.empty(len(steps))
    for rows in batches(len(steps), max(1, _CELLS // sequences.num_items)):
        asked = steps[rows]
        items, feedback = windows(sequences, asked, length)
        with torch.no_grad():
            scores = ranker(torch.from_numpy(items), torch.from_numpy(feedback), asked).to("cpu", torch.float32)
        own = scores.gather(1, _targets(sequences, asked).unsqueeze(1))  # (B, 1)
        if bool(own.isnan().any()):
            raise ValueError(f"the ranker scores the target of step {asked[own.isnan()[:, 0]][0]} as nan, not a number")
        if negatives is None:
            above, equal = _counts(scores, own)
            equal -= 1  # the target itself
            if mask_seen:  # few items a row: taking them off again is cheaper than a mask over all
                row, item = _seen(sequences, asked)
                for counts, met in (
                    (above, scores[row, item] > own[row, 0]),
                    (equal, scores[row, item] == own[row, 0]),
                ):
                    counts -= torch.bincount(row[met], minlength=len(asked))
        else:
            drawn = (
                draw_negatives(sequences, asked, negatives, mask_seen=mask_seen, seed=seed)
                if isinstance(negatives, int) else negatives[rows]
            )  # fmt: skip
            chosen = torch.from_numpy(drawn)
            among = scores.gather(1, chosen.clamp_min(1) - 1).masked_fill(chosen == 0, torch.nan)  # nan: never counted
            above, equal = _counts(among, own)
        place = (uniform(fold(_keys(asked, seed), 1), 1)[:, 0] * (equal + 1)).floor()
        ranks[rows] = (1 + above + place).double().numpy()
    return ranks


def draw_negatives(
    sequences: Sequences,
    steps: IntArray,
    count: int,
    *,
    mask_seen: bool = False,
    weights: Numbers | None = None,
    seed: int = 0,
) -> IntArray:
    """Items to rank the item of each step (Q,) against instead of all, drawn without replacement: (Q, K) ids, or 0.

    Published tables often do this, and their numbers cannot be compared with full rankings. What is drawn depends on
    the seed and the step alone, so that it can be drawn once for many rankers.

    Args:
        sequences: the log.
        steps: (Q,).
        count: items for each step, K; where fewer are allowed all of them are taken, and 0 fills the row.
        mask_seen: draw nothing that the user had met before.
        weights: (N,) an item's chance is proportional to this, such as its training steps; None: uniform.
        seed: of the draws.

    Raises:
        ValueError: `weights` is not (N,) of numbers that are at least 0.

    Source: Krichene and Rendle (2020), "On sampled metrics for item recommendation"; Efraimidis and Spirakis (2006),
    "Weighted random sampling with a reservoir": the K smallest -log(1 - u_j) / w_j.
    """
    number = sequences.num_items
    weight = None if weights is None else torch.from_numpy(np.asarray(weights, np.float32))
    if weight is not None and (weight.shape != (number,) or not bool((weight >= 0).all())):
        raise ValueError(f"weights must be ({number},) numbers of at least 0, got shape {tuple(weight.shape)}")
    drawn = np.zeros((len(steps), count), np.int64)
    for rows in batches(len(steps), max(1, _CELLS // number)):
        asked = steps[rows]
        draws = uniform(_keys(asked, seed), number)  # (B, N)
        if weight is not None:
            draws = -torch.log1p(-draws) / weight
        if mask_seen:
            draws[_seen(sequences, asked)] = torch.inf
        draws.scatter_(1, _targets(sequences, asked).unsqueeze(1), torch.inf)
        few = min(count, number)
        chosen = torch.from_numpy(np.argpartition(draws.numpy(), few - 1, axis=1)[:, :few])
        drawn[rows, :few] = torch.where(draws.gather(1, chosen) < torch.inf, chosen + 1, 0).numpy()
    return drawn


def spread_steps(steps: IntArray, most: int) -> IntArray:
    """At most `most` of the steps, evenly spread over them; always the same ones."""
    if len(steps) <= most:
        return steps
    return steps[np.linspace(0, len(steps) - 1, most).astype(np.int64)]


def _times(sequences: Sequences, steps: IntArray, length: int) -> Tensor:
    """Seconds since the epoch of the steps in `windows(sequences, steps, length)`, (B, L) float64."""
    place = np.asarray(steps)[:, None] + np.arange(-length, 0)
    return torch.from_numpy(sequences.time[np.maximum(place, 0)].astype(np.float64))


def _counts(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores (B, J) are above and how many equal to `own` (B, 1): (B,) each."""
    above, equal = (compare(scores, own).sum(1, dtype=torch.int32) for compare in (torch.gt, torch.eq))
    return above.long(), equal.long()


def _targets(sequences: Sequences, steps: IntArray) -> Tensor:
    """(B,) 0..N-1."""
    return torch.from_numpy(sequences.item[steps].astype(np.int64)) - 1


def _seen(sequences: Sequences, steps: IntArray) -> tuple[Tensor, Tensor]:
    """Rows and items 0..N-1, (X,) each, that the user of each step had met before it; once each, never the target."""
    first = sequences.offsets[sequences.user_of_step[steps]]
    size = steps - first  # (B,)
    row = np.repeat(np.arange(len(steps)), size)
    place = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size) + np.repeat(first, size)
    item = sequences.item[place].astype(np.int64) - 1
    other = item != sequences.item[steps][row] - 1
    cell = np.unique(row[other] * sequences.num_items + item[other])
    met, what = np.divmod(cell, sequences.num_items)
    return torch.from_numpy(met), torch.from_numpy(what)


def _keys(steps: IntArray, seed: int) -> Tensor:
    """(B,)."""
    return fold(session_keys(seed, 1).expand(len(steps)), torch.from_numpy(np.asarray(steps, np.int64)))
