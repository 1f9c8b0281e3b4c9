"""Nearest neighbours: items that the same users chose, and earlier sessions that look like this one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from recgym.backbones.baselines import ages, backed_off, of_history, repeats, training_choices
from recgym.backbones.ranking import Ranker
from recgym.backbones.rules import Links, first_of_each
from recgym.logs.sequences import Sequences
from recgym.logs.splits import Roles
from recgym.types import FloatArray, IntArray

_CELLS = 1 << 23


def item_knn(
    sequences: Sequences, roles: Roles, *, neighbours: int = 100, shrinkage: float = 10.0, decay: float = 0.8
) -> Ranker:
    """score_j = sum over the choices i of the history of decay^(age - 1) * similarity(i, j); see `nearest_items`.

    Args:
        sequences: the log.
        roles: (M,).
        neighbours: similar items kept for each item.
        shrinkage: added to the denominator of the cosine, so that rare pairs count less.
        decay: weight of a choice against the one after it.

    Raises:
        ValueError: a setting is out of its range, or the log has no training target.

    Source: Sarwar, Karypis, Konstan, Riedl (2001), "Item-based collaborative filtering recommendation algorithms";
        the shrinkage of Bell and Koren (2007), "Scalable collaborative filtering with jointly derived neighborhood
        interpolation weights".
    """
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}, expected at least 1")
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage is {shrinkage}, expected a number of at least 0")
    if not 0 < decay <= 1:
        raise ValueError(f"decay is {decay}, expected a number in (0, 1]")
    choices, num_items = training_choices(sequences, roles), sequences.num_items
    ids, similarity = nearest_items(
        choices.user, choices.item, num_items, neighbours=min(neighbours, num_items), shrinkage=shrinkage
    )
    bounds = np.append(0, np.arange(num_items + 1) * ids.shape[1])  # item 0, padding, has no neighbours
    links, fallback = Links(bounds, ids.ravel(), similarity.ravel()), repeats(choices, num_items)

    def scores(history: Tensor) -> Tensor:
        items, age = history.numpy(), ages(history).numpy()
        user, place = np.nonzero(items)
        weight = decay ** (age[user, place] - 1)
        return backed_off(links.spread(user, items[user, place], weight, (len(items), num_items)), fallback(history))

    return of_history(scores)


def vsknn(sequences: Sequences, roles: Roles, *, neighbours: int = 100, sample: int = 1000, idf: float = 1.0) -> Ranker:
    """score_j = sum over the nearest training sessions n that hold j of similarity(n) * decay(n) * (1 + idf * idf_j).

    similarity(n) is the dot product of the session with weights that rise linearly to 1 at its latest choice; decay(n)
    is 1 / the age of the latest choice that n shares; idf_j = log(sessions / sessions with j). The user's own training
    choices are a session like any other.

    Args:
        sequences: the log.
        roles: (M,).
        neighbours: sessions that count, the most similar of the sample.
        sample: sessions compared, the most recent that share an item.
        idf: weight of how rare an item is.

    Raises:
        ValueError: a setting is out of its range, or the log has no training target.

    Source: Ludewig and Jannach (2018), "Evaluation of session-based recommendation algorithms", section 3.2.2 (V-SKNN);
        decay and idf of their release, session-rec.
    """
    for name, value in (("neighbours", neighbours), ("sample", sample)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if not idf >= 0:
        raise ValueError(f"idf is {idf}, expected a number of at least 0")
    choices, num_items = training_choices(sequences, roles), sequences.num_items
    last = np.flatnonzero(np.diff(choices.user, append=-1))  # (S,) each session's last choice
    newest = np.lexsort((-last, -choices.time[last]))
    number = np.empty(len(last), np.int64)
    number[newest] = np.arange(len(last))  # sessions 0, 1, ... from the newest on
    session = np.repeat(number, np.diff(last, prepend=-1))
    item, session = np.unique(np.stack([choices.item, session]), axis=1)
    holders = Links.of(item, session, -session.astype(np.float64), num_items + 1, sample)  # an item's newest sessions
    rarity = np.log(len(last) / np.bincount(item, minlength=num_items + 1).clip(1))
    contents = Links.of(session, item, 1 + idf * rarity[item], len(last))
    fallback = repeats(choices, num_items)

    def scores(history: Tensor) -> Tensor:
        items, age = history.numpy(), ages(history).numpy()
        user, place = np.nonzero(items)
        user, place = _latest(user, items[user, place], place)
        since, size = age[user, place], age.max(1)[user]
        which, link = holders.follow(items[user, place])
        pair = user[which] * len(last) + holders.column[link]
        order = np.lexsort((since[which], pair))
        begin = np.flatnonzero(np.diff(pair[order], prepend=-1))  # each session once, at the latest choice it shares
        similarity = np.add.reduceat((1 - (since - 1) / size)[which][order], begin)
        strength = similarity / since[which][order][begin]
        row, other = np.divmod(pair[order][begin], len(last))
        recent = first_of_each(row, sample)
        order = np.lexsort((other, -similarity, row))
        order = order[recent[order]]
        nearest = order[first_of_each(row[order], neighbours)]
        total = contents.spread(row[nearest], other[nearest], strength[nearest], (len(items), num_items))
        return backed_off(total, fallback(history))

    return of_history(scores)


def nearest_items(
    group: IntArray, item: IntArray, num_items: int, *, neighbours: int, shrinkage: float
) -> tuple[IntArray, FloatArray]:
    """The most similar items of each: ids (N, M) with 0 for none, cosine (N, M).

    similarity(i, j) = c(i, j) / (sqrt(c(i) c(j)) + shrinkage), c counting groups (users or sessions); 0 with itself.
    """
    ids, values = np.zeros((num_items, neighbours), np.int64), np.zeros((num_items, neighbours), np.float32)
    group, item = np.unique(np.stack([group, item]), axis=1)
    frequency = np.bincount(item, minlength=num_items + 1)[1:].astype(np.float64)  # (N,)
    for first, together in co_occurrences(group, item, num_items):
        row, column = np.nonzero(together)
        row, column = row[row + first != column], column[row + first != column]
        cosine = together[row, column] / (np.sqrt(frequency[row + first] * frequency[column]) + shrinkage)
        best = Links.of(row, column + 1, cosine, len(together), neighbours)
        row = np.repeat(np.arange(len(together)), np.diff(best.bounds))
        place = np.arange(len(row)) - best.bounds[row]
        ids[row + first, place], values[row + first, place] = best.column, best.weight
    return ids, values


def co_occurrences(group: IntArray, item: IntArray, num_items: int) -> Iterator[tuple[int, IntArray]]:
    """Groups that hold both i and j, c(i, j), for rows i of at most 8 million cells at once: the first i, and (b, N).

    Args:
        group: (P,) in ascending order; no pair of group and item stands there twice.
        item: (P,) 1..N.
        num_items: N.
    """
    group_start = np.searchsorted(group, group, "left")  # (P,)
    group_size = np.searchsorted(group, group, "right") - group_start
    by_item = np.argsort(item, kind="stable")
    bounds = np.searchsorted(item[by_item], np.arange(1, num_items + 2))  # (N + 1,)
    block = max(1, _CELLS // (num_items + 1))
    for first in range(0, num_items, block):
        last = min(first + block, num_items)
        rows = by_item[bounds[first] : bounds[last]]  # pairs of this block's items
        size = group_size[rows]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        other = item[np.repeat(group_start[rows], size) + within]  # items of the same groups
        cell = np.repeat(item[rows] - 1 - first, size) * (num_items + 1) + other
        yield first, np.bincount(cell, minlength=(last - first) * (num_items + 1)).reshape(last - first, -1)[:, 1:]


def _latest(user: IntArray, item: IntArray, place: IntArray) -> tuple[IntArray, IntArray]:
    """User and place of each item's latest choice in their history; places in ascending order within a user."""
    _, back = np.unique(np.stack([user, item])[:, ::-1], axis=1, return_index=True)
    return user[::-1][back], place[::-1][back]
